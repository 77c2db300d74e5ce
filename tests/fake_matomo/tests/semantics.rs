//! The Live API behaves as Matomo's does.

mod common;

use common::{at, call, day, http, ids, live, paris, refusal, serve};
use fake_matomo::{Action, ActionTime, Clock, Site, TokenPlace, Visit};
use serde_json::json;

#[test]
fn days_end_on_the_first_second_of_the_next() {
    let fake = serve(paris(&[
        (1, "2026-11-19 22:59:59"),
        (2, "2026-11-19 23:00:00"),
        (3, "2026-11-20 22:59:59"),
        (4, "2026-11-20 23:00:00"),
        (5, "2026-11-20 23:00:01"),
    ]));
    assert_eq!(ids(&fake, "period=day&date=2026-11-20&filter_sort_order=asc"), [2, 3, 4]);
    assert_eq!(
        ids(&fake, "period=range&date=2026-11-20,2026-11-20&filter_sort_order=asc"),
        [2, 3, 4]
    );
    assert_eq!(ids(&fake, "period=week&date=2026-11-20"), [5, 4, 3, 2, 1]);
    assert_eq!(ids(&fake, "period=month&date=2026-10-31"), [0; 0]);
    let (_, counts) =
        call(&fake, "VisitsSummary.getVisits", "idSite=1&period=day&date=2026-11-19,2026-11-22");
    assert_eq!(counts, json!({"2026-11-19": 1, "2026-11-20": 2, "2026-11-21": 2, "2026-11-22": 0}));
}

#[test]
fn days_follow_the_clocks() {
    // 2026-10-25 has 25 hours in Paris.
    let fake = serve(paris(&[
        (1, "2026-10-24 22:00:00"),
        (2, "2026-10-25 22:59:59"),
        (3, "2026-10-25 23:00:01"),
    ]));
    assert_eq!(ids(&fake, "period=day&date=2026-10-25&filter_sort_order=asc"), [1, 2]);
    let visits = live(&fake, "filter_sort_order=asc");
    let ahead = |n: usize| {
        visits[n]["actionDetails"][0]["timestamp"].as_i64().unwrap()
            - visits[n]["firstActionTimestamp"].as_i64().unwrap()
    };
    assert_eq!((ahead(0), ahead(1)), (7200, 3600));
}

/// The plugin RollUpReporting. `timestamp` is by the clock of the visit's own site.
#[test]
fn a_rollup_lists_the_visits_of_its_sites_with_their_own_clocks() {
    let mut world = paris(&[(1, "2026-10-24 22:00:00"), (2, "2026-10-25 10:00:00")]);
    let noon = at("2026-10-25 09:00:00");
    let first = world.add_site(Site::new(2, "UTC", "UTC"));
    first.add(Visit::new(3, noon).and(Action::page(noon, "/", "Noon")));
    let rollup = world.add_site(Site::new(3, "All", "UTC"));
    (rollup.kind, rollup.children) = ("rollup".to_owned(), vec![1, 2]);
    let fake = serve(world);
    let params = "idSite=3&period=range&date=2026-10-25,2026-10-25&filter_sort_order=asc";
    let (_, visits) = call(&fake, "Live.getLastVisitsDetails", params);
    let of = |visit: &serde_json::Value| {
        let [id, site, first] =
            ["idVisit", "idSite", "firstActionTimestamp"].map(|key| visit[key].as_i64().unwrap());
        (id, site, visit["actionDetails"][0]["timestamp"].as_i64().unwrap() - first)
    };
    let visits: Vec<_> = visits.as_array().unwrap().iter().map(of).collect();
    assert_eq!(visits, [(3, 2, 0), (2, 1, 3600)]);
}

#[test]
fn today_as_a_day_begins_yesterday() {
    let fake = serve(paris(&[
        (1, "2026-11-22 22:00:00"),
        (2, "2026-11-23 10:00:00"),
        (3, "2026-11-24 10:00:00"),
    ]));
    assert_eq!(ids(&fake, "period=day&date=today"), [3, 2]);
    assert_eq!(ids(&fake, "period=day&date=2026-11-24"), [3, 2]);
    assert_eq!(ids(&fake, "period=range&date=2026-11-24,2026-11-24"), [3]);
    assert_eq!(ids(&fake, "period=day&date=yesterday"), [2]);
    assert_eq!(ids(&fake, "period=range&date=2026-11-25,2026-11-25"), [0; 0]);
}

#[test]
fn a_range_that_ends_today_has_no_end() {
    let fake = serve(paris(&[
        (1, "2026-11-23 10:00:00"),
        (2, "2026-11-24 10:00:00"),
        (3, "2026-11-26 10:00:00"),
    ]));
    assert_eq!(ids(&fake, "period=range&date=2026-11-24,2026-11-24"), [3, 2]);
    assert_eq!(ids(&fake, "period=range&date=2026-11-23,2026-11-23"), [1]);
}

