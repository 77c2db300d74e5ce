//! What a sync costs: rows a second beside `COPY`, a bare download and the Node tool's way.
//!
//! Everything is measured in pairs, round by round on the same machine within minutes, because
//! machines differ and drift: the figures to trust are the ratios. Run it by `make bench`.

mod cost;
mod report;
mod scene;
mod ways;

use std::time::Duration;

use report::{Report, Sample};
use scene::Scene;
use ways::{Kind, Way};

const HELP: &str = "\
Usage: bench [options]
  --sizes A,B     actions to copy (default 10000,126000,2000000)
  --rounds N      how often everything is measured; medians are shown (default 3)
  --out FILE      where the report goes, besides stdout
  --only WORD     only the ways whose name has this word
It connects as PGHOST, PGPORT, PGUSER and PGDATABASE say, to a server of its own whose files it may
read: `make bench` starts one.
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut sizes = vec![10_000, 126_000, 2_000_000];
    let (mut rounds, mut out, mut only) = (3, None, String::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(HELP);
        match word.as_str() {
            "--sizes" => {
                sizes = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
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
    for size in sizes {
        let scene = Scene::build(size)?;
        let ways: Vec<_> =
            ways(size).into_iter().filter(|w| w.to_string().contains(&only)).collect();
        for round in 1..=rounds {
            for way in &ways {
                let cost = way.run(&scene)?;
                eprintln!("{size:>9} actions, round {round}, {way}: {cost}");
                report.add(Sample { size, round, way: *way, cost });
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

/// What is measured at this size.
fn ways(size: usize) -> Vec<Way> {
    let mut ways = Vec::new();
    for kind in [Kind::Standard, Kind::Partitioned] {
        ways.extend([
            Way::Sync { kind, latency: Duration::ZERO, workers: 1 },
            Way::Copy { kind, indexes: true },
            Way::Again { kind, force: true },
        ]);
        if size >= 100_000 {
            ways.extend([Way::Copy { kind, indexes: false }, Way::Again { kind, force: false }]);
        }
        if (100_000..1_000_000).contains(&size) {
            ways.push(Way::Node { kind });
        }
    }
    if size >= 100_000 {
        ways.extend([1, 2, 4].map(|workers| Way::Download { latency: Duration::ZERO, workers }));
        ways.extend([2, 4].map(|workers| Way::Sync {
            kind: Kind::Standard,
            latency: Duration::ZERO,
            workers,
        }));
        for latency in [50, 200].map(Duration::from_millis) {
            // A day and more would be spent on waiting otherwise.
            let workers: &[usize] = if size < 1_000_000 { &[1, 2, 4] } else { &[4] };
            for &workers in workers {
                ways.push(Way::Sync { kind: Kind::Standard, latency, workers });
                ways.push(Way::Download { latency, workers });
            }
        }
    }
    ways
}
