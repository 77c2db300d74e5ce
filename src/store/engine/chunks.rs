//! The chunks of a hypertable of TimescaleDB. SPI only.

use pgrx::JsonB;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::spi::{one, query};

/// How to drop chunks and which there are, each with its bounds: `{drop, chunks: [{id, name, lo, hi}]}`.
/// `drop` is for `format` with the table's name and the bounds after and before which a chunk is.
/// `None` if the time is not the only dimension, so that a chunk is not all of its time.
///
/// # Errors
/// Only internal ones.
pub fn of(client: &mut SpiClient, table: pg_sys::Oid, time: &str) -> Result<Option<JsonB>> {
    let _safe = LocalSettings::of(&[SAFE_PATH]);
    // As members of the extension: a view or function of that name may be anybody's.
    let member = "SELECT format('%I.%I', n.nspname, m.name) FROM pg_extension e \
                  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid \
                      AND d.deptype = 'e' \
                  JOIN (SELECT 'pg_class'::regclass AS kind, c.oid, c.relname AS name, c.relnamespace AS schema \
                        FROM pg_class c WHERE c.relkind = 'v' \
                        UNION ALL SELECT 'pg_proc'::regclass, p.oid, p.proname, p.pronamespace FROM pg_proc p) m \
                      ON m.kind = d.classid AND m.oid = d.objid \
                  JOIN pg_namespace n ON n.oid = m.schema \
                  WHERE e.extname = 'timescaledb' AND m.name = $1 \
                  ORDER BY n.nspname = 'timescaledb_information' DESC LIMIT 1";
    let find = |client: &mut SpiClient, name: &str| -> Result<Option<String>> {
        one(query(client, member, &[name.into()])?)
    };
    let (Some(view), Some(hypertables)) = (find(client, "chunks")?, find(client, "hypertables")?)
    else {
        return Ok(None);
    };
    let Some(drop) = find(client, "drop_chunks")? else { return Ok(None) };
    // Postgres might take that of another instead.
    let of_others = "SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
                     WHERE format('%I.%I', n.nspname, p.proname) = $1 AND NOT EXISTS ( \
                         SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid \
                         WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' \
                         AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'timescaledb') LIMIT 1";
    if !query(client, of_others, &[drop.as_str().into()])?.is_empty() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT jsonb_build_object('drop', format('%s(%%L::regclass, older_than => %%L::%s, newer_than => %%L::%2$s)', \
                 replace($3, '%', '%%'), min(v.primary_dimension_type::text)), 'chunks', jsonb_agg(jsonb_build_object( \
             'id', c.oid, 'name', format('%I.%I', v.chunk_schema, v.chunk_name), \
             'lo', v.range_start, 'hi', v.range_end) ORDER BY v.range_end)) \
         FROM {view} AS v JOIN {hypertables} AS h \
             ON h.hypertable_schema = v.hypertable_schema AND h.hypertable_name = v.hypertable_name \
         JOIN pg_namespace n ON n.nspname = v.hypertable_schema \
         JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = v.hypertable_name \
         JOIN pg_namespace cn ON cn.nspname = v.chunk_schema \
         JOIN pg_class c ON c.relnamespace = cn.oid AND c.relname = v.chunk_name \
         WHERE t.oid = $1 AND v.primary_dimension = $2 AND h.num_dimensions = 1 \
         HAVING count(v.range_end) > 0"
    );
    let args = [table.into(), time.into(), drop.into()];
    one(query(client, &sql, &args)?)
}
