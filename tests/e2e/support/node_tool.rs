//! The tables of the Node tool @socialgouv/matomo-postgres as its migrations create them, written
//! from their description.

use postgres::Client;

use crate::support::run;

/// The columns of its first migration; later ones append theirs.
const COLUMNS: &str = "
    idsite text, idvisit text, actions text, country text, region text, city text,
    operatingsystemname text, devicemodel text, devicebrand text, visitduration text,
    dayssincefirstvisit text, visitortype text, sitename text, userid text,
    serverdateprettyfirstaction date, action_id text NOT NULL, action_type text,
    action_eventcategory text, action_eventaction text, action_eventname text,
    action_eventvalue numeric, action_timespent text,
    action_timestamp timestamptz DEFAULT now() NOT NULL, usercustomproperties json,
    usercustomdimensions json, dimension1 text, dimension2 text, dimension3 text, dimension4 text,
    dimension5 text, dimension6 text, dimension7 text, dimension8 text, dimension9 text,
    dimension10 text, action_url text, sitesearchkeyword text, action_title text, visitorid text,
    referrertype text, referrername text";

const LATER_COLUMNS: [&str; 2] = ["resolution text", "experiments jsonb"];

fn add_later_columns(db: &mut Client, table: &str) {
    for column in LATER_COLUMNS {
        run(db, &format!("ALTER TABLE {table} ADD COLUMN {column}"));
    }
}

/// Its table `matomo`, with all seventeen indexes.
pub fn standard_table(db: &mut Client) {
    run(db, &format!("CREATE TABLE matomo ({COLUMNS}, UNIQUE (action_id))"));
    add_later_columns(db, "matomo");
    for columns in [
        "action_eventaction",
        "action_eventcategory",
        "action_id",
        "action_timestamp",
        "action_type",
        "action_url",
        "dimension1",
        "dimension2",
        "dimension3",
        "dimension4",
        "dimension5",
        "idvisit",
        "region",
        "userid",
        "visitorid",
        "date(timezone('UTC', action_timestamp))",
    ] {
        run(db, &format!("CREATE INDEX ON matomo ({columns})"));
    }
}

/// Its table `matomo_partitioned`, with the trigger that creates partitions: in the session's timezone,
/// by name in the current schema, and too late, as the row is already routed.
pub fn partitioned_table(db: &mut Client) {
    let columns = COLUMNS;
    run(
        db,
        &format!(
            "CREATE TABLE matomo_partitioned ({columns}, UNIQUE (action_id, action_timestamp))
                 PARTITION BY RANGE (action_timestamp)"
        ),
    );
    add_later_columns(db, "matomo_partitioned");
    run(
        db,
        "CREATE INDEX ON matomo_partitioned (dimension1) WHERE idsite = '98';
         CREATE FUNCTION create_weekly_partition_if_not_exists(parent text, at timestamptz) RETURNS void
         LANGUAGE plpgsql AS $$
         DECLARE
             monday timestamptz := date_trunc('week', at);
             week text := parent || '_' || to_char(monday, 'IYYY\"w\"IW');
         BEGIN
             IF NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                            WHERE c.relname = week AND n.nspname = current_schema()) THEN
                 EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                     week, parent, monday, monday + interval '1 week');
             END IF;
         END $$;
         CREATE FUNCTION matomo_partitioned_partition_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM create_weekly_partition_if_not_exists('matomo_partitioned', NEW.action_timestamp);
             RETURN NEW;
         END $$;
         CREATE TRIGGER matomo_partitioned_insert BEFORE INSERT ON matomo_partitioned
             FOR EACH ROW EXECUTE FUNCTION matomo_partitioned_partition_trigger()",
    );
}

/// Creates the partition for the week of an instant, like a session in this timezone.
pub fn week(db: &mut Client, zone: &str, at: &str) {
    run(
        db,
        &format!(
            "SET TimeZone = '{zone}';
             SELECT create_weekly_partition_if_not_exists('matomo_partitioned', '{at}');
             RESET TimeZone"
        ),
    );
}
