//! Generated worlds: the same seed gives the same world.

use crate::enrich;
use crate::journey::Maker;
use crate::nasty;
use crate::visit::Visit;
use crate::world::{Clock, Site, World};
use crate::zone::{days, next};
use chrono::{Datelike, NaiveDate};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A site to generate.
#[derive(Clone, Debug)]
pub struct SitePlan {
    pub id: i64,
    pub name: String,
    pub timezone: String,
    pub ecommerce: bool,
    /// Whether to include visits with values that typed columns cannot hold.
    pub odd_values: bool,
    /// The average: more on weekdays, fewer on weekends. 0 means no visits at all.
    pub visits_per_day: usize,
}

impl SitePlan {
    /// A site without a shop.
    pub fn new(id: i64, timezone: &str, visits_per_day: usize) -> SitePlan {
        let (name, timezone) = (format!("Site {id}"), timezone.to_owned());
        SitePlan { id, name, timezone, ecommerce: false, odd_values: false, visits_per_day }
    }
}

/// What to generate. Days are in each site's timezone.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub sites: Vec<SitePlan>,
    pub first_day: NaiveDate,
    pub last_day: NaiveDate,
    /// The world's clock; nothing happens after it.
    pub now: Clock,
}

impl World {
    /// Generates all kinds of visits, nasty ones included.
    pub fn generate(plan: &Plan) -> World {
        let mut world = World::new(plan.now);
        let now = plan.now.seconds();
        for site in &plan.sites {
            let visits = visits(plan, site, now);
            let made = world.add_site(Site {
                ecommerce: site.ecommerce,
                visits,
                ..Site::new(site.id, &site.name, &site.timezone)
            });
            enrich::configure(made);
        }
        number(&mut world);
        world
    }
}

fn visits(plan: &Plan, site: &SitePlan, now: i64) -> Vec<Visit> {
    let seed = plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ site.id as u64;
    let zone = Site::new(site.id, &site.name, &site.timezone).zone();
    let mut maker = Maker::new(ChaCha8Rng::seed_from_u64(seed), zone, site);
    let mut visits = Vec::new();
    for (index, day) in days(plan.first_day, plan.last_day).enumerate() {
        if site.visits_per_day == 0 || zone.midnight(day) > now {
            break;
        }
        let mut starts: Vec<i64> =
            (0..crowd(&mut maker.rng, site, day)).map(|_| start(&mut maker, day)).collect();
        starts.sort_unstable();
        let midnight = zone.midnight(next(day));
        for start in starts {
            let visit = maker.journey(start);
            cut(&mut maker, visit, midnight, &mut visits);
        }
        nasty::day(&mut maker, index, day, &mut visits);
    }
    visits.iter_mut().for_each(|visit| stop(visit, now));
    visits.retain(|visit| visit.first <= now);
    enrich::visits(seed, &mut visits);
    visits
}

/// The number of visits that begin on this day: a weekly rhythm and some chance.
fn crowd(rng: &mut ChaCha8Rng, site: &SitePlan, day: NaiveDate) -> usize {
    let of_week =
        [1.12, 1.15, 1.1, 1.08, 1.0, 0.72, 0.83][day.weekday().num_days_from_monday() as usize];
    let luck = rng.random_range(0.92..1.08);
    ((site.visits_per_day as f64 * of_week * luck).round() as usize).max(1)
}

/// An instant of the day, mostly in waking hours.
fn start(maker: &mut Maker, day: NaiveDate) -> i64 {
    const HOURS: [u32; 24] =
        [10, 6, 4, 3, 3, 5, 12, 25, 40, 50, 55, 55, 50, 50, 52, 50, 48, 48, 50, 55, 60, 55, 40, 22];
    let mut ticket = maker.rng.random_range(0..HOURS.iter().sum());
    let mut hour = 0;
    while ticket >= HOURS[hour] {
        ticket -= HOURS[hour];
        hour += 1;
    }
    let (minute, second) = (maker.rng.random_range(0..60), maker.rng.random_range(0..60));
    maker.zone.instant(day.and_hms_opt(hour as u32, minute, second).unwrap_or_default())
}

/// Matomo cuts a visit at the site's midnight unless configured otherwise: most are cut here, some
/// are not.
fn cut(maker: &mut Maker, mut visit: Visit, midnight: i64, into: &mut Vec<Visit>) {
    let split = visit.actions.partition_point(|a| a.at < midnight);
    if split == visit.actions.len() || split == 0 || maker.rng.random_bool(0.2) {
        into.push(visit);
        return;
    }
    let mut rest = visit.clone();
    rest.actions = visit.actions.split_off(split);
    rest.first = rest.actions[0].at;
    visit.last = visit.actions[split - 1].at;
    rest.visit_count += 1;
    rest.visitor_type = "returning".to_owned();
    rest.seconds_since_last = rest.first - visit.first;
    rest.seconds_since_first += rest.seconds_since_last;
    into.extend([visit, rest]);
}

/// Removes what lies in the future.
fn stop(visit: &mut Visit, now: i64) {
    visit.actions.retain(|a| a.at <= now);
    if visit.last > now {
        visit.last = visit.actions.last().map_or(visit.first, |a| a.at);
    }
}

/// Assigns ids: Matomo has one counter for all its sites, in the order in which visits begin.
fn number(world: &mut World) {
    let mut all: Vec<&mut Visit> = world.sites.iter_mut().flat_map(|s| &mut s.visits).collect();
    all.sort_by_key(|v| v.first);
    for (id, visit) in (1001..).zip(all) {
        visit.id = id;
    }
    for site in &mut world.sites {
        site.visits.sort_by_key(|v| v.id);
    }
}
