//! Internal SQL functions that the procedures call. Roles that may call the procedures may call
//! these.

use pgrx::prelude::*;

use crate::error::Error;
use crate::pg::ereport::or_raise;
use crate::pg::extension::Extension;
use crate::pg::locks::{self, LockKind};
use crate::state::runs;
use crate::worker::launcher;
use crate::worker::procedures;

/// Raises an ERROR where a procedure cannot commit.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_outside_transaction(what: &str) {
    or_raise(procedures::check_can_commit(what));
}

/// Whether a run has ended without recording it in its row.
#[pg_extern(name = "matomo_run_is_dead", volatile, strict, parallel_restricted)]
fn matomo_run_is_dead_0_2_reconnect(runid: i64) -> bool {
    or_raise(Extension::find().and_then(|extension| runs::is_dead(&extension, runid)))
}

/// Whether any session is syncing a registered site.
#[pg_extern(name = "matomo_is_running", volatile, parallel_restricted)]
fn matomo_is_running_0_2_reconnect(site_id: Option<i32>) -> bool {
    let is_meant = |held: &locks::Held| Some(held.object.cast_signed()) == site_id;
    locks::held(LockKind::Run).iter().any(is_meant)
}

/// Whether `matomo.database` has the background worker sync the sites of this database.
#[pg_extern(name = "matomo_has_worker", stable, parallel_safe)]
fn matomo_has_worker_0_2_reconnect() -> bool {
    launcher::serves_this_database()
}

/// IDs of the registered sites that `matomo_sync_all` has work for.
#[pg_extern(name = "matomo_run_sites", volatile, parallel_unsafe)]
fn matomo_run_sites_0_2_reconnect() -> Vec<i32> {
    or_raise(procedures::check_can_commit("matomo_sync_all()").and_then(|()| procedures::sites()))
}

/// Runs the next step of a registered site's sync. Returns whether more steps follow.
#[pg_extern(name = "matomo_run_step", volatile, parallel_unsafe)]
fn matomo_run_step_0_2_reconnect(site: Option<i32>, is_one_of_all: bool) -> bool {
    let what = if is_one_of_all { "matomo_sync_all()" } else { "matomo_sync_site()" };
    or_raise((|| {
        procedures::check_can_commit(what)?;
        procedures::advance(site.ok_or(Error::Null("id"))?, is_one_of_all)
    })())
}