#[test]
fn a_visit_is_there_when_it_has_arrived() {
    let fake = serve(paris(&[(1, "2026-11-23 10:00:00"), (2, "2026-11-24 10:00:00")]));
    let now = fake.world().now.seconds();
    let rows =
        || fake.world().oracle(1, day("2026-11-23"), day("2026-11-24"), ActionTime::Utc).len();
    let all = rows();
    fake.world().site_mut(1).visit_mut(2).arrives = now + 1;
    assert_eq!(ids(&fake, "period=range&date=2026-11-23,2026-11-24"), [1]);
    assert!(rows() < all);
    fake.world().now = Clock::Fixed(now + 1);
    assert_eq!(ids(&fake, "period=range&date=2026-11-23,2026-11-24"), [2, 1]);
    assert_eq!(rows(), all);
}

#[test]
fn keyset_is_strict_and_ties_go_by_id() {
    let fake = serve(paris(&[
        (9, "2026-11-20 10:00:00"),
        (7, "2026-11-20 10:00:00"),
        (8, "2026-11-20 10:00:00"),
        (6, "2026-11-20 10:00:01"),
    ]));
    assert_eq!(ids(&fake, "filter_sort_order=asc"), [7, 8, 9, 6]);
    assert_eq!(ids(&fake, ""), [6, 9, 8, 7]);
    let second = at("2026-11-20 10:00:00");
    assert_eq!(ids(&fake, &format!("minTimestamp={second}")), [6]);
    assert_eq!(ids(&fake, &format!("minTimestamp={}", second - 1)).len(), 4);
    assert_eq!(ids(&fake, "minTimestamp=abc").len(), 4);
    assert_eq!(ids(&fake, "filter_sort_order=asc&filter_limit=2&filter_offset=1"), [8, 9]);
}

#[test]
fn limits_are_read_as_matomo_reads_them() {
    let ends: Vec<_> = (1..=120).map(|id| (id, "2026-11-20 10:00:00")).collect();
    let fake = serve(paris(&ends));
    for (limit, rows) in [
        ("", 100),
        ("filter_limit=-1", 120),
        ("filter_limit=0", 0),
        ("filter_limit=", 10),
        ("filter_limit=x", 10),
    ] {
        assert_eq!(ids(&fake, limit).len(), rows, "{limit}");
    }
    assert_eq!(ids(&fake, "segment=visitId==17"), [17]);
    assert_eq!(ids(&fake, "segment=visitId>=17;visitId<19"), [18, 17]);
    let visits =
        live(&fake, "doNotFetchActions=1&showColumns=idVisit,actionDetails&filter_limit=1");
    assert_eq!(visits, [json!({"idVisit": 120, "actionDetails": []})]);
}

#[test]
fn long_visits_are_cut() {
    let mut world = paris(&[(1, "2026-11-20 10:00:00")]);
    let visit = world.site_mut(1).visit_mut(1);
    for n in 1..520 {
        visit.push(Action::page(visit.first + n, "/", format!("page {n}")));
    }
    let fake = serve(world);
    let visits = live(&fake, "");
    assert_eq!(visits[0]["actionDetails"].as_array().unwrap().len(), 500);
    assert_eq!(
        (&visits[0]["truncatedActionsCount"], &visits[0]["actions"]),
        (&json!(20), &json!(520))
    );
    fake.world().max_actions = 1000;
    assert!(live(&fake, "")[0].get("truncatedActionsCount").is_none());
}

#[test]
fn refusals_have_matomos_words() {
    let fake = serve(paris(&[]));
    let of = |params: &str| refusal(&fake, params);
    assert_eq!(
        of("idSite=999"),
        (
            200,
            "An unexpected website was found in the request: website id was set to '999' ."
                .to_owned()
        )
    );
    assert!(
        of("idSite=1&period=day&date=2026-13-45")
            .1
            .starts_with("Date format must be: YYYY-MM-DD, or 'today'")
    );
    assert!(of("idSite=1&period=range&date=2026-11-01").1.contains("is not a correct date range"));
    assert!(
        of("idSite=1&period=fortnight&date=2026-11-01")
            .1
            .starts_with("The period 'fortnight' is not supported.")
    );
    assert_eq!(of("idSite=1&segment=foo==1").1, "Segment 'foo' is not a supported segment.");
    fake.knobs().hidden_sites.insert(1);
    let no_view =
        "You can't access this resource as it requires 'view' access for the website id = 1.";
    assert_eq!(of("idSite=1"), (401, no_view.to_owned()));
    assert_eq!(call(&fake, "SitesManager.getSitesWithAtLeastViewAccess", "").1, json!([]));
    let (status, body) = call(&fake, "Live.nope", "");
    assert_eq!(status, 400);
    assert!(
        body["message"].as_str().unwrap().ends_with(r"in the module '\Piwik\Plugins\Live\API'.")
    );
    assert_eq!(call(&fake, "Nope.nope", "").0, 200);
}

