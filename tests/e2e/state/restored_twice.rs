//! A dump may hold older restored rows beside newer ones of the same table: the newer ones count.

use postgres::Client;

use crate::support::cluster::shared;
use crate::support::dump::{empty_database, output};
use crate::support::restored::*;
use crate::support::*;

/// The days that are copied again by hand; of the others, only the restored rows tell.
const AGAIN: [&str; 2] = ["2026-10-25", "2026-10-26"];

/// The scene's database, restored with tables of another role, and synced by hand into site 1's: restored
/// rows stay known by the name with the owner in the dump, and the new rows are of the same days.
fn both(of: &Scene) -> (String, Client, String) {
    let mut new = copied(&of.name, "both", &[]);
    let other = role(&mut new);
    run(&mut new, &give_all_four("matomo", &other));
    let [first, last] = AGAIN;
    sync(&mut new, &of.fake, &format!(", '{first}', '{last}'"));
    run(
        &mut new,
        &format!(
            "SELECT matomo_create_companions('matomo');
             SELECT matomo_refresh_metadata(1, '{}', '{}', 'matomo')",
            of.fake.url(),
            of.fake.token()
        ),
    );
    (format!("{}_both", of.name), new, other)
}

fn counted(db: &mut Client, table: &str, key: &str) -> [i64; 2] {
    ["=", "<>"].map(|is| {
        let rows = format!("SELECT count(*) FROM {table} WHERE destination {is} 0::oid AND {key}");
        one(db, &rows)
    })
}

/// The days of the scene's table as `matomo_days` shows them.
fn shown(db: &mut Client) -> Vec<String> {
    texts(db, "SELECT d::text FROM matomo_days d WHERE destination = 'matomo'::regclass ORDER BY 1")
}

const DETAILS: &str = "SELECT d::text FROM matomo_site_details d ORDER BY 1";

fn distinct_days(db: &mut Client) -> i64 {
    one(db, "SELECT count(DISTINCT (matomo, idsite, day)) FROM matomo_ledger WHERE idsite = 1")
}

#[test]
fn a_table_that_its_former_owner_has_again_is_dumped_with_its_newer_rows() {
    let of = scene();
    let (name, mut db, _) = both(&of);
    run(&mut db, &give_all_four("matomo", &of.owner));
    let [old, new] = counted(&mut db, "matomo_ledger", "idsite = 1");
    assert!(old > new && new >= 2, "{old} {new}");
    assert_eq!(counted(&mut db, "matomo_site_metadata", "idsite = 1"), [1, 1]);
    let of_table = "'matomo' IN (destination::text, destination_name[2])";
    assert_eq!(counted(&mut db, "matomo_companion", of_table), [3, 3]);

    let (days, sites) = (shown(&mut db), texts(&mut db, DETAILS));
    let reader = role(&mut db);
    run(&mut db, &format!("GRANT pg_read_all_data TO {reader}"));
    let ways: [(&str, &[&str]); 4] = [
        ("custom", &["-Fc"]),
        ("inserts", &["-Fc", "--inserts"]),
        ("reader", &["-Fc", "-U", &reader]),
        ("plain", &[]),
    ];
    for (way, arguments) in ways {
        let file = dumped(&name, arguments);
        let copy = format!("{name}_{way}");
        let mut copied = if arguments.is_empty() {
            let copied = empty_database(shared(), &copy);
            let mut psql = shared().program("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", &copy, "-f"]);
            output(psql.arg(&file));
            copied
        } else {
            restored(shared(), &file, &copy, &["-1"])
        };
        std::fs::remove_file(file).unwrap();
        assert_eq!(shown(&mut copied), days, "{way}");
        assert_eq!(texts(&mut copied, DETAILS), sites, "{way}");
        assert_eq!(counted(&mut copied, "matomo_companion", of_table), [3, 0], "{way}");
        if way != "reader" {
            assert_resumes(&mut copied, &of.fake);
        }
    }
    assert_resumes(&mut db, &of.fake);
    assert_eq!(counted(&mut db, "matomo_ledger", "true")[0], 0);
    assert_tables_equal(&mut db, "matomo", &tables_between(&of.fake, 1, FIRST, "2200-01-01"));
}

