//! `matomo_check` finds each difference between Matomo and a table, and mends exactly those.

use fake_matomo::{Action, ActionTime, Fake, Visit};
use postgres::Client;

use crate::cluster::shared;
use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Four days until yesterday, copied into a table.
struct Case {
    noon: Noon,
    fake: Fake,
    db: Client,
    table: &'static str,
}

impl Case {
    fn new(table: &'static str) -> Case {
        let noon = Noon::new();
        let fake = serve(noon.world(5));
        let mut case = Case { noon, fake, db: database(), table };
        case.with_setting("matomo.settle_time = 0");
        assert_eq!(case.sync().inserted, 36);
        case
    }

    fn with_setting(&mut self, setting: &str) {
        run(&mut self.db, &format!("LOAD 'matomo_postgres'; SET {setting}"));
    }

    fn sync(&mut self) -> Sums {
        let (first, last) = (self.noon.text(4), self.noon.text(1));
        let arguments = format!(", '{first}', '{last}', destination => '{}'", self.table);
        sync(&mut self.db, &self.fake, &arguments)
    }

    fn sql(&self, arguments: &str) -> String {
        format!(
            "SELECT * FROM matomo_check(1, '{}', '{}', '{}', '{}', '{}'{arguments})",
            self.noon.text(4),
            self.noon.text(1),
            self.fake.url(),
            self.fake.token(),
            self.table
        )
    }

    /// What it says of each day, as `ago: there here missing extra stale repaired`; days on which
    /// nothing differs are left out.
    fn check(&mut self, arguments: &str) -> Vec<String> {
        let rows = self.db.query(&self.sql(arguments), &[]).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(rows.len(), 4);
        let mut lines = Vec::new();
        for (row, ago) in rows.iter().zip([4, 3, 2, 1]) {
            let numbers: Vec<i64> = (1..7).map(|column| row.get(column)).collect();
            if numbers != [3, 3, 0, 0, 0, 0] {
                let text: Vec<_> = numbers.iter().map(i64::to_string).collect();
                lines.push(format!("{ago}: {}", text.join(" ")));
            }
        }
        lines
    }

    /// Where all rows lie, but for those of some visits.
    fn untouched(&mut self, but: &str) -> String {
        fingerprint(&mut self.db, &format!("{} WHERE idvisit NOT IN ({but})", self.table))
    }

    fn oracle(&self) -> Vec<fake_matomo::OracleRow> {
        self.fake.world().oracle(1, self.noon.day(4), self.noon.day(1), ActionTime::Utc)
    }

    /// A check finds this and writes nothing; a repair finds the same, mends it and touches no
    /// other rows; then there is nothing to find.
    fn assert_found(&mut self, arguments: &str, found: &str, but: &str) {
        let others = self.untouched(but);
        let all = fingerprint(&mut self.db, self.table);
        let entries = fingerprint(&mut self.db, "matomo_ledger");
        run(&mut self.db, "BEGIN READ ONLY");
        assert_eq!(self.check(arguments), [found], "{} {but}", self.table);
        run(&mut self.db, "COMMIT");
        assert_eq!(fingerprint(&mut self.db, self.table), all);
        assert_eq!(fingerprint(&mut self.db, "matomo_ledger"), entries);
        let counts = found.strip_suffix(" 0").unwrap();
        let differing: i64 =
            counts.split(' ').skip(3).map(|count| count.parse::<i64>().unwrap()).sum();
        let mended = format!("{counts} {differing}");
        assert_eq!(self.check(&format!("{arguments}, repair => true")), [mended]);
        assert_eq!(self.untouched(but), others, "{} {but}", self.table);
        let oracle = self.oracle();
        assert_equal(&mut self.db, self.table, &oracle);
        let none = self.check(", deep => true");
        assert!(none.iter().all(|line| line.ends_with(" 0 0 0 0")), "{none:?}");
    }
}

