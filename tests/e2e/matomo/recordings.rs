//! Recorded answers of a real Matomo (tests/recordings/README.md), served by the fake and synced
//! into both tables.

use std::io::Read;
use std::path::{Path, PathBuf};

use fake_matomo::{Clock, Fake, Site, World};
use flate2::read::GzDecoder;
use postgres::Client;
use serde_json::Value;

use crate::support::pages::root;
use crate::support::*;

/// Files and their sites' timezones.
const FILES: [(&str, &str); 4] = [
    ("site1-plain-day.visits.json.gz", "UTC"),
    ("site2-paris-dst.visits.json.gz", "Europe/Paris"),
    ("site4-shop-day.visits.json.gz", "UTC"),
    ("long-visits-truncated.json.gz", "UTC"),
];

/// A site as recorded.
struct Recording {
    visits: Vec<Value>,
    zone: &'static str,
    site: i32,
    first: String,
    last: String,
}

impl Recording {
    fn read(file: &Path, zone: &'static str) -> Recording {
        let mut text = String::new();
        let opened = std::fs::File::open(file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        GzDecoder::new(opened).read_to_string(&mut text).unwrap();
        let visits: Vec<Value> = serde_json::from_str(&text).unwrap();
        let days = visits.iter().map(|visit| {
            let last = visit["lastActionTimestamp"].as_i64().unwrap();
            Site::new(1, "", zone).zone().day(last)
        });
        let (first, last) = (days.clone().min().unwrap(), days.max().unwrap());
        let site = i32::try_from(visits[0]["idSite"].as_i64().unwrap()).unwrap();
        Recording { visits, zone, site, first: first.to_string(), last: last.to_string() }
    }

    fn serve(&self) -> Fake {
        let mut world = World::new(Clock::Real);
        let site = world.add_site(Site::new(self.site.into(), "Recorded", self.zone));
        site.replace_visits_json(self.visits.clone());
        serve(world)
    }

    /// Syncs the recording into both tables, compares them, and syncs again.
    fn assert_syncs(&self, db: &mut Client) {
        let fake = self.serve();
        let sum = |of: fn(&Value) -> usize| {
            i64::try_from(self.visits.iter().map(of).sum::<usize>()).unwrap()
        };
        let actions = sum(|visit| visit["actionDetails"].as_array().unwrap().len());
        let truncated = sum(|visit| usize::from(visit.get("truncatedActionsCount").is_some()));
        self.load(db);
        for table in ["matomo", "matomo_partitioned"] {
            let sync = Sync {
                site: self.site,
                page_size: 100,
                ..Sync::of(&fake, &self.first, &self.last).into(table)
            };
            let sums = sync.run(db);
            assert_eq!(sums.visits, i64::try_from(self.visits.len()).unwrap());
            assert_eq!(
                (sums.actions, sums.inserted, sums.truncated),
                (actions, actions, truncated)
            );
            assert_eq!(one::<i64>(db, &format!("SELECT count(*) FROM {table}")), actions);
            self.assert_values(db, table);
            self.assert_true_times(db, table);
            self.assert_companions(db, table);
            let rows = fingerprint(db, table);
            assert_eq!(sync.run(db).written(), 0);
            assert_eq!(fingerprint(db, table), rows);
        }
    }

    /// Creates a table of the recording, one action per row.
    fn load(&self, db: &mut Client) {
        run(db, "CREATE TEMP TABLE recorded (v jsonb, a jsonb, n bigint)");
        let text = Value::from(self.visits.clone()).to_string();
        let sql = "INSERT INTO recorded SELECT v - 'actionDetails', a, n - 1 FROM jsonb_array_elements($1::text::jsonb) v,
                       jsonb_array_elements(v->'actionDetails') WITH ORDINALITY AS x(a, n)";
        db.execute(sql, &[&text]).unwrap();
    }

    /// Compares with a second mapping of the Node tool's columns, written in SQL.
    fn assert_values(&self, db: &mut Client, table: &str) {
        let mut expected = vec!["(v->>'idVisit') || '_' || n".to_owned()];
        let mut found = vec!["action_id".to_owned()];
        for key in [
            "idSite",
            "idVisit",
            "actions",
            "country",
            "region",
            "city",
            "operatingSystemName",
            "deviceModel",
            "deviceBrand",
            "visitDuration",
            "daysSinceFirstVisit",
            "visitorType",
            "siteName",
            "userId",
            "visitorId",
            "referrerType",
            "referrerName",
            "resolution",
        ] {
            expected.push(format!("v->>'{key}'"));
            found.push(format!("{}::text", key.to_lowercase()));
        }
        for (key, column, absent) in [
            ("type", "action_type", "''"),
            ("eventCategory", "action_eventcategory", "''"),
            ("eventAction", "action_eventaction", "''"),
            ("eventName", "action_eventname", "''"),
            ("eventValue", "action_eventvalue", "'0'"),
            ("timeSpent", "action_timespent", "'0'"),
            ("url", "action_url", "NULL"),
            ("title", "action_title", "NULL"),
            ("siteSearchKeyword", "sitesearchkeyword", "NULL"),
        ] {
            let number = if key == "eventValue" { "::numeric" } else { "" };
            expected.push(format!("coalesce(a->>'{key}', {absent}){number}"));
            let text = if number.is_empty() { "::text" } else { "" };
            found.push(format!("{column}{text}"));
        }
        for number in 1..=10 {
            let of = |level: &str| format!("nullif({level}->>'dimension{number}', '')");
            expected.push(format!("coalesce({}, {})", of("a"), of("v")));
            found.push(format!("dimension{number}"));
        }
        expected.push(
            "(to_timestamp((v->>'firstActionTimestamp')::bigint) AT TIME ZONE 'UTC')::date"
                .to_owned(),
        );
        found.push("serverdateprettyfirstaction".to_owned());
        expected.push(
            "(SELECT coalesce(jsonb_object_agg(k.value, a->'customVariables'->i->>('customVariablePageValue' || i)), '{}')
              FROM generate_series(1, 20) g, LATERAL (SELECT g::text) t(i),
                   LATERAL (SELECT a->'customVariables'->i->>('customVariablePageName' || i)) k(value)
              WHERE k.value IS NOT NULL)"
                .to_owned(),
        );
        found.push(
            "(usercustomproperties::jsonb - ARRAY(SELECT c->>('customVariableName' || i)
              FROM jsonb_each(CASE WHEN jsonb_typeof(v->'customVariables') = 'object' THEN v->'customVariables' ELSE '{}' END)
                   AS of_visit(i, c)))"
                .to_owned(),
        );
        let (expected, found) = (expected.join(", "), found.join(", "));
        let joined = format!("{table} JOIN recorded ON action_id = (v->>'idVisit') || '_' || n");
        let differs =
            format!("SELECT {expected} FROM recorded EXCEPT ALL SELECT {found} FROM {joined}");
        let rows = texts(db, &format!("SELECT x::text FROM ({differs}) x LIMIT 3"));
        assert_eq!(rows, [""; 0], "{table}");
    }

    /// Matomo's own counts match the tables of visits, conversions and items, and no key is left
    /// over.
    fn assert_companions(&self, db: &mut Client, table: &str) {
        let of_goals = "SELECT count(*) FROM {t}_conversions c WHERE c.idvisit = v.idvisit AND c.type = 'goal'";
        let of_items =
            "SELECT coalesce(sum(quantity), 0) FROM {t}_items i WHERE i.action_id = c.action_id";
        let sent = "SELECT coalesce(sum((a->>'revenue')::numeric), 0) FROM recorded";
        let wrong = format!(
            "SELECT 'visits' WHERE (SELECT count(*) FROM {{t}}_visits) <> {}
             UNION ALL SELECT 'goals of ' || idvisit FROM {{t}}_visits v
                 WHERE goalconversions <> ({of_goals}) AND truncatedactionscount = 0
             UNION ALL SELECT 'items of ' || action_id FROM {{t}}_conversions c
                 WHERE type <> 'goal' AND items <> ({of_items})
             UNION ALL SELECT 'revenue of conversions'
                 WHERE (SELECT coalesce(sum(revenue), 0) FROM {{t}}_conversions) <> ({sent})
             UNION ALL SELECT 'revenue of actions'
                 WHERE (SELECT coalesce(sum(revenue), 0) FROM {{t}}) <> ({sent})
             UNION ALL SELECT extra::text FROM {{t}} WHERE extra IS NOT NULL
             UNION ALL SELECT extra::text FROM {{t}}_visits WHERE extra IS NOT NULL
             UNION ALL SELECT extra::text FROM {{t}}_conversions WHERE extra IS NOT NULL
             UNION ALL SELECT extra::text FROM {{t}}_items WHERE extra IS NOT NULL LIMIT 5",
            self.visits.len()
        );
        assert_eq!(texts(db, &wrong.replace("{t}", table)), [""; 0], "{table}");
    }

    /// An action's time is its wall clock in the site's timezone, as Postgres converts it; in a
    /// repeated hour the URL has the instant.
    fn assert_true_times(&self, db: &mut Client, table: &str) {
        let wrong = format!(
            "SELECT action_id || ' ' || action_timestamp || ' ' || coalesce(action_url, '')
             FROM {table} JOIN recorded ON action_id = (v->>'idVisit') || '_' || n
             WHERE action_timestamp IS DISTINCT FROM CASE WHEN action_url LIKE '%/dst/%'
                 THEN to_timestamp(substring(action_url FROM '/dst/(\\d{{8}}T\\d{{6}})Z'), 'YYYYMMDD\"T\"HH24MISS')
                 ELSE to_timestamp((a->>'timestamp')::bigint) AT TIME ZONE 'UTC' AT TIME ZONE '{}' END LIMIT 3",
            self.zone
        );
        run(db, "SET TimeZone = 'UTC'");
        assert_eq!(texts(db, &wrong), [""; 0], "{table}");
    }
}

