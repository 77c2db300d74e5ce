//! Who holds the locks that a step could not get, as text.

use std::collections::BTreeSet;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::locks::{self, Held, LockKind};
use crate::pg::spi::{one, query};

/// Holders of locks of syncs of a site, or of any, into a destination.
pub fn of_rows(destination: pg_sys::Oid, site: Option<i32>) -> Option<String> {
    let is_meant = |held: &Held| {
        let is_site = site.is_none_or(|site| held.object == site.cast_unsigned());
        held.class == destination.to_u32() && is_site
    };
    let held = locks::held(LockKind::Rows).into_iter().filter(is_meant).map(|held| held.pid);
    let held: BTreeSet<i32> = held.collect();
    let held: Vec<_> = held.iter().map(|pid| who(*pid)).collect();
    (!held.is_empty()).then(|| held.join(", "))
}

fn who(pid: i32) -> String {
    if pid == 0 { "a prepared transaction".to_owned() } else { format!("process {pid}") }
}

/// Holders of locks on a table, in any mode.
///
/// # Errors
/// Only internal ones.
pub fn of_table(table: &str) -> Result<Option<String>> {
    of("l.relation = to_regclass($1)", &[table.into()])
}

/// Holders of locks on a table or its partitions, in these modes.
///
/// # Errors
/// Only internal ones.
pub fn of_tree(table: &str, modes: &[&str]) -> Result<Option<String>> {
    let locks = "l.mode = ANY ($2) AND l.relation IN ( \
                     WITH RECURSIVE tree AS (SELECT to_regclass($1)::oid AS oid UNION \
                         SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid) \
                     SELECT t.oid FROM tree t)";
    of(locks, &[table.into(), modes.to_vec().into()])
}

/// Holders of locks that meet a condition, the oldest transaction first.
fn of(condition: &str, args: &[DatumWithOid]) -> Result<Option<String>> {
    let sql = format!(
        "SELECT string_agg(coalesce('process ' || h.pid, 'a prepared transaction'), ', ' \
                 ORDER BY a.xact_start, h.pid) \
         FROM (SELECT DISTINCT l.pid FROM pg_locks l WHERE {condition} AND l.granted \
                   AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.database = \
                   (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) AS h \
         LEFT JOIN pg_stat_activity a ON a.pid = h.pid"
    );
    Spi::connect_mut(|client| one(query(client, &sql, args)?))
}
