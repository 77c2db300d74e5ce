//! Written rows are visible in the table by its name, unless the user's own triggers, rules or
//! policies change that.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::engines::{create_citus, module};
use crate::support::noon::{from, noon};
use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// A table access method that stores rows like heap but shows none.
const SOURCE: &str = r#"
#include "postgres.h"
#include "fmgr.h"
#include "access/heapam.h"
#include "access/tableam.h"
PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(vanish_handler);
static bool no_row(TableScanDesc scan, ScanDirection direction, TupleTableSlot *slot)
{
    ExecClearTuple(slot);
    return false;
}
static bool no_tuple(struct IndexFetchTableData *scan, ItemPointer tid, Snapshot snapshot,
    TupleTableSlot *slot, bool *again, bool *all_dead)
{
    ExecClearTuple(slot);
    *again = false;
    return false;
}
#if PG_VERSION_NUM >= 180000
static bool no_bitmap(TableScanDesc scan, TupleTableSlot *slot, bool *recheck, uint64 *lossy, uint64 *exact)
#else
static bool no_bitmap(TableScanDesc scan, struct TBMIterateResult *page, TupleTableSlot *slot)
#endif
{
    ExecClearTuple(slot);
    return false;
}
static double no_build(Relation table, Relation index, struct IndexInfo *info, bool sync, bool anyvisible,
    bool progress, BlockNumber start, BlockNumber blocks, IndexBuildCallback callback, void *state,
    TableScanDesc scan)
{
    return 0;
}
Datum vanish_handler(PG_FUNCTION_ARGS)
{
    static TableAmRoutine routine;
    routine = *GetHeapamTableAmRoutine();
    routine.scan_getnextslot = no_row;
    routine.index_fetch_tuple = no_tuple;
    routine.scan_bitmap_next_tuple = no_bitmap;
    routine.index_build_range_scan = no_build;
    PG_RETURN_POINTER(&routine);
}
"#;

/// Compiles and creates the access method.
fn create_vanish(db: &mut Client) {
    let library = module("vanish", SOURCE);
    run(
        db,
        &format!(
            "CREATE FUNCTION vanish_handler(internal) RETURNS table_am_handler LANGUAGE c \
                 AS '{}', 'vanish_handler';
             CREATE ACCESS METHOD vanish TYPE TABLE HANDLER vanish_handler",
            library.display()
        ),
    );
    std::fs::remove_file(library).unwrap();
}

/// A module as an engine that keeps the rows of a table `x` in another one, `x_shards`: each statement
/// that names `x` goes there, and nothing else does. So do Citus' and TimescaleDB's.
const SHARDS: &str = r#"
#include "postgres.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
PG_MODULE_MAGIC;
void _PG_init(void);
static post_parse_analyze_hook_type next_hook;
/* Citus cannot plan LATERAL with LIMIT. */
static int lateral;
static void divert(Oid *relation, int lock)
{
    char *name = get_rel_name(*relation);
    Oid shards = name ? get_relname_relid(psprintf("%s_shards", name), get_rel_namespace(*relation)) : InvalidOid;
    if (!OidIsValid(shards))
        return;
    if (lateral)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("cannot push down this subquery")));
    if (lock)
        LockRelationOid(shards, lock);
    *relation = shards;
}
static bool walk(Node *node, void *context)
{
    if (node == NULL)
        return false;
    if (IsA(node, RangeTblEntry))
    {
        RangeTblEntry *entry = (RangeTblEntry *) node;
        if (entry->rtekind == RTE_RELATION)
            divert(&entry->relid, entry->rellockmode);
        if (entry->rtekind == RTE_SUBQUERY && entry->lateral && entry->subquery->limitCount)
        {
            lateral++;
            walk((Node *) entry->subquery, context);
            lateral--;
        }
        return false;
    }
    if (IsA(node, Query))
    {
#if PG_VERSION_NUM >= 160000
        ListCell *cell;
        foreach(cell, ((Query *) node)->rteperminfos)
            divert(&((RTEPermissionInfo *) lfirst(cell))->relid, 0);
#endif
        return query_tree_walker((Query *) node, walk, context, QTW_EXAMINE_RTES_BEFORE);
    }
    return expression_tree_walker(node, walk, context);
}
static void analyzed(ParseState *state, Query *query, JumbleState *jumble)
{
    if (next_hook)
        next_hook(state, query, jumble);
    lateral = 0;
    walk((Node *) query, NULL);
}
void _PG_init(void)
{
    next_hook = post_parse_analyze_hook;
    post_parse_analyze_hook = analyzed;
}
"#;

