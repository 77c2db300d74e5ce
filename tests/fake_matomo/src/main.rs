//! The fake Matomo as a program, for demos and for trying a client by hand.

use chrono::Days;
use fake_matomo::{Clock, Fake, Options, Plan, Site, SitePlan, World, Zone};
use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

const HELP: &str = "\
A fake Matomo with an example shop (site 1), whose visits reach up to now.

Usage: fake_matomo [options]
  --port N             port on 127.0.0.1 (default: any free one)
  --seed N             another seed, other visits (default 1)
  --days N             days back from today (default 21)
  --visits-per-day N   on average (default 300)
  --timezone ZONE      of the site: an IANA name, UTC+2, UTC-3.5 (default Europe/Paris)
  --token T            the token to accept (default demo-token)
  --recording FILE     serve the visits of this JSON file instead
  --site N             the id of the site (default 1)
  --help               this text

Prints url=... and token=..., then serves until it is killed.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("fake_matomo: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), String> {
    let Some(args) = Args::read(std::env::args().skip(1))? else {
        print!("{HELP}");
        return Ok(());
    };
    let token = args.text("--token", "demo-token");
    let bind = format!("127.0.0.1:{}", args.number("--port", 0)?);
    let options = Options { bind, token: token.clone(), ..Options::new(world(&args)?) };
    let fake = Fake::start(options);
    let mut out = std::io::stdout();
    writeln!(out, "url={}\ntoken={token}", fake.url())
        .and_then(|()| out.flush())
        .map_err(|e| e.to_string())?;
    loop {
        std::thread::park();
    }
}

fn world(args: &Args) -> Result<World, String> {
    let timezone = args.text("--timezone", "Europe/Paris");
    let zone = Zone::parse(&timezone).ok_or_else(|| format!("no such timezone: {timezone}"))?;
    let site = args.number("--site", 1)? as i64;
    if let Some(file) = args.0.get("--recording") {
        let text = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
        let visits = serde_json::from_slice(&text).map_err(|e| format!("{file}: {e}"))?;
        let mut world = World::new(Clock::Real);
        world.add_site(Site::new(site, "Recording", &timezone)).replace_visits_json(visits);
        return Ok(world);
    }
    let today = zone.day(Clock::Real.seconds());
    let days = args.number("--days", 21)?.max(1);
    let shop = SitePlan {
        name: "Example shop".to_owned(),
        ecommerce: true,
        ..SitePlan::new(site, &timezone, args.number("--visits-per-day", 300)? as usize)
    };
    Ok(World::generate(&Plan {
        seed: args.number("--seed", 1)?,
        sites: vec![shop],
        first_day: today - Days::new(days - 1),
        last_day: today,
        now: Clock::Real,
    }))
}

/// Options and their values.
struct Args(HashMap<String, String>);

impl Args {
    /// `None` means that help is wanted.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
        let mut all = HashMap::new();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--port" | "--seed" | "--days" | "--visits-per-day" | "--timezone" | "--token"
                | "--recording" | "--site" => {
                    let value = value
                        .or_else(|| words.next())
                        .ok_or_else(|| format!("{name} needs a value"))?;
                    all.insert(name, value);
                }
                _ => return Err(format!("unknown option {name}; see --help")),
            }
        }
        Ok(Some(Args(all)))
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| default.to_owned())
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        let Some(text) = self.0.get(name) else {
            return Ok(default);
        };
        text.parse().map_err(|_| format!("{name} needs a number, not {text}"))
    }
}
