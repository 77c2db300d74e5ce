//! Features that only some generated visits have: campaigns, products on show, deleted goals. It
//! has its own random numbers, so that the rest of a seed's world stays the same without it.

use crate::action::Kind;
use crate::commerce::{Item, Product};
use crate::metadata::{CustomDimension, Goal};
use crate::visit::{Campaign, Visit};
use crate::world::Site;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Adds the features to the visits of a site.
pub fn visits(seed: u64, all: &mut [Visit]) {
    let mut chances = Chances(ChaCha8Rng::seed_from_u64(seed ^ 0x5eed));
    for visit in all {
        of_visit(&mut chances, visit);
        for action in &mut visit.actions {
            if let Kind::Page = action.kind {
                action.product = action.url.as_deref().and_then(|url| product(&mut chances, url));
            }
            of_kind(&mut chances, &mut action.kind);
        }
    }
}

/// Configures the goals and dimensions that the visits use.
pub fn configure(site: &mut Site) {
    site.goals = vec![
        Goal { revenue: "10".to_owned(), ..Goal::new(1, "Contact page").on_url("/contact") },
        Goal { allow_multiple: true, ..Goal::new(2, "Newsletter é") },
        Goal::new(3, "Manual"),
        Goal { deleted: true, ..Goal::new(4, "Of last year") },
    ];
    let pattern = ("urlparam".to_owned(), "author".to_owned());
    site.dimensions = vec![
        CustomDimension::new(1, "Customer", "visit", 1),
        CustomDimension { active: false, ..CustomDimension::new(2, "Test group", "visit", 2) },
        CustomDimension::new(3, "Section", "action", 1),
        CustomDimension {
            case_sensitive: false,
            extractions: vec![pattern],
            ..CustomDimension::new(4, "Author é", "action", 2)
        },
        CustomDimension::new(5, "Author é", "action", 3),
        CustomDimension::new(11, "Eleven", "action", 4),
        CustomDimension::new(12, "Twelve", "action", 5),
        CustomDimension::new(14, "Fourteen \"14\"", "visit", 3),
    ];
}

struct Chances(ChaCha8Rng);

impl Chances {
    fn percent(&mut self, chance: u32) -> bool {
        self.0.random_range(0..100) < chance
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.random_range(0..of.len())]
    }
}

fn of_visit(chances: &mut Chances, visit: &mut Visit) {
    let from = &visit.referrer;
    if from.kind == "campaign" {
        visit.campaign = Some(Campaign {
            id: chances.pick(&["", "17", "a-b"]).to_owned(),
            name: from.name.clone(),
            source: chances.pick(&["google", "newsletter", ""]).to_owned(),
            medium: chances.pick(&["cpc", "email", ""]).to_owned(),
            keyword: from.keyword.clone(),
            content: chances.pick(&["", "bannière \"A\"", "text"]).to_owned(),
            group: chances.pick(&["", "Group 1"]).to_owned(),
            placement: chances.pick(&["", "top", "https://news.example.net/"]).to_owned(),
        });
    } else if chances.percent(10) {
        // The plugin is active, but the visit has no campaign.
        visit.campaign = Some(Campaign::default());
    }
    if visit.referrer.kind == "search" && chances.percent(10) {
        visit.keyword_position = Some(chances.0.random_range(1..30));
    }
    if visit.visitor_type == "returningCustomer" {
        let most = visit.seconds_since_first.max(1);
        visit.seconds_since_order = Some(chances.0.random_range(0..most));
    }
}

/// Some pages of the shop show a product.
fn product(chances: &mut Chances, url: &str) -> Option<Product> {
    let (_, path) = url.split_once("example-shop.test/")?;
    let (category, name) = path.split_once('/')?;
    if !matches!(category, "shoes" | "bags") {
        return None;
    }
    let mut product = Product {
        sku: format!("SKU-{name}"),
        name: name.replace('-', " "),
        categories: vec![category.to_owned()],
        price: chances.0.random_range(900..20_000),
    };
    match chances.0.random_range(0..8) {
        0 => product.sku.clear(),
        1 => product.name.clear(),
        2 => product.price = 0,
        3 => product.categories.clear(),
        4 => product.categories.push("Cat \"B\", été".to_owned()),
        5 => product.price = 2500,
        _ => {}
    }
    Some(product)
}

fn of_kind(chances: &mut Chances, kind: &mut Kind) {
    match kind {
        Kind::Goal { deleted, .. } => *deleted = chances.percent(6),
        Kind::Order { items, .. } | Kind::Cart { items } => {
            for item in items {
                of_item(chances, item);
            }
        }
        Kind::Content { piece, target, .. } if chances.percent(4) => {
            (*piece, *target) = (None, None)
        }
        _ => {}
    }
    if let Kind::Order { discount, .. } = kind
        && chances.percent(50)
    {
        *discount = 250;
    }
}

fn of_item(chances: &mut Chances, item: &mut Item) {
    match chances.0.random_range(0..10) {
        0 => item.categories.clear(),
        1 => item.categories.push("NULL".to_owned()),
        2 => item.price = 3800,
        3 => item.name.clear(),
        _ => {}
    }
}
