//! Random events of a site.

use chrono::{Datelike, Days, NaiveDate};
use fake_matomo::{Action, Item, Kind, Visit, World, Zone};

use super::random::Random;

/// The days of a history.
#[derive(Clone, Copy)]
pub struct Calendar {
    pub zone: Zone,
    /// The first with visits at the beginning.
    pub first: NaiveDate,
    pub today: NaiveDate,
    pub now: i64,
}

/// Where things happen.
pub struct Scenery<'a> {
    pub calendar: Calendar,
    pub random: &'a mut Random,
    pub world: &'a mut World,
    /// The greatest idVisit ever given out: that of a deleted visit never comes back.
    pub last_id: &'a mut i64,
}

impl Calendar {
    /// An instant of the day, not in the future; often one on which things go wrong.
    fn instant(&self, random: &mut Random, day: NaiveDate) -> i64 {
        let begin = self.zone.midnight(day);
        let end = (self.zone.midnight(day + Days::new(1)) - 1).min(self.now);
        let week = day.week(chrono::Weekday::Mon).first_day();
        let week = (week + Days::new(7 * u64::from(day.weekday() != chrono::Weekday::Mon)))
            .and_time(chrono::NaiveTime::MIN)
            .and_utc()
            .timestamp();
        let at = match random.below(10) {
            // The site's midnight, and that at which weekly partitions change.
            0 => begin + random.between(0, 90),
            1 => end - random.between(0, 90),
            2 | 3 => week + random.between(-60, 60),
            // Seconds that many visits share.
            4 => begin + 600 * random.between(0, (end - begin) / 600),
            _ => random.between(begin, end),
        };
        at.clamp(begin, end)
    }

    fn closed_day(&self, random: &mut Random) -> NaiveDate {
        let back = (self.today - self.first).num_days() + 1;
        self.today - Days::new(random.between(1, back) as u64)
    }

    fn day(&self, visit: &Visit) -> NaiveDate {
        self.zone.day(visit.last)
    }
}

/// An action of any kind.
fn action(random: &mut Random, at: i64) -> Action {
    let n = random.below(1000);
    let url = format!("https://www.example.org/{n}");
    match random.below(9) {
        0 => Action::event(at, "Video", "play").name(format!("clip {n}")).value("1.5"),
        1 => Action::download(at, url + ".pdf"),
        2 => Action::outlink(at, url),
        3 => Action::search(at, format!("word {n}")).results("", Some(3)),
        4 => Action::content(at, url, "Banner", format!("piece {n}")),
        5 => Action::page(at, url, format!("Page {n}")).dimension(3, format!("value {n}")),
        6 => Action::page(at, url, format!("Page {n}")).variable(2, "author", format!("A{n}")),
        _ => Action::page(at, url, format!("Page {n}")),
    }
}

