//! The first start of the container: `packaging/docker/first-start.sh`, with a server started as
//! in the image.

use std::process::{Command, Output};

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::pages::root;
use crate::support::worker::*;
use crate::support::*;

/// Runs the script like the image's entrypoint, with the key in a file.
fn first_start(cluster: &Cluster, fake: &Fake, site: &str) -> Output {
    let key = cluster.dir.join("key");
    std::fs::write(&key, fake.token()).unwrap();
    let bindir = std::fs::read_to_string(cluster.dir.join("bindir")).unwrap();
    let path = format!("{}:{}", bindir.trim(), std::env::var("PATH").unwrap());
    Command::new("bash")
        .arg(root().join("packaging/docker/first-start.sh"))
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", cluster.port().to_string())
        .env("PATH", path)
        .env("MATOMO_URL", fake.url())
        .env("MATOMO_SITE", site)
        .env("MATOMO_START", "2026-11-16")
        .env("MATOMO_KEY_FILE", &key)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Name and timezone from Matomo, start date, and the state of the worker.
fn site(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT format('%s, %s, from %s: %s', c.name, c.timezone, c.start_date, CASE
             WHEN s.synced_to IS NOT NULL THEN 'synced' WHEN s.failures > 0 THEN 'failing' ELSE 'new' END)
         FROM matomo_sites c JOIN matomo_status s ON s.site_id = c.id",
    )
}

const SYNCED: [&str; 1] = ["Site 1, Europe/Paris, from 2026-11-16: synced"];

#[test]
fn the_first_start_registers_a_site_that_the_worker_syncs() {
    let fake = serve(world(11, "Europe/Paris", 5, "2026-11-16", "2026-11-18"));
    let cluster = Cluster::start_with(PRELOADED);
    let output = first_start(&cluster, &fake, "1");
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("ERROR"), "{}", said(&output));
    let mut db = cluster.connect("postgres");
    wait_long(60, "it is synced", || site(&mut db) == SYNCED);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

/// The script runs only once, so otherwise the container would never have its site.
#[test]
fn a_matomo_that_is_down_at_the_first_start_is_synced_once_it_is_up() {
    let fake = serve(world(12, "Europe/Paris", 5, "2026-11-16", "2026-11-18"));
    fake.knobs().maintenance = true;
    let cluster = Cluster::start_with(PRELOADED);
    let output = first_start(&cluster, &fake, "1");
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ERROR:  "), "{text}");
    assert!(text.contains("the background worker tries again"), "{text}");
    assert!(!text.contains(fake.token()), "{text}");
    let mut db = cluster.connect("postgres");
    wait_long(60, "it fails", || site(&mut db) == [", UTC, from 2026-11-16: failing"]);

    fake.knobs().maintenance = false;
    // As if the minute were over.
    run(&mut db, "UPDATE matomo_site_state SET next_at = now()");
    wait_long(60, "it is synced", || site(&mut db) == SYNCED);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // The site can be changed like any other.
    run(
        &mut db,
        "SELECT matomo_alter_site(1, site => 1, every => '1 hour', destination => 'matomo')",
    );
    let whose = "SELECT format('%s of %s', destination, owner) FROM matomo_sites";
    assert_eq!(texts(&mut db, whose), ["matomo of postgres"]);
}

#[test]
fn a_site_that_is_no_number_stops_the_first_start() {
    let fake = serve(world(13, "UTC", 1, "2026-11-16", "2026-11-16"));
    let cluster = Cluster::start_with(PRELOADED);
    let output = first_start(&cluster, &fake, "shop");
    assert!(!output.status.success());
    let text = said(&output);
    assert!(text.contains("invalid input syntax for type integer: \"shop\""), "{text}");
}
