//! The ledger never claims more than its table holds, whatever happens to the table.

use std::process::Stdio;

use fake_matomo::{Action, Fault, Page, Site, Visit, When};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::{add_site, from, noon, settled};
use crate::support::*;

fn entries(db: &mut Client) -> i64 {
    one(db, "SELECT count(*) FROM matomo_days")
}

#[test]
fn what_is_rolled_back_is_not_in_the_ledger() {
    let (noon, fake, mut db) = noon(4);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    run(&mut db, "BEGIN");
    assert_eq!(sync(&mut db, &fake, &from(&noon, 3)).days, 4);
    assert_eq!(entries(&mut db), 4);
    run(&mut db, "ROLLBACK");
    assert_eq!(entries(&mut db), 0);

    // Rolling back to a savepoint undoes what came after it, and only that.
    run(&mut db, "BEGIN");
    sync(&mut db, &fake, &format!(", '{0}', '{0}'", noon.text(3)));
    run(&mut db, "SAVEPOINT half");
    sync(&mut db, &fake, &from(&noon, 2));
    run(&mut db, "ROLLBACK TO half; COMMIT");
    assert_eq!(ledger(&mut db, "matomo"), [format!("1 {} sealed 3 9 0", noon.text(3))]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 9);

    // An error on the third day undoes the first two as well.
    run(&mut db, "TRUNCATE matomo, matomo_ledger");
    let third = format!("{0},{0}", noon.text(1));
    fake.fail(Fault::Status(404, Page::Html), When::live().param("date", &third));
    let failed = error(&mut db, &sync_sql(&fake, 1, &from(&noon, 3)));
    assert_says(
        &failed,
        "08P01",
        "Matomo answered with HTTP status 404",
        &["Live.getLastVisitsDetails", "site 1", &format!("day {}", noon.text(1)), "404"],
        "",
    );
    assert_eq!(entries(&mut db), 0);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
    fake.heal();
    sync(&mut db, &fake, &from(&noon, 3));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_table_emptied_replaced_or_renamed_is_filled_again() {
    let (noon, fake, mut db) = noon(4);
    let drop = format!("DROP TABLE {}", all_four("matomo"));
    let again = format!("{drop}; SELECT matomo_create_table('matomo')");
    let truncate = format!("TRUNCATE {}", all_four("matomo"));
    for what in ["TRUNCATE matomo", "DELETE FROM matomo", &truncate, &drop, &again] {
        sync(&mut db, &fake, &from(&noon, 3));
        run(&mut db, what);
        assert_eq!(sync(&mut db, &fake, &from(&noon, 3)).inserted, 36, "{what}");
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
        assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
    }
    // A renamed table keeps its ledger entries.
    for (table, renamed) in four("matomo").iter().zip(four("visits")) {
        run(&mut db, &format!("ALTER TABLE {table} RENAME TO {renamed}"));
    }
    asked(&fake);
    let to_visits = format!("{}, destination => 'visits'", from(&noon, 3));
    assert_eq!(sync(&mut db, &fake, &to_visits).written(), 0);
    assert_eq!(asked(&fake).len(), 1);
    assert_eq!(sync(&mut db, &fake, &from(&noon, 3)).inserted, 36);
    assert_eq!(ledger(&mut db, "visits"), ledger(&mut db, "matomo"));
    for table in ["matomo", "visits"] {
        assert_equal(&mut db, table, &all_of(&fake, 1));
        assert_tables_equal(&mut db, table, &all_tables_of(&fake, 1));
    }
}

#[test]
fn a_table_emptied_and_filled_by_another_site_first_is_filled_again() {
    let (noon, fake, mut db) = noon(4);
    add_site(&fake, &noon, 2, 9000, 4);
    sync(&mut db, &fake, &from(&noon, 3));
    run(&mut db, "TRUNCATE matomo");
    sync_site(&mut db, &fake, 2, &from(&noon, 3));
    sync(&mut db, &fake, &from(&noon, 3));
    let all: Vec<_> = all_of(&fake, 1).into_iter().chain(all_of(&fake, 2)).collect();
    assert_equal(&mut db, "matomo", &all);
}

#[test]
fn a_table_emptied_is_filled_from_where_it_began_without_a_start_too() {
    let (noon, fake, _) = noon(9);
    let (mut db, notices) = database_with_notices();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    add_site(&fake, &noon, 2, 9000, 7);
    sync(&mut db, &fake, &from(&noon, 8));
    sync_site(&mut db, &fake, 2, &from(&noon, 6));
    // Dropped old rows stay away.
    run(
        &mut db,
        &format!(
            "CALL matomo_drop_before('matomo', to_timestamp({}), site => 1)",
            noon.at(7, "00:00:00")
        ),
    );
    run(&mut db, "TRUNCATE matomo");
    notices.take();
    assert_eq!(sync_site(&mut db, &fake, 2, "").days, 7);
    assert_eq!(sync(&mut db, &fake, "").days, 8);
    let empty = "table public.matomo is empty: all of its days are read again";
    let said = notices.take().into_iter().filter(|(_, line)| line == empty).count();
    assert_eq!(said, 1);
    let kept = fake.world().oracle(1, noon.day(7), noon.day(0), fake_matomo::ActionTime::Utc);
    let all: Vec<_> = kept.into_iter().chain(all_of(&fake, 2)).collect();
    assert_equal(&mut db, "matomo", &all);
    assert_eq!(sync(&mut db, &fake, "").days, 1);
}

#[test]
fn an_empty_site_is_not_read_again_because_its_table_is_empty() {
    let (noon, fake, mut db) = noon(0);
    sync(&mut db, &fake, &from(&noon, 3));
    asked(&fake);
    assert_eq!(sync(&mut db, &fake, &from(&noon, 3)).days, 1);
    // No visit tells the site's timezone, so Matomo is asked for it.
    assert_eq!(asked(&fake), [format!("day {}", noon.text(0)), "site".to_owned()]);
}

#[test]
fn two_sites_and_two_destinations_have_ledgers_of_their_own() {
    let (noon, fake, mut db) = noon(3);
    add_site(&fake, &noon, 2, 9000, 3);
    sync(&mut db, &fake, &from(&noon, 2));
    let first = fingerprint(&mut db, "matomo WHERE idsite = '1'");
    asked(&fake);
    assert_eq!(sync_site(&mut db, &fake, 2, &from(&noon, 2)).inserted, 9);
    assert_eq!(asked(&fake).len(), 4);
    assert_eq!(fingerprint(&mut db, "matomo WHERE idsite = '1'"), first);
    assert_eq!(ledger(&mut db, "matomo").len(), 6);
    let partitioned = format!("{}, destination => 'matomo_partitioned'", from(&noon, 2));
    assert_eq!(sync(&mut db, &fake, &partitioned).inserted, 27);
    assert_eq!(asked(&fake).len(), 4);
    assert_eq!(ledger(&mut db, "matomo_partitioned").len(), 3);
    for site in [1, 2] {
        assert_eq!(sync_site(&mut db, &fake, site, "").days, 1);
    }
    let all: Vec<_> = all_of(&fake, 1).into_iter().chain(all_of(&fake, 2)).collect();
    assert_equal(&mut db, "matomo", &all);
    assert_equal(&mut db, "matomo_partitioned", &all_of(&fake, 1));
}

#[test]
fn a_change_of_the_sites_timezone_loses_no_visit() {
    for (before, after) in [
        ("Asia/Tokyo", "America/Los_Angeles"),
        ("America/Los_Angeles", "Asia/Tokyo"),
        ("Europe/Paris", "UTC-3.5"),
        ("Pacific/Kiritimati", "Pacific/Niue"),
        ("Pacific/Niue", "Pacific/Kiritimati"),
    ] {
        // A visit every two hours for six days.
        let now = chrono::Utc::now().timestamp();
        let mut world = fake_matomo::World::new(fake_matomo::Clock::Real);
        let site = world.add_site(Site::new(1, "Mover", before));
        for n in 1..72 {
            let at = now - n * 7200;
            site.add(Visit::new(n, at).and(Action::page(at, format!("/{n}"), "Page")));
        }
        let held = world.site_mut(1).visits.split_off(0);
        let fake = serve(world);
        let mut db = settled();
        // Everything older than thirty hours is copied, and the ledger is as of then.
        let then = now - 30 * 3600;
        fake.world().site_mut(1).visits = held.iter().filter(|v| v.last < then).cloned().collect();
        let day_then = fake.world().site(1).zone().day(then);
        let first = day_then - chrono::Days::new(4);
        let begin = fake.world().site(1).zone().midnight(first);
        sync(&mut db, &fake, &format!(", '{first}', '{day_then}'"));
        run(&mut db, &format!("UPDATE matomo_ledger SET sealed = day < '{day_then}'"));
        // Then the rest, in the new timezone.
        fake.world().site_mut(1).timezone = after.to_owned();
        fake.world().site_mut(1).visits = held;
        sync(&mut db, &fake, "");
        // All that was requested before: the same date may start earlier in the new timezone.
        let stored = texts(&mut db, "SELECT action_id FROM matomo");
        let lost: Vec<_> = fake
            .world()
            .site(1)
            .visits
            .iter()
            .filter(|visit| visit.last >= begin)
            .map(|visit| format!("{}_0", visit.id))
            .filter(|id| !stored.contains(id))
            .collect();
        assert!(lost.is_empty(), "{before} to {after}: lost {lost:?}");
    }
}

#[test]
fn a_change_of_the_timezone_is_remembered_when_only_today_is_asked_for() {
    let mut world = fake_matomo::World::new(fake_matomo::Clock::Real);
    world.add_site(Site::new(1, "Mover", "Pacific/Niue"));
    let (now, today) = (world.now.seconds(), world.today(1));
    // In this timezone the day starts 25 hours earlier.
    world.site_mut(1).timezone = "Pacific/Kiritimati".to_owned();
    let begin = world.site(1).zone().midnight(today);
    for (n, at) in (begin - 4 * 86_400..now).step_by(3600).enumerate() {
        let visit = Visit::new(1 + n as i64, at).and(Action::page(at, format!("/{n}"), "Page"));
        world.site_mut(1).add(visit);
    }
    // The last sync before the change was half an hour into that day.
    let all = world.site(1).visits.clone();
    world.site_mut(1).visits.retain(|visit| visit.last < begin + 1800);
    let fake = serve(world);
    let mut db = settled();
    let first = today - chrono::Days::new(4);
    sync(&mut db, &fake, &format!(", '{first}', '{today}'"));
    run(&mut db, &format!("UPDATE matomo_ledger SET sealed = false WHERE day = '{today}'"));
    {
        let mut world = fake.world();
        world.site_mut(1).timezone = "Pacific/Niue".to_owned();
        world.site_mut(1).visits = all;
    }
    sync(&mut db, &fake, &format!(", '{today}'"));
    sync(&mut db, &fake, "");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // After that, earlier days are not read a third time.
    asked(&fake);
    assert_eq!(sync(&mut db, &fake, "").days, 1);
}

#[test]
fn an_ordinary_role_has_its_ledger_written_and_sees_no_others() {
    let (noon, fake, mut admin) = noon(2);
    let name: String = one(&mut admin, "SELECT current_database()::text");
    let (mine, other) = (role(&mut admin), role(&mut admin));
    for role in [&mine, &other] {
        run(
            &mut admin,
            &format!(
                "CREATE SCHEMA AUTHORIZATION {role}; GRANT EXECUTE ON FUNCTION matomo_sync TO {role}"
            ),
        );
    }
    let mut db = shared().connect_as(&name, &mine);
    run(&mut db, "SET matomo.settle_time = 0");
    assert_eq!(sync(&mut db, &fake, &from(&noon, 1)).inserted, 18);
    assert_eq!(entries(&mut db), 2);
    assert_eq!(sync(&mut db, &fake, &from(&noon, 1)).days, 1);
    for what in [
        "SELECT FROM matomo_ledger",
        "INSERT INTO matomo_ledger (matomo) SELECT matomo FROM matomo_days",
        "UPDATE matomo_ledger SET sealed = true",
        "DELETE FROM matomo_ledger",
        "TRUNCATE matomo_ledger",
    ] {
        let refused = error(&mut db, what);
        assert_eq!(
            (refused.code().code(), refused.message()),
            ("42501", "permission denied for table matomo_ledger"),
            "{what}"
        );
    }
    assert_eq!(error(&mut db, "UPDATE matomo_days SET sealed = true").code().code(), "55000");
    let mut theirs = shared().connect_as(&name, &other);
    assert_eq!(entries(&mut theirs), 0);
    run(&mut theirs, "SET matomo.settle_time = 0");
    sync(&mut theirs, &fake, &from(&noon, 1));
    assert_eq!((entries(&mut db), entries(&mut theirs), entries(&mut admin)), (2, 2, 4));
    run(
        &mut admin,
        &format!(
            "GRANT USAGE ON SCHEMA {other} TO {mine}; GRANT SELECT ON {other}.matomo TO {mine}"
        ),
    );
    assert_eq!(entries(&mut db), 4);
    assert_equal(&mut admin, &format!("{mine}.matomo"), &all_of(&fake, 1));
    // After a sync, successful or not, the user is the caller again.
    fake.fail(Fault::Status(404, Page::Html), When::live());
    error(&mut db, &sync_sql(&fake, 1, ""));
    let users = "SELECT concat_ws(' ', current_user, session_user)";
    assert_eq!(one::<String>(&mut db, users), format!("{mine} {mine}"));
}

#[test]
fn a_hostile_search_path_reaches_no_ledger() {
    let (noon, fake, mut admin) = noon(3);
    let name: String = one(&mut admin, "SELECT current_database()::text");
    let mine = role(&mut admin);
    run(
        &mut admin,
        &format!(
            "CREATE SCHEMA AUTHORIZATION {mine}; GRANT EXECUTE ON FUNCTION matomo_sync TO {mine}"
        ),
    );
    let mut db = shared().connect_as(&name, &mine);
    run(
        &mut db,
        &format!(
            "SET matomo.settle_time = 0;
             CREATE TABLE {mine}.hits (who text);
             CREATE FUNCTION {mine}.caught(anyelement) RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO {mine}.hits VALUES (current_user); RETURN true; END $$;
             CREATE TABLE {mine}.matomo_ledger AS SELECT * FROM public.matomo_days;
             CREATE FUNCTION {mine}.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT {mine}.caught($1)';
             CREATE OPERATOR {mine}.= (LEFTARG = text, RIGHTARG = text, FUNCTION = {mine}.eq);
             CREATE FUNCTION {mine}.to_timestamp(double precision) RETURNS timestamptz LANGUAGE sql AS
                 'SELECT CASE WHEN {mine}.caught($1) THEN now() END';
             CREATE FUNCTION {mine}.date_part(text, timestamptz) RETURNS double precision LANGUAGE sql AS
                 'SELECT CASE WHEN {mine}.caught($1) THEN 0 END';
             SET search_path = {mine}, public, pg_catalog"
        ),
    );
    let sql = sync_sql(&fake, 1, &from(&noon, 2)).replace("matomo_sync", "public.matomo_sync");
    for _ in 0..2 {
        db.query(&sql, &[]).unwrap();
    }
    assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {mine}.hits")), 0);
    assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {mine}.matomo_ledger")), 0);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM public.matomo_days"), 3);
    assert_equal(&mut admin, &format!("{mine}.matomo"), &all_of(&fake, 1));
}

