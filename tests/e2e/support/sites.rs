//! Servers, user mappings and registered sites.

use fake_matomo::{Clock, CustomDimension, Fake, Goal, Plan, Seen, SitePlan, World};
use postgres::Client;

use crate::support::*;

/// Many sites, for syncs of all of them.
pub mod many {
    use super::*;

    pub const FIRST: &str = "2026-10-19";
    pub const LAST: &str = "2026-10-30";
    /// [`FIRST`] as an argument of `matomo_add_site`.
    pub const START: &str = ", start_date => '2026-10-19'";

    /// `count` sites with visits from [`FIRST`] to [`LAST`].
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

/// Site 1 with two goals and three dimensions, site 2 with one goal.
pub fn serve_named() -> Fake {
    let fake = serve_two();
    {
        let mut world = fake.world();
        let site = world.site_mut(1);
        site.goals =
            vec![Goal::new(1, "Contact").on_url("/contact"), Goal::new(4, "O'Reilly \"x\"")];
        site.dimensions = vec![
            CustomDimension::new(1, "plan", "visit", 1),
            CustomDimension::new(3, "section", "action", 1),
            CustomDimension { active: false, ..CustomDimension::new(4, "city", "action", 2) },
        ];
        let site = world.site_mut(2);
        site.goals = vec![Goal { revenue: "2.50".to_owned(), ..Goal::new(1, "登録") }];
        site.dimensions = vec![CustomDimension::new(3, "author", "action", 1)];
    }
    fake
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

/// Registers site 1 of the server `analytics` with more arguments, for example
/// `", start_date => '2026-01-01'"`.
pub fn add_site(db: &mut Client, arguments: &str) -> i32 {
    one(db, &format!("SELECT matomo_add_site('analytics', 1{arguments})"))
}

/// Runs a query in another session before each answer of Matomo. Returns the requests and the
/// results.
pub fn look_before_each<T: Send + 'static>(
    fake: &Fake,
    mut db: Client,
    look: impl Fn(&mut Client) -> T + Send + 'static,
) -> std::sync::mpsc::Receiver<(Seen, T)> {
    let (asks, asked) = std::sync::mpsc::channel::<(Seen, std::sync::mpsc::Sender<()>)>();
    let (sender, seen) = std::sync::mpsc::channel();
    // On a thread of its own, as the client must not block the fake's threads.
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

/// Runs of a site, oldest first: `status days pages visits`.
pub fn runs(db: &mut Client, site: i32) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT concat_ws(' ', status, days, pages, visits) FROM matomo_runs
             WHERE site_id = {site} ORDER BY runid"
        ),
    )
}
