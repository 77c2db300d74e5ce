//! Servers, user mappings and registered sites, for the tests that need them.

use fake_matomo::{Clock, Fake, Plan, Seen, SitePlan, World};
use postgres::error::DbError;
use postgres::{Client, NoTls};

use crate::cluster::{Cluster, shared};
use crate::support::*;

/// Sites by the number, for syncs of all of them.
pub mod many {
    use super::*;

    pub const FIRST: &str = "2026-10-19";
    pub const LAST: &str = "2026-10-30";
    /// From [`FIRST`] on, as an argument of `matomo_add_site`.
    pub const START: &str = ", start_date => '2026-10-19'";

    /// So many sites with visits from [`FIRST`] to [`LAST`].
    pub fn sites(seed: u64, count: i64) -> World {
        World::generate(&Plan {
            seed,
            sites: (1..=count).map(|id| SitePlan::new(id, "Europe/Paris", 20)).collect(),
            first_day: day(FIRST),
            last_day: day(LAST),
            now: Clock::Real,
        })
    }
}

/// Sites 1 in Paris and 2 in Tokyo.
pub fn serve_two() -> Fake {
    let mut world = World::generate(&Plan {
        seed: 95,
        sites: vec![SitePlan::new(1, "Europe/Paris", 10), SitePlan::new(2, "Asia/Tokyo", 10)],
        first_day: day("2026-10-24"),
        last_day: day("2026-10-26"),
        now: Clock::Real,
    });
    world.site_mut(1).name = "Café & Co".to_owned();
    world.site_mut(2).name = "Tōkyō".to_owned();
    serve(world)
}

/// The server `analytics`, and a mapping for the current user.
pub fn server(db: &mut Client, fake: &Fake) {
    run(
        db,
        &format!(
            "CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url '{}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (token '{}')",
            fake.url(),
            fake.token()
        ),
    );
}

/// The server for another role, who may create tables and do all that there is to do with sites.
pub fn server_for(admin: &mut Client, fake: &Fake, role: &str) {
    run(
        admin,
        &format!(
            "DO $$ BEGIN
                 CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url '{url}');
             EXCEPTION WHEN duplicate_object THEN END $$;
             GRANT USAGE ON FOREIGN SERVER analytics TO {role};
             CREATE USER MAPPING FOR {role} SERVER analytics OPTIONS (token '{token}')",
            url = fake.url(),
            token = fake.token()
        ),
    );
    may_have_sites(admin, role);
}

/// Lets a role call everything, and create tables in a schema of its own name.
pub fn may_have_sites(admin: &mut Client, role: &str) {
    run(
        admin,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_sync, matomo_check, matomo_add_site, matomo_alter_site TO {role};
             GRANT EXECUTE ON PROCEDURE matomo_sync_site, matomo_sync_all TO {role};
             CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role}"
        ),
    );
}

/// Registers site 1 of the server `analytics` with further arguments, as in
/// `", start_date => '2026-01-01'"`.
pub fn add_site(db: &mut Client, arguments: &str) -> i32 {
    one(db, &format!("SELECT matomo_add_site('analytics', 1{arguments})"))
}

/// A database of its own, and a role that may log in there.
pub fn database_and_role() -> (String, Client, String) {
    let (name, mut admin) = named_database();
    let role = role(&mut admin);
    (name, admin, role)
}

/// A connection that keeps what the server says besides results.
pub fn connect_with_notices(cluster: &Cluster, database: &str, user: &str) -> (Client, Errors) {
    let errors = Errors::default();
    let theirs = errors.clone();
    let mut config = cluster.config(database, user);
    config.notice_callback(move |notice| theirs.0.lock().unwrap().push(notice));
    (config.connect(NoTls).expect("connects"), errors)
}

/// The same in the shared cluster.
pub fn connect_as(database: &str, user: &str) -> Client {
    shared().connect_as(database, user)
}

/// Notices and warnings.
#[derive(Clone, Default)]
pub struct Errors(std::sync::Arc<std::sync::Mutex<Vec<DbError>>>);

impl Errors {
    /// Takes the warnings that have come so far, but for those of long visits, which made-up worlds
    /// are full of.
    pub fn warnings(&self) -> Vec<DbError> {
        let all = self.take("WARNING");
        all.into_iter().filter(|line| !line.message().contains("only the first actions")).collect()
    }

    /// Takes the notices that speak of something.
    pub fn notices_of(&self, words: &str) -> Vec<String> {
        let all = self.take("NOTICE");
        all.iter()
            .map(|notice| notice.message().to_owned())
            .filter(|line| line.contains(words))
            .collect()
    }

    fn take(&self, severity: &str) -> Vec<DbError> {
        let mut all = self.0.lock().unwrap();
        let (taken, rest) = all.drain(..).partition(|notice| notice.severity() == severity);
        *all = rest;
        taken
    }
}

/// Has another session look at something before each answer of Matomo, which waits for it; gives
/// what was asked and what was seen.
pub fn look_before_each<T: Send + 'static>(
    fake: &Fake,
    mut db: Client,
    look: impl Fn(&mut Client) -> T + Send + 'static,
) -> std::sync::mpsc::Receiver<(Seen, T)> {
    let (asks, asked) = std::sync::mpsc::channel::<(Seen, std::sync::mpsc::Sender<()>)>();
    let (sender, seen) = std::sync::mpsc::channel();
    // A thread of its own: the fake's are no place for a client that waits.
    std::thread::spawn(move || {
        for (request, done) in asked {
            let _ = sender.send((request, look(&mut db)));
            let _ = done.send(());
        }
    });
    let asks = std::sync::Mutex::new(asks);
    fake.before_each(Box::new(move |_, request| {
        let (done, wait) = std::sync::mpsc::channel();
        asks.lock().unwrap().send((request.clone(), done)).unwrap();
        let _ = wait.recv();
    }));
    seen
}

/// Runs of a site, the oldest first: `status days pages visits`.
pub fn runs(db: &mut Client, site: i32) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT concat_ws(' ', status, days, pages, visits) FROM matomo_runs
             WHERE site_id = {site} ORDER BY runid"
        ),
    )
}
