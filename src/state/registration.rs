//! Registers, changes and removes sites. SPI only.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiHeapTupleData};

use crate::error::{Error, Result, SiteError};
use crate::matomo::client::SiteInfo;
use crate::pg::ereport;
use crate::pg::extension::Extension;
use crate::pg::roles::has_rights_of;
use crate::pg::spi::{get, one, query, read_now, sees_commits};
use crate::pg::subtransaction::{self, RolledBack};
use crate::state::restored::{OWNER_OF_SITE, table_of_site};
use crate::state::sites::RegisteredSite;
use crate::state::{metadata, retention, runs};

/// Schema, name and owner of the table `$3`.
const TABLE_NAME: &str = "(SELECT ARRAY[n.nspname::text, c.relname::text, r.rolname::text] \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = $3)";

/// Configuration of a registered site; `None` keeps a value.
#[derive(Clone, Default)]
pub struct Registration<'a> {
    pub server: Option<&'a str>,
    pub idsite: Option<i32>,
    pub destination: Option<pg_sys::Oid>,
    pub owner: Option<pg_sys::Oid>,
    pub start: Option<NaiveDate>,
    pub every: Option<Interval>,
    /// Zero means forever.
    pub retention: Option<Interval>,
    pub enabled: Option<bool>,
    pub info: Option<SiteInfo>,
    /// URL of the server's Matomo, as in the ledger.
    pub matomo: Option<String>,
}

