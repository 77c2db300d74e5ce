//! How far the upkeep of registered sites is: columns of `matomo_site_state`. SPI only.

use chrono::NaiveDate;

use crate::error::{Result, SiteError};
use crate::pg::extension::Extension;
use crate::pg::spi::{get, one, query};
use crate::state::retention;
use crate::state::sites::URL_OF_SERVER;

/// What the upkeep of a site needs to know.
pub struct UpkeepState {
    /// The site's timezone; empty before its first sync.
    pub timezone: String,
    /// The day whose upkeep is done.
    pub tended_on: Option<NaiveDate>,
    /// Where the last step stopped, see [`crate::state::drop_step`].
    pub place: Option<String>,
    /// URL of the Matomo of the last run, else of the server.
    pub matomo: Option<String>,
}

/// Whether today's upkeep is done. A later day than today comes from a clock that was ahead.
pub fn is_done(tended_on: Option<NaiveDate>, timezone: &str) -> bool {
    tended_on == Some(retention::today(timezone))
}

/// Keeps others from changing a site until the end of the transaction.
///
/// # Errors
/// Only internal ones.
pub fn lock(extension: &Extension, id: i32) -> Result<()> {
    let sql = format!(
        "SELECT 1 FROM {}.matomo_site_state t WHERE t.site_id = $1 FOR UPDATE",
        extension.schema
    );
    extension.run(|client| query(client, &sql, &[id.into()]).map(drop))
}

/// Reads the state of a site.
///
/// # Errors
/// [`SiteError::NoSite`].
pub fn read(extension: &Extension, id: i32) -> Result<UpkeepState> {
    let sql = format!(
        "SELECT s.timezone, t.tended_on::text, t.upkeep_place::text, coalesce(t.matomo, \
             {URL_OF_SERVER}) FROM {0}.matomo_site_config s \
         LEFT JOIN {0}.matomo_site_state t ON t.site_id = s.id WHERE s.id = $1",
        extension.schema
    );
    extension.run(|client| {
        let row = query(client, &sql, &[id.into()])?.next().ok_or(SiteError::NoSite(id))?;
        let text = |column: usize| get::<String>(&row, column);
        Ok(UpkeepState {
            timezone: text(1)?.unwrap_or_default(),
            tended_on: text(2)?.and_then(|day| day.parse().ok()),
            place: text(3)?,
            matomo: text(4)?,
        })
    })
}

/// Counts a process that begins the upkeep. Returns how many have since the last one that ended it.
///
/// # Errors
/// Only internal ones.
pub fn begin(extension: &Extension, id: i32) -> Result<Option<i32>> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET upkeep_begun = upkeep_begun + 1 WHERE site_id = $1 \
         RETURNING upkeep_begun",
        extension.schema
    );
    extension.run(|client| one(query(client, &sql, &[id.into()])?))
}

/// Ends what [`begin`] has begun.
///
/// # Errors
/// Only internal ones.
pub fn end(extension: &Extension, id: i32) -> Result<()> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET upkeep_begun = 0 WHERE site_id = $1",
        extension.schema
    );
    extension.run(|client| query(client, &sql, &[id.into()]).map(drop))
}

/// Records where the next step resumes, and what it waits for: the table may be in use for days.
///
/// # Errors
/// Only internal ones.
pub fn keep_place(
    extension: &Extension,
    id: i32,
    place: Option<String>,
    blocked: Option<String>,
) -> Result<()> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET upkeep_place = $2::jsonb, upkeep_error = $3 WHERE site_id = $1",
        extension.schema
    );
    let args = [id.into(), place.into(), blocked.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// Records the result of the upkeep; without a day, it is not done for today.
///
/// # Errors
/// Only internal ones.
pub fn note(
    extension: &Extension,
    id: i32,
    day: Option<NaiveDate>,
    error: Option<&str>,
) -> Result<()> {
    let sql = format!(
        "INSERT INTO {}.matomo_site_state AS t (site_id, tended_on, upkeep_error) \
         VALUES ($1, $2::date, $3) ON CONFLICT (site_id) DO UPDATE \
         SET tended_on = coalesce(excluded.tended_on, t.tended_on), \
             upkeep_error = excluded.upkeep_error, \
             upkeep_place = CASE WHEN excluded.tended_on IS NULL THEN t.upkeep_place END",
        extension.schema
    );
    let args = [id.into(), day.map(|day| day.to_string()).into(), error.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}