#[test]
fn a_dump_brings_the_ledger_back_but_not_that_of_tables_that_are_gone() {
    let (noon, fake, mut db) = noon(4);
    let name: String = one(&mut db, "SELECT current_database()::text");
    run(
        &mut db,
        "SELECT matomo_create_table('gone'); CREATE TEMP TABLE passing (LIKE matomo_action); CREATE UNIQUE INDEX ON passing (action_id)",
    );
    for table in ["matomo", "matomo_partitioned", "gone", "passing"] {
        sync(&mut db, &fake, &format!("{}, destination => '{table}'", from(&noon, 3)));
    }
    run(&mut db, "DROP TABLE gone");
    let restored = format!("{name}_restored");
    shared().connect("postgres").batch_execute(&format!("CREATE DATABASE {restored}")).unwrap();
    let mut dump =
        shared().program("pg_dump").args(["-Fc", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let restore = shared()
        .program("pg_restore")
        .args(["-1", "-e", "-d", &restored])
        .stdin(dump.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(dump.wait().unwrap().success());
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    let mut new = shared().connect(&restored);
    run(&mut new, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM matomo_ledger"), 8);
    asked(&fake);
    for table in ["matomo", "matomo_partitioned"] {
        let sums = sync(&mut new, &fake, &format!("{}, destination => '{table}'", from(&noon, 3)));
        assert_eq!((sums.days, sums.written()), (1, 0));
        assert_eq!(ledger(&mut new, table), ledger(&mut db, table));
        assert_equal(&mut new, table, &all_of(&fake, 1));
    }
    assert_eq!(asked(&fake).len(), 2);
}

#[test]
fn a_role_that_may_read_everything_can_dump() {
    let (noon, fake, mut db) = noon(2);
    let name: String = one(&mut db, "SELECT current_database()::text");
    sync(&mut db, &fake, &from(&noon, 1));
    let role = role(&mut db);
    run(&mut db, &format!("GRANT pg_read_all_data TO {role}"));
    let dump = shared().program("pg_dump").env("PGUSER", &role).arg(&name).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert!(text.contains("COPY public.matomo_ledger"), "the ledger is not in the dump");
    assert!(text.contains(&format!("{}/index.php", fake.url())), "no entry is in the dump");
}

#[test]
fn the_node_tools_table_continues_where_it_stood_and_its_stale_rows_are_repaired() {
    let (noon, fake, mut db) = noon(8);
    crate::support::node_tool::standard_table(&mut db);
    let until_then = fake.world().oracle(1, noon.day(7), noon.day(3), fake_matomo::ActionTime::Utc);
    copy_rows(&mut db, "matomo", &until_then);
    run(
        &mut db,
        "UPDATE matomo SET visitduration = '1', actions = '1' WHERE idvisit IN ('1042', '1072');
         INSERT INTO matomo (action_id, idsite, idvisit, action_timestamp)
             SELECT '1052_3', '1', '1052', action_timestamp FROM matomo WHERE action_id = '1052_2';
         DELETE FROM matomo WHERE idvisit = '1031'",
    );
    sync(&mut db, &fake, "");
    let first = format!("day {}", noon.text(5));
    assert_eq!(asked(&fake)[1], first);
    // Only the days before that are still stale.
    let left = one::<i64>(&mut db, "SELECT count(*) FROM matomo WHERE visitduration = '1'");
    assert_eq!(left, 3);
    sync(&mut db, &fake, &from(&noon, 7));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}
