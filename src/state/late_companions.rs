//! Companions that were missing after a restore while their destination was synced. SPI only.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::spi::query;
use crate::state::ledger::reread_all;
use crate::store::companions::is_of;

/// Marks the companions that are missing: days that are copied now lack their rows. If one has come that
/// was marked, opens all days. Skips what another session is about to note.
///
/// # Errors
/// Only internal ones.
pub fn note(extension: &Extension, destination: pg_sys::Oid) -> Result<()> {
    let schema = &extension.schema;
    let of_names = |names: u8, is_missing: &str| {
        format!(
            "c.ctid = ANY (ARRAY(SELECT c.ctid FROM {schema}.matomo_companion c \
             WHERE c.companion::oid = 0::oid AND cardinality(c.companion_name) = {names} AND {} \
             AND {schema}.matomo_find_table(c.companion_name) IS {is_missing} FOR UPDATE SKIP LOCKED))",
            is_of(schema, "$1")
        )
    };
    let mark = format!(
        "UPDATE {schema}.matomo_companion c SET companion_name = companion_name || 'late'::text WHERE {}",
        of_names(3, "NULL")
    );
    let take = format!(
        "UPDATE {schema}.matomo_companion c SET destination = $1, destination_name = '{{}}', \
             companion = {schema}.matomo_find_table(c.companion_name), companion_name = '{{}}' \
         WHERE {} RETURNING 1",
        of_names(4, "NOT NULL")
    );
    let has_names = format!(
        "SELECT 1 FROM {schema}.matomo_companion c WHERE c.companion::oid = 0::oid AND {} LIMIT 1",
        is_of(schema, "$1")
    );
    let has_come = extension.run(|client| {
        // Nearly always: no write, no transaction ID.
        if query(client, &has_names, &[destination.into()])?.is_empty() {
            return Ok(false);
        }
        query(client, &mark, &[destination.into()])?;
        Ok(!query(client, &take, &[destination.into()])?.is_empty())
    })?;
    if has_come { reread_all(extension, destination) } else { Ok(()) }
}