impl Scenery<'_> {
    /// Lets something happen; gives what, and which visits are not as they were.
    pub fn happen(&mut self) -> (String, Vec<i64>) {
        for _ in 0..20 {
            if let Some((what, ids)) = self.make_visits().or_else(|| self.change_visit()) {
                return (format!("{what} {ids:?}"), ids);
            }
        }
        ("nothing".to_owned(), Vec::new())
    }

    fn make_visits(&mut self) -> Option<(&'static str, Vec<i64>)> {
        let Calendar { zone, today, now, .. } = self.calendar;
        match self.random.below(16) {
            0 => {
                let at = self.random.between((now - 600).max(zone.midnight(today)), now);
                Some(("opens", vec![self.add(at)]))
            }
            1 => {
                let day = self.calendar.closed_day(self.random);
                let at = self.calendar.instant(self.random, day);
                Some(("is imported", vec![self.add(at)]))
            }
            2 => {
                let closed = self.calendar.closed_day(self.random);
                let day = if self.random.percent(50) { today } else { closed };
                let at = self.calendar.instant(self.random, day);
                let many = 2 + self.random.below(9);
                Some(("come in one second:", (0..many).map(|_| self.add(at)).collect()))
            }
            _ => None,
        }
    }

    /// Adds a visit of up to four actions which ends at `last`, on the day on which it begins.
    fn add(&mut self, last: i64) -> i64 {
        let begin = self.calendar.zone.midnight(self.calendar.zone.day(last));
        let first = self.random.between((last - 900).max(begin), last);
        *self.last_id += 1;
        let mut visit = Visit::new(*self.last_id, first);
        visit.push(action(self.random, first));
        for _ in 0..self.random.below(3) {
            let at = self.random.between(first, last);
            visit.push(action(self.random, at));
        }
        if visit.last < last || visit.actions.len() < 2 {
            visit.push(action(self.random, last));
        }
        self.world.site_mut(1).add(visit).id
    }

    fn change_visit(&mut self) -> Option<(&'static str, Vec<i64>)> {
        let Calendar { zone, today, now, .. } = self.calendar;
        let (calendar, random) = (self.calendar, &mut *self.random);
        // Those of today change most.
        let only_today = random.percent(40);
        let visits = &self.world.site(1).visits;
        let able: Vec<i64> = visits
            .iter()
            .filter(|visit| !visit.actions.is_empty())
            .filter(|visit| !only_today || calendar.day(visit) == today)
            .map(|visit| visit.id)
            .collect();
        if able.is_empty() {
            return None;
        }
        let id = random.pick(&able);
        let event = random.below(13);
        if event == 0 {
            self.world.site_mut(1).delete(id);
            return Some(("is deleted", vec![id]));
        }
        let visit = self.world.site_mut(1).visit_mut(id);
        let day = calendar.day(visit);
        let end = (zone.midnight(day + Days::new(1)) - 1).min(now);
        let within = random.between(visit.first, visit.last);
        let what = match event {
            1..=3 => {
                let at = (visit.last + random.pick(&[0, 1, 7, 60, 300])).min(end);
                visit.push(action(random, at));
                "goes on"
            }
            4 => {
                visit.push(action(random, within));
                "gets a hit in the middle"
            }
            5 => {
                let at = visit.actions[random.below(visit.actions.len())].at;
                visit.push(Action::goal(at, 4, "Late goal", "https://www.example.org/goal"));
                "gets a late goal"
            }
            6 => {
                let item = Item {
                    sku: "S1".to_owned(),
                    name: "Shoe".to_owned(),
                    categories: vec!["Shoes".to_owned()],
                    price: 4990,
                    quantity: 1,
                };
                let is_cart = |action: &Action| matches!(action.kind, Kind::Cart { .. });
                match visit.actions.iter().position(is_cart) {
                    // What is ordered is no cart any more; and of an order the time is its own.
                    Some(cart) => {
                        let at = visit.actions.remove(cart).at;
                        visit.push(Action::order(at, format!("O{id}"), vec![item]));
                        "orders its cart"
                    }
                    None => {
                        visit.push(Action::cart(within, vec![item]));
                        "fills a cart"
                    }
                }
            }
            7 => {
                visit.heartbeat(random.between(5, 60));
                "beats"
            }
            8 | 9 => change(random, visit),
            10 => {
                let floor = zone.midnight(calendar.first - Days::new(1));
                let at = (visit.first - random.between(1, 600)).max(floor).min(visit.first);
                visit.push(action(random, at));
                "gets a hit before its first"
            }
            _ => {
                if day >= today {
                    return None;
                }
                let at = end + 1 + random.pick(&[0, 1, 30, 400]);
                if at > now {
                    return None;
                }
                visit.push(action(random, at));
                "moves over midnight"
            }
        };
        Some((what, vec![id]))
    }
}

/// Changes a value of the visit, not its last action.
fn change(random: &mut Random, visit: &mut Visit) -> &'static str {
    let n = random.below(100);
    match random.below(5) {
        0 => {
            // Which replaces the visitor's ID too, unless Matomo is told otherwise.
            visit.user_id = Some(format!("user{n}@example.org"));
            visit.visitor_id = format!("{:016x}", 0xabcd_0000 + n);
            "logs in"
        }
        1 => {
            visit.country = Some(format!("Country {n}"));
            visit.city = None;
            "gets a country"
        }
        2 => {
            visit.set_dimension(1, Some(&format!("of visit {n}")));
            "gets a dimension"
        }
        3 => {
            visit.set_variable(1, "plan", &format!("P{n}"));
            "gets a custom variable"
        }
        _ => {
            visit.visitor_type = "returningCustomer".to_owned();
            "becomes a customer"
        }
    }
}