fn recording(number: usize) -> Recording {
    let (file, zone) = FILES[number];
    let folder = root().join("tests/recordings");
    Recording::read(&folder.join(file), zone)
}

// One test each, so that they run in parallel.
#[test]
fn a_plain_day_of_a_real_matomo_syncs_exactly() {
    recording(0).assert_syncs(&mut database());
}

#[test]
fn days_of_a_real_matomo_around_the_end_of_summer_time_sync_exactly() {
    recording(1).assert_syncs(&mut database());
}

#[test]
fn days_of_a_real_shop_sync_exactly() {
    recording(2).assert_syncs(&mut database());
}

#[test]
fn visits_that_a_real_matomo_cuts_sync_exactly() {
    recording(3).assert_syncs(&mut database());
}

#[test]
fn recordings_hold_every_kind_of_action() {
    let mut kinds: Vec<String> = (0..FILES.len())
        .flat_map(|number| recording(number).visits)
        .flat_map(|visit| visit["actionDetails"].as_array().unwrap().clone())
        .map(|action| action["type"].to_string())
        .collect();
    kinds.sort();
    kinds.dedup();
    let expected = [
        r#""action""#,
        r#""download""#,
        r#""ecommerceAbandonedCart""#,
        r#""ecommerceOrder""#,
        r#""event""#,
        r#""goal""#,
        r#""outlink""#,
        r#""search""#,
        "13",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn each_quarter_of_an_hour_of_the_day_with_twenty_five_is_at_its_true_time() {
    let recording = recording(1);
    let fake = recording.serve();
    let mut db = database();
    Sync { site: 2, ..Sync::of(&fake, "2026-10-25", "2026-10-25") }.run(&mut db);
    run(&mut db, "SET TimeZone = 'UTC'");
    let quarters = "SELECT count(*) FROM matomo m RIGHT JOIN
             generate_series('2026-10-24 22:00Z'::timestamptz, '2026-10-25 22:45Z', '15 minutes') q
             ON m.action_timestamp = q AND m.action_url LIKE '%/dst/' || to_char(q, 'YYYYMMDD\"T\"HH24MISS\"Z\"')
         WHERE m.action_id IS NOT NULL";
    assert_eq!(one::<i64>(&mut db, quarters), 100);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 100);
}

#[test]
fn other_recordings_sync_exactly() {
    let Some(folder) = std::env::var_os("MATOMO_RECORDINGS").map(PathBuf::from) else {
        eprintln!("no other recordings: set MATOMO_RECORDINGS to a folder of them");
        return;
    };
    for (file, zone) in FILES {
        if folder.join(file).exists() {
            Recording::read(&folder.join(file), zone).assert_syncs(&mut database());
        }
    }
}
