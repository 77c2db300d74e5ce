//! The report: medians, and ratios to other measurements of the same round.

use std::fmt::Write;
use std::time::Duration;

use crate::cost::Cost;
use crate::scene::{Plan, WORKERS};
use crate::ways::{Kind, Way};

pub struct Sample {
    pub plan: Plan,
    pub round: usize,
    pub way: Way,
    pub cost: Cost,
}

/// From the times of system calls: `strace -f -ttt -e trace=network,futex,clone3`.
const OWN_COST: &str = "By the times of its system calls that goes to what must come before any row can be \
    stored: a third to parse and plan the checks in a session whose caches are empty, two thirds to download \
    the first page, of 3 MB, and to take it apart. From then on the backend waits for nothing but its own COPY. \
    A page has to be read to its end before any of it is stored, as a visit may come twice in it, and its last \
    sight counts.";

#[derive(Default)]
pub struct Report {
    samples: Vec<Sample>,
    /// Tables of sizes, each with its scene's name.
    sizes: Vec<(&'static str, String)>,
}

/// The promised bound of a ratio.
enum Promise {
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    pub fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Adds a table of sizes to a scene.
    pub fn say_sizes(&mut self, plan: Plan, table: String) {
        self.sizes.push((plan.name, table));
    }

    /// The whole report, in Markdown.
    pub fn text(&self) -> String {
        let mut text =
            String::from("# What a sync costs\n\nMade by `make bench`; do not edit.\n\n");
        let rounds = self.samples.iter().map(|sample| sample.round).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "{} CPUs, {}. Medians of {rounds} rounds, in each of which all was measured once, one after the \
             other; ratios are those of one round, and their medians are shown. The fake Matomo runs on the \
             same CPUs. Tables and their partitions are there before; autovacuum is off, for all alike.\n",
            std::thread::available_parallelism().map_or(1, usize::from),
            chrono::Utc::now().format("%Y-%m-%d"),
        );
        self.promises(&mut text);
        for plan in self.plans() {
            self.table(plan, &mut text);
            for (_, sizes) in
                self.sizes.iter().filter(|(name, _)| *name == plan.name && !plan.waits)
            {
                text.push('\n');
                text += sizes;
            }
        }
        text
    }

    fn plans(&self) -> Vec<Plan> {
        let mut plans: Vec<_> = self.samples.iter().map(|sample| sample.plan).collect();
        plans.sort_by_key(|plan| (plan.waits, plan.actions));
        plans.dedup();
        plans
    }