#[test]
fn no_day_and_no_site_of_a_table_is_shown_twice() {
    let of = scene();
    let (_, mut db, _) = both(&of);
    run(&mut db, &give_all_four("matomo", &of.owner));
    let days = shown(&mut db);
    assert_eq!(i64::try_from(days.len()).unwrap(), distinct_days(&mut db));
    // The newer ones are shown.
    let [_, new] = counted(&mut db, "matomo_ledger", "idsite = 1");
    let newer = "SELECT count(*) FROM matomo_days d JOIN matomo_ledger l USING (matomo, idsite, destination, day, read_at)
        WHERE l.idsite = 1";
    assert_eq!(one::<i64>(&mut db, newer), new);
    let sites = texts(&mut db, DETAILS);
    assert_eq!(sites.len(), 2, "{sites:?}");
}

/// The restored companions of other kinds are taken, and the one of the same kind is not in the way.
#[test]
fn companions_of_a_table_that_its_former_owner_has_again_are_its_own_and_restored_ones() {
    let of = scene();
    let mut db = copied(&of.name, "own", &["--exclude-table=matomo_visits"]);
    let other = role(&mut db);
    let tables = ["matomo", "matomo_conversions", "matomo_items"];
    let give = |role: &str| tables.map(|t| format!("ALTER TABLE {t} OWNER TO {role}")).join("; ");
    run(&mut db, &format!("GRANT CREATE ON SCHEMA public TO {other}; {}", give(&other)));
    run(
        &mut db,
        "LOAD 'matomo_postgres'; SET matomo.companions = 'visits'; SELECT matomo_create_companions('matomo');
         RESET matomo.companions; ALTER TABLE matomo_visits RENAME TO who",
    );
    run(&mut db, &format!("{}; ALTER TABLE who OWNER TO {}", give(&of.owner), of.owner));
    // Who forgets the older one hinders no other.
    let mut first = connect_as(&format!("{}_own", of.name), "postgres");
    run(&mut first, "BEGIN");
    sync(&mut first, &of.fake, ", '2026-10-26', '2026-10-26'");
    run(&mut db, "SET lock_timeout = '500 ms'");
    sync_site(&mut db, &of.fake, 2, ", '2026-10-26', '2026-10-26'");
    run(&mut first, "COMMIT");
    run(&mut db, "CALL matomo_sync_all()");
    // The older one, from another backup, is another table.
    run(
        &mut db,
        &format!(
            "CREATE TABLE matomo_visits (LIKE who INCLUDING ALL); ALTER TABLE matomo_visits OWNER TO {}",
            of.owner
        ),
    );
    assert_resumes(&mut db, &of.fake);
    let known = "SELECT companion::text FROM matomo_companion WHERE destination = 'matomo'::regclass ORDER BY 1";
    assert_eq!(texts(&mut db, known), ["matomo_conversions", "matomo_items", "who"]);
    let of_name = "SELECT count(*) FROM matomo_companion WHERE destination = 0 AND destination_name[2] = 'matomo'";
    assert_eq!(one::<i64>(&mut db, of_name), 0);
    // It is no companion any more, but an erasure still searches it.
    run(&mut db, "INSERT INTO matomo_visits SELECT * FROM who LIMIT 1");
    let visitor: String = one(&mut db, "SELECT visitorid FROM matomo_visits");
    run(&mut db, &format!("SELECT matomo_forget('{visitor}')"));
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_visits"), 0);
    // Items do not say whose they are: no erasure fails for an older table of them.
    let owner = &of.owner;
    run(
        &mut db,
        &format!(
            "DELETE FROM matomo_companion WHERE destination_name[1] = '?';
             CREATE TABLE other_items (LIKE matomo_items); ALTER TABLE other_items OWNER TO {owner};
             INSERT INTO matomo_companion
                 VALUES (0, 'items', 0, '{{public,matomo,{owner}}}', '{{public,other_items,{owner}}}')"
        ),
    );
    sync(&mut db, &of.fake, ", '2026-10-26', '2026-10-26', force => true");
    run(&mut db, "SELECT matomo_forget('nobody')");
}