/// A database with the table `matomo`, whose rows that engine keeps.
fn sharded() -> (Noon, Fake, Client) {
    let (noon, fake, mut db) = noon(3);
    let library = module("shards", SHARDS);
    run(
        &mut db,
        &format!(
            "SET default_table_access_method = heap; SELECT matomo_create_table('matomo');
             CREATE TABLE matomo_shards (LIKE matomo INCLUDING ALL);
             LOAD '{}'",
            library.display()
        ),
    );
    std::fs::remove_file(library).unwrap();
    (noon, fake, db)
}

#[test]
fn rows_that_an_unknown_engine_keeps_elsewhere_fail_the_sync_with_nothing_sealed() {
    let (noon, fake, mut db) = sharded();
    // Of that name, and nobody's catalog.
    run(&mut db, "CREATE TABLE pg_dist_partition AS SELECT 'matomo'::regclass AS logicalrelid");
    let refused = error(&mut db, &sync_sql(&fake, 1, &from(&noon, 2)));
    let message = "rows written to \"public.matomo\" are not visible in it";
    let detail = "A query of the table finds 0 of 9 rows.";
    assert_says(&refused, "0A000", message, &[detail], "docs/scale.md");
    assert_eq!(ledger(&mut db, "matomo"), [""; 0]);
}

#[test]
fn they_fail_it_beside_a_trigger_that_takes_nothing_away() {
    for (trigger, table) in [("AFTER", ""), ("BEFORE", ""), ("AFTER", "partitioned")] {
        let (noon, fake, mut db) = if table.is_empty() { sharded() } else { noon(3) };
        if !table.is_empty() {
            create_vanish(&mut db);
            run(
                &mut db,
                "SET default_table_access_method = vanish; SELECT matomo_create_table('matomo', true)",
            );
        }
        run(
            &mut db,
            &format!(
                "SET default_table_access_method = heap; CREATE TABLE log (id text);
                 CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN INSERT INTO log VALUES (NEW.action_id); RETURN NEW; END $$;
                 CREATE TRIGGER logs {trigger} INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION logs()"
            ),
        );
        if !table.is_empty() {
            run(&mut db, "SET default_table_access_method = vanish");
        }
        let refused = error(&mut db, &sync_sql(&fake, 1, &from(&noon, 2)));
        let message = "rows written to \"public.matomo\" are not visible in it";
        assert_says(&refused, "0A000", message, &["finds 0 of 9 rows"], "docs/scale.md");
        assert_eq!(ledger(&mut db, "matomo"), [""; 0]);
    }
}

#[test]
fn rows_that_a_known_engine_keeps_elsewhere_are_written_there() {
    let (noon, fake, mut db) = sharded();
    create_citus(&mut db);
    let again = format!("{}, force => true", from(&noon, 2));
    for actions in [3, 2] {
        fake.world().site_mut(1).visit_mut(1002).actions.truncate(actions);
        sync(&mut db, &fake, &again);
        assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
    }
    run(&mut db, "BEGIN");
    assert_eq!(sync(&mut db, &fake, &again).written(), 0);
    let mode = "SELECT current_setting('citus.multi_shard_modify_mode')";
    assert_eq!(texts(&mut db, mode), ["sequential"]);
    run(&mut db, "COMMIT");
    assert_ne!(texts(&mut db, mode), ["sequential"]);
}

#[test]
fn a_table_of_citus_whose_instants_have_no_timezone_is_refused() {
    let (noon, fake, mut db) = noon(3);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    create_citus(&mut db);
    for (table, column) in [("matomo", "action_timestamp"), ("matomo_visits", "lastaction")] {
        run(
            &mut db,
            &format!(
                "TRUNCATE \"Odd one\".pg_dist_partition;
                 INSERT INTO \"Odd one\".pg_dist_partition VALUES ('{table}');
                 ALTER TABLE {table} ALTER {column} TYPE timestamp"
            ),
        );
        let refused = error(&mut db, &sync_sql(&fake, 1, &from(&noon, 2)));
        let message = format!("column {column} of public.{table} has no timezone");
        let hint = format!(
            "ALTER TABLE public.{table} ALTER {column} TYPE timestamptz USING {column} AT TIME ZONE 'UTC'"
        );
        assert_says(&refused, "42809", &message, &[], &hint);
        assert_eq!(fake.requests().len(), 0);
        run(&mut db, &hint);
    }
}

#[test]
fn retention_removes_what_a_known_engine_keeps_elsewhere() {
    let (noon, fake, mut db) = sharded();
    create_citus(&mut db);
    run(&mut db, "SET matomo.settle_time = 0");
    sync(&mut db, &fake, &from(&noon, 2));
    let before = chrono::DateTime::from_timestamp(noon.at(1, "00:00:00"), 0).unwrap().to_rfc3339();
    run(&mut db, &format!("CALL matomo_drop_before('matomo', '{before}')"));
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 18);
    assert_eq!(ledger(&mut db, "matomo")[0], format!("1 {} sealed 0 0 0", noon.text(2)));
    let lateral = "SELECT FROM generate_series(1, 2) n CROSS JOIN LATERAL \
                   (SELECT FROM matomo WHERE idvisit = n LIMIT 1) x";
    assert_eq!(error(&mut db, lateral).code().code(), "0A000", "as Citus would");
}

