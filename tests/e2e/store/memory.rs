//! A backend that is out of memory fails with an ERROR (53200). Rust would abort the process, and
//! Postgres would restart with all its sessions.

use fake_matomo::{Fake, Fault, When};
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::*;

const MB: u64 = 1 << 20;

/// Limits a backend's address space to its current size plus `more` bytes; `None` lifts the limit.
/// Only the user that runs the server may do that.
fn limit(other: &mut Client, pid: i32, more: Option<u64>) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kb: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
    let most = more.map_or("unlimited".to_owned(), |more| (kb * 1024 + more).to_string());
    run(
        other,
        &format!("COPY (SELECT) TO PROGRAM 'cat >/dev/null; prlimit --pid={pid} --as={most}:'"),
    );
}

/// A list with enough visits for this many bytes.
fn list(bytes: u64, visit: impl Fn(i64) -> Vec<u8>) -> Vec<u8> {
    let mut all = b"[".to_vec();
    // IDs that the world's visits do not have.
    let mut id = 1_000_000;
    while (all.len() as u64) < bytes {
        id += 1;
        all.extend(visit(id));
        all.push(b',');
    }
    all.pop();
    all.push(b']');
    all
}

fn visit(id: i64, user: &[u8], actions: &str) -> Vec<u8> {
    let at = instant("2026-01-01T12:00:00Z");
    let head = format!(r#"{{"idSite":1,"idVisit":{id},"lastActionTimestamp":{at},"userId":""#);
    let tail = format!(r#"","actionDetails":[{actions}]}}"#);
    [head.as_bytes(), user, tail.as_bytes()].concat()
}

/// Answers that take much memory, each in another part of the code.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let title = "A".repeat(400);
    let action = format!(r#"{{"type":"action","url":"https://a.test/","title":"{title}"}},"#);
    let page = format!("{}{{}}", action.repeat(3));
    let many = format!("{}{{}}", action.repeat(400));
    let small = format!("{}{{}}", "{},".repeat(200_000));
    let long = format!(r#"{{"type":"action","url":"{}"}}"#, "x".repeat(12_000_000));
    let variables = (1..60_000).map(|n| {
        format!(r#""{n}":{{"customVariableName{n}":"{n}","customVariableValue{n}":[[]]}}"#)
    });
    let variables = variables.collect::<Vec<_>>().join(",");
    let with_variables = format!(r#"{{"customVariables":{{{variables}}}}}"#);
    vec![
        ("many visits", list(16 * MB, |id| visit(id, b"", &page))),
        ("a long text", list(2, |id| visit(id, b"", &long))),
        ("a visit's value in all its rows", list(2, |id| visit(id, &[b'u'; 100_000], &many))),
        ("no UTF-8", list(2, |id| visit(id, &vec![0xff; 8_000_000], "{}"))),
        ("control characters", list(2, |id| visit(id, &vec![0; 8_000_000], "{}"))),
        ("small actions", list(2, |id| visit(id, &vec![b'u'; 30_000_000], &small))),
        ("custom variables", list(2, |id| visit(id, b"", &with_variables))),
    ]
}

/// Runs a statement; returns the SQLSTATE of its error.
fn state(db: &mut Client, sql: &str) -> Option<String> {
    let error = db.batch_execute(sql).err()?;
    let error = error.as_db_error().unwrap_or_else(|| panic!("the session is gone: {error}"));
    Some(error.code().code().to_owned())
}

fn squeeze(cluster: &Cluster, fake: &Fake, what: &str, answer: &[u8]) {
    let name = cluster.database();
    let (mut db, mut other) = (cluster.connect(&name), cluster.connect(&name));
    let pid = pid(&mut db);
    let call = Sync::of(fake, "2026-01-01", "2026-01-01").sql();
    run(&mut db, "SET client_min_messages = error");
    run(&mut db, &call);
    run(
        &mut db,
        "TRUNCATE matomo; SET matomo.max_response_size = '64MB'; SET matomo.max_retries = 0",
    );
    let mut states = Vec::new();
    for more in [5, 20, 80, 400] {
        fake.heal();
        fake.fail(Fault::Raw(answer.to_vec()), When::live().times(1));
        limit(&mut other, pid, Some(more * MB));
        run(&mut db, "BEGIN");
        states.push(state(&mut db, &call).unwrap_or_default());
        limit(&mut other, pid, None);
        run(&mut db, "ROLLBACK");
        assert_eq!(self::pid(&mut db), pid, "{what}, {more} MB");
    }
    println!("{what}: {states:?}");
    assert_eq!(states[0], "53200", "{what}: {states:?}");
    for state in states {
        // 54000 and 08P01 are for answers that are too large in any case.
        assert!(["", "53200", "54000", "08P01"].contains(&&*state), "{what}: {state}");
    }
    fake.heal();
    run(&mut db, &call);
}

#[test]
fn a_backend_without_memory_fails_its_sync_and_stays_usable() {
    // A server of its own: a restart must not affect other tests.
    let cluster = Cluster::start();
    let fake = serve(world(65, "UTC", 20, "2026-01-01", "2026-01-01"));
    for (what, answer) in answers() {
        println!("{what}: {} MB", answer.len() as u64 / MB);
        squeeze(&cluster, &fake, what, &answer);
    }
}
