//! Reads a site's stored visits for `matomo_check` and rechecks. SPI only.

use std::collections::{BTreeSet, HashSet};
use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{get, one, query, values};
use crate::pg::watch;
use crate::rows::batch::ListedVisit;
use crate::store::destination::Destination;
use crate::store::statements::clauses::differs;
use crate::store::table_writer::read_back::DIVERTS;

/// A column of type `timestamp` holds instants in UTC.
const BETWEEN_INSTANTS: [(&CStr, &CStr); 4] =
    [SAFE_PATH, PLANNED_ANEW, (c"timezone", c"UTC"), (c"jit", c"off")];

/// Visits whose stored rows differ from Matomo's list.
#[derive(Debug, Default)]
pub struct Differing {
    /// Visits without stored rows.
    pub missing: Vec<i64>,
    /// Visits with a row in which a value of the visit differs.
    pub stale: Vec<i64>,
    /// Those of `missing` and `stale` whose row in the table of visits is missing or differs.
    pub in_visits: HashSet<i64>,
}

/// Compares listed visits with those that a table has rows of. `place` is that of the table's values in
/// [`ListedVisit::values`].
///
/// # Errors
/// Only internal ones.
pub fn differing(
    destination: &Destination,
    listed: &[ListedVisit],
    place: usize,
) -> Result<Differing> {
    let mut found = Differing::default();
    if listed.is_empty() {
        return Ok(found);
    }
    let layout = &destination.layout;
    let width = layout.listed().count();
    let list = |each: &dyn Fn(usize, &str) -> String| {
        let names = layout.listed().map(|slot| slot.column.name);
        names.enumerate().map(|(n, column)| each(n, column)).collect::<Vec<_>>()
    };
    let type_of = |column: &str| destination.type_of(column);
    let arrays = list(&|n, _| format!("${}::text[]", n + 1)).join(", ");
    let aliases = list(&|n, _| format!("c{n}")).join(", ");
    let typed = list(&|n, column| format!("u.c{n}::{} AS {column}", type_of(column))).join(", ");
    let stored = list(&|_, column| format!("d.{column}")).join(", ");
    let differs = list(&|_, column| differs(column, type_of(column))).join(" OR ");
    let sql = format!(
        "WITH i AS MATERIALIZED (SELECT u.place, {typed} \
             FROM unnest({arrays}) WITH ORDINALITY AS u({aliases}, place)), \
         s AS MATERIALIZED (SELECT {stored} FROM {} AS d \
             WHERE d.idvisit = ANY (${}::text[]::{}[])) \
         SELECT i.place, bool_or(s.idvisit IS NULL) FROM i LEFT JOIN s ON s.idvisit = i.idvisit \
         WHERE {differs} GROUP BY i.place ORDER BY i.place",
        destination.name,
        width + 1,
        type_of("idvisit"),
    );
    let mut args: Vec<DatumWithOid> = (0..width)
        .map(|n| {
            let column: Vec<Option<&str>> =
                listed.iter().map(|visit| visit.values[place][n].as_deref()).collect();
            column.into()
        })
        .collect();
    let ids: Vec<_> = listed.iter().map(|visit| visit.id.to_string()).collect();
    args.push(ids.into());
    let _safe = LocalSettings::of(&[
        SAFE_PATH,
        PLANNED_ANEW,
        (c"enable_seqscan", c"off"),
        (c"jit", c"off"),
    ]);
    Spi::connect_mut(|client| {
        for row in query(client, &sql, &args)? {
            let line = get::<i64>(&row, 1)?.and_then(|line| usize::try_from(line - 1).ok());
            let Some(visit) = line.and_then(|line| listed.get(line)) else { continue };
            match get::<bool>(&row, 2)? {
                Some(true) => found.missing.push(visit.id),
                _ => found.stale.push(visit.id),
            }
        }
        Ok(found)
    })
}

/// Whether a trigger, rule or policy of the user may keep inserted rows out of a table.
///
/// # Errors
/// Only internal ones.
pub fn diverts(table: &Destination) -> Result<bool> {
    let _safe = LocalSettings::of(&[SAFE_PATH]);
    Spi::connect_mut(|client| {
        let found = query(client, DIVERTS, &[table.oid.into()])?;
        Ok(one(found)?.unwrap_or(true))
    })
}