impl Registration<'_> {
    /// Registers a site. Returns its ID.
    ///
    /// # Errors
    /// [`SiteError::Registered`], and [`Error::Argument`] for a roll-up site with a retention.
    pub fn insert(&self, extension: &Extension) -> Result<i32> {
        self.check_is_new(extension, None)?;
        self.check_retention(extension, self, None)?;
        let sql = format!(
            "WITH s AS (INSERT INTO {0}.matomo_site_config (server, idsite, destination, owner, start_date, \
                 every, retention, enabled, name, timezone, destination_name, owner_name) \
             VALUES ($1::name, $2, $3::regclass, $4::regrole, $5::date, $6, nullif($7, interval '0'), $8, \
                 coalesce($9, ''), $10, {TABLE_NAME}, pg_get_userbyid($4)) RETURNING id) \
             INSERT INTO {0}.matomo_site_state (site_id) SELECT s.id FROM s RETURNING site_id",
            extension.schema
        );
        let insert = |client: &mut SpiClient| one(query(client, &sql, &self.values())?);
        let id = self.run_alone(extension, None, || extension.run(insert))?;
        id.ok_or_else(|| Error::Internal("a registered site has no ID".to_owned()))
    }

    /// Changes a registered site, and resets its count of failures.
    ///
    /// # Errors
    /// As of [`Registration::insert`].
    pub fn update(&self, extension: &Extension, site: &RegisteredSite) -> Result<()> {
        let whole = Registration {
            server: Some(self.server.unwrap_or(&site.server)),
            idsite: self.idsite.or(Some(site.idsite)),
            destination: self.destination.or(Some(site.destination)),
            ..Registration::default()
        };
        if self.server.is_some() || self.idsite.is_some() || self.destination.is_some() {
            whole.check_is_new(extension, Some(site.id))?;
        }
        let retention = retention::of(extension, site.id)?;
        self.check_retention(extension, &whole, retention)?;
        // By now another session may have given it away.
        let now = RegisteredSite::find(extension, site.id)?.ok_or(SiteError::NoSite(site.id))?;
        now.check_rights()?;
        let what = |site: &RegisteredSite| {
            (site.owner, site.destination, site.idsite, site.server.clone())
        };
        if what(&now) != what(site) {
            return Err(SiteError::SiteChanged(site.id).into());
        }
        let sql = format!(
            "UPDATE {0}.matomo_site_config SET server = coalesce($1::name, server), \
                 idsite = coalesce($2, idsite), destination = coalesce($3::regclass, destination), \
                 owner = coalesce($4::regrole, owner), start_date = coalesce($5::date, start_date), \
                 every = coalesce($6, every), retention = nullif(coalesce($7, retention), interval '0'), \
                 enabled = coalesce($8, enabled), name = coalesce($9, name), \
                 timezone = coalesce($10, timezone), \
                 destination_name = coalesce({TABLE_NAME}, destination_name), \
                 owner_name = CASE WHEN $4 IS NULL THEN owner_name ELSE pg_get_userbyid($4) END, \
                 known_sites = CASE WHEN coalesce($12 = (SELECT t.matomo \
                     FROM {0}.matomo_site_state t WHERE t.site_id = $11), $12 IS NULL) \
                     THEN known_sites END \
             WHERE id = $11",
            extension.schema
        );
        let mut args = self.values();
        args.extend([site.id.into(), self.matomo.as_deref().into()]);
        let update = |client: &mut SpiClient| query(client, &sql, &args).map(drop);
        whole.run_alone(extension, Some(site.id), || extension.run(update))?;
        // Another table or site has no last success; the same one by another server name keeps it.
        let is_other = self.idsite.is_some_and(|idsite| idsite != site.idsite)
            || self.destination.is_some_and(|destination| destination != site.destination);
        // These changes make a current run outdated or incomplete.
        let is_changed = self.server.is_some()
            || self.idsite.is_some()
            || self.destination.is_some()
            || self.owner.is_some()
            || self.start.is_some()
            || self.retention.is_some();
        let sql = format!(
            "INSERT INTO {}.matomo_site_state AS t (site_id) VALUES ($1) ON CONFLICT (site_id) DO UPDATE \
             SET next_at = now(), changed_at = now(), failures = 0, refused_credentials = NULL, tended_on = NULL, metadata_on = NULL, \
                 metadata_error = NULL, upkeep_place = NULL, changes = t.changes + $4::integer, \
                 matomo = CASE WHEN $2 OR t.matomo <> $3 THEN NULL ELSE t.matomo END, \
                 last_success_at = CASE WHEN $2 OR t.matomo <> $3 THEN NULL ELSE t.last_success_at END",
            extension.schema
        );
        // Retry the same token for the owner's other sites too. Those of others would be locked until this
        // transaction ends.
        let sites_too = format!(
            "UPDATE {0}.matomo_site_state SET next_at = now(), refused_credentials = NULL \
             WHERE ctid = ANY (ARRAY(SELECT o.ctid FROM {0}.matomo_site_state o \
                 JOIN {0}.matomo_site_config s ON s.id = o.site_id \
                 WHERE {OWNER_OF_SITE} = $2 AND o.refused_credentials = (SELECT t.refused_credentials \
                     FROM {0}.matomo_site_state t WHERE t.site_id = $1) FOR UPDATE OF o SKIP LOCKED))",
            extension.schema
        );
        let args = [
            site.id.into(),
            is_other.into(),
            self.matomo.as_deref().into(),
            i32::from(is_changed).into(),
        ];
        // Like a run, the ledger before the state. The lock excludes upkeep that would still drop by the old
        // retention.
        retention::open_again(extension, site, self.owner.unwrap_or(site.owner), retention)?;
        extension.run(|client| {
            query(client, &sites_too, &[site.id.into(), site.owner.into()])?;
            query(client, &sql, &args).map(drop)
        })
    }

    /// Runs a statement that registers this site. If another session has just registered the same one, the
    /// statement waits for it, and fails as it would afterwards.
    fn run_alone<T>(
        &self,
        extension: &Extension,
        but: Option<i32>,
        statement: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        subtransaction::attempt(statement).or_else(|rolled_back| match rolled_back {
            RolledBack::Failed(error) => Err(error),
            RolledBack::Raised(caught) => {
                if ereport::raised(&caught).sql_error_code()
                    == PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION
                {
                    self.check_is_new(extension, but)?;
                    if !sees_commits() {
                        return Err(Error::TooNew("the registration of this site".to_owned()));
                    }
                }
                caught.rethrow()
            }
        })
    }

    /// Checks that a new retention, or the one there is, is not that of a roll-up site. `whole` has the
    /// table and the site.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check_retention(
        &self,
        extension: &Extension,
        whole: &Registration,
        present: Option<Interval>,
    ) -> Result<()> {
        let parts = |kept: Interval| (kept.months(), kept.days(), kept.micros());
        let has = self.retention.or(present).is_some_and(|kept| parts(kept) != (0, 0, 0));
        // Other changes of a site with a retention are not checked.
        let is_new = has && (self.retention.is_some() || self.idsite.is_some());
        let (Some(table), Some(site)) = (whole.destination.filter(|_| is_new), whole.idsite) else {
            return Ok(());
        };
        match self.info.as_ref().and_then(|info| info.is_rollup) {
            Some(true) => Err(metadata::of_rollup(site)),
            // Matomo has just said so.
            Some(false) => Ok(()),
            None => metadata::check_has_rows(extension, table, site),
        }
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

    /// Checks that no other registered site has the same server, idSite and destination. Two destinations that
    /// are known only by name are the same if their names are.
    ///
    /// # Errors
    /// [`SiteError::Registered`].
    pub fn check_is_new(&self, extension: &Extension, but: Option<i32>) -> Result<()> {
        let sql = format!(
            "SELECT CASE {1} WHEN 0::oid THEN format('%I.%I', s.destination_name[1], \
                 s.destination_name[2]) ELSE ({1})::regclass::text END, {OWNER_OF_SITE} \
             FROM {0}.matomo_site_config s WHERE s.server = $1::name AND s.idsite = $2 \
             AND {1} = coalesce($3, 0::oid) AND s.id IS DISTINCT FROM $4 \
             AND ({1} <> 0::oid OR s.destination_name = \
                 (SELECT o.destination_name FROM {0}.matomo_site_config o WHERE o.id = $4))",
            extension.schema,
            table_of_site(&extension.schema)
        );
        let args = [self.server.into(), self.idsite.into(), self.destination.into(), but.into()];
        let found = extension.run(|client| {
            let row = query(client, &sql, &args)?.next();
            row.map(|row| Ok((get::<String>(&row, 1)?, get(&row, 2)?))).transpose()
        })?;
        match found {
            None => Ok(()),
            Some((destination, owner)) => Err(SiteError::Registered {
                server: self.server.unwrap_or_default().to_owned(),
                site: self.idsite.unwrap_or_default(),
                destination: destination.unwrap_or_default(),
                is_yours: owner.is_some_and(has_rights_of),
            }
            .into()),
        }
    }
}