#[test]
fn days_that_were_copied_while_another_owned_the_table_are_read_again_into_its_restored_companions()
{
    let of = scene();
    let mut db = copied(&of.name, "gap", &[]);
    let other = role(&mut db);
    // As from a backup of before these days.
    for table in ["matomo_visits", "matomo_conversions", "matomo_items", "matomo"] {
        let of_days = format!("SELECT idvisit FROM matomo WHERE day >= '{}'", AGAIN[0]);
        run(&mut db, &format!("DELETE FROM {table} WHERE idvisit IN ({of_days})"));
    }
    run(&mut db, &give_all_four("matomo", &other));
    let [first, last] = AGAIN;
    sync(&mut db, &of.fake, &format!(", '{first}', '{last}'"));
    let of_days = format!("SELECT count(*) FROM matomo_visits WHERE day >= '{first}'");
    assert_eq!(one::<i64>(&mut db, &of_days), 0, "its companions are not known");
    run(&mut db, &give_all_four("matomo", &of.owner));
    // Whoever looks first.
    run(&mut db, "SELECT matomo_forget('nobody')");
    for _ in 0..2 {
        run(&mut db, "CALL matomo_sync_all()");
    }
    assert_tables_equal(&mut db, "matomo", &tables_between(&of.fake, 1, FIRST, "2200-01-01"));
}

#[test]
fn of_two_restored_companions_of_a_kind_that_come_later_one_is_taken() {
    let of = scene();
    let (name, _, _) = both(&of);
    let file = dumped(&name, &["-Fc", "--exclude-table=matomo_visits"]);
    let mut db = restored(shared(), &file, &format!("{name}_late"), &["--no-owner"]);
    std::fs::remove_file(file).unwrap();
    let of_kind = "SELECT count(*) FROM matomo_companion WHERE kind = 'visits' AND destination_name[2] = 'matomo'";
    assert_eq!(one::<i64>(&mut db, of_kind), 2);
    let last = AGAIN[1];
    sync(&mut db, &of.fake, &format!(", '{last}', '{last}', force => true"));
    run(
        &mut db,
        "CREATE TABLE matomo_visits (LIKE matomo_visit INCLUDING ALL, PRIMARY KEY (idvisit))",
    );
    for _ in 0..2 {
        sync(&mut db, &of.fake, &format!(", '{FIRST}'"));
    }
    assert_eq!(one::<i64>(&mut db, of_kind), 0);
    assert_tables_equal(&mut db, "matomo", &tables_between(&of.fake, 1, FIRST, "2200-01-01"));
}

/// Rows of two owners in dumps are of one table where that is a superuser's.
#[test]
fn of_two_restored_rows_the_one_that_was_read_last_counts() {
    let of = scene();
    let (name, mut db, other) = both(&of);
    run(
        &mut db,
        "UPDATE matomo_ledger SET visits = 7777 WHERE destination <> 0::oid AND idsite = 1",
    );
    let [_, new] = counted(&mut db, "matomo_ledger", "idsite = 1");
    for rows in ["read_at, visits", "read_at DESC, visits"] {
        // In whichever order they lie there.
        run(
            &mut db,
            &format!(
                "CREATE TEMP TABLE kept AS TABLE matomo_ledger; DELETE FROM matomo_ledger;
                 INSERT INTO matomo_ledger SELECT * FROM kept ORDER BY {rows}; DROP TABLE kept"
            ),
        );
        let mut copied = copied(&name, &format!("super_{}", rows.len()), &[]);
        run(&mut copied, &give_all_four("matomo", "postgres"));
        let own = format!("destination_name[3] = '{other}'");
        assert_eq!(counted(&mut copied, "matomo_ledger", &own)[0], new);
        let days = shown(&mut copied);
        assert_eq!(i64::try_from(days.len()).unwrap(), distinct_days(&mut copied));
        let newer = "SELECT count(*) FROM matomo_days WHERE visits = 7777";
        assert_eq!(one::<i64>(&mut copied, newer), new);
        assert_eq!(texts(&mut copied, DETAILS).len(), 2);
        sync(&mut copied, &of.fake, ", '2026-10-24', '2026-10-24'");
        assert_eq!(one::<i64>(&mut copied, newer), new);
        assert_eq!(counted(&mut copied, "matomo_ledger", "idsite = 1")[0], 0);
    }
}