/// Number of stored rows of visits.
///
/// # Errors
/// Only internal ones.
pub fn count_rows(destination: &Destination, visits: &[i64]) -> Result<i64> {
    let sql = format!(
        "SELECT count(*) FROM {} AS d WHERE d.idvisit = ANY ($1::text[]::{}[])",
        destination.name,
        destination.type_of("idvisit")
    );
    let ids: Vec<_> = visits.iter().map(i64::to_string).collect();
    let _safe = LocalSettings::of(&[
        SAFE_PATH,
        PLANNED_ANEW,
        (c"enable_seqscan", c"off"),
        (c"jit", c"off"),
    ]);
    Spi::connect_mut(|client| {
        let found = query(client, &sql, &[ids.into()])?;
        Ok(one(found)?.unwrap_or(0))
    })
}

/// Whether a site, or any, has rows in each of these spans (Unix seconds, exclusive end), in the same order.
/// Exact to a quarter of an hour, as the midnights of all timezones are. True where a policy may hide rows.
///
/// # Errors
/// Only internal ones.
pub fn have_rows(
    destination: &Destination,
    site: Option<i32>,
    spans: &[(i64, i64)],
) -> Result<Vec<bool>> {
    const QUARTER: i64 = 900;
    // One year per statement, to make progress: in most tables an index or partitions support that.
    const AT_ONCE: usize = 366;
    let sql = format!(
        "SELECT DISTINCT floor(date_part('epoch', d.action_timestamp) / {QUARTER})::int8 FROM {} AS d \
         WHERE ($1 IS NULL OR d.idsite = $1::{}) AND d.action_timestamp >= to_timestamp($2) \
         AND d.action_timestamp < to_timestamp($3)",
        destination.name,
        destination.type_of("idsite")
    );
    let site = site.map(|site| site.to_string());
    let _safe = LocalSettings::of(&BETWEEN_INSTANTS);
    Spi::connect_mut(|client| {
        let policy = query(client, "SELECT row_security_active($1)", &[destination.oid.into()])?;
        if one(policy)? == Some(true) {
            return Ok(vec![true; spans.len()]);
        }
        let mut found = Vec::with_capacity(spans.len());
        for spans in spans.chunks(AT_ONCE) {
            watch::progress();
            let from = spans.iter().map(|(from, _)| *from).min().unwrap_or_default();
            let to = spans.iter().map(|(_, to)| *to).max().unwrap_or_default();
            let args = [site.clone().into(), (from as f64).into(), (to as f64).into()];
            let quarters: Vec<i64> = values(query(client, &sql, &args)?)?;
            let quarters: BTreeSet<i64> = quarters.into_iter().collect();
            found.extend(spans.iter().map(|(from, to)| {
                quarters.range(from.div_euclid(QUARTER)..to.div_euclid(QUARTER)).next().is_some()
            }));
        }
        Ok(found)
    })
}

/// The stored visits of a site that have a row between two instants (in seconds, the second
/// excluded), each with the instant of its last such row.
///
/// # Errors
/// Only internal ones.
pub fn visits_between(
    destination: &Destination,
    site: i32,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, i64)>> {
    let sql = format!(
        "SELECT d.idvisit::text, max(date_part('epoch', d.{time})) FROM {} AS d \
         WHERE d.idsite = $1::{} AND d.{time} >= to_timestamp($2) \
         AND d.{time} < to_timestamp($3) GROUP BY 1",
        destination.name,
        destination.type_of("idsite"),
        time = destination.layout.kind.time()
    );
    let _safe = LocalSettings::of(&BETWEEN_INSTANTS);
    Spi::connect_mut(|client| {
        let args = [site.to_string().into(), (from as f64).into(), (to as f64).into()];
        let mut visits = Vec::new();
        for row in query(client, &sql, &args)? {
            let id: Option<String> = get(&row, 1)?;
            let last: Option<f64> = get(&row, 2)?;
            if let (Some(Ok(id)), Some(last)) = (id.map(|id| id.parse()), last) {
                visits.push((id, last as i64));
            }
        }
        Ok(visits)
    })
}
