//! What `postgres_fdw` shows of another server: rows by their place there, as of the first look in a
//! transaction. SPI only.

use pgrx::prelude::*;

use crate::error::{Result, SiteError};
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{get, query};
use crate::store::engine::TREE;

/// Foreign tables `c` of `postgres_fdw` below the table `$1`, on servers `s`, by the handler `p`.
const FOREIGN: &str = "tree AS t JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'f' \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_foreign_table f ON f.ftrelid = c.oid JOIN pg_foreign_server s ON s.oid = f.ftserver \
    JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw \
    JOIN pg_proc p ON p.oid = w.fdwhandler AND p.proname = 'postgres_fdw_handler'";

/// Checks that foreign tables below a table are one table each on their server. `postgres_fdw` updates and
/// deletes by the place of a row there (ctid), which in a partitioned table or a hypertable rows of several
/// partitions share. Looks at the first page of each partition.
///
/// # Errors
/// [`SiteError::SharedCtids`].
pub fn check(table: pg_sys::Oid) -> Result<()> {
    let foreign = format!(
        "{TREE} SELECT format('%I.%I', n.nspname, c.relname), \
             CASE WHEN has_table_privilege(c.oid, 'SELECT') THEN format('%I.%I', n.nspname, c.relname) \
                  ELSE (SELECT format('%I.%I', m.nspname, r.relname) FROM pg_class r \
                        JOIN pg_namespace m ON m.oid = r.relnamespace WHERE r.oid = $1) END, c.oid \
         FROM {FOREIGN}"
    );
    let _safe = LocalSettings::of(&[SAFE_PATH, PLANNED_ANEW]);
    Spi::connect_mut(|client| {
        let mut tables = Vec::new();
        for row in query(client, &foreign, &[table.into()])? {
            let name: Option<String> = get(&row, 1)?;
            let from: Option<String> = get(&row, 2)?;
            let oid: Option<pg_sys::Oid> = get(&row, 3)?;
            tables.extend(name.zip(from).zip(oid));
        }
        for ((name, from), oid) in tables {
            let shared = format!(
                "SELECT 1 FROM {from} AS d WHERE d.tableoid = $1 AND d.ctid < '(1,0)'::tid \
                 GROUP BY d.ctid HAVING count(*) > 1 LIMIT 1"
            );
            if !query(client, &shared, &[oid.into()])?.is_empty() {
                return Err(SiteError::SharedCtids(name).into());
            }
        }
        Ok(())
    })
}

/// Checks that this transaction has not looked at the servers of foreign tables below a table: it would not
/// see what others have stored there since.
///
/// # Errors
/// [`SiteError::SeenBefore`].
pub fn check_is_unseen(table: pg_sys::Oid) -> Result<()> {
    let servers = format!(
        "{TREE} SELECT DISTINCT s.srvname::text, format('%I', h.nspname), coalesce((SELECT g.pronargs > 0 \
             FROM pg_proc g JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = g.oid \
                 AND d.deptype = 'e' \
             WHERE g.proname = 'postgres_fdw_get_connections' AND g.pronamespace = h.oid), false) \
         FROM {FOREIGN} JOIN pg_namespace h ON h.oid = p.pronamespace"
    );
    // postgres_fdw_disconnect reports a connection in use by a WARNING only.
    let _quiet = LocalSettings::of(&[SAFE_PATH, (c"client_min_messages", c"error")]);
    Spi::connect_mut(|client| {
        let mut found = Vec::new();
        for row in query(client, &servers, &[table.into()])? {
            let server: Option<String> = get(&row, 1)?;
            let schema: Option<String> = get(&row, 2)?;
            // With all arguments, and so with the types of the extension's own function.
            let args = if get(&row, 3)? == Some(true) { "false" } else { "" };
            found.extend(server.zip(schema).map(|(server, schema)| (server, schema, args)));
        }
        for (server, schema, args) in found {
            let close = format!("SELECT {schema}.postgres_fdw_disconnect($1)");
            query(client, &close, &[server.as_str().into()])?;
            let is_open = format!(
                "SELECT 1 FROM {schema}.postgres_fdw_get_connections({args}) AS o WHERE o.server_name = $1"
            );
            if !query(client, &is_open, &[server.as_str().into()])?.is_empty() {
                return Err(SiteError::SeenBefore(server).into());
            }
        }
        Ok(())
    })
}
