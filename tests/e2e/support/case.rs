//! Copied days, for tests of `matomo_check`.

use fake_matomo::{ActionTime, Fake};
use postgres::Client;

use crate::support::*;

pub const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Four days until yesterday, copied into a table.
pub struct Case {
    pub noon: Noon,
    pub fake: Fake,
    pub db: Client,
    pub table: &'static str,
}

impl Case {
    pub fn new(table: &'static str) -> Case {
        let noon = Noon::new();
        let fake = serve(noon.world(5));
        let mut case = Case { noon, fake, db: database(), table };
        case.with_setting("matomo.settle_time = 0");
        assert_eq!(case.sync().inserted, 36);
        case
    }

    pub fn with_setting(&mut self, setting: &str) {
        run(&mut self.db, &format!("LOAD 'matomo_postgres'; SET {setting}"));
    }

    pub fn sync(&mut self) -> Sums {
        let (first, last) = (self.noon.text(4), self.noon.text(1));
        let arguments = format!(", '{first}', '{last}', destination => '{}'", self.table);
        sync(&mut self.db, &self.fake, &arguments)
    }

    pub fn sql(&self, arguments: &str) -> String {
        format!(
            "SELECT * FROM matomo_check(1, '{}', '{}', '{}', '{}', '{}'{arguments})",
            self.noon.text(4),
            self.noon.text(1),
            self.fake.url(),
            self.fake.token(),
            self.table
        )
    }

    /// Its result per day, as `ago: there here missing extra stale repaired`, without days on which
    /// nothing differs.
    pub fn check(&mut self, arguments: &str) -> Vec<String> {
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

    /// The addresses of all rows, except those of some visits.
    pub fn untouched(&mut self, but: &str) -> String {
        four(self.table)
            .map(|table| {
                fingerprint(&mut self.db, &format!("{table} WHERE idvisit NOT IN ({but})"))
            })
            .join(" ")
    }

    /// Asserts that all four tables are as they should be.
    pub fn assert_all_equal(&mut self) {
        let (first, last) = (self.noon.text(4), self.noon.text(1));
        let oracle = tables_between(&self.fake, 1, &first, &last);
        assert_tables_equal(&mut self.db, self.table, &oracle);
    }

    pub fn oracle(&self) -> Vec<fake_matomo::OracleRow> {
        self.fake.world().oracle(1, self.noon.day(4), self.noon.day(1), ActionTime::Utc)
    }

    /// A check finds this and writes nothing; a repair finds the same, repairs it and touches no
    /// other rows; then a check finds nothing.
    pub fn assert_found(&mut self, arguments: &str, found: &str, but: &str) {
        let others = self.untouched(but);
        let all = fingerprints(&mut self.db, self.table);
        let entries = fingerprint(&mut self.db, "matomo_ledger");
        run(&mut self.db, "BEGIN READ ONLY");
        assert_eq!(self.check(arguments), [found], "{} {but}", self.table);
        run(&mut self.db, "COMMIT");
        assert_eq!(fingerprints(&mut self.db, self.table), all);
        assert_eq!(fingerprint(&mut self.db, "matomo_ledger"), entries);
        let counts = found.strip_suffix(" 0").unwrap();
        let differing: i64 =
            counts.split(' ').skip(3).map(|count| count.parse::<i64>().unwrap()).sum();
        let mended = format!("{counts} {differing}");
        assert_eq!(self.check(&format!("{arguments}, repair => true")), [mended]);
        assert_eq!(self.untouched(but), others, "{} {but}", self.table);
        let oracle = self.oracle();
        assert_equal(&mut self.db, self.table, &oracle);
        self.assert_all_equal();
        let none = self.check(", deep => true");
        assert!(none.iter().all(|line| line.ends_with(" 0 0 0 0")), "{none:?}");
    }
}
