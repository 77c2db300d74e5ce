//! The places of rows on another server. SPI only.

use pgrx::prelude::*;

use crate::error::{Result, SiteError};
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{query, spi};
use crate::store::engine::TREE;

/// Checks that foreign tables below a table are one table each on their server. `postgres_fdw` updates and
/// deletes by the place of a row there (ctid), which in a partitioned table or a hypertable rows of several
/// partitions share. Looks at the first page of each partition.
///
/// # Errors
/// [`SiteError::SharedPlaces`].
pub fn check(table: pg_sys::Oid) -> Result<()> {
    let foreign = format!(
        "{TREE} SELECT format('%I.%I', n.nspname, c.relname), \
             CASE WHEN has_table_privilege(c.oid, 'SELECT') THEN format('%I.%I', n.nspname, c.relname) \
                  ELSE (SELECT format('%I.%I', m.nspname, r.relname) FROM pg_class r \
                        JOIN pg_namespace m ON m.oid = r.relnamespace WHERE r.oid = $1) END, c.oid \
         FROM tree AS t JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'f' \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_foreign_table f ON f.ftrelid = c.oid JOIN pg_foreign_server s ON s.oid = f.ftserver \
         JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw \
         JOIN pg_proc p ON p.oid = w.fdwhandler AND p.proname = 'postgres_fdw_handler'"
    );
    let _safe = LocalSettings::of(&[SAFE_PATH, PLANNED_ANEW]);
    Spi::connect_mut(|client| {
        let mut tables = Vec::new();
        for row in query(client, &foreign, &[table.into()])? {
            let name: Option<String> = row.get(1).map_err(spi)?;
            let from: Option<String> = row.get(2).map_err(spi)?;
            let oid: Option<pg_sys::Oid> = row.get(3).map_err(spi)?;
            tables.extend(name.zip(from).zip(oid));
        }
        for ((name, from), oid) in tables {
            let shared = format!(
                "SELECT 1 FROM {from} AS d WHERE d.tableoid = $1 AND d.ctid < '(1,0)'::tid \
                 GROUP BY d.ctid HAVING count(*) > 1 LIMIT 1"
            );
            if !query(client, &shared, &[oid.into()])?.is_empty() {
                return Err(SiteError::SharedPlaces(name).into());
            }
        }
        Ok(())
    })
}
