//! Measures the throughput of a sync beside `COPY`, a bare download and the way of the Node tool.
//!
//! Everything is measured in pairs, round by round, within minutes on the same machine, because
//! machines differ and drift: trust the ratios. Run it with `make bench`.

mod cost;
mod inserts;
mod report;
mod scene;
mod ways;

use std::time::Duration;

use report::{Report, Sample};
use scene::{Plan, Scene};
use ways::{Kind, Way};

const HELP: &str = "\
Usage: bench [options]
  --scenes A,B    of small, medium, large, waits (default all)
  --rounds N      how often everything is measured; medians are shown (default 3)
  --out FILE      where the report goes, besides stdout
  --only WORD     only the ways whose name has this word
It connects as PGHOST, PGPORT, PGUSER and PGDATABASE say, to a server of its own whose files it may
read: `make bench` starts one.
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut scenes = String::from("small,medium,large,waits");
    let (mut rounds, mut out, mut only) = (3, None, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(HELP);
        match word.as_str() {
            "--scenes" => scenes = value()?,
            "--rounds" => rounds = value()?.parse()?,
            "--out" => out = Some(value()?),
            "--only" => only = value()?,
            _ => {
                print!("{HELP}");
                return Ok(());
            }
        }
    }
    let mut report = Report::default();
    for kind in scenes.split(',') {
        let plan = scene::plan(kind).ok_or(HELP)?;
        let scene = Scene::build(plan)?;
        report.say_sizes(plan, scene.sizes.clone());
        let ways: Vec<_> =
            ways(plan).into_iter().filter(|way| way.to_string().contains(&only)).collect();
        for round in 1..=rounds {
            for way in &ways {
                let cost = way.run(&scene)?;
                eprintln!("{kind}, round {round}, {way}: {cost}");
                report.add(Sample { plan, round, way: *way, cost });
            }
        }
    }
    let text = report.text();
    println!("{text}");
    if let Some(out) = out {
        std::fs::write(out, text)?;
    }
    Ok(())
}

/// What is measured with a plan.
fn ways(plan: Plan) -> Vec<Way> {
    let standard = Kind::Standard;
    if plan.waits {
        let waits = [0, 50, 200].map(Duration::from_millis);
        return waits
            .into_iter()
            .flat_map(|latency| [1, 2, 4].map(|workers| (latency, workers)))
            .flat_map(|(latency, workers)| {
                [Way::Sync { kind: standard, latency, workers }, Way::Download { latency, workers }]
            })
            .collect();
    }
    let mut ways = Vec::new();
    if (100_000..1_000_000).contains(&plan.actions) {
        let kind = Kind::Other;
        let sync = Way::Sync { kind, latency: Duration::ZERO, workers: scene::WORKERS };
        ways.extend([sync, Way::Insert { kind }, Way::Copy { kind, indexes: true }]);
    }
    for kind in [standard, Kind::Partitioned] {
        ways.extend([
            Way::Sync { kind, latency: Duration::ZERO, workers: scene::WORKERS },
            Way::Copy { kind, indexes: true },
            Way::Again { kind, force: true },
            Way::Again { kind, force: false },
            Way::Copy { kind, indexes: false },
        ]);
        if (100_000..1_000_000).contains(&plan.actions) {
            ways.push(Way::Node { kind });
        }
    }
    ways.push(Way::Download { latency: Duration::ZERO, workers: scene::WORKERS });
    ways
}
