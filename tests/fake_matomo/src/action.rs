//! One action of a visit, as it really happened.

use crate::commerce::{Item, Product};
use serde_json::{Map, Value};

/// A custom variable: its index (1 to 5 by default), name and value.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomVariable {
    pub index: u32,
    pub name: String,
    pub value: String,
}

/// What Matomo sends as the time spent on an action.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeSpent {
    /// As Matomo computes it: for page views only, from the actions after them.
    Auto,
    /// This many seconds, for any kind of action.
    Seconds(i64),
    /// The key is missing.
    Absent,
}

/// The kinds of action, with the fields that each kind has of its own.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Page,
    /// `value` is the literal of a number, sent unchanged.
    Event {
        category: String,
        action: String,
        name: Option<String>,
        value: Option<String>,
    },
    Download,
    Outlink,
    Search {
        keyword: String,
        category: String,
        count: Option<i64>,
    },
    /// `manual`: converted by the site's own code, so without a page. `deleted`: Matomo no longer
    /// has the goal's id and name. `revenue` is the literal of a number.
    Goal {
        id: i64,
        name: String,
        revenue: String,
        manual: bool,
        deleted: bool,
    },
    Order {
        id: String,
        items: Vec<Item>,
        discount: i64,
    },
    Cart {
        items: Vec<Item>,
    },
    Content {
        name: String,
        piece: Option<String>,
        target: Option<String>,
        interaction: Option<String>,
    },
}

/// An action. `at` is the true instant, in UTC seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    pub at: i64,
    pub kind: Kind,
    pub url: Option<String>,
    /// The page's title. Page views only; Matomo makes the title of the other kinds.
    pub page_title: Option<String>,
    pub custom_variables: Vec<CustomVariable>,
    /// Dimensions by number; `None` is sent as null.
    pub dimensions: Vec<(u32, Option<String>)>,
    pub time_spent: TimeSpent,
    /// Heartbeat seconds on top of `TimeSpent::Auto`.
    pub heartbeat: i64,
    pub load_ms: Option<i64>,
    /// The product shown on the page.
    pub product: Option<Product>,
    pub idpageview: String,
    /// Tracking order within the visit, from which the page id is made. Set by `Visit::push`.
    pub serial: i64,
    /// Extra keys; they replace Matomo's own of the same name. The oracle applies them too.
    pub extra: Map<String, Value>,
    /// Keys left out. The oracle leaves them out too.
    pub omit: Vec<String>,
}

impl Action {
    fn new(at: i64, kind: Kind) -> Action {
        Action {
            at,
            kind,
            url: None,
            page_title: None,
            custom_variables: Vec::new(),
            dimensions: Vec::new(),
            time_spent: TimeSpent::Auto,
            heartbeat: 0,
            load_ms: None,
            product: None,
            idpageview: String::new(),
            serial: 0,
            extra: Map::new(),
            omit: Vec::new(),
        }
    }

    pub fn page(at: i64, url: impl Into<String>, title: impl Into<String>) -> Action {
        Action { page_title: Some(title.into()), ..Action::new(at, Kind::Page) }.url(url)
    }

    /// An event; see `name` and `value`.
    pub fn event(at: i64, category: impl Into<String>, action: impl Into<String>) -> Action {
        let (category, action) = (category.into(), action.into());
        Action::new(at, Kind::Event { category, action, name: None, value: None })
            .url("https://www.example.org/")
    }

    pub fn download(at: i64, url: impl Into<String>) -> Action {
        Action::new(at, Kind::Download).url(url)
    }

    /// A click on a link to another site.
    pub fn outlink(at: i64, url: impl Into<String>) -> Action {
        Action::new(at, Kind::Outlink).url(url)
    }

    /// A site search; see `results`.
    pub fn search(at: i64, keyword: impl Into<String>) -> Action {
        let (keyword, category) = (keyword.into(), String::new());
        Action::new(at, Kind::Search { keyword, category, count: None })
    }

    /// A goal reached on a page; see `revenue` and `manual`.
    pub fn goal(at: i64, id: i64, name: impl Into<String>, url: impl Into<String>) -> Action {
        let revenue = "0".to_owned();
        Action::new(
            at,
            Kind::Goal { id, name: name.into(), revenue, manual: false, deleted: false },
        )
        .url(url)
    }

