//! A visit keeps its identity by ID as long as it is the same visit, whatever the times of its
//! rows.

use fake_matomo::{Action, ActionTime, Fake, Visit};
use postgres::Client;

use crate::support::noon::{from, noon};
use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Enough visits of yesterday for a large batch.
fn add_many(fake: &Fake, noon: &Noon) {
    for n in 0..40 {
        let at = noon.at(1, "06:00:00") + i64::from(n);
        let visit = Visit::new(9_980 + i64::from(n), at).and(Action::page(at, "/", "One of many"));
        fake.world().site_mut(1).add(visit);
    }
}

/// In two tables, with few and with many visits in a batch.
fn in_each(test: impl Fn(&str, &Noon, &Fake, &mut Client, &str)) {
    for table in TABLES {
        for many in [false, true] {
            let (noon, fake, mut db) = noon(3);
            if many {
                add_many(&fake, &noon);
            }
            let range = format!("{}, destination => '{table}'", from(&noon, 2));
            test(table, &noon, &fake, &mut db, &range);
        }
    }
}

fn mend(fake: &Fake, at: i64) {
    fake.world().site_mut(1).visit_mut(1012).actions[2].at = at;
}

/// The row is of a cart, so that the conversion and the visit have the time too.
fn assert_mended(time: ActionTime, setting: &str) {
    in_each(|table, noon, fake, db, range| {
        run(db, &format!("SET matomo.action_time = '{setting}'"));
        let assert_all_equal = |db: &mut Client| {
            let oracle = fake.world().oracle_tables(1, day("1900-01-01"), day("2200-01-01"), time);
            assert_tables_equal(db, table, &oracle);
        };
        mend(fake, 0);
        sync(db, fake, range);
        assert_all_equal(db);
        let right = noon.at(1, "09:00:40");
        for at in [right, 0, right] {
            mend(fake, at);
            let sums = sync(db, fake, &format!("{range}, force => true"));
            assert_eq!(sums.written(), if table == "matomo" { 1 } else { 2 });
            assert_all_equal(db);
        }
        // As 0.1.0 left it: all rows are right, but one is there twice.
        if table == "matomo_partitioned" {
            run(
                db,
                &format!(
                    "INSERT INTO {table} SELECT (jsonb_populate_record(t, \
                         '{{\"action_timestamp\": \"1970-01-01 00:00Z\"}}')).* \
                     FROM {table} t WHERE action_id = '1012_2'"
                ),
            );
            let sums = sync(db, fake, &format!("{range}, force => true"));
            assert_eq!((sums.written(), sums.deleted), (1, 1));
            assert_all_equal(db);
        }
    });
}

#[test]
fn a_row_whose_time_was_mended_is_there_once() {
    assert_mended(ActionTime::Utc, "utc");
}

#[test]
fn a_row_as_sent_whose_time_was_mended_is_there_once() {
    assert_mended(ActionTime::AsSent, "as_sent");
}

/// Matomo was reinstalled: today's visits have IDs that others had.
fn set_up_anew(fake: &Fake, noon: &Noon, visit: i64, with_actions: bool) {
    let mut world = fake.world();
    let site = world.site_mut(1);
    site.delete(visit);
    let at = noon.at(0, "11:00:00");
    let mut anew = Visit::new(visit, at);
    if with_actions {
        anew = anew.and(Action::page(at, "https://noon.test/", "Home"));
    }
    anew.visitor_id = "cafe".repeat(4);
    site.add(anew);
}

#[test]
fn a_visit_whose_number_was_anothers_is_an_error() {
    in_each(|table, noon, fake, db, range| {
        let old = noon.at(400, "10:00:00");
        {
            let mut world = fake.world();
            let visit = world.site_mut(1).visit_mut(1022);
            let by = visit.first - old;
            (visit.first, visit.last) = (visit.first - by, visit.last - by);
            visit.actions.iter_mut().for_each(|action| action.at -= by);
        }
        let all = range.replacen(&noon.text(2), &noon.text(400), 1);
        sync(db, fake, &all);
        for with_actions in [true, false] {
            set_up_anew(fake, noon, 1022, with_actions);
            let before = fingerprint(db, table);
            for arguments in [range.to_owned(), format!("{range}, force => true")] {
                let refused = error(db, &sync_sql(fake, 1, &arguments));
                let message = format!(
                    "destination \"public.{table}\" holds a different visit 1022 than Matomo"
                );
                let detail = format!(
                    "The stored visit, of site 1, began on {}, Matomo's on {}",
                    chrono::DateTime::from_timestamp(old, 0).unwrap().date_naive(),
                    chrono::DateTime::from_timestamp(noon.at(0, "11:00:00"), 0)
                        .unwrap()
                        .date_naive()
                );
                assert_says(&refused, "55000", &message, &[&detail], "matomo_drop_before");
            }
            assert_eq!(fingerprint(db, table), before);
        }
        // The hint's advice works.
        set_up_anew(fake, noon, 1022, true);
        let past = noon.at(3, "00:00:00");
        run(db, &format!("CALL matomo_drop_before('{table}', to_timestamp({past}))"));
        sync(db, fake, range);
        assert_equal(db, table, &all_of(fake, 1));
    });
}

