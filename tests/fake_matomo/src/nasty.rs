//! Edge cases: midnight, ties, clock changes, too many actions, no actions.

use crate::action::{Action, TimeSpent};
use crate::catalog::{EVENT_VALUES, NASTY, NASTY_PATHS};
use crate::journey::Maker;
use crate::odd;
use crate::visit::Visit;
use crate::zone::next;
use chrono::NaiveDate;
use rand::RngExt;

/// Adds the nasty visits of the `index`th day.
pub fn day(maker: &mut Maker, index: usize, day: NaiveDate, into: &mut Vec<Visit>) {
    let (start, end) = (maker.zone.midnight(day), maker.zone.midnight(next(day)));
    let noon = start + 43_200;
    ties(maker, noon + second_of(index), into);
    if index.is_multiple_of(3) {
        into.push(until_midnight(maker, end));
        into.push(alone(maker, start));
        into.push(alone(maker, end - 1));
    }
    if index.is_multiple_of(7) {
        into.push(maker.visitor(start + 33_300));
    }
    if index % 7 == 1 {
        let actions = if index == 1 { 1200 } else { 500 + index };
        into.push(long(maker, start + 28_800, actions));
    }
    if index.is_multiple_of(5) {
        into.push(texts(maker, start + 36_000));
        into.push(numbers(maker, start + 37_000));
        into.push(odd_ones(maker, start + 38_000));
    }
    if let Some(change) = maker.zone.change_within(day) {
        clocks(maker, change, into);
    }
    if maker.odd_values {
        odd::visits(maker, index, start + 50_000, into);
    }
}

/// A different second for each day.
fn second_of(index: usize) -> i64 {
    (index as i64 * 977) % 7200
}

fn page(maker: &mut Maker, at: i64, path: &str, title: &str) -> Action {
    let mut page = Action::page(at, format!("{}{path}", maker.host), title);
    page.idpageview = format!("{:06x}", at & 0xff_ffff);
    maker.decorate(&mut page);
    page
}

/// A visit of two pages that ends at this instant.
fn ending(maker: &mut Maker, end: i64) -> Visit {
    let before = end - maker.rng.random_range(5..600);
    let mut visit = maker.visitor(before);
    visit.push(page(maker, before, "/shoes", "Shoes – Example shop"));
    visit.push(page(maker, end, "/cart", "Your cart – Example shop"));
    visit
}

/// A visit of one action.
fn alone(maker: &mut Maker, at: i64) -> Visit {
    let mut visit = maker.visitor(at);
    visit.push(page(maker, at, "/", "Example shop – Shoes and bags"));
    visit
}

/// Visits that end in the same second.
fn ties(maker: &mut Maker, end: i64, into: &mut Vec<Visit>) {
    for _ in 0..5 {
        into.push(ending(maker, end));
    }
    into.push(alone(maker, end));
}

/// The last action falls exactly on midnight: Matomo lists the visit on both days.
fn until_midnight(maker: &mut Maker, midnight: i64) -> Visit {
    let mut visit = ending(maker, midnight);
    let event = maker.event(midnight - 2, "https://www.example.org/last");
    visit.push(event);
    visit
}

/// Enough actions for Matomo to cut some.
fn long(maker: &mut Maker, start: i64, actions: usize) -> Visit {
    let mut visit = maker.visitor(start);
    let mut at = start;
    for n in 0..actions {
        let action = match n % 10 {
            3 => maker.event(at, "https://www.example.org/long"),
            7 => maker.blank(Action::search(at, format!("word {n}"))),
            _ => page(maker, at, "/blog", "Blog – Example shop"),
        };
        visit.push(action);
        at += maker.rng.random_range(0..9);
    }
    visit
}

/// All the texts that break careless code.
fn texts(maker: &mut Maker, start: i64) -> Visit {
    let mut visit = maker.visitor(start);
    let mut at = start;
    for (n, text) in NASTY.iter().enumerate() {
        let path = NASTY_PATHS[n % NASTY_PATHS.len()];
        let mut hit = page(maker, at, path, text).variable(2, *text, *text).dimension(6, *text);
        hit.custom_variables.retain(|v| !v.name.is_empty());
        visit.push(hit);
        visit.push(maker.blank(Action::event(at + 1, *text, *text).name(*text).url(path)));
        visit.push(maker.blank(Action::search(at + 2, *text)));
        at += 7;
    }
    // The longest text that Matomo allows, and hard to compress: too long for a btree entry.
    let word: String = (0..1000)
        .map(|_| char::from_u32(maker.rng.random_range(0x4e00..0x9fff)).unwrap_or('x'))
        .collect();
    visit.push(page(maker, at, &format!("/{word}"), &word));
    visit.push(maker.blank(Action::event(at + 1, "Long", &word).name(&word)));
    visit.user_id = Some("o'brien\\\"@example.org".to_owned());
    visit
}

/// All kinds of event values.
fn numbers(maker: &mut Maker, start: i64) -> Visit {
    let mut visit = maker.visitor(start);
    for (at, value) in (start..).zip(EVENT_VALUES) {
        visit.push(maker.blank(Action::event(at, "Numbers", "value").value(*value)));
    }
    visit.push(maker.blank(Action::event(start + 60, "Numbers", "none").name("")));
    visit
}

/// Null and missing keys, conversions without a page, the same goal again and again.
fn odd_ones(maker: &mut Maker, start: i64) -> Visit {
    let mut visit = maker.visitor(start);
    let url = format!("{}/contact", maker.host);
    visit.push(maker.blank(Action::goal(start, 3, "Manual", &url).manual()));
    visit.push(maker.blank(Action::content(start + 1, &url, "Before any page", "x.png")));
    visit.push(page(maker, start + 10, "/contact", "Contact us – Example shop").no_url());
    visit.push(page(maker, start + 20, "/contact", "Contact us – Example shop").no_title());
    visit.push(page(maker, start + 30, "/contact", "0").spent(TimeSpent::Absent));
    for revenue in ["10", "0.001", "10"] {
        visit.push(maker.blank(Action::goal(start + 30, 1, "Contact page", &url).revenue(revenue)));
    }
    visit
}

/// Visits around a clock change: in autumn before, within and after the repeated hour.
fn clocks(maker: &mut Maker, change: i64, into: &mut Vec<Visit>) {
    for begin in [5700, 4000, 3000] {
        let mut at = change - begin;
        let mut visit = maker.visitor(at);
        while at < change + 5700 {
            visit.push(page(maker, at, "/help/returns", "Returns and refunds – Example shop"));
            if maker.percent(40) {
                let event = maker.event(at + 20, "https://www.example.org/clock");
                visit.push(event);
            }
            at += maker.rng.random_range(600..1500);
        }
        into.push(visit);
    }
    for end in [-1800, -1, 0, 1, 900, 1800, 3599, 3600, 5400] {
        into.push(alone(maker, change + end));
        into.push(ending(maker, change + end));
    }
}
