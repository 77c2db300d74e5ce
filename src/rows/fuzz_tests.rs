//! From bytes to rows, with whatever bytes: a fixed corpus, and with `MATOMO_FUZZ_SECONDS` others for
//! so long (`make soak`). Whatever fails is named by its seed.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use chrono_tz::Tz;
use fake_matomo::{hostile, mutate};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::*;
use crate::matomo::json::mend;
use crate::matomo::zone::Zone;
use crate::rows::lines;

const SITES: [SiteContext; 4] = [
    SiteContext { id: 1, zone: Zone::Fixed(0), action_time: ActionTime::Utc, is_rollup: None },
    SiteContext {
        id: 1,
        zone: Zone::Iana(Tz::Europe__Paris),
        action_time: ActionTime::Utc,
        is_rollup: None,
    },
    SiteContext {
        id: 1,
        zone: Zone::Iana(Tz::Australia__Lord_Howe),
        action_time: ActionTime::AsSent,
        is_rollup: None,
    },
    SiteContext {
        id: 1,
        zone: Zone::Fixed(-12_600),
        action_time: ActionTime::Utc,
        is_rollup: None,
    },
];

/// Visits of a real Matomo.
pub fn recorded() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut visits = Vec::new();
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "gz")) {
        let mut text = String::new();
        GzDecoder::new(std::fs::File::open(&file).unwrap()).read_to_string(&mut text).unwrap();
        visits.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap());
    }
    assert!(visits.len() > 100, "{}", visits.len());
    // The longest would be most of what is done.
    visits.retain(|visit| visit["actionDetails"].as_array().unwrap().len() < 60);
    visits
}

/// Makes rows of an answer as a sync does; (idVisit, rows) of each visit, or none if it is no list of
/// visits.
fn visits_and_rows(seed: u64, body: &[u8]) -> Option<Vec<(i64, usize)>> {
    let text = mend(body.to_vec());
    let visits = crate::matomo::answer::visits(&text).ok()?;
    assert!(!text.contains('\0'), "seed {seed}: U+0000");
    let site = SITES[(seed % 4) as usize];
    let layout =
        if seed.is_multiple_of(3) { Layout::of_node() } else { Layout::typed(TableKind::Actions) };
    let mut found: Vec<(i64, usize)> = Vec::new();
    for visit in &visits {
        let Some(id) = visit.id else { continue };
        let mut lines = Lines::default();
        let made = VisitRows::of(visit, id, site, DAY_BEGIN);
        assert!(made.add(&mut lines, &layout, usize::MAX).is_some(), "seed {seed}: visit {id}");
        for kind in TableKind::COMPANIONS {
            let layout = Layout::typed(kind);
            let mut lines = Lines::default();
            assert!(made.add(&mut lines, &layout, usize::MAX).is_some(), "seed {seed}: {kind:?}");
            for line in 0..lines.len() {
                assert_eq!(lines.cells(line).count(), layout.width(), "seed {seed}: {kind:?}");
            }
            assert!(kind != TableKind::Visits || lines.len() == 1, "seed {seed}: visit {id}");
        }
        assert_eq!(lines.len(), visit.actions.len(), "seed {seed}: rows of visit {id}");
        for line in 0..lines.len() {
            assert_well_formed(&lines, &layout, line, id, seed);
        }
        found.retain(|(other, _)| *other != id);
        found.push((id, lines.len()));
    }
    Some(found)
}

const DAY_BEGIN: i64 = 1_792_886_400;

/// A line is what COPY takes for a row, with all that the table demands.
fn assert_well_formed(lines: &Lines, layout: &Layout, line: usize, id: i64, seed: u64) {
    let text = lines.text(line..line + 1);
    assert_eq!(text.matches('\n').count(), 1, "seed {seed}: {text:?}");
    assert!(!text.contains(['\r', '\0']), "seed {seed}: {text:?}");
    let cells: Vec<_> = lines.cells(line).map(lines::value).collect();
    assert_eq!(cells.len(), layout.width(), "seed {seed}: {text:?}");
    let get = |column: &str| {
        let place = layout.position(column).expect("a column of every table");
        cells[place].as_deref()
    };
    assert_eq!(get("action_id"), Some(format!("{id}_{line}").as_str()), "seed {seed}");
    assert!(get("action_timestamp").is_some(), "seed {seed}: no time");
    for column in ["usercustomproperties", "usercustomdimensions"] {
        let json = get(column).unwrap();
        // What is nested deeper than serde_json reads stays as it was sent.
        let read = serde_json::from_str::<serde::de::IgnoredAny>(json);
        let deep = read.as_ref().is_err_and(|error| error.to_string().contains("recursion limit"));
        assert!(json.starts_with('{') && (read.is_ok() || deep), "seed {seed}: {column} {json}");
    }
}

/// So many pages, then more as long as there is time.
fn seeds(corpus: u64) -> impl Iterator<Item = u64> {
    let seconds = std::env::var("MATOMO_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (0..corpus).chain((now.as_secs() * 1_000_000..).take_while(move |_| Instant::now() < end))
}

fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn whatever_the_bytes_every_visit_has_its_rows() {
    let recorded = recorded();
    let (mut pages, mut visits, mut read, mut refused) = (0, 0, 0, 0);
    let begin = Instant::now();
    for seed in seeds(80) {
        let made = match seed % 2 {
            0 => hostile::page(seed),
            _ => mutate::page(seed, &recorded),
        };
        let mut expected = made.visits;
        let mut found = visits_and_rows(seed, &made.body)
            .unwrap_or_else(|| panic!("seed {seed}: {}", String::from_utf8_lossy(&made.body)));
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected, "seed {seed}");
        visits += found.len();
        // And the same page broken: whatever is still read is read whole.
        match visits_and_rows(seed, &hostile::mutilated(seed, &made.body)) {
            Some(_) => read += 1,
            None => refused += 1,
        }
        pages += 2;
    }
    println!(
        "soak: | bytes to rows | {pages} pages in {:.0} s: {visits} visits of well-formed ones, each with its rows; of {} broken ones \
         {refused} refused, {read} read; no panic, debug assertions and overflow checks on | peak memory {} MB |",
        begin.elapsed().as_secs_f64(),
        read + refused,
        peak_memory() / 1024
    );
    assert!(visits > 100 && read > 4 && refused > 20, "{visits} {read} {refused}");
    assert!(peak_memory() < 1024 * 1024, "{} kB", peak_memory());
}