#[test]
fn a_sync_whose_rows_are_not_to_be_seen_fails_with_all_undone() {
    let (noon, fake, mut db) = noon(3);
    create_vanish(&mut db);
    run(&mut db, "SET default_table_access_method = vanish");
    for (table, partitioned) in TABLES.into_iter().zip([false, true]) {
        run(&mut db, &format!("SELECT matomo_create_table('{table}', {partitioned})"));
        let size = format!("SELECT pg_table_size('{table}')");
        let before: i64 = one(&mut db, &size);
        let refused = error(
            &mut db,
            &sync_sql(&fake, 1, &format!("{}, destination => '{table}'", from(&noon, 2))),
        );
        let message = format!("rows written to \"public.{table}\" are not visible in it");
        let detail = "A query of the table finds 0 of 9 rows.";
        assert_says(&refused, "0A000", &message, &[detail], "access method vanish stores the rows");
        assert_eq!(ledger(&mut db, table), [""; 0]);
        if !partitioned {
            // A table keeps its pages when its rows are rolled back.
            assert!(one::<i64>(&mut db, &size) > before, "nothing was written");
        }
    }
}

#[test]
fn rows_that_a_trigger_or_a_rule_of_the_users_takes_away_are_none_of_ours() {
    for table in TABLES {
        for (what, left) in [
            // Drops one row of three, changes keys, moves all rows.
            (
                "BEFORE INSERT ON {table} FOR EACH ROW WHEN (NEW.action_id LIKE '%\\_2') EXECUTE FUNCTION drops()",
                18,
            ),
            ("BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION renames()", 27),
            ("AFTER INSERT ON {table} REFERENCING NEW TABLE AS anew EXECUTE FUNCTION moves()", 0),
            ("", 0),
        ] {
            let (noon, fake, mut db) = noon(3);
            run(
                &mut db,
                &format!(
                    "SELECT matomo_create_table('{table}', {}); CREATE TABLE elsewhere (LIKE {table});
                     CREATE FUNCTION drops() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                     CREATE FUNCTION renames() RETURNS trigger LANGUAGE plpgsql AS
                         $$ BEGIN NEW.action_id := 'x' || NEW.action_id; RETURN NEW; END $$;
                     CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS
                         $$ BEGIN INSERT INTO elsewhere SELECT * FROM anew; DELETE FROM {table}; RETURN NULL; END $$",
                    table == "matomo_partitioned"
                ),
            );
            let does = match what {
                "" => format!(
                    "CREATE RULE moves AS ON INSERT TO {table} DO INSTEAD INSERT INTO elsewhere VALUES (NEW.*)"
                ),
                trigger => format!("CREATE TRIGGER theirs {}", trigger.replace("{table}", table)),
            };
            run(&mut db, &does);
            sync(&mut db, &fake, &format!("{}, destination => '{table}'", from(&noon, 2)));
            assert_eq!(
                one::<i64>(&mut db, &format!("SELECT count(*) FROM {table}")),
                left,
                "{does}"
            );
        }
    }
}

#[test]
fn rows_that_a_policy_hides_from_their_writer_are_there() {
    for table in TABLES {
        let (noon, fake, mut db) = noon(3);
        let role = role(&mut db);
        run(
            &mut db,
            &format!(
                "SELECT matomo_create_table('{table}', {}); ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
                 SELECT matomo_create_partitions(t, now() - interval '9 days', now() + interval '1 day')
                     FROM unnest('{{{table},{table}_visits,{table}_conversions,{table}_items}}'::regclass[]) t;
                 CREATE POLICY adds ON {table} FOR INSERT WITH CHECK (true);
                 CREATE POLICY sees ON {table} FOR SELECT USING (idvisit = '1002');
                 GRANT ALL ON {table}, {table}_visits, {table}_conversions, {table}_items TO {role}; GRANT EXECUTE ON FUNCTION matomo_sync TO {role}",
                table == "matomo_partitioned"
            ),
        );
        let name: String = one(&mut db, "SELECT current_database()::text");
        let mut theirs = shared().connect_as(&name, &role);
        let into = format!("{}, destination => '{table}'", from(&noon, 2));
        assert_eq!(sync(&mut theirs, &fake, &into).inserted, 27);
        assert_eq!(one::<i64>(&mut theirs, &format!("SELECT count(*) FROM {table}")), 3);
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}
