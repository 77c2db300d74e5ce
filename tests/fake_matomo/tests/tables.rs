//! The oracle of the four tables: by example, by invariants, and against a second mapping that
//! reads the JSON.

mod common;
mod second_mapping;

use common::{at, day, live, serve};
use fake_matomo::{
    Action, ActionTime, COLUMNS, Campaign, Clock, Fake, Item, OracleTable, OracleTables, Plan,
    Product, Site, SitePlan, Visit, World, literal,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn plan(seed: u64, odd_values: bool) -> Plan {
    let shop =
        SitePlan { ecommerce: true, odd_values, ..SitePlan::new(1, "America/Los_Angeles", 40) };
    let (first_day, last_day) = (day("2026-10-28"), day("2026-11-03"));
    let now = Clock::Fixed(at("2026-11-04 15:00:00"));
    Plan { seed, sites: vec![shop], first_day, last_day, now }
}

fn tables(world: &World, time: ActionTime) -> OracleTables {
    world.oracle_tables(1, day("2026-01-01"), day("2027-01-01"), time)
}

fn item(sku: &str, categories: &[&str], price: i64, quantity: i64) -> Item {
    let categories = categories.iter().map(|c| (*c).to_owned()).collect();
    Item { sku: sku.to_owned(), name: format!("The {sku}"), categories, price, quantity }
}

/// The rows as maps of the columns that are not NULL.
fn rows(table: &OracleTable) -> Vec<BTreeMap<&str, &str>> {
    let pairs = |row| {
        let pairs = table.columns.iter().zip::<&Vec<Option<String>>>(row);
        pairs.filter_map(|(column, value)| Some((*column, value.as_deref()?))).collect()
    };
    table.rows.iter().map(pairs).collect()
}

fn assert_has(row: &BTreeMap<&str, &str>, wanted: &[(&str, &str)]) {
    for (column, value) in wanted {
        assert_eq!(row.get(column), Some(value), "{column}");
    }
}

fn shop() -> World {
    let mut world = World::new(Clock::Fixed(at("2026-11-30 00:00:00")));
    let site = world.add_site(Site { ecommerce: true, ..Site::new(3, "Shop", "Europe/Paris") });
    // 00:30 of the 25th in Paris.
    let first = at("2026-11-24 23:30:00");
    let product = Product {
        sku: "S1".to_owned(),
        name: "Shoe".to_owned(),
        categories: vec!["Shoes".to_owned(), "On sale, now".to_owned()],
        price: 1990,
    };
    let mut visit = Visit::new(7, first)
        .and(Action::page(first, "https://x.org/", "Home").dimension(3, "b").null_dimension(4))
        .and(Action::search(first + 1, "shoe").results("all", Some(3)))
        .and(Action::page(first + 2, "https://x.org/s1", "Shoe").product(product))
        .and(Action::goal(first + 2, 5, "Seen", "https://x.org/s1").revenue("2.50"))
        .and(Action::goal(first + 3, 6, "Gone", "https://x.org/s1").manual().deleted())
        .and(Action::content(first + 4, "https://x.org/s1", "Ad", "a.png").target("/t", None))
        .and(Action::order(
            first + 5,
            "ORD1",
            vec![item("S1", &["A b", "C"], 1990, 2), item("S2", &[], 500, 1)],
        ));
    visit.actions[2].load_ms = Some(321);
    visit.city = Some("Paris".to_owned());
    visit.set_dimension(1, Some("guest"));
    visit.set_dimension(2, Some(""));
    visit.set_variable(1, "plan", "free \"x\"");
    visit.experiments = Some(json!([{"name": "Button", "id": 1}]));
    visit.campaign =
        Some(Campaign { name: "bf".to_owned(), group: "g".to_owned(), ..Campaign::default() });
    visit.extra.insert("new".to_owned(), json!({"bb": 1, "a": [1.50, null]}));
    visit.extra.insert("searches".to_owned(), json!("many"));
    site.add(visit);
    world
}

#[test]
fn a_visit_to_a_shop_in_four_tables() {
    let tables = shop().oracle_tables(3, day("2026-11-25"), day("2026-11-25"), ActionTime::Utc);
    let visits = rows(&tables.visits);
    assert_eq!(visits.len(), 1);
    assert_has(
        &visits[0],
        &[
            ("idsite", "3"),
            ("idvisit", "7"),
            ("firstaction", "2026-11-24 23:30:00+00"),
            ("lastaction", "2026-11-24 23:30:05+00"),
            ("day", "2026-11-25"),
            ("visitlocaltime", "00:30:00"),
            ("visitconverted", "true"),
            ("visitecommercestatus", "ordered"),
            ("goalconversions", "2"),
            ("actions", "3"),
            ("truncatedactionscount", "0"),
            ("secondssincelastecommerceorder", "0"),
            ("referrertype", "direct"),
            ("referrername", ""),
            ("campaignname", "bf"),
            ("campaignid", ""),
            ("latitude", "48.8566"),
            ("entryurl", "https://x.org/"),
            ("entrytitle", "Home"),
            ("exiturl", "https://x.org/s1"),
            ("pageviews", "2"),
            ("dimensions", r#"{"dimension1": "guest"}"#),
            ("customvariables", r#"{"plan": "free \"x\""}"#),
            ("experiments", r#"[{"id": 1, "name": "Button"}]"#),
            ("extra", r#"{"new": {"a": [1.5, null], "bb": 1}, "searches": "many"}"#),
        ],
    );
    for column in ["searches", "userid", "region", "referrerurl", "referrerkeywordposition"] {
        assert_eq!(visits[0].get(column), None, "{column}");
    }
    let actions = rows(&tables.actions);
    assert_eq!(actions.len(), 7);
    assert_has(
        &actions[0],
        &[
            ("idsite", "3"),
            ("action_timespent", "1"),
            ("usercustomdimensions", r#"{"dimension1": "guest", "dimension3": "b"}"#),
            ("usercustomproperties", r#"{"plan": "free \"x\""}"#),
            ("experiments", r#"[{"id": 1, "name": "Button"}]"#),
            ("pageid", "70001"),
            ("pageviewposition", "1"),
            ("day", "2026-11-25"),
        ],
    );
    assert_has(&actions[1], &[("sitesearchcategory", "all"), ("sitesearchcount", "3")]);
    assert_has(
        &actions[2],
        &[
            ("pageloadtimemilliseconds", "321"),
            ("productviewsku", "S1"),
            ("productviewname", "Shoe"),
            ("productviewprice", "19.9"),
            ("productviewcategories", r#"{Shoes,"On sale, now"}"#),
        ],
    );
    assert_has(&actions[3], &[("goalid", "5"), ("goalname", "Seen"), ("revenue", "2.50")]);
    assert_eq!((actions[4].get("goalid"), actions[4].get("goalname")), (None, None));
    assert_has(
        &actions[5],
        &[("contentname", "Ad"), ("contentpiece", "a.png"), ("contenttarget", "/t")],
    );
    assert_has(&actions[6], &[("orderid", "ORD1"), ("revenue", "44.8"), ("items", "3")]);
    assert_eq!(actions[6].get("pageid"), None);
    let conversions = rows(&tables.conversions);
    assert_eq!(conversions.len(), 3);
    assert_has(
        &conversions[0],
        &[
            ("action_id", "7_3"),
            ("type", "goal"),
            ("converted", "2026-11-24 23:30:02+00"),
            ("goalpageid", "70003"),
            ("url", "https://x.org/s1"),
            ("referrertype", "direct"),
            ("dimensions", "{}"),
        ],
    );
    assert_eq!((conversions[1].get("goalpageid"), conversions[1].get("goalid")), (None, None));
    assert_has(
        &conversions[2],
        &[
            ("type", "ecommerceOrder"),
            ("orderid", "ORD1"),
            ("revenuesubtotal", "44.8"),
            ("revenuetax", "1.5"),
            ("revenueshipping", "0"),
            ("revenuediscount", "0"),
        ],
    );
    let items = rows(&tables.items);
    let first = [("place", "0"), ("itemcategory", "A b"), ("categories", r#"{"A b",C}"#)];
    assert_has(&items[0], &first);
    assert_has(&items[0], &[("action_id", "7_6"), ("price", "19.9"), ("quantity", "2")]);
    assert_has(&items[1], &[("place", "1"), ("categories", "{}"), ("price", "5")]);
    assert_eq!(items[1].get("itemcategory"), None);
}

#[test]
fn an_exit_is_not_known_where_actions_are_cut() {
    let mut world = common::paris(&[(1, "2026-11-20 10:00:00"), (2, "2026-11-20 11:00:00")]);
    world.max_actions = 2;
    let visit = world.site_mut(1).visit_mut(1);
    for second in 1..4 {
        visit.push(Action::page(visit.first + second, "https://x.org/on", "On"));
    }
    // A visit without actions has a row too.
    world.site_mut(1).add(Visit::new(3, at("2026-11-20 12:00:00")));
    let tables = tables(&world, ActionTime::Utc);
    let visits = rows(&tables.visits);
    assert_has(
        &visits[0],
        &[("truncatedactionscount", "2"), ("pageviews", "2"), ("entrytitle", "Title")],
    );
    assert_eq!((visits[0].get("exiturl"), visits[0].get("exittitle")), (None, None));
    assert_has(&visits[1], &[("exittitle", "Title"), ("pageviews", "1")]);
    assert_has(&visits[2], &[("pageviews", "0"), ("customvariables", "{}"), ("dimensions", "{}")]);
    assert_eq!(visits[2].get("entryurl"), None);
}

#[test]
fn tables_and_json_agree() {
    let fake = serve(World::generate(&plan(7, false)));
    let oracle = tables(&fake.world(), ActionTime::AsSent);
    let visits = live(&fake, "filter_limit=-1&filter_sort_order=asc");
    let mapped = second_mapping::tables(&visits);
    for (name, oracle, mapped) in [
        ("visits", &oracle.visits, &mapped.visits),
        ("actions", &oracle.actions, &mapped.actions),
        ("conversions", &oracle.conversions, &mapped.conversions),
        ("items", &oracle.items, &mapped.items),
    ] {
        assert_eq!(oracle.rows.len(), mapped.len(), "{name}");
        assert!(oracle.rows.len() > 20, "{name}: {}", oracle.rows.len());
        for (row, mapped) in oracle.rows.iter().zip(mapped) {
            for (column, value) in oracle.columns.iter().zip(row) {
                // The 43 columns have their own test.
                if COLUMNS.contains(column) && name == "actions" {
                    continue;
                }
                assert_eq!(value, &mapped(column), "{name}.{column} of {row:?}");
            }
        }
    }
}

#[test]
fn what_matomo_counts_is_what_the_tables_hold() {
    let world = World::generate(&plan(9, false));
    let tables = tables(&world, ActionTime::Utc);
    let number = |text: &str| text.parse::<f64>().unwrap();
    let conversions = rows(&tables.conversions);
    let items = rows(&tables.items);
    let mut goals: BTreeMap<&str, i64> = BTreeMap::new();
    for goal in conversions.iter().filter(|c| c["type"] == "goal") {
        *goals.entry(goal["idvisit"]).or_default() += 1;
    }
    for visit in rows(&tables.visits).iter().filter(|v| v["truncatedactionscount"] == "0") {
        let counted = goals.get(visit["idvisit"]).copied().unwrap_or(0).to_string();
        assert_eq!(visit["goalconversions"], counted, "visit {}", visit["idvisit"]);
    }
    let mut sales = 0;
    for sale in conversions.iter().filter(|c| c["type"] != "goal") {
        let of: Vec<_> = items.iter().filter(|i| i["action_id"] == sale["action_id"]).collect();
        let quantity: f64 = of.iter().map(|i| number(i["quantity"])).sum();
        assert_eq!(number(sale["items"]), quantity);
        let sum: f64 = of.iter().map(|i| number(i["price"]) * number(i["quantity"])).sum();
        let discount = sale.get("revenuediscount").map_or(0.0, |d| number(d));
        assert!((number(sale["revenue"]) - (sum - discount)).abs() < 0.005, "{sale:?}");
        sales += 1;
    }
    assert!(sales > 10, "{sales}");
    // Each conversion is also a row of the actions, with the same revenue and time.
    let actions: BTreeMap<_, _> =
        rows(&tables.actions).into_iter().map(|a| (a["action_id"], a)).collect();
    for conversion in &conversions {
        let action = &actions[conversion["action_id"]];
        assert_eq!(action["revenue"], conversion["revenue"]);
        assert_eq!(action["action_timestamp"], conversion["converted"]);
    }
}

/// A totals row sums all that the visitor ever did, so it changes in visits long over.
#[test]
fn lifetime_totals_change_in_old_visits() {
    let mut world = World::new(Clock::Fixed(at("2026-11-30 00:00:00")));
    let site = world.add_site(Site { ecommerce: true, ..Site::new(1, "Shop", "UTC") });
    let order = |n: i64, at| Action::order(at, format!("O{n}"), vec![item("S", &["C"], 1000, n)]);
    let first = at("2026-11-01 10:00:00");
    site.add(Visit::new(1, first).and(order(1, first)));
    let fake = serve(world);
    let totals = |fake: &Fake| {
        let visit = &live(fake, "filter_sort_order=asc")[0];
        ["totalEcommerceRevenue", "totalEcommerceItems"].map(|key| visit[key].clone())
    };
    assert_eq!(totals(&fake), [json!(10), json!("1")]);
    let before = tables(&fake.world(), ActionTime::Utc).visits.rows[0].clone();
    let mut again = Visit::new(2, first + 86_400).and(order(2, first + 86_400));
    again.visitor_id = fake.world().site(1).visit(1).visitor_id.clone();
    fake.world().site_mut(1).add(again);
    assert_eq!(totals(&fake), [json!(30), json!("3")]);
    assert_eq!(tables(&fake.world(), ActionTime::Utc).visits.rows[0], before);
}

#[test]
fn odd_values_are_null_and_kept_in_extra() {
    let world = World::generate(&plan(3, true));
    let tables = tables(&world, ActionTime::Utc);
    let mut kept: BTreeMap<String, usize> = BTreeMap::new();
    for table in [&tables.visits, &tables.actions, &tables.conversions, &tables.items] {
        for row in 0..table.rows.len() {
            let Some(extra) = table.get(row, "extra") else { continue };
            // 1e400 has all of its digits here, which `Value` cannot hold.
            let extra = extra.replace(&"0".repeat(100), "");
            let extra: Value =
                serde_json::from_str(&extra).unwrap_or_else(|e| panic!("{e}: {extra}"));
            for key in extra.as_object().unwrap().keys() {
                let column = key.to_lowercase();
                if table.columns.contains(&column.as_str()) {
                    assert_eq!(table.get(row, &column), None, "{key}");
                }
                *kept.entry(key.clone()).or_default() += 1;
            }
        }
    }
    for key in [
        "visitConverted",
        "visitLocalTime",
        "latitude",
        "secondsSinceLastVisit",
        "pageId",
        "revenue",
        "productViewCategories",
        "timeSpent",
        "quantity",
        "newKey",
        "bandwidth",
    ] {
        assert!(kept.contains_key(key), "{key} is not among {kept:?}");
    }
}

#[test]
fn a_literal_is_sent_as_it_stands() {
    let mut world = common::paris(&[(1, "2026-11-20 10:00:00")]);
    let page = Action::event(at("2026-11-20 10:00:01"), "c", "a").with("revenue", literal("1.50"));
    world.site_mut(1).visit_mut(1).push(page);
    let oracle = tables(&world, ActionTime::Utc);
    assert_eq!(oracle.actions.get(1, "revenue"), Some("1.50"));
    let fake = serve(world);
    let body = format!("token_auth={}&idSite=1", fake.token());
    let target = "/index.php?module=API&format=JSON&method=Live.getLastVisitsDetails";
    let (_, _, body) = common::http(&fake, "POST", target, &body);
    assert!(String::from_utf8_lossy(&body).contains(r#""revenue":1.50"#));
}

#[test]
fn columns_come_in_this_order() {
    let tables = tables(&common::paris(&[]), ActionTime::Utc);
    let listed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(tables.actions.columns[..43], COLUMNS);
    assert_eq!(
        tables.actions.columns[43..],
        listed(
            "pageid pageidaction idpageview pageviewposition pageloadtimemilliseconds goalid goalname revenue
             orderid items contentname contentpiece contenttarget contentinteraction sitesearchcategory
             sitesearchcount productviewsku productviewname productviewprice productviewcategories day extra"
        )
    );
    assert_eq!(
        tables.visits.columns,
        listed(
            "idsite idvisit visitorid userid visitip fingerprint firstaction lastaction day visitlocaltime
             visitduration visitortype visitcount visitconverted visitecommercestatus goalconversions actions
             interactions searches events truncatedactionscount dayssincefirstvisit secondssincefirstvisit
             dayssincelastvisit secondssincelastvisit secondssincelastecommerceorder referrertype referrername
             referrerkeyword referrerkeywordposition referrerurl referrersearchengineurl
             referrersocialnetworkurl campaignid campaignname campaignsource campaignmedium campaignkeyword
             campaigncontent campaigngroup campaignplacement languagecode devicetype devicebrand devicemodel
             operatingsystemname operatingsystemcode operatingsystemversion browsername browsercode
             browserversion browserfamily resolution plugins continentcode countrycode country regioncode
             region city latitude longitude sitename sitecurrency entryurl entrytitle exiturl exittitle
             pageviews dimensions customvariables experiments extra"
        )
    );
    assert_eq!(
        tables.conversions.columns,
        listed(
            "action_id idsite idvisit visitorid type converted day goalid goalname goalpageid orderid url revenue
             revenuesubtotal revenuetax revenueshipping revenuediscount items referrertype referrername
             referrerkeyword idpageview dimensions extra"
        )
    );
    let of_items = "action_id place idsite idvisit converted itemsku itemname itemcategory categories price quantity extra";
    assert_eq!(tables.items.columns, listed(of_items));
}