    pub fn order(at: i64, id: impl Into<String>, items: Vec<Item>) -> Action {
        Action::new(at, Kind::Order { id: id.into(), items, discount: 0 })
    }

    pub fn cart(at: i64, items: Vec<Item>) -> Action {
        Action::new(at, Kind::Cart { items })
    }

    /// A content impression (Matomo sends its type as the number 13); see `target`.
    pub fn content(
        at: i64,
        url: impl Into<String>,
        name: impl Into<String>,
        piece: impl Into<String>,
    ) -> Action {
        let (name, piece) = (name.into(), Some(piece.into()));
        Action::new(at, Kind::Content { name, piece, target: None, interaction: None }).url(url)
    }

    pub fn url(mut self, url: impl Into<String>) -> Action {
        self.url = Some(url.into());
        self
    }

    pub fn no_url(mut self) -> Action {
        self.url = None;
        self
    }

    pub fn no_title(mut self) -> Action {
        self.page_title = None;
        self
    }

    pub fn name(mut self, text: impl Into<String>) -> Action {
        if let Kind::Event { name, .. } = &mut self.kind {
            *name = Some(text.into());
        }
        self
    }

    /// An event's value: the literal of a number.
    pub fn value(mut self, literal: impl Into<String>) -> Action {
        if let Kind::Event { value, .. } = &mut self.kind {
            *value = Some(literal.into());
        }
        self
    }

    /// A search's category and number of results.
    pub fn results(mut self, of: impl Into<String>, number: Option<i64>) -> Action {
        if let Kind::Search { category, count, .. } = &mut self.kind {
            (*category, *count) = (of.into(), number);
        }
        self
    }

    /// A goal's revenue: the literal of a number.
    pub fn revenue(mut self, literal: impl Into<String>) -> Action {
        if let Kind::Goal { revenue, .. } = &mut self.kind {
            *revenue = literal.into();
        }
        self
    }

    /// Makes the goal a manual one, without a page.
    pub fn manual(mut self) -> Action {
        if let Kind::Goal { manual, .. } = &mut self.kind {
            *manual = true;
        }
        self
    }

    /// Makes the goal one that was deleted later.
    pub fn deleted(mut self) -> Action {
        if let Kind::Goal { deleted, .. } = &mut self.kind {
            *deleted = true;
        }
        self
    }

    pub fn product(mut self, product: Product) -> Action {
        self.product = Some(product);
        self
    }

    /// A content's target and the interaction with it.
    pub fn target(mut self, url: impl Into<String>, done: Option<&str>) -> Action {
        if let Kind::Content { target, interaction, .. } = &mut self.kind {
            (*target, *interaction) = (Some(url.into()), done.map(str::to_owned));
        }
        self
    }

    /// Adds a custom variable of scope page.
    pub fn variable(
        mut self,
        index: u32,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Action {
        let variable = CustomVariable { index, name: name.into(), value: value.into() };
        // By index, as PHP sends them.
        let place = self.custom_variables.partition_point(|v| v.index <= index);
        self.custom_variables.insert(place, variable);
        self
    }

    pub fn dimension(mut self, number: u32, value: impl Into<String>) -> Action {
        set_dimension(&mut self.dimensions, number, Some(value.into()));
        self
    }

    /// Sets a dimension without a value, sent as null.
    pub fn null_dimension(mut self, number: u32) -> Action {
        set_dimension(&mut self.dimensions, number, None);
        self
    }

    /// Sets the time spent, or leaves it out.
    pub fn spent(mut self, time: TimeSpent) -> Action {
        self.time_spent = time;
        self
    }

    /// Sends an extra key, or another value for one of Matomo's own.
    pub fn with(mut self, key: impl Into<String>, value: Value) -> Action {
        self.extra.insert(key.into(), value);
        self
    }

    pub fn without(mut self, key: impl Into<String>) -> Action {
        self.omit.push(key.into());
        self
    }
}

/// Keeps dimensions unique and sorted by number.
pub(crate) fn set_dimension(
    all: &mut Vec<(u32, Option<String>)>,
    number: u32,
    value: Option<String>,
) {
    match all.binary_search_by_key(&number, |(n, _)| *n) {
        Ok(found) => all[found].1 = value,
        Err(place) => all.insert(place, (number, value)),
    }
}
