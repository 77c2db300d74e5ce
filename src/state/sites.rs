//! The registered sites: the tables `matomo_site_config` and `matomo_site_state`. SPI only.

use chrono::NaiveDate;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;

use crate::error::{Error, Result, Stored};
use crate::matomo::client::SiteInfo;
use crate::pg::extension::Extension;
use crate::pg::roles::has_rights_of;
use crate::state::restored;
use crate::state::retention;
use crate::state::runs;
use crate::store::destination::{query, spi};

/// A registered site.
#[derive(Debug, Clone)]
pub struct Site {
    pub id: i32,
    pub server: String,
    /// ID in Matomo.
    pub idsite: i32,
    /// 0 where a dump was restored without it.
    pub destination: pg_sys::Oid,
    /// Its last known name.
    pub destination_name: String,
    /// 0 where a dump was restored without it.
    pub owner: pg_sys::Oid,
    /// Its last known name.
    pub owner_name: String,
    /// Whether the owner is there.
    pub is_owned: bool,
    pub start: Option<NaiveDate>,
    pub is_enabled: bool,
}

/// Schema, name and owner of the table `$3`.
const TABLE_NAME: &str = "(SELECT ARRAY[n.nspname::text, c.relname::text, r.rolname::text] \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = $3)";

/// What is registered of a site; `None` is left as it is.
#[derive(Default)]
pub struct Entry<'a> {
    pub server: Option<&'a str>,
    pub idsite: Option<i32>,
    pub destination: Option<pg_sys::Oid>,
    pub owner: Option<pg_sys::Oid>,
    pub start: Option<NaiveDate>,
    pub every: Option<Interval>,
    /// Zero is for ever.
    pub retention: Option<Interval>,
    pub enabled: Option<bool>,
    pub info: Option<SiteInfo>,
    /// URL of the server's Matomo, as in the ledger.
    pub matomo: Option<String>,
}

impl Site {
    /// A registered site that the current user may act on.
    ///
    /// # Errors
    /// [`Stored::NoSite`], [`Stored::NoOwner`], [`Stored::SitePrivilege`].
    pub fn get(extension: &Extension, id: i32) -> Result<Site> {
        let site = Site::find(extension, id)?.ok_or(Stored::NoSite(id))?;
        if !site.is_owned {
            return Err(Stored::NoOwner { site: id, role: site.owner_name }.into());
        }
        site.check_rights()?;
        Ok(site)
    }

