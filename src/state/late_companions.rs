//! Companions that were missing after a restore while their destination was synced. SPI only.

use pgrx::pg_sys;

use crate::error::{Busy, Result};
use crate::pg::locks::{self, ALL_SITES, Held, Lock, LockKind, Mode};
use crate::pg::spi::{query, sees_commits};
use crate::state::ledger::reread_all;
use crate::state::snapshot::check_sees_days;
use crate::store::companions::{by_name, is_of, is_outdated};
use crate::store::destination::Destination;

/// Locks the rows of a site in a destination, and opens the companions that this has by now.
///
/// # Errors
/// [`Busy`], [`crate::error::Error::TooNew`], and those of [`Destination::open`].
pub fn locked(destination: Destination, site: i32) -> Result<Destination> {
    destination.lock_rows(site)?;
    // A companion that comes after this is written to, or marked.
    note(&destination)?;
    let destination = destination.with_companions_of_now()?;
    check_sees_days(&destination.extension, destination.oid, &destination.name)?;
    Ok(destination)
}

/// Deletes the entries of restored companions that the destination's own have replaced. Marks companions that
/// are missing, as days that are copied now lack their rows. If a marked one is there by now, opens all days
/// again, once no other sync is at work.
fn note(destination: &Destination) -> Result<()> {
    let Destination { extension, oid, .. } = destination;
    let schema = &extension.schema;
    let (found, outdated) = (by_name(schema, "c"), is_outdated(schema, "$1"));
    let is_named = |names: u8, is_missing: &str| {
        format!(
            "c.companion::oid = 0::oid AND cardinality(c.companion_name) = {names} AND {} AND NOT {outdated} \
             AND {found} IS {is_missing}",
            is_of(schema, "$1")
        )
    };
    let of = |condition: &str| {
        format!("SELECT 1 FROM {schema}.matomo_companion c WHERE {condition} LIMIT 1")
    };
    let outdated_here = format!("{} AND {outdated}", is_of(schema, "$1"));
    let has_outdated = of(&outdated_here);
    let forget = format!(
        "DELETE FROM {schema}.matomo_companion c WHERE c.ctid = ANY (ARRAY( \
             SELECT c.ctid FROM {schema}.matomo_companion c WHERE {outdated_here} FOR UPDATE SKIP LOCKED))"
    );
    let has_names = of(&format!("c.companion::oid = 0::oid AND {}", is_of(schema, "$1")));
    let unmarked = is_named(3, "NULL");
    let is_unmarked = of(&unmarked);
    let mark = format!(
        "UPDATE {schema}.matomo_companion c SET companion_name = companion_name || 'late'::text WHERE {unmarked}"
    );
    let late = is_named(4, "NOT NULL");
    let has_come = of(&late);
    let take = format!(
        "UPDATE {schema}.matomo_companion c SET destination = $1, destination_name = '{{}}', \
             companion = {found}, companion_name = '{{}}' \
         WHERE c.ctid = ANY (ARRAY(SELECT c.ctid FROM {schema}.matomo_companion c WHERE {late} \
             FOR UPDATE SKIP LOCKED)) RETURNING 1"
    );
    let args = [(*oid).into()];
    let has_rows = |sql: &str| extension.run(|client| Ok(!query(client, sql, &args)?.is_empty()));
    // Nearly always: no write, no transaction ID.
    if !has_rows(&has_names)? {
        return Ok(());
    }
    if has_rows(&has_outdated)? {
        has_rows(&forget)?;
    }
    if has_rows(&is_unmarked)? {
        // The mark of a session that aborts is undone, also for those that have passed it.
        if !locks::take(Lock::Rows(*oid, ALL_SITES), Mode::Alone) {
            return Err(Busy::FirstAfterRestore(destination.name.clone()).into());
        }
        let _bounded = locks::bounded_waits();
        has_rows(&mark)?;
    }
    // Days of a sync that is still at work without it would not be opened. This one writes to it anyway.
    // In this order: one that begins now finds it.
    if !has_rows(&has_come)? || !sees_commits() || is_synced_by_others(*oid) {
        return Ok(());
    }
    if has_rows(&take)? { reread_all(extension, *oid) } else { Ok(()) }
}

fn is_synced_by_others(destination: pg_sys::Oid) -> bool {
    let is_other = |held: &Held| held.class == destination.to_u32() && !held.is_own();
    locks::held(LockKind::Rows).iter().any(is_other)
}
