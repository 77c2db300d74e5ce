//! Updates the ledger when old rows are removed. The step that removes a day's last row seals it as
//! empty. A day that has lost only some rows is reset, so that it is correct even if no step follows.
//! SPI only.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use pgrx::prelude::*;

use crate::config::settings;
use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW};
use crate::pg::spi::{get, query};
use crate::rows::site_context::ActionTime;
use crate::state::ledger::{EMPTY, UNREAD, corrupt};
use crate::state::metadata;
use crate::state::restored::is_of_table;
use crate::state::retention;

/// The rows that a step has removed, as a span in Unix seconds: any row in it may be gone.
pub struct Gone {
    /// Inclusive.
    pub first: i64,
    /// Exclusive.
    pub last: i64,
    /// `None` means any site.
    pub sites: Option<Vec<Option<String>>>,
}

/// The rows to remove from a table.
pub struct Bounds<'a> {
    pub destination: pg_sys::Oid,
    /// Schema-qualified and quoted.
    pub table: &'a str,
    pub site: Option<i32>,
    pub before: i64,
}

/// Result of updating the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    Done,
    /// Days that should be empty have rows: a sync has stored them since, or they cannot be deleted.
    RowsLeft,
    /// Another session has locked an entry: the step must be rolled back.
    Locked,
}

/// A ledger entry of a day that may have rows.
struct Day {
    matomo: String,
    site: i32,
    /// Whether its rows are those of other sites.
    is_rollup: bool,
    day: NaiveDate,
    /// Bounds of its rows in `action_timestamp`, in Unix seconds.
    begin: i64,
    end: i64,
}

/// Records what a step has removed; `None` if no rows remained, so that all days must be empty. Changes
/// only days that end at or before the bound.
///
/// # Errors
/// Only internal ones.
pub fn note(extension: &Extension, bounds: &Bounds, gone: Option<&Gone>) -> Result<Noted> {
    let is_near = |day: &Day| {
        day.end <= bounds.before
            && gone.is_none_or(|gone| day.end > gone.first && day.begin < gone.last)
    };
    let mut days = days(extension, bounds)?;
    days.retain(is_near);
    // The day in which the step stopped still has rows.
    let passed = |day: &Day| gone.is_none_or(|gone| day.end <= gone.last);
    let (passed, mut opened): (Vec<_>, Vec<_>) = days.into_iter().partition(passed);
    let filled = filled(bounds, &passed)?;
    let (mut emptied, mut kept) = (Vec::new(), Vec::new());
    for (index, day) in passed.into_iter().enumerate() {
        if filled.contains(&index) { kept.push(day) } else { emptied.push(day) }
    }
    let has_rows_left = !kept.is_empty();
    opened.extend(kept);
    opened.retain(|day| {
        let site = Some(day.site.to_string());
        let has = |sites: &Vec<_>| day.is_rollup || sites.contains(&site);
        gone.is_some_and(|gone| gone.sites.as_ref().is_none_or(has))
    });
    let sealed =
        format!("sealed = true, {EMPTY}, pass_began = NULL, pass_since = NULL, pass_seen = NULL");
    let unread = format!("{UNREAD}, {EMPTY}");
    for (days, set) in [(&emptied, sealed), (&opened, unread)] {
        if !update(extension, bounds.destination, days, &set)? {
            return Ok(Noted::Locked);
        }
    }
    Ok(if has_rows_left && gone.is_none() { Noted::RowsLeft } else { Noted::Done })
}

