//! Runs of registered sites that cannot begin, recorded in the state of the site.

use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::spi::query;

/// Records once, as the failure of a site, that another session keeps it from being synced, if its last
/// success is more than its interval and an hour ago. A short sync by hand is no failure.
///
/// # Errors
/// Only internal ones.
pub fn note_held(extension: &Extension, site: i32, error: &Failed) -> Result<()> {
    let sql = format!(
        "SELECT FROM {0}.matomo_site_config s JOIN {0}.matomo_site_state t ON t.site_id = s.id \
         WHERE s.id = $1 AND clock_timestamp() - greatest(s.created_at, t.last_success_at) \
             > s.every + interval '1 hour'",
        extension.schema
    );
    if extension.run(|client| Ok(query(client, &sql, &[site.into()])?.is_empty()))? {
        return Ok(());
    }
    note(extension, &[(site, error.clone())])
}

/// Records once why the runs of due sites cannot start.
///
/// # Errors
/// Only internal ones.
pub fn note(extension: &Extension, sites: &[(i32, Failed)]) -> Result<()> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET failures = failures + 1, last_error_at = clock_timestamp(), \
             last_sqlstate = $2, last_error = $3, last_detail = $4, last_hint = $5 \
         WHERE site_id = $1 AND (failures = 0 OR last_error IS DISTINCT FROM $3)",
        extension.schema
    );
    extension.run(|client| {
        for (site, error) in sites {
            let args = [
                (*site).into(),
                error.state.as_str().into(),
                error.message.as_str().into(),
                error.kept_detail().into(),
                error.hint.as_deref().into(),
            ];
            query(client, &sql, &args)?;
        }
        Ok(())
    })
}