#[test]
fn only_the_body_may_hold_the_token() {
    let fake = serve(paris(&[]));
    let version = "/?module=API&method=API.getMatomoVersion&format=JSON";
    let good = format!("token_auth={}", fake.token());
    assert_eq!(http(&fake, "POST", version, &good).2, br#"{"value":"5.2.0-b5"}"#);
    let (status, _, body) = http(&fake, "GET", &format!("{version}&{good}"), "");
    assert_eq!(status, 401);
    assert!(String::from_utf8_lossy(&body).contains("required to be sent as a POST parameter."));
    assert_eq!(http(&fake, "POST", version, "token_auth=wrong").0, 401);
    assert_eq!(http(&fake, "POST", version, "token_auth=").0, 401);
    let seen = fake.requests();
    let places: Vec<_> = seen.iter().map(|s| s.token).collect();
    assert_eq!(places, [TokenPlace::Body, TokenPlace::Query, TokenPlace::Body, TokenPlace::None]);
    assert!(!format!("{seen:?}").contains(fake.token()));
    for _ in 0..18 {
        http(&fake, "POST", version, "token_auth=wrong");
    }
    let (status, _, body) = http(&fake, "POST", version, &good);
    assert_eq!(status, 500);
    assert!(String::from_utf8_lossy(&body).contains("Too many failed logins."));
    fake.heal();
    assert_eq!(http(&fake, "POST", version, &good).0, 200);
}

#[test]
fn paths_and_formats() {
    let fake = serve(paris(&[(1, "2026-11-20 10:00:00")]));
    let query = "?module=API&method=Live.getLastVisitsDetails&idSite=1";
    let good = format!("token_auth={}", fake.token());
    for path in ["/", "/index.php", "/matomo/", "/matomo/index.php"] {
        assert_eq!(
            http(&fake, "POST", &format!("{path}{query}&format=json"), &good).0,
            200,
            "{path}"
        );
    }
    let (status, head, _) = http(&fake, "POST", &format!("/matomo{query}"), &good);
    assert!(status == 301 && head.contains("location: http://x/matomo/"), "{head}");
    let (status, _, body) = http(&fake, "POST", "/nope", &good);
    assert!(
        status == 404
            && body.ends_with(b"<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n")
    );
    assert!(http(&fake, "POST", &format!("/{query}"), &good).1.contains("text/xml"));
    assert!(
        http(&fake, "POST", &format!("/{query}&format=zzz"), &good)
            .2
            .starts_with(b"Error: Renderer format")
    );
}

#[test]
fn visits_grow_under_the_pager() {
    let fake = serve(paris(&[(1, "2026-11-24 10:00:00"), (2, "2026-11-24 10:00:01")]));
    fake.before_each(Box::new(|world, _| {
        let at = world.now.seconds();
        world.site_mut(1).visit_mut(1).push(Action::page(at, "/more", "More"));
    }));
    assert_eq!(ids(&fake, "filter_sort_order=asc"), [2, 1]);
    fake.clear_before_each();
    let (_, recent) = call(&fake, "Live.getMostRecentVisitsDateTime", "idSite=1");
    assert_eq!(recent, json!({"value": "2026-11-24 11:00:00"}));
    // A late hit lands in the middle and does not change the last time.
    let mut world = fake.world();
    let visit = world.site_mut(1).visit_mut(1);
    visit.push(Action::goal(visit.first + 5, 1, "Late", "/late"));
    assert_eq!((visit.actions[1].serial, visit.last), (3, at("2026-11-24 11:00:00")));
    visit.heartbeat(60);
    assert_eq!(
        (visit.time_spent(0), visit.time_spent(2), visit.duration()),
        (Some(3600), Some(60), 3660)
    );
    assert!(world.site_mut(1).delete(2).is_some() && world.site(1).visits.len() == 1);
}

#[test]
fn recordings_are_served_with_the_same_semantics() {
    let fake = serve(paris(&[]));
    let visit = |id: i64, last: &str| json!({"idSite": "1", "idVisit": id, "lastActionTimestamp": at(last), "actionDetails": [{"type": 13}]});
    fake.replace_visits_json(
        1,
        vec![visit(2, "2026-11-19 23:00:00"), visit(1, "2026-11-20 23:00:01")],
    );
    assert_eq!(ids(&fake, "period=range&date=2026-11-20,2026-11-20"), [2]);
    assert_eq!(live(&fake, "doNotFetchActions=1")[0]["actionDetails"], json!([]));
    assert_eq!(live(&fake, "")[0]["actionDetails"], json!([{"type": 13}]));
}

#[test]
fn old_servers_send_numbers_as_strings() {
    let mut world = paris(&[]);
    world.numbers_as_strings = true;
    world.add_site(Site::new(2, "Half", "UTC-3.5"));
    let event = Action::event(at("2026-11-20 10:00:00"), "c", "a").value("1e+30");
    world.site_mut(1).add(Visit::new(1, event.at).and(event));
    let fake = serve(world);
    let visit = &live(&fake, "language=fr")[0];
    assert_eq!(
        (&visit["idVisit"], &visit["actionDetails"][0]["eventValue"]),
        (&json!("1"), &json!("1e+30"))
    );
    assert_eq!(visit["deviceType"], "Ordinateur");
    assert_eq!(call(&fake, "SitesManager.getSiteFromId", "idSite=2").1["timezone"], "UTC-3.5");
    assert_eq!(fake.world().site(2).zone().midnight(day("2026-11-20")), at("2026-11-20 03:30:00"));
}
