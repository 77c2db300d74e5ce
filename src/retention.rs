//! What the ledger is told when rows are dropped for their age: days that are gone stay gone, and
//! nothing is claimed of them. SPI only.

use chrono::{Days, NaiveDate};
use pgrx::prelude::*;

use crate::destination::{query, spi};
use crate::error::{Error, Result};
use crate::extension::Extension;
use crate::scope::Scope;
use crate::zone::Zone;

/// Seals all days of a destination, of one site or of all, that end at an instant or before: they
/// hold nothing any more, and no sync reads them again unless it is forced to. Gives how many
/// were otherwise before.
///
/// # Errors
/// [`Error::Privilege`] for who may not delete from the destination.
pub fn seal_dropped(destination: pg_sys::Oid, before: i64, site: Option<i32>) -> Result<i64> {
    let Some((name, allowed)) = may_delete_from(destination)? else { return Ok(0) };
    if !allowed {
        return Err(Error::Privilege { name, missing: vec!["DELETE".to_owned()] });
    }
    let extension = Extension::find()?;
    extension.run(|client| {
        let sql = format!(
            "SELECT DISTINCT matomo, idsite, timezone FROM {}.matomo_ledger \
             WHERE destination = $1 AND ($2 IS NULL OR idsite = $2)",
            extension.schema
        );
        let mut ends = Vec::new();
        for row in query(client, &sql, &[destination.into(), site.into()])? {
            let matomo: Option<String> = row.get(1).map_err(spi)?;
            let site: Option<i32> = row.get(2).map_err(spi)?;
            let timezone: String = row.get(3).map_err(spi)?.unwrap_or_default();
            ends.extend(last_day(&timezone, before).map(|day| (matomo, site, timezone, day)));
        }
        let sql = format!(
            "UPDATE {}.matomo_ledger \
             SET sealed = true, visits = 0, actions = 0, truncated_visits = 0, \
                 pass_began = NULL, pass_since = NULL, pass_seen = NULL \
             WHERE destination = $1 AND matomo = $2 AND idsite = $3 AND timezone = $4 AND day <= $5::date \
             AND NOT (sealed AND visits = 0 AND actions = 0 AND truncated_visits = 0) RETURNING 1",
            extension.schema
        );
        let mut days = 0;
        for (matomo, site, timezone, day) in ends {
            let args = [
                destination.into(),
                matomo.into(),
                site.into(),
                timezone.into(),
                day.to_string().into(),
            ];
            days += query(client, &sql, &args)?.len();
        }
        Ok(i64::try_from(days).unwrap_or(i64::MAX))
    })
}

/// The name of a table, and whether the user may delete from it; `None` when it is gone, which is
/// the business of whoever wanted to delete.
fn may_delete_from(table: pg_sys::Oid) -> Result<Option<(String, bool)>> {
    let _safe = Scope::of(&[(c"search_path", c"pg_catalog, pg_temp")]);
    let sql = "SELECT format('%I.%I', n.nspname, c.relname), has_table_privilege(c.oid, 'DELETE') \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
    Spi::connect_mut(|client| {
        let found = query(client, sql, &[table.into()])?;
        if found.is_empty() {
            return Ok(None);
        }
        let (name, allowed) = found.first().get_two::<String, bool>().map_err(spi)?;
        Ok(name.zip(allowed))
    })
}

/// The last day that ends at an instant or before, in a timezone.
fn last_day(timezone: &str, before: i64) -> Option<NaiveDate> {
    Zone::parse(timezone)?.day(before)?.checked_sub_days(Days::new(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(timezone: &str, before: &str) -> String {
        let before = before.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp();
        last_day(timezone, before).unwrap().to_string()
    }

    #[test]
    fn a_day_is_dropped_when_it_ends_before() {
        assert_eq!(last("UTC", "2026-11-24T00:00:00Z"), "2026-11-23");
        assert_eq!(last("UTC", "2026-11-23T23:59:59Z"), "2026-11-22");
        assert_eq!(last("Europe/Paris", "2026-11-23T23:00:00Z"), "2026-11-23");
        assert_eq!(last("Europe/Paris", "2026-11-23T22:59:59Z"), "2026-11-22");
        assert_eq!(last("UTC-3.5", "2026-11-24T03:30:00Z"), "2026-11-23");
        assert_eq!(last("America/New_York", "2026-11-24T00:00:00Z"), "2026-11-22");
    }
}
