//! The steps of `CALL matomo_sync_site` and `CALL matomo_sync_all`, one per transaction; the procedures
//! only commit. Each step resumes where the session's last one stopped.

use std::ffi::CString;

use pgrx::prelude::*;

use crate::error::{Result, SiteError};
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks;
use crate::pg::roles::current_user;
use crate::pg::spi::{get, query, refuse_read_only};
use crate::state::not_begun;
use crate::state::restored::{self, OWNER_OF_SITE};
use crate::state::sites::RegisteredSite;
use crate::worker::attempt::attempt;
use crate::worker::background;
use crate::worker::current_work::{self, Phase};
use crate::worker::phases;
use crate::worker::step;
use crate::worker::upkeep;

/// Checks that a procedure can commit: not in a transaction block, a function or a trigger, nor within
/// another step. Raises an ERROR if the transaction is read-only.
///
/// # Errors
/// [`SiteError::InTransactionBlock`], [`SiteError::InFunction`].
pub fn check_can_commit(what: &str) -> Result<()> {
    // SAFETY: main thread, within a transaction.
    let (is_block, can_commit) = unsafe {
        let is_top = pg_sys::GetCurrentTransactionNestLevel() == 1;
        (pg_sys::IsTransactionBlock(), is_top && pg_sys::SPI_inside_nonatomic_context())
    };
    if is_block {
        return Err(SiteError::InTransactionBlock(what.to_owned()).into());
    }
    if !can_commit {
        return Err(SiteError::InFunction(what.to_owned()).into());
    }
    let what = CString::new(what).unwrap_or_default();
    refuse_read_only(&what);
    Ok(())
}

/// IDs of the sites that `matomo_sync_all` has work for, failing ones last. Records a failure for sites
/// without an owner.
///
/// # Errors
/// Only internal ones.
pub fn sites() -> Result<Vec<i32>> {
    let _bounded = locks::bounded_waits();
    let extension = Extension::find()?;
    step::check_may_call(&extension)?;
    restored::resolve(&extension)?;
    // Another session may have locked one of them: the others go on.
    if let Err(failed) = attempt(|| restored::note_ownerless(&extension)) {
        failed.tell(PgLogLevel::WARNING);
    }
    let sql = format!(
        "SELECT s.id FROM {0}.matomo_site_config s LEFT JOIN {0}.matomo_site_state t ON t.site_id = s.id \
         WHERE pg_has_role($1::oid, {OWNER_OF_SITE}, 'USAGE') \
         AND (s.enabled OR s.retention IS NOT NULL \
             AND EXISTS (SELECT FROM pg_roles r WHERE r.oid = {OWNER_OF_SITE})) ORDER BY coalesce(t.failures, 0) > 0, s.id",
        extension.schema
    );
    let user = current_user();
    extension.run(|client| {
        let rows = query(client, &sql, &[user.into()])?;
        let ids = rows.map(|row| get::<i32>(&row, 1));
        ids.filter_map(Result::transpose).collect()
    })
}

/// Runs the next step for a site; the caller commits. Returns whether more steps follow. With
/// `is_one_of_all`, a disabled site gets only its upkeep, and failures are WARNINGs.
///
/// # Errors
/// Those of [`step::begin`], and the failure of the run, unless `is_one_of_all`.
pub fn advance(site: i32, is_one_of_all: bool) -> Result<bool> {
    let Some(phase) = current_work::phase(site) else { return begin(site, is_one_of_all) };
    if phase == Phase::End {
        match current_work::clear().and_then(|work| work.failed) {
            Some(failed) if is_one_of_all => warn(site, failed),
            Some(failed) => failed.tell(PgLogLevel::ERROR),
            None => {}
        }
        return Ok(false);
    }
    if matches!(phase, Phase::Upkeep(1..)) {
        background::pause(upkeep::BETWEEN_TRIES);
    }
    let next = phases::step(site, phase)?;
    current_work::with(|work| work.phase = next)?;
    Ok(true)
}

fn begin(site: i32, is_one_of_all: bool) -> Result<bool> {
    if !is_one_of_all {
        let command = format!("CALL matomo_sync_site({site})");
        return Ok(step::begin(site, &command, true)?.is_some());
    }
    let begun = attempt(|| {
        if RegisteredSite::get(&Extension::find()?, site)?.is_enabled {
            return Ok(step::begin(site, "CALL matomo_sync_all()", true)?.is_some());
        }
        current_work::begin(site, Phase::Upkeep(0));
        Ok(true)
    });
    Ok(begun.unwrap_or_else(|failed| {
        // The site was removed, has another owner or none, or is locked.
        current_work::clear();
        let _bounded = locks::bounded_waits();
        let note = || {
            let extension = Extension::find()?;
            // An error unless the caller owns the site: only its owner may record failures of it.
            RegisteredSite::get(&extension, site)?;
            not_begun::note(&extension, &[(site, failed.clone())])
        };
        // If that fails too, the WARNING says why.
        let _ = attempt(note);
        warn(site, failed);
        false
    }))
}

fn warn(site: i32, failed: Failed) {
    failed.about(&format!("registered site {site}")).tell(PgLogLevel::WARNING);
}
