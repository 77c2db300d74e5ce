//! The cells of the columns of an action, and of an item of an order or a cart. Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::keys::{ACTION_KEYS, ITEM_KEYS, ITEM_PLACES, action_key};
use crate::matomo::visit::{Action, Dimensions, Members};
use crate::rows::cell::{Misfit, extra, instant, note, put, representable, sent};
use crate::rows::column_type::Value;
use crate::rows::columns::Source;
use crate::rows::custom;
use crate::rows::layout::Slot;
use crate::rows::lines::Cells;
use crate::rows::values::{self, Member};

/// An element of `itemDetails`.
#[derive(Default)]
pub struct Item<'a> {
    /// The values of [`ITEM_KEYS`].
    values: [Option<&'a RawValue>; ITEM_KEYS.len()],
    unknown: Members<'a>,
}

impl<'a> Item<'a> {
    /// Passes the items of an order or a cart to `work`, each with its place. One at a time: in memory an
    /// item takes many times its length, and there may be very many.
    pub fn each(details: &'a RawValue, mut work: impl FnMut(usize, &Item<'a>)) {
        let mut place = 0;
        json::each_member(details, |_, raw| {
            if is_item(raw) {
                work(place, &Item::of(raw));
                place += 1;
            }
        });
    }

    fn of(raw: &'a RawValue) -> Item<'a> {
        let mut item = Item::default();
        json::each_member(raw, |key, value| match ITEM_PLACES.find(&key) {
            _ if value.get() == "null" => {}
            Some(place) => item.values[place] = Some(value),
            None => item.unknown.push((key, Cow::Borrowed(value))),
        });
        item
    }
}