#[test]
fn a_visit_of_another_visitor_with_an_earlier_first_action_is_the_same() {
    in_each(|table, noon, fake, db, range| {
        sync(db, fake, range);
        {
            let mut world = fake.world();
            let visit = world.site_mut(1).visit_mut(1001);
            // The visitor has logged in, and an earlier hit was added an hour before the first.
            visit.visitor_id = "cafe".repeat(4);
            visit.first -= 3600;
            visit.actions.insert(0, Action::page(visit.first, "https://noon.test/late", "Late"));
            // In this visit only the first action changed.
            let visit = world.site_mut(1).visit_mut(1002);
            visit.first -= 1;
            visit.actions[0].at -= 1;
        }
        sync(db, fake, &format!("{range}, force => true"));
        assert_equal(db, table, &all_of(fake, 1));
        let _ = noon;
    });
}

#[test]
fn a_cart_that_was_ordered_after_a_login_leaves_the_same_visit() {
    in_each(|table, noon, fake, db, range| {
        let at = noon.at(1, "07:00:00") + 7;
        let visit = Visit::new(5001, at).and(Action::cart(at, Vec::new()));
        fake.world().site_mut(1).add(visit);
        sync(db, fake, range);
        {
            let mut world = fake.world();
            let visit = world.site_mut(1).visit_mut(5001);
            visit.visitor_id = "cafe".repeat(4);
            visit.actions.clear();
            visit.push(Action::order(at + 100, "A-1", Vec::new()));
            assert_eq!(visit.first, at);
        }
        sync(db, fake, &format!("{range}, force => true"));
        assert_equal(db, table, &all_of(fake, 1));
    });
}

#[test]
fn visits_are_the_same_whose_stored_visitor_is_hidden() {
    let (noon, fake, mut db) = noon(3);
    let range = from(&noon, 2);
    run(
        &mut db,
        "SELECT matomo_create_table('matomo');
         CREATE FUNCTION hide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.visitorid := NULL;
             NEW.action_timestamp := date_trunc('hour', NEW.action_timestamp) + interval '7 minutes';
             RETURN NEW;
         END $$;
         CREATE TRIGGER hide BEFORE INSERT OR UPDATE ON matomo FOR EACH ROW EXECUTE FUNCTION hide()",
    );
    let inserted = sync(&mut db, &fake, &range).inserted;
    assert_eq!(sync(&mut db, &fake, &format!("{range}, force => true")).inserted, 0);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), inserted);
}

/// The last visit of a page is the first of the next one, too.
#[test]
fn rows_that_a_trigger_moves_within_their_week_are_there_once() {
    let fake = serve(world(7, "UTC", 60, "2026-11-19", "2026-11-19"));
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo', true);
         CREATE FUNCTION coarsen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.action_timestamp := date_trunc('week', NEW.action_timestamp);
             RETURN NEW;
         END $$;
         CREATE TRIGGER coarsen BEFORE INSERT OR UPDATE ON matomo FOR EACH ROW EXECUTE FUNCTION coarsen()",
    );
    Sync::of(&fake, "2026-11-19", "2026-11-19").pages_of(20).run(&mut db);
    let rows = oracle(&fake, "2026-11-19", "2026-11-19").len();
    let found: (i64, i64) = {
        let sql = "SELECT count(*), count(DISTINCT (idvisit, action_id)) FROM matomo";
        let row = db.query_one(sql, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(found, (rows as i64, rows as i64));
}

#[test]
fn a_visit_is_the_same_of_which_a_row_has_the_visitor() {
    in_each(|table, noon, fake, db, range| {
        sync(db, fake, range);
        // As left by a tool that never updates rows: a login came with the second page.
        run(
            db,
            &format!(
                "UPDATE {table} SET visitorid = 'deadbeef', action_timestamp = action_timestamp - interval '1 s' \
                 WHERE action_id = '1012_0'"
            ),
        );
        sync(db, fake, &format!("{range}, force => true"));
        assert_equal(db, table, &all_of(fake, 1));
        let _ = noon;
    });
}
