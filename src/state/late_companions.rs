//! Companions that were missing after a restore while their destination was synced. SPI only.

use pgrx::pg_sys;

use crate::error::{Busy, Result};
use crate::pg::locks::{self, ALL_SITES, Held, Lock, LockKind, Mode};
use crate::pg::spi::{query, sees_commits};
use crate::state::ledger::reread_all;
use crate::state::snapshot::check_sees_days;
use crate::store::companions::{self, by_name, has_own_days, is_free, is_of, is_outdated};
use crate::store::destination::Destination;

/// Locks the rows of a site in a destination, and looks again which companions the destination has.
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

/// Notes what became of restored companions, which are known by name:
/// - If the destination has one of its own of the same kind, the restored one no longer belongs to it.
/// - One that is missing is marked, as days that are copied now lack its rows.
/// - For one that was marked and exists by now, or that belongs again to its owner in the dump, all days are
///   reset, once no other sync is running.
fn note(destination: &Destination) -> Result<()> {
    let Destination { extension, oid, .. } = destination;
    let schema = &extension.schema;
    let (found, outdated) = (by_name(schema, "c"), is_outdated(schema, "$1"));
    let of = |condition: &str| format!("{} AND {condition}", is_of(schema, "$1"));
    let any = |condition: &str| {
        format!("SELECT 1 FROM {schema}.matomo_companion c WHERE {condition} LIMIT 1")
    };
    let change = |set: &str, condition: &str| {
        let is_free = is_free(schema, condition);
        format!("UPDATE {schema}.matomo_companion c SET {set} WHERE c.{is_free} RETURNING 1")
    };
    let named = of("c.companion::oid = 0::oid");
    let args = [(*oid).into()];
    let has_rows = |sql: &str| extension.run(|client| Ok(!query(client, sql, &args)?.is_empty()));
    // The usual case needs no transaction ID.
    if !has_rows(&any(&named))? {
        return Ok(());
    }
    let outdated_here = of(&outdated);
    if has_rows(&any(&outdated_here))? {
        companions::forget_dropped(extension)?;
        // An erasure still searches the table of visits, as if its destination had been dropped. The rows of
        // the others do not say by themselves which visitor they are of.
        let set = "destination_name = ARRAY['?', gen_random_uuid()::text, $1::oid::text]";
        let of_visits = format!("{outdated_here} AND c.kind = 'visits'");
        has_rows(&change(set, &of_visits))?;
        let others = is_free(schema, &format!("{outdated_here} AND c.kind <> 'visits'"));
        has_rows(&format!("DELETE FROM {schema}.matomo_companion c WHERE c.{others}"))?;
    }
    let unmarked = format!(
        "{named} AND cardinality(c.companion_name) = 3 AND NOT {outdated} AND {found} IS NULL"
    );
    if has_rows(&any(&unmarked))? {
        // One session at a time: if this one aborts, its mark is undone, and a session that had relied on the
        // mark would copy days without it.
        if !locks::take(Lock::Rows(*oid, ALL_SITES), Mode::ShareUpdateExclusive) {
            return Err(Busy::FirstAfterRestore(destination.name.clone()).into());
        }
        let _bounded = locks::bounded_waits();
        has_rows(&format!(
            "UPDATE {schema}.matomo_companion c SET companion_name = companion_name || 'late'::text \
             WHERE {unmarked}"
        ))?;
    }
    let late = format!(
        "{named} AND (cardinality(c.companion_name) = 4 OR {}) AND NOT {outdated} AND {found} IS NOT NULL",
        has_own_days(schema, "$1")
    );
    // A concurrent sync without the companion may commit days after they are reset here: then this sync only
    // writes to the companion, and a later one resets them. A sync that begins now finds the companion.
    if !has_rows(&any(&late))? || !sees_commits() || is_synced_by_others(*oid) {
        return Ok(());
    }
    let set = format!(
        "destination = $1, destination_name = '{{}}', companion = {found}, companion_name = '{{}}'"
    );
    // One after the other: a second one of the same kind is outdated then.
    let take = change(&set, &format!("{late} LIMIT 1"));
    let mut has_taken = false;
    while has_rows(&take)? {
        has_taken = true;
    }
    if has_taken { reread_all(extension, *oid) } else { Ok(()) }
}

fn is_synced_by_others(destination: pg_sys::Oid) -> bool {
    let is_other = |held: &Held| held.class == destination.to_u32() && !held.is_own();
    locks::held(LockKind::Rows).iter().any(is_other)
}
