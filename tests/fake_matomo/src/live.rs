//! `Live.getLastVisitsDetails`.

use crate::answer::Answer;
use crate::dates::{limits, span};
use crate::derived::lifetimes;
use crate::json::{self, Form, Scene};
use crate::params::Params;
use crate::world::{Site, World};
use crate::writer::{Style, Writer};

/// The form of the answers from a world.
pub fn style(world: &World, params: &Params, unescaped: bool) -> Style {
    let french = params.get("language") == Some("fr");
    Style { numbers_as_strings: world.numbers_as_strings, french, unescaped }
}

/// The answer for one site, or the message with which Matomo refuses it.
///
/// # Errors
/// A bad date, period or segment.
pub fn last_visits_details(
    world: &World,
    site: &Site,
    params: &Params,
    style: Style,
) -> Result<Answer, String> {
    let chosen = select(world, site, params)?;
    let list = |name| {
        params.filled(name).map(|v| v.split(',').map(str::to_owned).collect()).unwrap_or_default()
    };
    let form = Form {
        no_actions: params.get("doNotFetchActions") == Some("1"),
        show: list("showColumns"),
        hide: list("hideColumns"),
    };
    // A visit of a roll-up is described by its own site.
    let of_visitors = |site| lifetimes(site, world.now.seconds());
    let sites: Vec<_> = world.listed_by(site).map(|site| (site, of_visitors(site))).collect();
    let mut w = Writer::new(style);
    w.brackets(|w| {
        for (of, place) in chosen {
            let (site, lifetimes) = &sites[of];
            w.element();
            match &site.recorded {
                Some(all) => recorded(w, &all[place].json, &form),
                None => {
                    let scene = Scene { world, site, zone: site.zone(), lifetimes };
                    json::visit(w, scene, &site.visits[place], &form);
                }
            }
        }
    });
    Ok(Answer::json(200, w.out))
}

fn recorded(w: &mut Writer, visit: &serde_json::Value, form: &Form) {
    w.braces(|w| {
        if !(form.show.is_empty() && form.hide.is_empty()) {
            w.filter(form.hide.clone(), form.show.clone());
        }
        for (key, value) in visit.as_object().into_iter().flatten() {
            if key == "actionDetails" && form.no_actions {
                w.raw(key, "[]");
            } else {
                w.value(key, value);
            }
        }
    });
}

/// The requested visits, in order: the index of each one's site among the listed ones, and its own there.
fn select(world: &World, site: &Site, params: &Params) -> Result<Vec<(usize, usize)>, String> {
    let zone = site.zone();
    let today = zone.day(world.now.seconds());
    let (from, to) = limits(span(params, today)?, zone, today);
    let segment = params.filled("segment").map(Segment::parse).transpose()?;
    let after: Option<i64> = params.get("minTimestamp").and_then(|t| t.parse().ok());
    let ends = world.listed_by(site).map(|site| site.ends(world.now.seconds()));
    let mut found: Vec<_> = ends
        .enumerate()
        .flat_map(|(of, ends)| ends.into_iter().map(move |(last, id, place)| (last, id, of, place)))
        .collect();
    found.retain(|(last, id, ..)| {
        (from..=to).contains(last)
            && after.is_none_or(|after| *last > after)
            && segment.as_ref().is_none_or(|segment| segment.holds(*id))
    });
    // 1009 is prime.
    found.sort_unstable_by_key(|(last, id, of, place)| {
        let order = if world.order == 0 { *id } else { id * (world.order % 1008 + 1) % 1009 };
        (*last, order, *of, *place)
    });
    if !params.get("filter_sort_order").is_some_and(|o| o.eq_ignore_ascii_case("asc")) {
        found.reverse();
    }
    let (limit, offset) = page(params);
    let rows = found.into_iter().skip(offset).take(limit);
    Ok(rows.map(|(_, _, of, place)| (of, place)).collect())
}

/// `filter_limit` and `filter_offset`.
fn page(params: &Params) -> (usize, usize) {
    let all = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
    if let Some(count) = params.filled("countVisitorsToFetch").and_then(|n| n.parse().ok()) {
        return (all(count), 0);
    }
    let limit = params.get("filter_limit").map_or(100, |n| n.parse().unwrap_or(10));
    let offset: i64 = params.get("filter_offset").and_then(|n| n.parse().ok()).unwrap_or(0);
    (all(limit), offset.max(0) as usize)
}

/// Conditions on `visitId`: OR within an inner list, AND between them.
struct Segment(Vec<Vec<(String, i64)>>);

impl Segment {
    fn parse(text: &str) -> Result<Segment, String> {
        let all = text.split(';').map(|any| any.split(',').map(Self::condition).collect());
        all.collect::<Result<_, _>>().map(Segment)
    }

    fn condition(text: &str) -> Result<(String, i64), String> {
        let invalid = || format!("The segment condition '{text}' is not valid.");
        let at = text.find(['=', '!', '<', '>']).ok_or_else(invalid)?;
        let (name, rest) = text.split_at(at);
        if name != "visitId" {
            return Err(format!("Segment '{name}' is not a supported segment."));
        }
        let known = ["==", "!=", ">=", "<=", ">", "<"].into_iter().find(|o| rest.starts_with(o));
        let operator = known.ok_or_else(invalid)?;
        let value = rest[operator.len()..].parse().map_err(|_| invalid())?;
        Ok((operator.to_owned(), value))
    }

    fn holds(&self, id: i64) -> bool {
        self.0.iter().all(|any| {
            any.iter().any(|(operator, value)| match operator.as_str() {
                "==" => id == *value,
                "!=" => id != *value,
                ">=" => id >= *value,
                "<=" => id <= *value,
                ">" => id > *value,
                _ => id < *value,
            })
        })
    }
}