#[test]
fn nothing_is_found_where_nothing_differs() {
    for table in TABLES {
        let mut case = Case::new(table);
        let rows = fingerprint(&mut case.db, table);
        asked(&case.fake);
        for arguments in ["", ", deep => true", ", repair => true", ", true, true"] {
            assert_eq!(case.check(arguments), [""; 0]);
        }
        // A look that is not deep costs a request a day.
        assert_eq!(asked(&case.fake)[..6], {
            let mut lines = vec!["site".to_owned()];
            lines.extend([4, 3, 2, 1].map(|ago| format!("day {}", case.noon.text(ago))));
            lines.push("site".to_owned());
            lines
        });
        assert_eq!(fingerprint(&mut case.db, table), rows);
    }
}

#[test]
fn a_visit_that_is_missing_is_found_and_fetched() {
    for table in TABLES {
        let mut case = Case::new(table);
        run(&mut case.db, &format!("DELETE FROM {table} WHERE idvisit = '1032'"));
        case.assert_found("", "3: 3 2 1 0 0 0", "'1032'");
        let day = "'1021', '1022', '1023'";
        run(&mut case.db, &format!("DELETE FROM {table} WHERE idvisit IN ({day})"));
        case.assert_found("", "2: 3 0 3 0 0 0", day);
        run(&mut case.db, &format!("DELETE FROM {table} WHERE action_id = '1043_1'"));
        assert_eq!(case.check(""), [""; 0]);
        case.assert_found(", deep => true", "4: 3 3 0 0 1 0", "'1043'");
    }
}

#[test]
fn a_visit_that_matomo_has_no_more_is_found_and_removed() {
    for table in TABLES {
        let mut case = Case::new(table);
        case.fake.world().site_mut(1).delete(1032);
        case.assert_found("", "3: 2 3 0 1 0 0", "'1032'");
        let mut case = Case::new(table);
        let at = case.noon.at(2, "20:00:00");
        run(
            &mut case.db,
            &format!(
                "INSERT INTO {table} (action_id, idsite, idvisit, action_timestamp) VALUES ('7_0', '1', '7', to_timestamp({at}))"
            ),
        );
        case.assert_found("", "2: 3 4 0 1 0 0", "'7'");
        // The first and the last second of the range belong to it; rows of other sites do not.
        let (first, last) = (case.noon.at(4, "00:00:00"), case.noon.at(1, "23:59:59"));
        let insert = |site: &str, id: &str, at: i64| {
            format!(
                "INSERT INTO {table} (action_id, idsite, idvisit, action_timestamp) VALUES ('{id}_0', '{site}', '{id}', to_timestamp({at}))"
            )
        };
        let kept =
            [insert("1", "8", first - 1), insert("1", "9", last + 1), insert("2", "10", first)];
        run(&mut case.db, &format!("{}; {}", kept.join("; "), insert("1", "11", first)));
        assert_eq!(case.check(""), ["4: 3 4 0 1 0 0"]);
        run(&mut case.db, &insert("1", "12", last));
        assert_eq!(case.check(", repair => true"), ["4: 3 4 0 1 0 1", "1: 3 4 0 1 0 1"]);
        let left = format!(
            "SELECT idvisit FROM {table} WHERE idvisit::bigint < 100 ORDER BY idvisit::bigint"
        );
        assert_eq!(texts(&mut case.db, &left), ["8", "9", "10"]);
    }
}