/// The idSites of a server that are registered by now by roles whose rights the current user has.
///
/// # Errors
/// Only internal ones.
pub fn registered(extension: &Extension, server: &str) -> Result<BTreeSet<i32>> {
    let sql = format!(
        "SELECT s.idsite, {OWNER_OF_SITE} FROM {}.matomo_site_config s WHERE s.server = $1::name",
        extension.schema
    );
    let owned = |row: SpiHeapTupleData| -> Result<(Option<i32>, Option<pg_sys::Oid>)> {
        Ok((get(&row, 1)?, get(&row, 2)?))
    };
    let all: Vec<_> = extension.run(|client| {
        read_now(client, &sql, &[server.into()])?.map(owned).collect::<Result<_>>()
    })?;
    let yours = all.into_iter().filter(|(_, owner)| owner.is_some_and(has_rights_of));
    Ok(yours.filter_map(|(idsite, _)| idsite).collect())
}

/// Removes a registered site, but neither its visits nor their ledger entries. Keeps at most `keep_runs`
/// runs of removed sites.
///
/// # Errors
/// Only internal ones.
pub fn remove(extension: &Extension, id: i32, keep_runs: i32) -> Result<()> {
    let schema = &extension.schema;
    retention::of(extension, id)?;
    // By now another session may have given it away.
    let site = RegisteredSite::find(extension, id)?.ok_or(SiteError::NoSite(id))?;
    site.check_rights()?;
    // It may have been registered by hand since new sites were last registered, and must not come back.
    let known = format!(
        "UPDATE {schema}.matomo_site_config SET known_sites = known_sites || $2 \
         WHERE id IN (SELECT s.id FROM {schema}.matomo_site_config s WHERE s.server = $1::name \
             AND s.id <> $3 AND {OWNER_OF_SITE} = $4 AND $2 <> ALL (s.known_sites))"
    );
    let config = format!("DELETE FROM {schema}.matomo_site_config WHERE id = $1");
    // Also the state that a run has recorded for a site that was removed meanwhile.
    let state = format!(
        "DELETE FROM {schema}.matomo_site_state t \
         WHERE NOT EXISTS (SELECT FROM {schema}.matomo_site_config s WHERE s.id = t.site_id)"
    );
    extension.run(|client| {
        query(client, &config, &[id.into()])?;
        let args = [site.server.as_str().into(), site.idsite.into(), id.into(), site.owner.into()];
        query(client, &known, &args)?;
        query(client, &state, &[]).map(drop)
    })?;
    runs::forget_removed(extension, keep_runs)
}
