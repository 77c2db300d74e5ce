//! Holds a process at a boundary: by a Matomo that does not answer, or by a lock that a trigger
//! requests.

use fake_matomo::{Fake, Fault, When};
use postgres::Client;

use crate::support::*;

/// Where to hold it. `{d2}` is the day two days ago, as text.
#[derive(Clone, Copy, Debug)]
pub enum Hold {
    /// At a request without an answer: for the site, or for a day's visits after this many others;
    /// with `stored`, only once the visits of those are stored.
    Request { day: Option<&'static str>, after: usize, stored: bool },
    /// Before a row of a table is written.
    Row { table: &'static str, event: &'static str, when: &'static str },
    /// At the commit of a transaction that has written such a row: with its work done, but before
    /// the commit is recorded; or after that, but before it is visible.
    Commit { table: &'static str, event: &'static str, when: &'static str, recorded: bool },
    /// After a command.
    Ddl { event: &'static str, tag: &'static str, when: &'static str },
}

/// Server settings: a commit waits for a standby that does not exist, if told to.
pub const CONF: &str = "synchronous_commit = local\nsynchronous_standby_names = 'nobody'\n";

/// A process that gets here waits while another session holds the lock 4711. `SET CONSTRAINTS` is
/// needed since a step checks all constraints immediately.
const FUNCTIONS: &str = "
    CREATE SCHEMA hold;
    CREATE FUNCTION hold.here() RETURNS void LANGUAGE plpgsql SET lock_timeout = 0 AS $$
    BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711); END $$;
    CREATE FUNCTION hold.row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM hold.here();
        IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
    END $$;
    CREATE FUNCTION hold.defer() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        SET CONSTRAINTS public.hold_commit DEFERRED;
        IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
    END $$;
    CREATE FUNCTION hold.unrecorded() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM hold.here(); RETURN NULL; END $$;
    CREATE FUNCTION hold.recorded() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT pg_catalog.pg_try_advisory_xact_lock_shared(4711) THEN
            PERFORM pg_catalog.set_config('synchronous_commit', 'on', true);
        END IF;
        RETURN NULL;
    END $$;";

/// Creates what `arm` needs, once per database.
pub fn prepare(db: &mut Client) {
    run(db, FUNCTIONS);
}

impl Hold {
    /// From now on a process that gets there waits.
    pub fn arm(&self, db: &mut Client, fake: &Fake, noon: &Noon) {
        let filled = |text: &str| fill(noon, text);
        match *self {
            Hold::Request { day, after, .. } => {
                let when = match day {
                    Some(day) => {
                        When::live().param("date", &format!("{0},{0}", filled(day))).after(after)
                    }
                    None => When::always().method("SitesManager.getSiteFromId"),
                };
                fake.fail(Fault::Hang, when);
            }
            Hold::Row { table, event, when } => run(
                db,
                &format!(
                    "CREATE TRIGGER hold BEFORE {event} ON {table} FOR EACH ROW WHEN ({}) \
                     EXECUTE FUNCTION hold.row()",
                    filled(when)
                ),
            ),
            Hold::Commit { table, event, when, recorded } => {
                let when = filled(when);
                let function = if recorded { "recorded" } else { "unrecorded" };
                run(
                    db,
                    &format!(
                        "CREATE CONSTRAINT TRIGGER hold_commit AFTER {event} ON {table} \
                         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ({when}) \
                         EXECUTE FUNCTION hold.{function}();
                         CREATE TRIGGER hold BEFORE {event} ON {table} FOR EACH ROW WHEN ({when}) \
                         EXECUTE FUNCTION hold.defer()"
                    ),
                );
            }
            Hold::Ddl { event, tag, when } => run(
                db,
                &format!(
                    "CREATE FUNCTION hold.ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
                     BEGIN IF {when} THEN PERFORM hold.here(); END IF; END $$;
                     CREATE EVENT TRIGGER hold ON {event} WHEN TAG IN ('{tag}') \
                     EXECUTE FUNCTION hold.ddl()"
                ),
            ),
        }
        run(db, "SELECT pg_advisory_lock(4711)");
    }

    /// Whether a process is held there.
    pub fn holds(&self, db: &mut Client, fake: &Fake, pid: i32) -> bool {
        let sql = match self {
            Hold::Request { stored, .. } => {
                let hangs =
                    fake.requests().iter().any(|seen| seen.fault.as_deref() == Some("Hang"));
                if !hangs {
                    return false;
                }
                let has_written = if *stored { "backend_xid IS NOT NULL" } else { "true" };
                format!(
                    "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = {pid} \
                     AND wait_event_type = 'Extension' AND {has_written}"
                )
            }
            Hold::Commit { recorded: true, .. } => format!(
                "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'"
            ),
            _ => format!(
                "SELECT count(*) = 1 FROM pg_locks WHERE pid = {pid} AND locktype = 'advisory' \
                 AND NOT granted AND objid = 4711"
            ),
        };
        one(db, &sql)
    }

    /// The text in `docs/trust.md`.
    pub fn words(&self) -> String {
        match self {
            Hold::Request { after: 0, .. } => "held by a Matomo that does not answer".to_owned(),
            Hold::Request { .. } => "held by a Matomo that does not answer any more".to_owned(),
            Hold::Row { table, event, .. } => {
                format!("held in a trigger before `{event}` on `{table}`")
            }
            Hold::Commit { recorded: false, .. } => {
                "held in a deferred trigger at `COMMIT`".to_owned()
            }
            Hold::Commit { .. } => {
                "held by a standby that does not answer, the commit recorded, locks not released"
                    .to_owned()
            }
            Hold::Ddl { event, tag, .. } => {
                format!("held in an event trigger at `{event}` of `{tag}`")
            }
        }
    }

    /// Whether the transaction in progress remains.
    pub fn is_recorded(&self) -> bool {
        matches!(self, Hold::Commit { recorded: true, .. })
    }
}

/// Replaces placeholders for days in a text.
fn fill(noon: &Noon, text: &str) -> String {
    (0..=5).fold(text.to_owned(), |text, ago| text.replace(&format!("{{d{ago}}}"), &noon.text(ago)))
}

/// Removes what `arm` has created.
pub fn disarm(db: &mut Client, fake: &Fake) {
    fake.heal();
    run(
        db,
        "SELECT pg_advisory_unlock_all();
         DROP EVENT TRIGGER IF EXISTS hold;
         DROP FUNCTION IF EXISTS hold.ddl();
         DO $$
         DECLARE t record;
         BEGIN
             FOR t IN SELECT tgname, tgrelid::regclass AS of FROM pg_trigger
                      WHERE tgname LIKE 'hold%' AND tgparentid = 0 LOOP
                 EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.of);
             END LOOP;
         END $$",
    );
}
