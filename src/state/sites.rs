//! The registered sites: the tables `matomo_site_config` and `matomo_site_state`. SPI only.

use chrono::NaiveDate;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;

use crate::error::{Error, Result, Stored};
use crate::matomo::client::SiteInfo;
use crate::pg::extension::Extension;
use crate::pg::roles::has_rights_of;
use crate::pg::spi::{query, spi};

/// A registered site.
#[derive(Debug, Clone)]
pub struct Site {
    pub id: i32,
    pub server: String,
    /// ID in Matomo.
    pub idsite: i32,
    pub destination: pg_sys::Oid,
    pub owner: pg_sys::Oid,
    /// Of the owner.
    pub owner_name: String,
    pub start: Option<NaiveDate>,
    pub is_enabled: bool,
}

impl Site {
    /// A registered site that the current user may act on.
    ///
    /// # Errors
    /// [`Stored::NoSite`], [`Stored::NoOwner`], [`Stored::SitePrivilege`].
    pub fn get(extension: &Extension, id: i32) -> Result<Site> {
        let site = Site::find(extension, id)?.ok_or(Stored::NoSite(id))?;
        if site.owner_name.is_empty() {
            return Err(Stored::NoOwner(id).into());
        }
        site.check_rights()?;
        Ok(site)
    }

    /// The same, of whomever.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn find(extension: &Extension, id: i32) -> Result<Option<Site>> {
        let sql = format!(
            "SELECT s.id, s.server::text, s.idsite, s.destination::oid, s.owner::oid, r.rolname::text, \
                 s.start_date::text, s.enabled \
             FROM {0}.matomo_site_config s LEFT JOIN pg_roles r ON r.oid = s.owner WHERE s.id = $1",
            extension.schema
        );
        extension.run(|client| {
            let row = query(client, &sql, &[id.into()])?.next();
            row.map(|row| Site::of(&row)).transpose()
        })
    }

    fn of(row: &SpiHeapTupleData) -> Result<Site> {
        let corrupt = || Error::Internal("a registered site lacks what it cannot lack".to_owned());
        let text = |column: usize| row.get::<String>(column).map_err(spi);
        let number = |column: usize| row.get::<i32>(column).map_err(spi)?.ok_or_else(corrupt);
        let oid = |column: usize| row.get::<pg_sys::Oid>(column).map_err(spi)?.ok_or_else(corrupt);
        let start = text(7)?.map(|day| day.parse().map_err(|_| corrupt())).transpose()?;
        Ok(Site {
            id: number(1)?,
            server: text(2)?.ok_or_else(corrupt)?,
            idsite: number(3)?,
            destination: oid(4)?,
            owner: oid(5)?,
            owner_name: text(6)?.unwrap_or_default(),
            start,
            is_enabled: row.get(8).map_err(spi)?.ok_or_else(corrupt)?,
        })
    }

    /// Whether the current user has the rights of the owner.
    ///
    /// # Errors
    /// [`Stored::SitePrivilege`].
    pub fn check_rights(&self) -> Result<()> {
        if has_rights_of(self.owner) {
            return Ok(());
        }
        Err(Stored::SitePrivilege { site: self.id, owner: self.owner_name.clone() }.into())
    }
}

/// Notes of the sites whose owner is gone that they fail, once: no run of theirs can begin that would.
/// Gives those that it is news of.
///
/// # Errors
/// Only internal ones.
pub fn note_ownerless(extension: &Extension) -> Result<Vec<i32>> {
    let schema = &extension.schema;
    let ownerless = format!(
        "SELECT s.id, CASE WHEN t.failures > 0 THEN t.last_error END FROM {schema}.matomo_site_config s \
         LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id \
         WHERE (s.enabled OR s.retention IS NOT NULL) \
         AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner) ORDER BY s.id"
    );
    let note = format!(
        "INSERT INTO {schema}.matomo_site_state AS t (site_id, failures, last_error_at, last_sqlstate, \
             last_error, last_hint) VALUES ($1, 1, clock_timestamp(), '42704', $2, $3) \
         ON CONFLICT (site_id) DO UPDATE SET failures = t.failures + 1, \
             last_error_at = excluded.last_error_at, last_sqlstate = excluded.last_sqlstate, \
             last_error = excluded.last_error, last_detail = NULL, last_hint = excluded.last_hint"
    );
    extension.run(|client| {
        let mut news = Vec::new();
        for row in query(client, &ownerless, &[])? {
            let Some(id) = row.get::<i32>(1).map_err(spi)? else { continue };
            let error = Stored::NoOwner(id);
            if row.get::<String>(2).map_err(spi)? != Some(error.to_string()) {
                news.push((id, error));
            }
        }
        for (id, error) in &news {
            query(client, &note, &[(*id).into(), error.to_string().into(), error.hint().into()])?;
        }
        Ok(news.into_iter().map(|(id, _)| id).collect())
    })
}

/// Whether Matomo has refused these credentials, for whichever site: there may be more sites than
/// refusals that it puts up with.
///
/// # Errors
/// Only internal ones.
pub fn is_refused(extension: &Extension, version: &str) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM {}.matomo_site_state WHERE refused_credentials = $1 LIMIT 1",
        extension.schema
    );
    extension.run(|client| Ok(!query(client, &sql, &[version.into()])?.is_empty()))
}

/// Notes what Matomo tells of a site, and where it was asked.
///
/// # Errors
/// Only internal ones.
pub fn note(extension: &Extension, id: i32, info: &SiteInfo, matomo: &str) -> Result<()> {
    let schema = &extension.schema;
    let config = format!(
        "UPDATE {schema}.matomo_site_config SET name = coalesce($2, name), timezone = $3 WHERE id = $1 \
         AND (name, timezone) IS DISTINCT FROM (coalesce($2, name), $3)"
    );
    let state = format!(
        "INSERT INTO {schema}.matomo_site_state AS t (site_id, matomo) VALUES ($1, $2) \
         ON CONFLICT (site_id) DO UPDATE SET matomo = excluded.matomo \
         WHERE t.matomo IS DISTINCT FROM excluded.matomo"
    );
    extension.run(|client| {
        let args = [id.into(), info.name.as_deref().into(), info.timezone.as_str().into()];
        query(client, &config, &args)?;
        query(client, &state, &[id.into(), matomo.into()]).map(drop)
    })
}