    fn ways(&self, plan: Plan) -> Vec<Way> {
        let mut ways = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.plan == plan) {
            if !ways.contains(&sample.way) {
                ways.push(sample.way);
            }
        }
        ways
    }

    fn cost(&self, plan: Plan, round: usize, way: Way) -> Option<&Cost> {
        let is_it = |s: &&Sample| s.plan == plan && s.round == round && s.way == way;
        self.samples.iter().find(is_it).map(|sample| &sample.cost)
    }

    /// The median of `figure` over the rounds.
    fn median(&self, plan: Plan, way: Way, figure: impl Fn(&Cost) -> f64) -> Option<f64> {
        self.ratio(plan, way, way, |cost, _| figure(cost))
    }

    /// The median over the rounds of `figure` for two costs.
    fn ratio(
        &self,
        plan: Plan,
        one: Way,
        other: Way,
        figure: impl Fn(&Cost, &Cost) -> f64,
    ) -> Option<f64> {
        let rounds = self.samples.iter().map(|sample| sample.round).max().unwrap_or(0);
        let pairs = (1..=rounds)
            .filter_map(|round| self.cost(plan, round, one).zip(self.cost(plan, round, other)));
        let mut figures: Vec<_> = pairs.map(|(one, other)| figure(one, other)).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }

    fn table(&self, plan: Plan, text: &mut String) {
        let rows = self.samples.iter().find(|s| s.plan == plan).map_or(0, |s| s.cost.rows);
        let _ = writeln!(
            text,
            "\n## {}: {rows} actions of {} days\n\n| | s | rows/s | of COPY | CPU of the backend, s | CPU of fake and client, s \
             | memory, MB | WAL, MB | requests |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|",
            plan.name, plan.days
        );
        for way in self.ways(plan) {
            let median =
                |figure: &dyn Fn(&Cost) -> f64| self.median(plan, way, figure).unwrap_or(0.0);
            let of_copy =
                self.of_copy(plan, way).map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(
                text,
                "| {way} | {:.3} | {:.0} | {of_copy} | {:.2} | {:.2} | {:.0} | {:.0} | {} |",
                median(&|cost| cost.seconds),
                median(&Cost::rows_per_second),
                median(&|cost| cost.backend),
                median(&|cost| cost.here),
                median(&|cost| cost.memory as f64 / 1e6),
                median(&|cost| cost.wal as f64 / 1e6),
                median(&|cost| cost.requests as f64),
            );
        }
    }

    /// Rows per second relative to COPY into the same table.
    fn of_copy(&self, plan: Plan, way: Way) -> Option<f64> {
        let kind = match way {
            Way::Sync { kind, latency: Duration::ZERO, .. }
            | Way::Again { kind, force: true }
            | Way::Insert { kind }
            | Way::Node { kind }
            | Way::Copy { kind, .. } => kind,
            _ => return None,
        };
        let copy = Way::Copy { kind, indexes: true };
        self.ratio(plan, way, copy, |way, copy| way.rows_per_second() / copy.rows_per_second())
    }

    /// The project's promises beside the measurements.
    fn promises(&self, text: &mut String) {
        text.push_str("| promise | bound | measured | |\n|---|--:|--:|---|\n");
        let mut line = |what: String, promise: Promise, measured: Option<f64>| {
            let Some(measured) = measured else { return };
            let (bound, kept) = match promise {
                Promise::AtLeast(bound) => (format!("≥ {bound}"), measured >= bound),
                Promise::AtMost(bound) => (format!("≤ {bound}"), measured <= bound),
            };
            let kept = if kept { "kept" } else { "**not kept**" };
            let _ = writeln!(text, "| {what} | {bound} | {measured:.2} | {kept} |");
        };
        for plan in self.plans() {
            for kind in [Kind::Standard, Kind::Partitioned] {
                let sync = Way::Sync { kind, latency: Duration::ZERO, workers: WORKERS };
                let copy = Way::Copy { kind, indexes: true };
                let node = Way::Node { kind };
                let again = Way::Again { kind, force: true };
                let speed =
                    |one: &Cost, other: &Cost| one.rows_per_second() / other.rows_per_second();
                let wal = |one: &Cost, other: &Cost| one.wal as f64 / other.wal.max(1) as f64;
                let of = format!("{}, {kind}", plan.name);
                if plan.actions >= 100_000 {
                    line(
                        format!("{of}: rows/s of an import, COPY's being 1"),
                        Promise::AtLeast(0.9),
                        self.ratio(plan, sync, copy, speed),
                    );
                    line(
                        format!("{of}: rows/s of an import, the Node tool's way being 1"),
                        Promise::AtLeast(8.0),
                        self.ratio(plan, sync, node, speed),
                    );
                }
                line(
                    format!("{of}: WAL of an import, COPY's being 1"),
                    Promise::AtMost(1.1),
                    self.ratio(plan, sync, copy, wal),
                );
                line(
                    format!("{of}: rows/s of reading all again unchanged, the import's being 1"),
                    Promise::AtLeast(1.0),
                    self.ratio(plan, again, sync, speed),
                );
                line(
                    format!("{of}: WAL of a run with nothing due, MB"),
                    Promise::AtMost(0.1),
                    self.median(plan, Way::Again { kind, force: false }, |cost| {
                        cost.wal as f64 / 1e6
                    }),
                );
                line(
                    format!("{of}: memory of an import, MB"),
                    Promise::AtMost(128.0),
                    self.median(plan, sync, |cost| cost.memory as f64 / 1e6),
                );
            }
            let kind = Kind::Other;
            let sync = Way::Sync { kind, latency: Duration::ZERO, workers: WORKERS };
            line(
                format!("{}, {kind}: rows/s of an import, INSERT of unnest being 1", plan.name),
                Promise::AtLeast(0.5),
                self.ratio(plan, sync, Way::Insert { kind }, |one, other| {
                    one.rows_per_second() / other.rows_per_second()
                }),
            );
            for way in self.ways(plan) {
                if let Way::Sync { latency, workers, .. } = way
                    && latency >= Duration::from_millis(200)
                {
                    let least =
                        |c: &Cost| c.requests as f64 * latency.as_secs_f64() / workers as f64;
                    line(
                        format!("{}, {way}: time, requests × latency / workers being 1", plan.name),
                        Promise::AtMost(1.1),
                        self.median(plan, way, |cost| cost.seconds / least(cost)),
                    );
                }
            }
        }
        self.flatness(&mut line);
        self.own_cost(text);
    }

    /// The cost of a call that does not grow with the rows.
    fn own_cost(&self, text: &mut String) {
        let plans = self.plans();
        let find = |name| plans.iter().find(|plan| plan.name == name).copied();
        let Some((small, medium)) = find("small").zip(find("medium")) else { return };
        let own = |kind| {
            let sync = Way::Sync { kind, latency: Duration::ZERO, workers: WORKERS };
            let rows = self.median(small, sync, |cost| cost.rows as f64)?;
            let a_row = self.median(medium, sync, |cost| cost.seconds / cost.rows as f64)?;
            Some((self.median(small, sync, |cost| cost.seconds)? - rows * a_row) * 1000.0)
        };
        let Some((standard, partitioned)) = own(Kind::Standard).zip(own(Kind::Partitioned)) else {
            return;
        };
        let _ = writeln!(
            text,
            "\nThe first call of a session costs {standard:.0} ms (standard) and {partitioned:.0} ms (partitioned) of \
             its own: so much longer does `small` take than its rows would at the speed of `medium`. {OWN_COST}"
        );
    }

    /// Time per row and memory, for all scenes side by side.
    fn flatness(&self, line: &mut dyn FnMut(String, Promise, Option<f64>)) {
        let plans: Vec<_> = self.plans().into_iter().filter(|plan| !plan.waits).collect();
        for kind in [Kind::Standard, Kind::Partitioned] {
            let sync = Way::Sync { kind, latency: Duration::ZERO, workers: WORKERS };
            let spread = |figure: &dyn Fn(&Cost) -> f64, plans: &[Plan]| {
                let all: Vec<_> =
                    plans.iter().filter_map(|plan| self.median(*plan, sync, figure)).collect();
                spread_of(&all)
            };
            line(
                format!("{kind}: seconds a row, from the least to the most of all scenes"),
                Promise::AtMost(1.15),
                spread(&|cost| 1.0 / cost.rows_per_second(), &plans),
            );
            let large: Vec<_> =
                plans.iter().copied().filter(|plan| plan.actions >= 100_000).collect();
            line(
                format!("{kind}: memory, from the least to the most of the larger scenes"),
                Promise::AtMost(1.25),
                spread(&|cost| cost.memory as f64, &large),
            );
            let copy = Way::Copy { kind, indexes: true };
            let own = |plan: &Plan| {
                let beyond = |sync: &Cost, copy: &Cost| sync.memory as f64 - copy.memory as f64;
                self.ratio(*plan, sync, copy, beyond)
            };
            let all: Vec<_> = large.iter().filter_map(own).collect();
            line(
                format!(
                    "{kind}: the same, beyond what COPY takes for its caches of the partitions"
                ),
                Promise::AtMost(1.25),
                spread_of(&all),
            );
        }
    }
}

/// The greatest divided by the least, if there are several.
fn spread_of(all: &[f64]) -> Option<f64> {
    let least = all.iter().copied().reduce(f64::min)?;
    let most = all.iter().copied().reduce(f64::max)?;
    (all.len() > 1).then(|| most / least)
}