fn is_item(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// Whether an action is a goal conversion, an order or an abandoned cart.
pub fn is_conversion(action: &Action) -> bool {
    let kind = action.values[const { action_key("type") }].map(|raw| raw.get());
    matches!(kind, Some(r#""goal""# | r#""ecommerceOrder""# | r#""ecommerceAbandonedCart""#))
}

/// Keys for which only tables of conversions have columns.
const OF_CONVERSIONS: [usize; 8] = [
    action_key("goalPageId"),
    action_key("referrerKeyword"),
    action_key("referrerName"),
    action_key("referrerType"),
    action_key("revenueDiscount"),
    action_key("revenueShipping"),
    action_key("revenueSubTotal"),
    action_key("revenueTax"),
];

/// Members that an action of its type has no columns or rows for.
fn out_of_place<'a>(action: &Action<'a>) -> Vec<(&'static str, &'a RawValue)> {
    let is_conversion = is_conversion(action);
    let mut found = Vec::new();
    if !is_conversion {
        let all = OF_CONVERSIONS.iter().filter_map(|key| Some((*key, action.values[*key]?)));
        let all = all.filter(|(_, raw)| !json::is_nothing(raw));
        found.extend(all.map(|(key, raw)| (ACTION_KEYS[key], raw)));
    }
    if let Some(details) = action.values[const { action_key("itemDetails") }]
        && (!is_conversion || !are_items(details))
        && !is_empty(details)
    {
        found.push(("itemDetails", details));
    }
    if let Some(title) = action.page_title
        && !json::is_nothing(title)
        && !is_shown(title, action.values[const { action_key("title") }])
    {
        found.push(("pageTitle", title));
    }
    found
}

/// Whether a column of texts shows the two alike.
fn is_shown(value: &RawValue, other: Option<&RawValue>) -> bool {
    other.is_some_and(|other| value.get() == other.get() || json::text(value) == json::text(other))
}

fn are_items(details: &RawValue) -> bool {
    let mut are_items = json::has_members(details);
    json::each_member(details, |_, raw| are_items &= is_item(raw) || is_empty(raw));
    are_items
}

/// Whether there is nothing in it; PHP writes an empty map as a list.
fn is_empty(raw: &RawValue) -> bool {
    json::is_nothing(raw) || matches!(raw.get(), "[]" | "{}")
}

/// The sources of an action's own columns.
pub struct Row<'v, 'a> {
    pub id: i64,
    /// Its place in the visit.
    pub index: usize,
    pub at: i64,
    pub action: &'v Action<'a>,
    /// The action's and the visit's.
    pub dimensions: &'v Dimensions<'a>,
    pub visit_variables: &'v [Member],
    /// With its place in the order or cart.
    pub item: Option<(usize, &'v Item<'a>)>,
}

impl<'a> Row<'_, 'a> {
    /// Writes the value of a column.
    pub fn write(&self, cells: &mut Cells, slot: &Slot, misfits: &mut Vec<Misfit<'a>>) {
        let (text, members);
        let own = || slot.key.and_then(|key| self.action.values[key]);
        let value = match slot.column.source {
            Source::Action(_) => sent(own()),
            Source::ActionOr(_, default) => own().map_or(Value::Text(default), Value::Sent),
            Source::EventValue => match self.action.values[const { action_key("eventValue") }] {
                Some(raw) => {
                    let sent = json::text(raw).unwrap_or_default();
                    let number = values::plain_number(sent.trim());
                    // 0 stands for what is no number, as in the Node tool's tables.
                    let shown = Value::Text(number.as_deref().unwrap_or("0"));
                    if !slot.kind.write(cells, shown) || number.is_none() {
                        note(slot.column, raw, misfits);
                    }
                    return;
                }
                None => Value::Text("0"),
            },
            // Its column takes any text.
            Source::ActionId => {
                return cells.display(format_args!("{}_{}", self.id, self.index));
            }
            Source::Instant => {
                if representable(self.action.wall).is_none()
                    && let Some(sent) = self.action.values[const { action_key("timestamp") }]
                {
                    note(slot.column, sent, misfits);
                }
                instant(Some(self.at))
            }
            Source::CustomVariables => match (self.action.custom_variables, self.visit_variables) {
                (None, []) => Value::Object(&[]),
                (own, of_visit) => {
                    let all = custom::variables_of_both(own, of_visit);
                    if let Some(odd) = all.odd {
                        note(slot.column, odd, misfits);
                    }
                    members = all.members;
                    Value::Object(&members)
                }
            },
            Source::CustomDimensions => match self.dimensions {
                none if none.is_empty() => Value::Object(&[]),
                all => {
                    members = custom::dimensions(all);
                    Value::Object(&members)
                }
            },
            Source::ActionDimensions => match &self.action.dimensions {
                none if none.is_empty() => Value::Object(&[]),
                own => {
                    members = custom::dimensions(own);
                    Value::Object(&members)
                }
            },
            Source::Item(_) => {
                let item = self.item.zip(slot.key);
                sent(item.and_then(|((_, item), key)| item.values[key]))
            }
            Source::Place => self.item.map_or(Value::Null, |(place, _)| {
                Value::Integer(i64::try_from(place).unwrap_or(i64::MAX))
            }),
            Source::ItemExtra => {
                let none = Members::new();
                let unknown = self.item.map_or(&none, |(_, item)| &item.unknown);
                match extra(unknown, Vec::new(), misfits) {
                    Some(extra) => {
                        text = extra;
                        Value::Jsonb(&text)
                    }
                    None => Value::Null,
                }
            }
            Source::Dimension(number) => sent(self.dimensions.get(&number).copied()),
            Source::Extra => {
                match extra(&self.action.unknown, out_of_place(self.action), misfits) {
                    Some(extra) => {
                        text = extra;
                        Value::Jsonb(&text)
                    }
                    None => Value::Null,
                }
            }
            // Of the visit.
            Source::Visit(_)
            | Source::SiteId
            | Source::VisitId
            | Source::FirstDay
            | Source::First
            | Source::Last
            | Source::Day
            | Source::Experiments
            | Source::PageViews
            | Source::Truncated
            | Source::EntryUrl
            | Source::EntryTitle
            | Source::ExitUrl
            | Source::ExitTitle
            | Source::VisitDimensions
            | Source::VisitVariables
            | Source::VisitExtra => Value::Null,
        };
        put(cells, slot, value, misfits);
    }
}