/// Reads all days that may have rows.
fn days(extension: &Extension, bounds: &Bounds) -> Result<Vec<Day>> {
    let rollups = metadata::rollups_of(extension, bounds.destination)?;
    let last = chrono::DateTime::from_timestamp(bounds.before, 0).map(|at| at.date_naive());
    let sql = format!(
        "SELECT matomo, idsite, day::text, timezone, coalesce(action_time, $4) FROM {}.matomo_ledger l \
         WHERE {} AND ($2 IS NULL OR idsite = $2) AND day <= $3::date + 1 \
         AND NOT (sealed AND visits = 0 AND actions = 0 AND truncated_visits = 0)",
        extension.schema,
        is_of_table(&extension.schema, "$1")
    );
    let args = [
        bounds.destination.into(),
        bounds.site.into(),
        last.unwrap_or_default().to_string().into(),
        settings::action_time().name().into(),
    ];
    extension.run(|client| {
        let rows = query(client, &sql, &args)?.map(|row| {
            let day: String = get(&row, 3)?.ok_or_else(corrupt)?;
            let day: NaiveDate = day.parse().map_err(|_| corrupt())?;
            let timezone: String = get(&row, 4)?.unwrap_or_default();
            let kind: Option<String> = get(&row, 5)?;
            let kind = kind.as_deref().and_then(ActionTime::parse);
            let (begin, end) = retention::span(day, &timezone, kind);
            let site = get(&row, 2)?.ok_or_else(corrupt)?;
            Ok(Day {
                matomo: get(&row, 1)?.ok_or_else(corrupt)?,
                site,
                is_rollup: rollups.contains(&site),
                day,
                begin,
                end,
            })
        });
        rows.collect()
    })
}

/// Indexes of the days that have rows. Uses the caller's rights; no policy hides rows.
fn filled(bounds: &Bounds, days: &[Day]) -> Result<BTreeSet<usize>> {
    // Planned with its values, so that partitions of other days are neither scanned nor locked. One
    // statement for all days would need LATERAL, which Citus cannot plan.
    let sql = format!(
        "SELECT 1 FROM {} AS d \
         WHERE d.action_timestamp OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp($1) \
         AND d.action_timestamp OPERATOR(pg_catalog.<) pg_catalog.to_timestamp($2) \
         AND ($3 IS NULL OR d.idsite::pg_catalog.text OPERATOR(pg_catalog.=) ANY ($3)) LIMIT 1",
        bounds.table
    );
    let _planned_anew = LocalSettings::of(&[PLANNED_ANEW]);
    let has_rows = |days: &[Day]| -> Result<bool> {
        let begin = days.iter().map(|day| day.begin).min().unwrap_or_default();
        let end = days.iter().map(|day| day.end).max().unwrap_or_default();
        let sites: BTreeSet<_> = days.iter().map(|day| day.site.to_string()).collect();
        let of_any = days.iter().any(|day| day.is_rollup);
        let sites = (!of_any).then(|| sites.into_iter().collect::<Vec<_>>());
        let args = [(begin as f64).into(), (end as f64).into(), sites.into()];
        Spi::connect_mut(|client| Ok(!query(client, &sql, &args)?.is_empty()))
    };
    let mut filled = BTreeSet::new();
    // Usually none has any.
    if days.is_empty() || !has_rows(days)? {
        return Ok(filled);
    }
    for (index, day) in days.iter().enumerate() {
        if has_rows(std::slice::from_ref(day))? {
            filled.insert(index);
        }
    }
    Ok(filled)
}

/// Updates the entries of days. Returns false if another session has locked one of them.
fn update(
    extension: &Extension,
    destination: pg_sys::Oid,
    days: &[Day],
    set: &str,
) -> Result<bool> {
    if days.is_empty() {
        return Ok(true);
    }
    let ledger = format!("{}.matomo_ledger", extension.schema);
    let these = format!(
        "unnest($2::text[], $3::int[], $4::text[]::date[]) AS k(matomo, idsite, day) \
         WHERE {} AND (l.matomo, l.idsite, l.day) = (k.matomo, k.idsite, k.day)",
        is_of_table(&extension.schema, "$1")
    );
    let lock = format!("SELECT 1 FROM {ledger} l, {these} FOR UPDATE OF l SKIP LOCKED");
    let update = format!("UPDATE {ledger} l SET {set} FROM {these}");
    let matomos: Vec<_> = days.iter().map(|day| day.matomo.as_str()).collect();
    let sites: Vec<_> = days.iter().map(|day| day.site).collect();
    let dates: Vec<_> = days.iter().map(|day| day.day.to_string()).collect();
    let args = [destination.into(), matomos.into(), sites.into(), dates.into()];
    extension.run(|client| {
        if query(client, &lock, &args)?.len() < days.len() {
            return Ok(false);
        }
        query(client, &update, &args).map(|_| true)
    })
}