#[test]
fn a_stale_visit_is_found_and_mended() {
    for table in TABLES {
        let mut case = Case::new(table);
        // It changed in Matomo, and its last action did not move.
        {
            let mut world = case.fake.world();
            let visit = world.site_mut(1).visit_mut(1013);
            visit.heartbeat(20);
            visit.city = Some("Ōsaka".to_owned());
        }
        case.assert_found("", "1: 3 3 0 0 1 0", "'1013'");
        // Somebody changed one row of it here.
        run(&mut case.db, &format!("UPDATE {table} SET country = NULL WHERE action_id = '1022_2'"));
        case.assert_found("", "2: 3 3 0 0 1 0", "'1022'");
        run(
            &mut case.db,
            &format!("UPDATE {table} SET experiments = '[1]' WHERE action_id = '1022_0'"),
        );
        case.assert_found("", "2: 3 3 0 0 1 0", "'1022'");
        // Values of an action, changed there and here, and a row too many.
        let at = case.noon.at(4, "09:00:20");
        let late = Action::goal(at, 5, "Late", "https://noon.test/");
        case.fake.world().site_mut(1).visit_mut(1042).push(late);
        run(
            &mut case.db,
            &format!("UPDATE {table} SET action_title = 'x' WHERE action_id = '1041_1'"),
        );
        run(
            &mut case.db,
            &format!(
                "INSERT INTO {table} SELECT (jsonb_populate_record(t, '{{\"action_id\": \"1043_3\"}}')).* FROM {table} t WHERE action_id = '1043_2'"
            ),
        );
        assert_eq!(case.check(""), [""; 0]);
        case.assert_found(", deep => true", "4: 3 3 0 0 3 0", "'1041', '1042', '1043'");
    }
}

#[test]
fn differences_of_all_kinds_at_once_are_told_apart_by_day() {
    for table in TABLES {
        let mut case = Case::new(table);
        {
            let mut world = case.fake.world();
            let site = world.site_mut(1);
            site.delete(1041);
            site.visit_mut(1043).heartbeat(9);
            site.add({
                let mut visit = case.noon.visit(2, 3);
                visit.id = 4000;
                visit
            });
        }
        run(
            &mut case.db,
            &format!(
                "DELETE FROM {table} WHERE idvisit IN ('1042', '1012');
                 UPDATE {table} SET visitduration = '1' WHERE action_id = '1023_0';
                 UPDATE {table} SET action_url = 'x' WHERE action_id = '1033_0'"
            ),
        );
        let others = case.untouched("'1041', '1042', '1043', '4000', '1012', '1023', '1033'");
        let found = ["4: 2 2 1 1 1 0", "2: 4 3 1 0 1 0", "1: 3 2 1 0 0 0"];
        assert_eq!(case.check(""), found);
        assert_eq!(case.check("")[..], found);
        let deep = ["4: 2 2 1 1 1 3", "3: 3 3 0 0 1 1", "2: 4 3 1 0 1 2", "1: 3 2 1 0 0 1"];
        assert_eq!(case.check(", true, true"), deep);
        assert_eq!(
            case.untouched("'1041', '1042', '1043', '4000', '1012', '1023', '1033'"),
            others
        );
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
        assert_eq!(case.check(", deep => true"), ["4: 2 2 0 0 0 0", "2: 4 4 0 0 0 0"]);
    }
}

