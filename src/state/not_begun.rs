//! Runs of registered sites that cannot begin, recorded in the state of the site.

use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::spi::{query, values};

/// Records once, as the failure of each site, that another session keeps it from being synced, unless
/// that may be a short sync by hand.
///
/// # Errors
/// Only internal ones.
pub fn note_held(extension: &Extension, sites: &[(i32, Failed)]) -> Result<()> {
    if sites.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "SELECT o.site_id FROM {}.matomo_overdue o WHERE o.site_id = ANY ($1)",
        extension.schema
    );
    let ids: Vec<_> = sites.iter().map(|(site, _)| *site).collect();
    let overdue: Vec<i32> = extension.run(|client| values(query(client, &sql, &[ids.into()])?))?;
    let held: Vec<_> = sites.iter().filter(|(site, _)| overdue.contains(site)).cloned().collect();
    note(extension, &held)
}

/// Records once why the runs of due sites cannot start. Does not wait for a site that is being changed.
///
/// # Errors
/// Only internal ones.
pub fn note(extension: &Extension, sites: &[(i32, Failed)]) -> Result<()> {
    let sql = format!(
        "UPDATE {0}.matomo_site_state SET failures = failures + 1, last_error_at = clock_timestamp(), \
             is_unanswered = false, last_sqlstate = $2, last_error = $3, last_detail = $4, last_hint = $5 \
         WHERE ctid = (SELECT t.ctid FROM {0}.matomo_site_state t WHERE t.site_id = $1 \
             AND (t.failures = 0 OR t.last_error IS DISTINCT FROM $3) FOR UPDATE SKIP LOCKED)",
        extension.schema
    );
    extension.run(|client| {
        for (site, error) in sites {
            let args = [
                (*site).into(),
                error.state.as_str().into(),
                error.kept_message().into(),
                error.kept_detail().into(),
                error.hint.as_deref().into(),
            ];
            query(client, &sql, &args)?;
        }
        Ok(())
    })
}
