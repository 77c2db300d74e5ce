//! Reads inserted rows back. SPI only.

use std::collections::BTreeSet;
use std::ops::Range;

use pgrx::spi::SpiClient;

use crate::error::{Error, Result};
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{one, query, spi};
use crate::rows::batch::TableRows;
use crate::rows::visit_tally::count;
use crate::store::planner_hook::VisitIndexOnly;
use crate::store::statements::span_args;
use crate::store::table_writer::TableWriter;

/// Whether a table has a rule or a trigger of the user's of some types. A trigger whose function belongs to
/// an extension is not the user's: it shows that an engine manages the table.
macro_rules! has_trigger {
    ($types:literal) => {
        concat!(
            "(EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = $1 AND r.ev_type = '3') \
             OR EXISTS (SELECT FROM pg_trigger t \
                 WHERE t.tgrelid IN (SELECT $1 UNION ALL SELECT p.relid FROM pg_partition_tree($1) AS p) \
                 AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgtype & ",
            $types,
            " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass \
                 AND d.objid = t.tgfoid AND d.deptype = 'e')))"
        )
    };
}

/// `(table)` → whether a trigger, rule or policy of the user may drop, move or hide inserted rows.
pub const DIVERTS: &str = concat!("SELECT row_security_active($1) OR ", has_trigger!("4 <> 0"));

/// `(table)` → whether a rule, or a trigger of the user's before each row, may keep rows from being inserted.
const REFUSES: &str = concat!("SELECT ", has_trigger!("7 = 7"));

/// `(table, inserted)` → whether the rows were stored, and none changed or deleted in this transaction;
/// whether a trigger may have given them another key. By the counters of the table and its partitions,
/// which other access methods may not keep.
const VANISHED: &str = "WITH part AS (SELECT $1 AS oid UNION SELECT p.relid FROM pg_partition_tree($1) AS p) \
     SELECT $2 > 0 AND NOT row_security_active($1) \
         AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = $1 AND r.ev_type = '3') \
         AND sum(pg_stat_get_xact_tuples_inserted(p.oid)) >= $2 \
         AND sum(pg_stat_get_xact_tuples_updated(p.oid)) = 0 \
         AND sum(pg_stat_get_xact_tuples_deleted(p.oid)) = 0, \
     bool_or(EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = p.oid AND NOT t.tgisinternal \
         AND t.tgenabled <> 'D' AND t.tgtype & 7 = 7)) \
     FROM part p";

impl TableWriter {
    /// Checks, of the first batch, that inserted rows can be read through the table's name. Extensions
    /// that keep a table's rows elsewhere do not see a COPY from memory. Rows that a trigger, rule or
    /// policy of the user may have diverted are not checked, unless the counters show that no trigger has.
    /// For every batch, engines other than Postgres' own must report all rows as inserted, unless a trigger
    /// or rule may have refused some.
    ///
    /// # Errors
    /// [`Error::NotSeen`].
    pub(super) fn read_back(
        &mut self,
        client: &mut SpiClient,
        table: &TableRows,
        rows: Vec<Range<usize>>,
        inserted: i64,
    ) -> Result<()> {
        let written = count(rows.iter().map(Range::len).sum());
        if inserted < written && !self.destination.engine.is_heap() {
            self.check(client, REFUSES, written, inserted)?;
        }
        if self.is_read_back {
            return Ok(());
        }
        let _by_visit = VisitIndexOnly::set();
        let _safe = LocalSettings::of(&[SAFE_PATH, PLANNED_ANEW, (c"enable_seqscan", c"off")]);
        let cells = |column: &str| {
            let place = table.layout.position(column).unwrap_or_default();
            let cell = move |row| table.rows.cells(row).nth(place).unwrap_or_default().to_owned();
            rows.iter().cloned().flatten().map(cell)
        };
        let visits: BTreeSet<String> = cells("idvisit").collect();
        let identities: Vec<String> = cells(table.layout.kind.identity()[0]).collect();
        let mut args = vec![visits.into_iter().collect::<Vec<_>>().into()];
        args.extend(span_args(self.own_span(table)));
        args.push(identities.into());
        let seen: Option<i64> = one(query(client, &self.statements.count_rows, &args)?)?;
        let seen = seen.unwrap_or(0);
        if seen < written {
            self.check(client, DIVERTS, written, seen)?;
            if seen == 0 && self.has_vanished(client, inserted)? {
                return self.not_seen(written, seen);
            }
        }
        self.is_read_back = true;
        Ok(())
    }

    /// Checks that something of the user's explains that rows are missing.
    fn check(&self, client: &mut SpiClient, explains: &str, written: i64, seen: i64) -> Result<()> {
        let args = [self.destination.oid.into()];
        let is_explained: Option<bool> = one(query(client, explains, &args)?)?;
        if is_explained == Some(true) { Ok(()) } else { self.not_seen(written, seen) }
    }

    fn not_seen(&self, written: i64, seen: i64) -> Result<()> {
        // Another table may have taken its name.
        self.destination.check_name()?;
        let (name, engine) = (self.destination.name.clone(), self.destination.engine.name());
        Err(Error::NotSeen { name, engine, written, seen })
    }

    /// Whether no trigger can have removed the inserted rows, none of which is visible.
    fn has_vanished(&self, client: &mut SpiClient, inserted: i64) -> Result<bool> {
        let args = [self.destination.oid.into(), inserted.into()];
        let found = query(client, VANISHED, &args)?.first();
        let (has_vanished, may_be_renamed) = found.get_two::<bool, bool>().map_err(spi)?;
        Ok(has_vanished == Some(true)
            && (may_be_renamed != Some(true) || self.destination.is_empty()?))
    }
}
