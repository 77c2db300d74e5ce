//! How a visitor moves through a site.

use crate::action::{Action, CustomVariable};
use crate::catalog::{
    CITIES, COUNTRIES, DEVICES, EVENT_VALUES, LANGUAGES, NASTY, NASTY_PATHS, PAGES, RESOLUTIONS,
};
use crate::commerce::Item;
use crate::generate::SitePlan;
use crate::visit::{Referrer, Visit};
use crate::zone::Zone;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Makes the visits of one site.
pub struct Maker {
    pub rng: ChaCha8Rng,
    pub zone: Zone,
    pub host: String,
    pub odd_values: bool,
    ecommerce: bool,
    orders: u32,
    /// Earlier visitors, each as of the last visit.
    known: Vec<Visit>,
}

impl Maker {
    /// A maker that knows no visitors yet.
    pub fn new(rng: ChaCha8Rng, zone: Zone, site: &SitePlan) -> Maker {
        let host = if site.ecommerce {
            "https://www.example-shop.test"
        } else {
            "https://www.example.org"
        };
        Maker {
            rng,
            zone,
            host: host.to_owned(),
            odd_values: site.odd_values,
            ecommerce: site.ecommerce,
            orders: 0,
            known: Vec::new(),
        }
    }

    /// A random element of the list.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.rng.random_range(0..of.len())]
    }

    /// True with this chance in percent.
    pub fn percent(&mut self, chance: u32) -> bool {
        self.rng.random_range(0..100) < chance
    }

    /// A visit from its first page to its last.
    pub fn journey(&mut self, start: i64) -> Visit {
        let mut visit = self.visitor(start);
        let mut at = start;
        loop {
            at = self.step(&mut visit, at);
            if self.percent(30) || visit.actions.len() > 60 {
                break;
            }
            // Short page views are common and long ones rare; Matomo ends a visit after 30
            // minutes.
            let gap = self.rng.random_range(3..60) * self.rng.random_range(1..8);
            at += if self.percent(3) { self.rng.random_range(600..1790) } else { gap };
        }
        visit.extra_duration = i64::from(visit.actions.len() > 1) * self.rng.random_range(0..3);
        self.known.push(Visit { actions: Vec::new(), ..visit.clone() });
        visit
    }

    /// A visit without actions, by a new or a known visitor.
    pub fn visitor(&mut self, start: i64) -> Visit {
        let back = self.percent(30) && !self.known.is_empty();
        let before = back.then(|| self.rng.random_range(0..self.known.len()));
        let before = before.map(|i| self.known.swap_remove(i)).filter(|v| v.last + 1800 < start);
        let mut visit = match before {
            Some(before) => Visit {
                visit_count: before.visit_count + 1,
                visitor_type: if self.percent(20) { "returningCustomer" } else { "returning" }
                    .to_owned(),
                seconds_since_first: before.seconds_since_first + start - before.first,
                days_since_first: (before.seconds_since_first + start - before.first) / 86_400,
                seconds_since_last: start - before.first,
                first: start,
                last: start,
                ..before
            },
            None => self.somebody(start),
        };
        self.origin(&mut visit);
        self.attributes(&mut visit);
        visit
    }

    fn somebody(&mut self, start: i64) -> Visit {
        let mut visit = Visit::new(0, start);
        visit.visitor_id = format!("{:016x}", self.rng.random::<u64>());
        visit.ip =
            format!("203.0.{}.{}", self.rng.random_range(0..256), self.rng.random_range(1..255));
        visit.device =
            DEVICES[self.rng.random_range(0..DEVICES.len() * 4).min(DEVICES.len() * 4 - 4) / 4];
        let country = self.rng.random_range(0..COUNTRIES.len() * 2).saturating_sub(COUNTRIES.len());
        visit.country = Some(COUNTRIES[country].0.to_owned());
        if self.percent(40) {
            let (city, region) = *self.pick(CITIES);
            visit.city = Some(city.to_owned());
            visit.region = region.map(str::to_owned);
        }
        visit.language_code = self.pick(LANGUAGES).0.to_owned();
        visit.resolution = (*self.pick(RESOLUTIONS)).to_owned();
        if self.percent(15) {
            visit.user_id = Some(format!("user{}@example.org", self.rng.random_range(1..3000)));
        }
        visit
    }

    fn origin(&mut self, visit: &mut Visit) {
        let (kind, name, keyword, url) = match self.rng.random_range(0..100) {
            0..35 => ("direct", "", "", None),
            35..55 => ("search", "Google", "", Some("https://www.google.com/")),
            55..62 => (
                "search",
                "DuckDuckGo",
                "déjà vu",
                Some("https://duckduckgo.com/?q=d%C3%A9j%C3%A0+vu"),
            ),
            62..75 => (
                "website",
                "news.example.net",
                "",
                Some("https://news.example.net/a?id=5&x=%22q%22"),
            ),
            75..87 => ("social", "Facebook", "", Some("https://www.facebook.com/groups/x")),
            87..96 => ("campaign", "black-friday", "soldes d'été", Some("https://www.google.com/")),
            _ => ("campaign", "newsletter \"n°1\"", "", None),
        };
        let url = url.map(str::to_owned);
        visit.referrer = Referrer {
            kind: kind.to_owned(),
            name: name.to_owned(),
            keyword: keyword.to_owned(),
            url,
        };
    }

    fn attributes(&mut self, visit: &mut Visit) {
        let one = *self.pick(&[None, None, Some("guest"), Some("member"), Some("Ünï"), Some("")]);
        visit.dimensions.clear();
        visit.custom_variables.clear();
        visit.set_dimension(1, one);
        visit.set_dimension(2, None);
        if self.percent(3) {
            // An action dimension has the same number: this value is used where the action has
            // none.
            visit.set_dimension(3, Some("from the visit"));
            visit.set_dimension(14, Some("fourteen"));
        }
        if self.percent(10) {
            let plan = *self.pick(&["free", "pro"]);
            visit.set_variable(1, "plan", plan);
            visit.set_variable(2, "é clé", "valeur \"q\" \\ /");
        }
        let tests = r#"[{"idexperiment":1,"name":"Blue button","variation":{"idvariation":"0","name":"original"}}]"#;
        visit.experiments =
            self.percent(4).then(|| serde_json::from_str(tests).unwrap_or_default());
    }

    /// A page and the actions on it; returns the time of the last action.
    fn step(&mut self, visit: &mut Visit, at: i64) -> i64 {
        let (path, title) = self.page();
        let url = format!("{}{path}", self.host);
        let id: String = format!("{:06x}", self.rng.random_range(0..0xff_ffff));
        let mut page = Action::page(at, &url, title);
        page.idpageview = id.clone();
        if self.percent(28) {
            page.load_ms = Some(self.rng.random_range(180..4000));
        }
        self.decorate(&mut page);
        visit.push(page);
        if path == "/contact" && self.percent(70) {
            // In the same second as its page.
            visit.push(self.blank(Action::goal(at, 1, "Contact page", &url).revenue("10")));
        }
        let mut now = at;
        let mut later = |maker: &mut Maker| {
            now += maker.rng.random_range(1..40);
            now
        };
        if self.percent(18) {
            let at = later(self);
            let mut event = self.event(at, &url);
            event.idpageview = id;
            visit.push(event);
        }
        match self.rng.random_range(0..100) {
            0..5 => {
                let at = later(self);
                let keyword = *self.pick(&["boots", "été", "<x>", "size \"42\"", "🎁"]);
                let count =
                    if self.percent(50) { Some(self.rng.random_range(0..30)) } else { None };
                let category = *self.pick(&["", "", "docs"]);
                let mut search = self.blank(Action::search(at, keyword).results(category, count));
                if self.percent(10) {
                    search = search.variable(1, "pageType", "search");
                }
                visit.push(search);
            }
            5..8 => {
                let file = self.rng.random_range(1..20);
                let at = later(self);
                visit.push(
                    self.blank(Action::download(at, format!("{}/files/doc{file}.pdf", self.host))),
                );
            }
            8..11 => {
                let at = later(self);
                visit.push(self.blank(Action::outlink(at, "https://out4.example.com/x?y=%20z")));
            }
            11..15 => {
                let at = later(self);
                let done = self.percent(40).then_some("click");
                let content = Action::content(at, &url, "Bannière é", "img.png")
                    .target("https://ads.example.com/1", done);
                visit.push(self.blank(content));
            }
            15..17 => {
                let goal =
                    Action::goal(later(self), 2, "Newsletter é", &url).revenue("0.001").manual();
                visit.push(self.blank(goal));
            }
            17..40 if self.ecommerce && path == "/cart" => {
                self.orders += 1;
                let id = format!("ORD{}{:05}", 1000 + visit.first % 9000, self.orders);
                let order = Action::order(later(self), id, self.items());
                visit.push(self.blank(order));
            }
            40..60 if self.ecommerce && path == "/cart" => {
                let cart = Action::cart(later(self), self.items());
                visit.push(self.blank(cart));
            }
            _ => {}
        }
        now
    }

    /// A path and title: mostly the popular ones, rarely a nasty one.
    fn page(&mut self) -> (&'static str, &'static str) {
        if self.percent(3) {
            return (*self.pick(NASTY_PATHS), *self.pick(NASTY));
        }
        // A skewed draw: each page is seen about a quarter less than the one before.
        let mut rank = 0;
        while rank + 1 < PAGES.len() && self.percent(76) {
            rank += 1;
        }
        PAGES[rank]
    }

    /// An event, with or without name and value.
    pub fn event(&mut self, at: i64, url: &str) -> Action {
        let category = *self.pick(&["Menu é", "Form", "Ecommerce", "Video"]);
        let done = *self.pick(&["submit", "play", "Cart change", "click \"x\""]);
        let mut event = Action::event(at, category, done).url(url);
        if self.percent(80) {
            let name = *self.pick(&["intro.mp4", "\"q\" name", "0", "🎬 bande-annonce"]);
            event = event.name(name);
        }
        if self.percent(60) {
            let value = *self.pick(EVENT_VALUES);
            event = event.value(value);
        }
        self.blank(event)
    }

    /// Adds action dimensions and variables to a page view.
    pub fn decorate(&mut self, page: &mut Action) {
        let three = *self.pick(&[None, None, Some("a"), Some("b"), Some("")]);
        let four = self.percent(5).then(|| "x".repeat(250));
        page.dimensions = vec![(3, three.map(str::to_owned)), (4, four), (5, None)];
        if self.percent(4) {
            page.dimensions.push((11, Some("eleven".to_owned())));
            page.dimensions.push((12, None));
        }
        if self.percent(12) {
            let variable = |index, name: &str, value: &str| CustomVariable {
                index,
                name: name.to_owned(),
                value: value.to_owned(),
            };
            page.custom_variables =
                vec![variable(1, "pageType", "art"), variable(3, "Auteur", "Zoé \u{2028}\\\"/")];
            if self.percent(25) {
                page.custom_variables.push(variable(5, "plan", "of the page"));
            }
        }
    }

    /// Other actions have the site's dimensions as null.
    pub fn blank(&self, mut action: Action) -> Action {
        action.dimensions = vec![(3, None), (4, None), (5, None)];
        action
    }

    /// The items in a cart.
    pub fn items(&mut self) -> Vec<Item> {
        (0..self.rng.random_range(1..5))
            .map(|_| {
                let number = self.rng.random_range(0..30);
                let second = self.percent(40).then(|| "Cat \"B\"".to_owned());
                Item {
                    sku: format!("SKU{number}"),
                    name: format!("Produit é {number}"),
                    categories: std::iter::once("Cat A".to_owned()).chain(second).collect(),
                    price: self.rng.random_range(500..9000),
                    quantity: self.rng.random_range(1..4),
                }
            })
            .collect()
    }
}
