//! Registered sites: the tables `matomo_site_config` and `matomo_site_state`. SPI only.

use chrono::NaiveDate;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;

use crate::error::{Error, Result, SiteError};
use crate::matomo::client::SiteInfo;
use crate::pg::extension::Extension;
use crate::pg::roles::has_rights_of;
use crate::pg::spi::{get, query};
use crate::state::restored::{OWNER_OF_SITE, table_of_site};

/// SQL for the URL of the server of a registered site `s`; NULL if it was dropped.
pub const URL_OF_SERVER: &str = "(SELECT o.option_value FROM pg_foreign_server f, \
    pg_options_to_table(f.srvoptions) o WHERE f.srvname = s.server AND o.option_name = 'url')";

/// A registered site.
#[derive(Debug, Clone)]
pub struct RegisteredSite {
    pub id: i32,
    pub server: String,
    /// idSite.
    pub idsite: i32,
    /// 0 if it is missing after a restore.
    pub destination: pg_sys::Oid,
    /// Its last known name.
    pub destination_name: String,
    /// 0 if it is missing after a restore.
    pub owner: pg_sys::Oid,
    /// Its last known name.
    pub owner_name: String,
    /// Whether the owner exists.
    pub is_owned: bool,
    pub start: Option<NaiveDate>,
    pub is_enabled: bool,
}

impl RegisteredSite {
    /// Reads a registered site whose owner's rights the current user has.
    ///
    /// # Errors
    /// [`SiteError::NoSite`], [`SiteError::NoOwner`], [`SiteError::SitePrivilege`].
    pub fn get(extension: &Extension, id: i32) -> Result<RegisteredSite> {
        let site = RegisteredSite::find(extension, id)?.ok_or(SiteError::NoSite(id))?;
        if !site.is_owned {
            return Err(SiteError::NoOwner { site: id, role: site.owner_name }.into());
        }
        site.check_rights()?;
        Ok(site)
    }

    /// Reads a registered site of any owner; `None` if it does not exist.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn find(extension: &Extension, id: i32) -> Result<Option<RegisteredSite>> {
        let sql = format!(
            "SELECT s.id, s.server::text, s.idsite, {1}, {OWNER_OF_SITE}, \
                 coalesce(r.rolname, s.owner_name)::text, s.start_date::text, s.enabled, \
                 r.oid IS NOT NULL, format('%I.%I', s.destination_name[1], s.destination_name[2]) \
             FROM {0}.matomo_site_config s LEFT JOIN pg_roles r ON r.oid = {OWNER_OF_SITE} WHERE s.id = $1",
            extension.schema,
            table_of_site(&extension.schema)
        );
        extension.run(|client| {
            let row = query(client, &sql, &[id.into()])?.next();
            row.map(|row| RegisteredSite::of(&row)).transpose()
        })
    }

    fn of(row: &SpiHeapTupleData) -> Result<RegisteredSite> {
        let corrupt = || Error::Internal("invalid row in matomo_site_config".to_owned());
        let text = |column: usize| get::<String>(row, column);
        let number = |column: usize| get::<i32>(row, column)?.ok_or_else(corrupt);
        let oid = |column: usize| get::<pg_sys::Oid>(row, column)?.ok_or_else(corrupt);
        let start = text(7)?.map(|day| day.parse().map_err(|_| corrupt())).transpose()?;
        Ok(RegisteredSite {
            id: number(1)?,
            server: text(2)?.ok_or_else(corrupt)?,
            idsite: number(3)?,
            destination: oid(4)?,
            owner: oid(5)?,
            owner_name: text(6)?.unwrap_or_default(),
            is_owned: get(row, 9)?.ok_or_else(corrupt)?,
            destination_name: text(10)?.unwrap_or_default(),
            start,
            is_enabled: get(row, 8)?.ok_or_else(corrupt)?,
        })
    }

    /// The error if its destination is missing.
    pub fn no_destination(&self) -> SiteError {
        SiteError::NoDestination { site: self.id, table: self.destination_name.clone() }
    }

    /// Checks that the current user has the rights of the owner.
    ///
    /// # Errors
    /// [`SiteError::SitePrivilege`].
    pub fn check_rights(&self) -> Result<()> {
        if has_rights_of(self.owner) {
            return Ok(());
        }
        Err(SiteError::SitePrivilege { site: self.id, owner: self.owner_name.clone() }.into())
    }
}

/// Checks that Matomo has not refused these credentials for any site of the same owner. With many sites, one
/// request each could lock out this server's address. Owners who share the mapping of PUBLIC ask once each: none
/// depends on what another does with their sites.
///
/// # Errors
/// [`SiteError::RefusedBefore`].
pub fn check_not_refused(
    extension: &Extension,
    site: &RegisteredSite,
    version: &str,
) -> Result<()> {
    let sql = format!(
        "SELECT 1 FROM {0}.matomo_site_state t JOIN {0}.matomo_site_config s ON s.id = t.site_id \
         WHERE t.refused_credentials = $1 AND {OWNER_OF_SITE} = $2 LIMIT 1",
        extension.schema
    );
    let args = [version.into(), site.owner.into()];
    if extension.run(|client| Ok(query(client, &sql, &args)?.is_empty()))? {
        return Ok(());
    }
    let (server, user) = (site.server.clone(), site.owner_name.clone());
    Err(SiteError::RefusedBefore { server, site: site.id, user }.into())
}

/// Records a site's name and timezone as reported by Matomo, and the URL of the Matomo. Does not wait for a
/// session that changes the site, which may wait for this one: the next run records them.
///
/// # Errors
/// Only internal ones.
pub fn note(extension: &Extension, id: i32, info: &SiteInfo, matomo: &str) -> Result<()> {
    let schema = &extension.schema;
    let config = format!(
        "UPDATE {schema}.matomo_site_config SET name = coalesce($2, name), timezone = $3 \
         WHERE ctid = (SELECT s.ctid FROM {schema}.matomo_site_config s WHERE s.id = $1 \
             AND (s.name, s.timezone) IS DISTINCT FROM (coalesce($2, s.name), $3) \
             FOR NO KEY UPDATE SKIP LOCKED)"
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
