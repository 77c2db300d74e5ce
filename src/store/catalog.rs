//! What the catalog says of a table that a sync writes to: its columns, unique index and privileges. SPI
//! only.

use std::collections::HashMap;
use std::sync::Arc;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, Result};
use crate::pg::encoding;
use crate::pg::spi::{get, one, query_kept, values};
use crate::rows::column_type::ColumnType;
use crate::rows::columns::{Column, TableKind};
use crate::rows::layout::Layout;

/// The known columns that a table has, and their types for casts. If rows are only read, leaves out columns
/// whose type may run another role's code. (Who writes to a table runs its triggers anyway.)
///
/// # Errors
/// [`Error::MissingColumns`].
pub fn known_columns(
    client: &mut SpiClient,
    oid: pg_sys::Oid,
    name: &str,
    kind: TableKind,
    to_write: bool,
) -> Result<(Arc<Layout>, Vec<String>)> {
    // Types of pg_catalog are qualified as well: the caller may have a type named text. Types with
    // a modifier are either syntax, such as numeric(10,2), or already qualified. varchar and bpchar
    // and their arrays go without their modifier: a cast to varchar(9) would truncate, while the column
    // itself refuses. Domains are replaced by their base types: a cast to a
    // domain runs its constraints, even where rows are only read. Other types are not cast to at all: their
    // owner may define functions as casts at any time.
    let sql = "WITH RECURSIVE base (name, oid, modifier) AS ( \
                   SELECT a.attname::text, a.atttypid, a.atttypmod FROM pg_attribute a \
                   WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
                     AND a.attgenerated = '' AND a.attidentity <> 'a' AND a.attname = ANY ($2::text[]) \
                   UNION ALL SELECT b.name, d.typbasetype, greatest(b.modifier, d.typtypmod) \
                   FROM base b JOIN pg_type d ON d.oid = b.oid AND d.typtype = 'd') \
               SELECT b.name, \
                   CASE WHEN b.modifier < 0 OR t.oid IN ('varchar'::regtype, 'bpchar'::regtype, \
                            'varchar[]'::regtype, 'bpchar[]'::regtype) \
                        THEN format('%I.%I', n.nspname, t.typname) \
                        ELSE format_type(b.oid, b.modifier) END, \
                   CASE WHEN n.nspname = 'pg_catalog' THEN t.typname::text ELSE '' END, b.modifier \
               FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd' \
               JOIN pg_namespace n ON n.oid = t.typnamespace \
               JOIN pg_roles o ON o.oid = t.typowner \
               WHERE (n.nspname = 'pg_catalog' OR t.typtype = 'e' \
                  OR t.typtype = 'b' AND t.typcategory <> 'A') \
                 AND ($3 OR o.rolsuper OR o.rolname = current_user)";
    let wanted: Vec<&str> = kind.supported().map(|column| column.name).collect();
    let mut found = HashMap::new();
    for row in query_kept(client, sql, &[oid.into(), wanted.into(), to_write.into()])? {
        let column: Option<String> = get(&row, 1)?;
        let for_casts: Option<String> = get(&row, 2)?;
        let (kind, modifier): (Option<String>, Option<i32>) = (get(&row, 3)?, get(&row, 4)?);
        let holds = ColumnType::of(&kind.unwrap_or_default(), modifier.unwrap_or(-1));
        let holds = if encoding::counts_bytes() { holds.in_bytes() } else { holds };
        found.extend(column.map(|column| (column, (holds, for_casts.unwrap_or_default()))));
    }
    let names = kind.supported().map(|column| column.name);
    let is_missing = |column: &&str| kind.needs(column) && !found.contains_key(*column);
    let missing: Vec<_> = names.filter(is_missing).map(str::to_owned).collect();
    if !missing.is_empty() {
        return Err(Error::MissingColumns { name: name.to_owned(), columns: missing });
    }
    let known = |column: &'static Column| found.remove(column.name).map(|of| (column, of));
    let (columns, types): (Vec<_>, _) =
        kind.supported().filter_map(known).map(|(c, (holds, cast))| ((c, holds), cast)).unzip();
    Ok((Arc::new(Layout::new(kind, columns)), types))
}

/// The privileges that the current user lacks.
///
/// # Errors
/// Only internal ones.
pub fn missing_privileges(
    client: &mut SpiClient,
    oid: pg_sys::Oid,
    to_write: bool,
) -> Result<Vec<String>> {
    let needed: &[&str] =
        if to_write { &["SELECT", "INSERT", "UPDATE", "DELETE"] } else { &["SELECT"] };
    let sql = "SELECT p FROM unnest($2::text[]) AS p \
               WHERE NOT CASE p WHEN 'DELETE' THEN has_table_privilege($1, p) \
                                ELSE has_any_column_privilege($1, p) END";
    values(query_kept(client, sql, &[oid.into(), needed.to_vec().into()])?)
}

/// The columns of the narrowest unique index that tells rows apart.
///
/// # Errors
/// [`Error::NoUniqueIndex`].
pub fn key(
    client: &mut SpiClient,
    oid: pg_sys::Oid,
    name: &str,
    kind: TableKind,
) -> Result<Vec<String>> {
    let sql = "SELECT string_agg(a.attname, ',' ORDER BY k.place) \
               FROM pg_index i \
               CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) \
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
               WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate \
                 AND i.indpred IS NULL AND i.indexprs IS NULL AND k.place <= i.indnkeyatts \
               GROUP BY i.indexrelid \
               HAVING count(*) FILTER (WHERE a.attname = ANY ($2::text[])) = cardinality($2) \
                  AND bool_and(a.attname = ANY ($2::text[] || $3::text[])) \
               ORDER BY count(*), i.indexrelid LIMIT 1";
    let others = vec![kind.time(), "idsite", "idvisit"];
    let args = [oid.into(), kind.identity().to_vec().into(), others.into()];
    let found: Option<String> = one(query_kept(client, sql, &args)?)?;
    let found = found.map(|columns| columns.split(',').map(str::to_owned).collect());
    found.ok_or_else(|| Error::NoUniqueIndex {
        name: name.to_owned(),
        identity: kind.identity().join(", "),
        time: kind.time(),
    })
}

/// The columns that tell rows apart where no index can: those of the key of our tables.
pub fn key_without_index(kind: TableKind, is_partitioned: bool) -> Vec<String> {
    let others = kind.identity().iter().copied().filter(|column| *column != "idvisit");
    let time = is_partitioned.then(|| kind.time());
    std::iter::once("idvisit").chain(others).chain(time).map(str::to_owned).collect()
}
