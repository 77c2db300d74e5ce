//! For every key with a typed column: values that the column cannot hold, or only just can.

use crate::action::Action;
use crate::journey::Maker;
use crate::tables::columns::{CONVERSIONS, Column, ITEMS, MORE_OF_ACTIONS, Origin, Type, VISITS};
use crate::visit::Visit;
use crate::writer::literal;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// A key and its column's type.
pub type TypedKey = (&'static str, Type);

/// Typed keys of a visit, except those that locate it (`idSite`, `idVisit`, times).
pub static KEYS_OF_VISITS: LazyLock<Vec<TypedKey>> = LazyLock::new(|| keys(&[&VISITS]));
/// Typed keys of an action, including `timeSpent` and the keys of conversions.
pub static KEYS_OF_ACTIONS: LazyLock<Vec<TypedKey>> = LazyLock::new(|| {
    let mut all = keys(&[&MORE_OF_ACTIONS, &CONVERSIONS]);
    all.push(("timeSpent", Type::Int));
    all
});
/// Typed keys of an item.
pub static KEYS_OF_ITEMS: LazyLock<Vec<TypedKey>> = LazyLock::new(|| keys(&[&ITEMS]));

fn keys(tables: &[&[Column]]) -> Vec<TypedKey> {
    let mut all: Vec<TypedKey> = Vec::new();
    for column in tables.iter().flat_map(|table| table.iter()) {
        let (Origin::Visit(key) | Origin::Action(key) | Origin::Item(key)) = column.from else {
            continue;
        };
        let is_key = matches!(key, "idSite" | "idVisit");
        if column.ty != Type::Text && !is_key && !all.iter().any(|(other, _)| *other == key) {
            all.push((key, column.ty));
        }
    }
    all
}

/// JSON that breaks a careless reader of numbers, times and lists.
pub const JSON: [&str; 20] = [
    "\"\"",
    "\"NaN\"",
    "\"Infinity\"",
    "\"twelve\"",
    "1e400",
    "-1e400",
    "\"1e400\"",
    "[]",
    "{}",
    "[1,[\"a\",null]]",
    "{\"a\":{\"\":[]}}",
    "true",
    "-1",
    "1.5",
    "2147483648",
    "9223372036854775808",
    "-123456789012345678901234567890",
    "\"25:61:00\"",
    "253402300800",
    "\"10000-01-01 00:00:00\"",
];

/// Odd values for a column of this type with an unambiguous result.
pub fn values(ty: Type) -> Vec<Value> {
    let mut all = vec![
        json!(""),
        json!("twelve"),
        json!("NaN"),
        json!([]),
        json!(["a", {"b": null}]),
        json!({"name": 1.5, "id": [], "é": "\u{0}"}),
        json!(-1),
    ];
    match ty {
        Type::SmallInt | Type::Int => all.extend([
            json!(2_147_483_648_i64),
            json!(-2_147_483_649_i64),
            json!("-12"),
            json!(1.5),
            json!(true),
            json!(1e30),
            literal("1e400"),
            json!(u64::MAX),
        ]),
        Type::BigInt => all.extend([
            json!(i64::MAX),
            json!(i64::MIN),
            json!(u64::MAX),
            json!(false),
            json!(2.5),
            json!("123456789012345678901234567890"),
        ]),
        Type::Bool => all.extend([json!(2), json!(true), json!("0"), json!("maybe"), json!(0.5)]),
        Type::Numeric => all.extend([
            json!("12.50"),
            literal("1.50e1"),
            literal("0.1234567890123456789"),
            literal("-123456789012345678901234567890.5"),
            json!(1e30),
            json!(true),
            json!("Infinity"),
        ]),
        Type::Double => all.extend([
            json!("-0.25"),
            json!(1e30),
            json!("1e400"),
            json!(true),
            json!("Infinity"),
        ]),
        Type::Time => all.extend([
            json!("00:00:00"),
            json!("23:59:59"),
            json!("25:00:00"),
            json!("10:61:00"),
            json!(3600),
            json!(true),
        ]),
        Type::TextArray => all.extend([
            json!(["a,b", "NULL", "", " ", "q\"\\", "{}", "é\u{2028}"]),
            json!(5),
            json!(true),
        ]),
        Type::Text | Type::Made => {}
    }
    if ty == Type::TextArray {
        all.retain(|value| {
            value.is_string()
                || value.as_array().is_none_or(|list| list.iter().all(Value::is_string))
        });
    }
    all
}

/// Visits with one odd value each, going through every typed key and value in turn, and some with
/// keys that no Matomo has.
pub fn visits(maker: &mut Maker, turn: usize, start: i64, into: &mut Vec<Visit>) {
    let value = |ty: Type, number: usize| {
        let all = values(ty);
        all[(turn + number) % all.len()].clone()
    };
    for (number, (key, ty)) in KEYS_OF_VISITS.iter().enumerate() {
        let mut visit = two_pages(maker, start + number as i64);
        visit.extra.insert((*key).to_owned(), value(*ty, number));
        into.push(visit);
    }
    for (number, (key, ty)) in KEYS_OF_ACTIONS.iter().enumerate() {
        let mut visit = two_pages(maker, start + 100 + number as i64);
        let action = action_with(maker, key, visit.first + 1);
        visit.push(action.with(*key, value(*ty, number)));
        into.push(visit);
    }
    let mut visit = two_pages(maker, start + 200);
    for (number, (key, ty)) in KEYS_OF_ITEMS.iter().enumerate() {
        let mut item = Map::new();
        item.insert("itemSKU".to_owned(), json!("SKU1"));
        item.insert("itemName".to_owned(), json!(["no", "name"]));
        item.insert((*key).to_owned(), value(*ty, number));
        let at = visit.first + number as i64;
        let order = Action::order(at, format!("ODD{turn}-{number}"), maker.items());
        visit.push(maker.blank(order).with("itemDetails", json!([item, {"itemSKU": "SKU2"}])));
    }
    into.push(visit);
    let mut visit = two_pages(maker, start + 300);
    visit.extra.insert("newKey".to_owned(), json!({"b": [1, 2.50, "x"], "a": null, "cc": true}));
    visit.extra.insert("anotherNewKey".to_owned(), json!("é \"q\" \\ \u{1}"));
    visit.push(maker.event(start + 305, "https://www.example.org/").with("bandwidth", json!(1e21)));
    into.push(visit);
}

fn two_pages(maker: &mut Maker, at: i64) -> Visit {
    let mut visit = maker.visitor(at);
    let url = format!("{}/odd", maker.host);
    visit.push(maker.blank(Action::page(at, &url, "Odd")));
    visit.push(maker.blank(Action::page(at + 9, &url, "Odd once more")));
    visit
}

/// An action of a kind that has this key.
fn action_with(maker: &mut Maker, key: &str, at: i64) -> Action {
    let url = format!("{}/contact", maker.host);
    let action = match key {
        "goalId" | "goalPageId" => Action::goal(at, 1, "Contact page", &url),
        "siteSearchCount" => Action::search(at, "boots"),
        "items" | "revenueSubTotal" | "revenueTax" | "revenueShipping" | "revenueDiscount" => {
            Action::order(at, format!("ODD-{key}-{at}"), maker.items())
        }
        "revenue" => Action::cart(at, maker.items()),
        _ => Action::page(at, &url, "With an odd value"),
    };
    maker.blank(action)
}
