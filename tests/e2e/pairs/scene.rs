//! The database of the pairs, the same before each of them.

use fake_matomo::{ActionTime, Fake, Site, World};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::*;

pub const VISITOR: &str = "00000000deadbeef";

/// Site 1's visits of the person to be erased; those of site 2 have ids greater by 2000. Some were
/// copied 12 days ago, some are still to be copied, some are missing in the table.
pub const PERSON: [i64; 5] = [1121, 1122, 1043, 1042, 1031];

/// A partitioned table with two sites: all days but the last six are copied. One visit of each
/// site is missing in a copied day (1122 and 3122).
pub struct Scene {
    name: String,
    pub db: Client,
    pub fake: Fake,
    pub noon: Noon,
    /// The owner of the table and the sites.
    pub role: String,
    /// Site 1, registered.
    pub site: i32,
    /// The partition of the day 12 days ago.
    pub partition: String,
    world: World,
}

/// The companions.
const KINDS: [&str; 3] = ["visits", "conversions", "items"];

const HOLD: &str = "
    CREATE SCHEMA hold; GRANT USAGE ON SCHEMA hold TO PUBLIC;
    CREATE FUNCTION hold.row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_catalog.current_setting('hold.me', true) = TG_OP THEN
            PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711);
        END IF;
        RETURN NULL;
    END $$;
    CREATE FUNCTION hold.ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF pg_catalog.current_setting('hold.me', true) = 'DELETE' THEN
            PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711);
        END IF;
    END $$;
    CREATE EVENT TRIGGER hold ON ddl_command_start WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION hold.ddl();";

impl Scene {
    pub fn new() -> Scene {
        let noon = Noon::new();
        let mut world = noon.world(20);
        let mut other = Site::new(2, "Other", &noon.zone);
        for visit in &world.site(1).visits {
            let mut visit = visit.clone();
            visit.id += 2000;
            other.add(visit);
        }
        world.add_site(other);
        for (site, id) in PERSON.iter().flat_map(|id| [(1, *id), (2, *id + 2000)]) {
            VISITOR.clone_into(&mut world.site_mut(site).visit_mut(id).visitor_id);
        }
        let (name, mut db) = named_database();
        let fake = serve(world.clone());
        let role = role(&mut db);
        run(
            &mut db,
            "SET client_min_messages = warning; SET TimeZone = 'UTC'; SET search_path = public; SET statement_timeout = '30 s'",
        );
        run(
            &mut db,
            "SELECT matomo_create_table('visits', true); CREATE TABLE oracle (LIKE matomo_action_node)",
        );
        for site in [1, 2] {
            let days =
                format!(", '{}', '{}', destination => 'visits'", noon.text(19), noon.text(6));
            sync_site(&mut db, &fake, site, &days);
            let all = world.oracle(site, noon.day(19), noon.day(0), ActionTime::Utc);
            copy_rows(&mut db, "oracle", &all);
        }
        run(
            &mut db,
            "CREATE TABLE kept AS SELECT * FROM visits WHERE idvisit NOT IN ('1122', '3122');
             CREATE TABLE known AS TABLE matomo_ledger",
        );
        for kind in KINDS {
            let kept = format!(
                "CREATE TABLE kept_{kind} AS SELECT * FROM visits_{kind} WHERE idvisit NOT IN (1122, 3122)"
            );
            run(&mut db, &kept);
        }
        run(&mut db, HOLD);
        Scene { name, db, fake, noon, role, site: 0, partition: String::new(), world }
    }

    /// A session with limits on its waits.
    pub fn connect(&self) -> Client {
        let mut db = shared().connect(&self.name);
        run(&mut db, "SET statement_timeout = '30 s'");
        db
    }

    /// The same, with its notices.
    pub fn connect_with_notices(&self) -> (Client, Errors) {
        let (mut db, notices) = connect_with_notices(shared(), &self.name, "postgres");
        run(&mut db, "SET statement_timeout = '30 s'");
        (db, notices)
    }

    /// Rows before this instant are dropped: the start of the day ten days ago.
    pub fn bound(&self) -> i64 {
        self.noon.at(10, "00:00:00")
    }

    /// The errors of runs, for the failure message.
    pub fn said(&mut self) -> Vec<String> {
        texts(
            &mut self.db,
            "SELECT concat_ws(' ', status, sqlstate, return_message) FROM matomo_run_log",
        )
    }

    /// Restores the initial state; registered site 1 may have a retention of ten days.
    pub fn reset(&mut self, has_retention: bool) {
        self.world.clone_into(&mut self.fake.world());
        let role = &self.role;
        let db = &mut self.db;
        run(
            db,
            &format!(
                "DO $$ DECLARE t regclass; BEGIN
                     FOR t IN SELECT c.oid FROM pg_class c WHERE c.relname ~ '^(visits|renamed)' AND c.relkind IN ('r', 'p')
                         AND NOT c.relispartition LOOP
                         EXECUTE format('DROP TABLE %s', t);
                     END LOOP;
                     CREATE ROLE {role} LOGIN;
                 EXCEPTION WHEN duplicate_object THEN
                     FOR t IN SELECT c.oid FROM pg_class c WHERE c.relname ~ '^(visits|renamed)' AND c.relkind IN ('r', 'p')
                         AND NOT c.relispartition LOOP
                         EXECUTE format('DROP TABLE %s', t);
                     END LOOP;
                 END $$;
                 DELETE FROM matomo_ledger; DELETE FROM matomo_run_log; DELETE FROM matomo_companion;
                 DELETE FROM matomo_site_config; DELETE FROM matomo_site_state;
                 DROP SERVER IF EXISTS analytics CASCADE"
            ),
        );
        server_for(db, &self.fake, role);
        let token = self.fake.token();
        // No partition is empty, whatever weekday it is.
        let first: String = one(db, "SELECT min(action_timestamp)::text FROM kept");
        run(
            db,
            &format!(
                "CREATE USER MAPPING FOR postgres SERVER analytics OPTIONS (token '{token}');
                 GRANT USAGE, CREATE ON SCHEMA public TO {role};
                 SET ROLE {role};
                 SELECT matomo_create_table('visits', true), matomo_create_table('visits_moved');
                 SELECT matomo_create_partitions('visits', '{first}', now());
                 RESET ROLE;
                 INSERT INTO visits SELECT * FROM kept;
                 INSERT INTO matomo_ledger SELECT (jsonb_populate_record(k,
                     jsonb_build_object('destination', 'visits'::regclass::oid))).* FROM known k;
                 CREATE TRIGGER hold_insert AFTER INSERT ON visits FOR EACH ROW
                     WHEN (NEW.idvisit IN ('1122', '3122', '1042', '3042')) EXECUTE FUNCTION hold.row();
                 CREATE TRIGGER hold_delete AFTER DELETE ON visits FOR EACH ROW EXECUTE FUNCTION hold.row()"
            ),
        );
        for kind in KINDS {
            run(db, &format!("INSERT INTO visits_{kind} SELECT * FROM kept_{kind}"));
        }
        let site = |n: i32| {
            format!(
                "SELECT matomo_add_site('analytics', {n}, start_date => '{}', destination => 'public.visits')",
                self.noon.text(19)
            )
        };
        run(db, &format!("SET ROLE {role}"));
        self.site = one(db, &site(1));
        if has_retention {
            run(db, &format!("SELECT matomo_alter_site({}, retention => '10 days')", self.site));
        }
        run(db, &format!("{}; RESET ROLE", site(2)));
        self.partition =
            one(db, "SELECT tableoid::regclass::text FROM visits WHERE idvisit = '1121' LIMIT 1");
    }
}
