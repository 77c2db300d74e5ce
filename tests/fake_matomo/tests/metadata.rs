//! What a token with view access may ask about sites, goals and dimensions, and the answers.

mod common;

use common::{at, http, serve};
use fake_matomo::{Clock, CustomDimension, Fake, Goal, Plan, Site, SitePlan, World};
use serde_json::{Value, json};

fn matomo() -> Fake {
    let mut world = World::new(Clock::Fixed(at("2026-11-24 11:00:00")));
    let shop = world.add_site(Site::new(4, "Shop Berlin", "Europe/Berlin"));
    shop.goals = vec![
        Goal { revenue: "5".to_owned(), ..Goal::new(1, "Contact").on_url("/contact") },
        Goal { deleted: true, ..Goal::new(2, "Gone") },
        Goal { revenue: "2.5".to_owned(), allow_multiple: true, ..Goal::new(4, "Manual multi") },
    ];
    shop.dimensions = vec![CustomDimension::new(1, "plan", "visit", 1)];
    world.add_site(Site::new(5, "Empty site", "Asia/Tokyo"));
    serve(world)
}

fn ask(fake: &Fake, token: &str, method: &str, params: &str) -> (u16, Value) {
    let target = format!("/index.php?module=API&format=JSON&method={method}&{params}");
    let (status, _, body) = http(fake, "POST", &target, &format!("token_auth={token}"));
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[test]
fn goals_as_matomo_lists_them() {
    let fake = matomo();
    let token = fake.token().to_owned();
    let contact = json!({
        "idsite": 4, "idgoal": 1, "name": "Contact", "description": "", "match_attribute": "url",
        "pattern": "/contact", "pattern_type": "contains", "case_sensitive": 0, "allow_multiple": 0,
        "revenue": 5, "deleted": 0, "event_value_as_revenue": 0
    });
    let manual = json!({
        "idsite": 4, "idgoal": 4, "name": "Manual multi", "description": "",
        "match_attribute": "manually", "allow_multiple": 1, "revenue": 2.5, "deleted": 0,
        "event_value_as_revenue": 0
    });
    let goals = json!([contact, manual]);
    assert_eq!(ask(&fake, &token, "Goals.getGoals", "idSite=4"), (200, goals.clone()));
    assert_eq!(ask(&fake, &token, "Goals.getGoals", "idSite=4,5"), (200, goals.clone()));
    assert_eq!(ask(&fake, &token, "Goals.getGoals", "idSite=all"), (200, goals));
    assert_eq!(ask(&fake, &token, "Goals.getGoals", "idSite=5"), (200, json!([])));
}

#[test]
fn dimensions_as_matomo_lists_them() {
    let fake = matomo();
    let token = fake.token().to_owned();
    let method = "CustomDimensions.getConfiguredCustomDimensions";
    let plan = json!([{
        "idcustomdimension": "1", "idsite": "4", "name": "plan", "index": "1", "scope": "visit",
        "active": true, "extractions": [], "case_sensitive": true
    }]);
    assert_eq!(ask(&fake, &token, method, "idSite=4"), (200, plan));
    assert_eq!(ask(&fake, &token, method, "idSite=5"), (200, json!([])));
    fake.knobs().plugins_off.insert("CustomDimensions".to_owned());
    let (status, told) = ask(&fake, &token, method, "idSite=4");
    assert_eq!((status, &told["result"]), (200, &json!("error")));
    assert!(told["message"].as_str().unwrap().starts_with("The plugin CustomDimensions is not"));
}

#[test]
fn a_token_is_told_of_its_sites_only() {
    let fake = matomo();
    fake.knobs().tokens.insert("guest".to_owned(), [5].into());
    let sites = |token: &str| {
        let (status, all) = ask(&fake, token, "SitesManager.getSitesWithAtLeastViewAccess", "");
        assert_eq!(status, 200);
        all.as_array().unwrap().iter().map(|s| s["idsite"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(sites(fake.token()), [json!(4), json!(5)]);
    assert_eq!(sites("guest"), [json!(5)]);
    let timezone = &ask(&fake, "guest", "SitesManager.getSiteFromId", "idSite=5").1["timezone"];
    assert_eq!(timezone, "Asia/Tokyo");
    let german = "Sie haben keinen Zugriff auf diese Ressource, weil sie 'view' Zugriff für die Webseite id = 4 benötigt.";
    for method in [
        "SitesManager.getSiteFromId",
        "Goals.getGoals",
        "CustomDimensions.getConfiguredCustomDimensions",
    ] {
        let (status, told) = ask(&fake, "guest", method, "idSite=4&language=de");
        assert_eq!((status, &told["message"]), (401, &json!(german)), "{method}");
        let (status, _) = ask(&fake, "nobody's", method, "idSite=4");
        assert_eq!(status, 401, "{method}");
    }
    let (status, told) = ask(&fake, "guest", "Goals.getGoals", "");
    assert_eq!((status, &told["result"]), (200, &json!("error")));
}

#[test]
fn made_worlds_have_goals_and_dimensions_for_what_visits_have() {
    let shop = SitePlan { ecommerce: true, ..SitePlan::new(1, "UTC", 30) };
    let world = World::generate(&Plan {
        seed: 2,
        sites: vec![shop],
        first_day: common::day("2026-11-01"),
        last_day: common::day("2026-11-07"),
        now: Clock::Fixed(at("2026-11-08 00:00:00")),
    });
    let site = world.site(1);
    let is_configured = |n: u32| site.dimensions.iter().any(|d| d.id == i64::from(n));
    for visit in &site.visits {
        for (number, _) in
            visit.dimensions.iter().chain(visit.actions.iter().flat_map(|a| &a.dimensions))
        {
            // From `texts`: a dimension that the site no longer has.
            assert!(is_configured(*number) || *number == 6, "dimension{number}");
        }
    }
}

/// Keys in their order, with the types of their values.
fn form(object: &Value) -> Vec<(String, std::mem::Discriminant<Value>)> {
    let members = object.as_object().unwrap().iter();
    members.map(|(key, value)| (key.clone(), std::mem::discriminant(value))).collect()
}

#[test]
fn answers_have_the_form_of_a_real_matomos() {
    let fake = matomo();
    let token = fake.token().to_owned();
    for (method, params) in [
        ("Goals.getGoals", "idSite=4"),
        ("CustomDimensions.getConfiguredCustomDimensions", "idSite=4"),
        ("SitesManager.getSiteFromId", "idSite=4"),
        ("SitesManager.getSitesWithAtLeastViewAccess", ""),
    ] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../recordings/answers");
        let real = std::fs::read_to_string(format!("{folder}/{method}.json")).unwrap();
        let real: Value = serde_json::from_str(&real).unwrap();
        let (_, made) = ask(&fake, &token, method, params);
        let all =
            |answer: &Value| answer.as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
        let forms: Vec<_> = all(&real).iter().map(form).collect();
        assert!(!all(&made).is_empty(), "{method}");
        for object in all(&made) {
            assert!(forms.contains(&form(&object)), "{method}: {object}");
        }
    }
}