#[test]
fn visits_without_actions_are_not_missing_and_those_of_goals_and_contents_are_there() {
    for table in TABLES {
        let mut case = Case::new(table);
        let at = case.noon.at(3, "11:00:00");
        {
            let mut world = case.fake.world();
            let site = world.site_mut(1);
            site.add(Visit::new(6000, at));
            site.add(Visit::new(6001, at).and(Action::goal(at, 1, "Only", "/").manual()));
            site.add(Visit::new(6002, at).and(Action::content(at, "/", "Banner", "img.png")));
        }
        assert_eq!(case.check(", deep => true"), ["3: 6 3 2 0 0 0"]);
        assert_eq!(case.check(", repair => true"), ["3: 6 3 2 0 0 2"]);
        assert_eq!(case.check(", true, true"), ["3: 6 5 0 0 0 0"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
    }
}

#[test]
fn a_visit_that_moved_to_another_day_is_stale_there_and_not_extra_here() {
    for table in TABLES {
        let mut case = Case::new(table);
        let at = case.noon.at(2, "00:10:00");
        case.fake.world().site_mut(1).visit_mut(1033).push(Action::page(at, "/moved", "Moved"));
        let one_day = |ago: u64, arguments: &str| {
            format!(
                "SELECT concat_ws(' ', visits_there, visits_here, missing, extra, stale, repaired)
                 FROM matomo_check(1, '{0}', '{0}', '{1}', '{2}', '{table}'{arguments})",
                case.noon.text(ago),
                case.fake.url(),
                case.fake.token()
            )
        };
        let (three, two) = (one_day(3, ""), one_day(2, ", repair => true"));
        assert_eq!(texts(&mut case.db, &three), ["2 2 0 0 0 0"]);
        assert_eq!(texts(&mut case.db, &two), ["4 4 0 0 1 1"]);
        assert_eq!(case.check(", true, true"), ["3: 2 2 0 0 0 0", "2: 4 4 0 0 0 0"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
    }
}

#[test]
fn tables_with_times_as_sent_are_checked_as_such() {
    for table in TABLES {
        let (first, last) = ("2026-10-24", "2026-10-26");
        let fake = serve(world(95, "Europe/Paris", 25, first, last));
        let mut db = database();
        run(&mut db, "LOAD 'matomo_postgres'; SET matomo.action_time = 'as_sent'");
        Sync::of(&fake, first, last).into(table).run(&mut db);
        let sum = |db: &mut Client, arguments: &str| -> String {
            let sql = format!(
                "SELECT concat_ws(' ', sum(missing), sum(extra), sum(stale), sum(repaired))
                 FROM matomo_check(1, '{first}', '{last}', '{}', '{}', '{table}'{arguments})",
                fake.url(),
                fake.token()
            );
            one(db, &sql)
        };
        assert_eq!(sum(&mut db, ", deep => true"), "0 0 0 0");
        let gone = fake.world().site(1).visits.iter().find(|v| v.actions.len() > 3).unwrap().id;
        fake.world().site_mut(1).delete(gone);
        assert_eq!(sum(&mut db, ", true, true"), "0 1 0 1");
        let oracle = fake.world().oracle(1, day(first), day(last), ActionTime::AsSent);
        assert_equal(&mut db, table, &oracle);
        // Asked for the other kind of time, all rows differ.
        run(&mut db, "SET matomo.action_time = 'utc'");
        sum(&mut db, ", true, true");
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn experiments_of_type_json_can_be_compared() {
    let mut case = Case::new("matomo");
    run(&mut case.db, "ALTER TABLE matomo ALTER experiments TYPE json");
    assert_eq!(case.check(""), [""; 0]);
    run(&mut case.db, "UPDATE matomo SET experiments = '[1]' WHERE action_id = '1022_0'");
    assert_eq!(case.check(", repair => true"), ["2: 3 3 0 0 1 1"]);
}

#[test]
fn a_repair_removes_nothing_that_another_matomo_has_brought() {
    let mut case = Case::new("matomo");
    let mut world = case.noon.world(5);
    for visit in &mut world.site_mut(1).visits {
        visit.id += 100_000;
        visit.visitor_id = format!("ffff{:012x}", visit.id);
    }
    let ours = case.fake.url();
    let other = serve(world);
    let range = format!(", '{}', '{}'", case.noon.text(4), case.noon.text(1));
    sync(&mut case.db, &other, &range);
    let before = fingerprint(&mut case.db, "matomo");
    let sql = format!(
        "SELECT * FROM matomo_check(1{range}, '{}', '{}', repair => true)",
        other.url(),
        other.token()
    );
    let refused = error(&mut case.db, &sql);
    assert_eq!(refused.code().code(), "55000", "{refused:?}");
    let message = refused.message();
    assert!(
        message.starts_with("destination \"public.matomo\" holds another visit 10"),
        "{message}"
    );
    assert!(message.ends_with(&format!(", of {ours}/index.php")), "{message}");
    assert_eq!(fingerprint(&mut case.db, "matomo"), before);
}

#[test]
fn a_range_that_lies_partly_in_the_future_ends_today() {
    let mut case = Case::new("matomo");
    let check = |first: String, last: &str| {
        format!(
            "SELECT day::text FROM matomo_check(1, {first}, {last}, '{}', '{}')",
            case.fake.url(),
            case.fake.token()
        )
    };
    let (yesterday, tomorrow) =
        (format!("'{}'", case.noon.text(1)), case.noon.day(0) + chrono::Days::new(1));
    let two = [case.noon.text(1), case.noon.text(0)];
    for last in [format!("'{}'", tomorrow + chrono::Days::new(30)), "NULL".to_owned()] {
        let sql = check(yesterday.clone(), &last);
        assert_eq!(texts(&mut case.db, &sql), two, "{last}");
    }
    let refused = error(&mut case.db, &check(format!("'{tomorrow}'"), "NULL"));
    let message = format!("start_date {tomorrow} is in the future");
    assert_says(&refused, "22023", &message, &[], &format!("It is {}", two[1]));
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let mut case = Case::new("matomo");
    let before = fingerprint(&mut case.db, "matomo");
    let (url, token) = (case.fake.url(), case.fake.token().to_owned());
    let sql = |first: &str, last: &str, token: &str, destination: &str| {
        format!(
            "SELECT * FROM matomo_check(1, {first}, {last}, '{url}', '{token}', '{destination}', true)"
        )
    };
    asked(&case.fake);
    let refused = error(&mut case.db, &sql("NULL", "current_date", &token, "matomo"));
    assert_says(&refused, "22004", "argument \"start_date\" must not be null", &[], "");
    let turned = sql("'2026-01-02'", "'2026-01-01'", &token, "matomo");
    let message = "end_date 2026-01-01 is before start_date 2026-01-02";
    assert_says(&error(&mut case.db, &turned), "22023", message, &[], "Both days are included");
    let lacking = sql("'2026-01-01'", "'2026-01-02'", &token, "nowhere.visits");
    let message = "destination \"nowhere.visits\" does not exist";
    assert_says(&error(&mut case.db, &lacking), "42P01", message, &[], "matomo_create_table");
    // A standard name is not made by a check.
    let lacking = sql("'2026-01-01'", "'2026-01-02'", &token, "matomo_partitioned");
    let message = "destination \"matomo_partitioned\" does not exist";
    assert_says(&error(&mut case.db, &lacking), "42P01", message, &[], "matomo_create_table");
    assert_eq!(asked(&case.fake), [""; 0]);
    let refused = error(&mut case.db, &sql("'2026-01-01'", "'2026-01-02'", "bad-token", "matomo"));
    assert_says(
        &refused,
        "28000",
        "Matomo refused the token",
        &["SitesManager.getSiteFromId", "site 1", "HTTP status 401"],
        "",
    );
    assert!(!format!("{refused:?}").contains("bad-token"));
    run(&mut case.db, "BEGIN READ ONLY");
    let refused = error(&mut case.db, &sql("'2026-01-01'", "'2026-01-02'", &token, "matomo"));
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("25006", "cannot execute matomo_check(repair) in a read-only transaction")
    );
    run(&mut case.db, "ROLLBACK");
    assert_eq!(fingerprint(&mut case.db, "matomo"), before);
}

#[test]
fn a_role_needs_execute_and_to_look_only_select() {
    let mut case = Case::new("matomo");
    let name: String = one(&mut case.db, "SELECT current_database()::text");
    let role = role(&mut case.db);
    let mut db = shared().connect_as(&name, &role);
    let refused = error(&mut db, &case.sql(""));
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("42501", "permission denied for function matomo_check")
    );
    run(
        &mut case.db,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_check TO {role}; GRANT SELECT ON matomo TO {role}"
        ),
    );
    run(&mut case.db, "DELETE FROM matomo WHERE idvisit = '1032'");
    let mended = case.sql(", repair => true");
    let refused = error(&mut db, &mended);
    let message = "permission denied for table public.matomo";
    assert_says(&refused, "42501", message, &["INSERT, UPDATE, DELETE"], "GRANT");
    assert_eq!(Sums::default().days, 0);
    let rows = db.query(&case.sql(""), &[]).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>("missing")).sum::<i64>(), 1);
    run(&mut case.db, &format!("GRANT INSERT, UPDATE, DELETE ON matomo TO {role}"));
    assert_eq!(db.query(&mended, &[]).unwrap().len(), 4);
    let oracle = case.oracle();
    assert_equal(&mut case.db, "matomo", &oracle);
}