    /// The same, of whomever.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn find(extension: &Extension, id: i32) -> Result<Option<Site>> {
        restored::resolve(extension)?;
        let sql = format!(
            "SELECT s.id, s.server::text, s.idsite, s.destination::oid, s.owner::oid, \
                 coalesce(r.rolname, s.owner_name)::text, s.start_date::text, s.enabled, \
                 r.oid IS NOT NULL, format('%I.%I', s.destination_name[1], s.destination_name[2]) \
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
            is_owned: row.get(9).map_err(spi)?.ok_or_else(corrupt)?,
            destination_name: text(10)?.unwrap_or_default(),
            start,
            is_enabled: row.get(8).map_err(spi)?.ok_or_else(corrupt)?,
        })
    }

    /// That its destination is missing.
    pub fn no_destination(&self) -> Stored {
        Stored::NoDestination { site: self.id, table: self.destination_name.clone() }
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

impl Entry<'_> {
    /// Registers a site; gives its ID.
    ///
    /// # Errors
    /// [`Stored::Registered`].
    pub fn insert(&self, extension: &Extension) -> Result<i32> {
        self.check_is_new(extension, None)?;
        let sql = format!(
            "WITH s AS (INSERT INTO {0}.matomo_site_config (server, idsite, destination, owner, start_date, \
                 every, retention, enabled, name, timezone, destination_name, owner_name) \
             VALUES ($1::name, $2, $3::regclass, $4::regrole, $5::date, $6, nullif($7, interval '0'), $8, \
                 coalesce($9, ''), $10, {TABLE_NAME}, pg_get_userbyid($4)) RETURNING id) \
             INSERT INTO {0}.matomo_site_state (site_id) SELECT s.id FROM s RETURNING site_id",
            extension.schema
        );
        let id = extension
            .run(|client| query(client, &sql, &self.values())?.first().get_one().map_err(spi))?;
        id.ok_or_else(|| Error::Internal("a registered site has no ID".to_owned()))
    }

    /// Changes a registered site. What went wrong with it counts no more.
    ///
    /// # Errors
    /// [`Stored::Registered`].
    pub fn update(&self, extension: &Extension, site: &Site) -> Result<()> {
        if self.server.is_some() || self.idsite.is_some() || self.destination.is_some() {
            let whole = Entry {
                server: Some(self.server.unwrap_or(&site.server)),
                idsite: self.idsite.or(Some(site.idsite)),
                destination: self.destination.or(Some(site.destination)),
                ..Entry::default()
            };
            whole.check_is_new(extension, Some(site.id))?;
        }
        let retention = retention::of(extension, site.id)?;
        let sql = format!(
            "UPDATE {}.matomo_site_config SET server = coalesce($1::name, server), \
                 idsite = coalesce($2, idsite), destination = coalesce($3::regclass, destination), \
                 owner = coalesce($4::regrole, owner), start_date = coalesce($5::date, start_date), \
                 every = coalesce($6, every), retention = nullif(coalesce($7, retention), interval '0'), \
                 enabled = coalesce($8, enabled), name = coalesce($9, name), \
                 timezone = coalesce($10, timezone), \
                 destination_name = coalesce({TABLE_NAME}, destination_name), \
                 owner_name = CASE WHEN $4 IS NULL THEN owner_name ELSE pg_get_userbyid($4) END \
             WHERE id = $11",
            extension.schema
        );
        let mut args = self.values();
        args.push(site.id.into());
        extension.run(|client| query(client, &sql, &args).map(drop))?;
        // Another table, or another site, is not synced up to anything; the same under another name
        // of its server is.
        let is_other = self.idsite.is_some_and(|idsite| idsite != site.idsite)
            || self.destination.is_some_and(|destination| destination != site.destination);
        // What a run that is under way fills, it fills no more, or only in part.
        let is_changed = self.server.is_some()
            || self.idsite.is_some()
            || self.destination.is_some()
            || self.owner.is_some()
            || self.start.is_some()
            || self.retention.is_some();
        let sql = format!(
            "INSERT INTO {}.matomo_site_state AS t (site_id) VALUES ($1) ON CONFLICT (site_id) DO UPDATE \
             SET next_at = now(), failures = 0, refused_credentials = NULL, tended_on = NULL, \
                 upkeep_place = NULL, changes = t.changes + $4::integer, \
                 matomo = CASE WHEN $2 OR t.matomo <> $3 THEN NULL ELSE t.matomo END, \
                 last_success_at = CASE WHEN $2 OR t.matomo <> $3 THEN NULL ELSE t.last_success_at END",
            extension.schema
        );
        // The same token, of other sites, is tried again too.
        let sites_too = format!(
            "UPDATE {0}.matomo_site_state SET next_at = now(), refused_credentials = NULL \
             WHERE refused_credentials = (SELECT t.refused_credentials FROM {0}.matomo_site_state t \
                 WHERE t.site_id = $1)",
            extension.schema
        );
        let args = [
            site.id.into(),
            is_other.into(),
            self.matomo.as_deref().into(),
            i32::from(is_changed).into(),
        ];
        extension.run(|client| {
            query(client, &sites_too, &args[..1])?;
            query(client, &sql, &args).map(drop)
        })?;
        // By now no upkeep is under way that could still drop by the old one.
        retention::open_again(extension, site, retention)
    }

    fn values(&self) -> Vec<DatumWithOid<'_>> {
        let info = self.info.as_ref();
        vec![
            self.server.into(),
            self.idsite.into(),
            self.destination.into(),
            self.owner.into(),
            self.start.map(|day| day.to_string()).into(),
            self.every.into(),
            self.retention.into(),
            self.enabled.into(),
            info.and_then(|info| info.name.as_deref()).into(),
            info.map(|info| info.timezone.as_str()).into(),
        ]
    }

    /// Whether no other registered site is of the same server, site and destination.
    ///
    /// # Errors
    /// [`Stored::Registered`].
    pub fn check_is_new(&self, extension: &Extension, but: Option<i32>) -> Result<()> {
        restored::resolve(extension)?;
        let sql = format!(
            "SELECT destination::text, owner::oid FROM {}.matomo_site_config WHERE server = $1::name AND idsite = $2 \
             AND destination = $3::regclass AND id IS DISTINCT FROM $4",
            extension.schema
        );
        let args = [self.server.into(), self.idsite.into(), self.destination.into(), but.into()];
        let found = extension.run(|client| {
            let row = query(client, &sql, &args)?.next();
            row.map(|row| Ok((row.get::<String>(1).map_err(spi)?, row.get(2).map_err(spi)?)))
                .transpose()
        })?;
        match found {
            None => Ok(()),
            Some((destination, owner)) => Err(Stored::Registered {
                server: self.server.unwrap_or_default().to_owned(),
                site: self.idsite.unwrap_or_default(),
                destination: destination.unwrap_or_default(),
                is_yours: owner.is_some_and(has_rights_of),
            }
            .into()),
        }
    }
}

/// Removes a registered site; its visits, and what the ledger knows of them, stay. Of the runs of
/// removed sites so many are kept.
///
/// # Errors
/// Only internal ones.
pub fn remove(extension: &Extension, id: i32, keep_runs: i32) -> Result<()> {
    let schema = &extension.schema;
    let config = format!("DELETE FROM {schema}.matomo_site_config WHERE id = $1");
    // Also what a run has noted of a site that was removed meanwhile.
    let state = format!(
        "DELETE FROM {schema}.matomo_site_state t \
         WHERE NOT EXISTS (SELECT FROM {schema}.matomo_site_config s WHERE s.id = t.site_id)"
    );
    extension.run(|client| {
        query(client, &config, &[id.into()])?;
        query(client, &state, &[]).map(drop)
    })?;
    runs::forget_removed(extension, keep_runs)
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
