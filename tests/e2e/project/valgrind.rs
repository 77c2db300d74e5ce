//! A session under valgrind, which finds invalid reads and writes, uninitialized memory, and
//! leaks. Postgres itself has harmless ones (padding that is written, memory freed at exit), so
//! only those of the extension's library count. Part of `make soak`, as it takes minutes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cluster::Cluster;
use crate::support::soak::{Session, figures, is_long};
use crate::support::worker::wait_long;
use crate::support::*;

/// Several calls of each kind.
const CALLS: usize = 88;

/// Replaces the server's program by a script that runs it under valgrind.
fn wrap(cluster: &Cluster) {
    let bindir = std::fs::read_to_string(cluster.dir.join("bindir")).unwrap();
    let program = Path::new(bindir.trim()).join("postgres");
    let real = program.with_file_name("postgres.real");
    std::fs::rename(&program, &real).unwrap();
    let script = format!(
        "#!/bin/sh\nexec valgrind --quiet --error-limit=no --num-callers=40 --leak-check=full \\\n\
         --show-leak-kinds=definite --xml=yes --xml-file={}/valgrind.%p.xml {} \"$@\"\n",
        cluster.dir.display(),
        real.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The text between two tags, for each occurrence.
fn between<'a>(text: &'a str, tag: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
    text.split(&begin).skip(1).filter_map(|rest| rest.split(&end).next()).collect()
}

/// Whether our library is at fault. Inner frames may belong to the C library or valgrind's
/// replacement of it.
fn is_ours(error: &str) -> bool {
    let stack = between(error, "stack")[0];
    let mut objects = between(stack, "obj").into_iter();
    let of_c = |object: &&str| {
        ["vgpreload_", "/libc.so", "/libc-", "/ld-linux", "/libm.so"]
            .iter()
            .any(|of| object.contains(of))
    };
    objects.find(|object| !of_c(object)).is_some_and(|object| object.contains("matomo_postgres"))
}

#[test]
fn valgrind_finds_no_fault_of_ours() {
    if !is_long() {
        return println!("valgrind: only with make soak");
    }
    let found = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        return figures("under valgrind", "valgrind is not installed | skipped");
    }
    // The package built with line numbers.
    let package = std::env::var("MATOMO_VALGRIND_PACKAGE").unwrap();
    let cluster = Cluster::create("autovacuum = off\n", &[("MATOMO_PACKAGE", &package)]);
    wrap(&cluster);
    cluster.start_again();
    let mut db = cluster.connect(&cluster.database());
    let process = pid(&mut db);
    let mut session = Session::new(db);
    (0..CALLS).for_each(|number| session.call(number));
    for table in ["matomo", "matomo_partitioned"] {
        run(&mut session.db, "CALL matomo_sync_all()");
        assert_equal(&mut session.db, table, &all_of(&session.fake, 1));
    }
    drop(session);
    let file = cluster.dir.join(format!("valgrind.{process}.xml"));
    let report = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_long(120, "valgrind has said all", || report().contains("</valgrindoutput>"));
    let report = report();
    let errors = between(&report, "error");
    // Postgres always has some errors of its own, so none would mean that valgrind saw nothing.
    assert!(!errors.is_empty(), "{report}");
    let (mut ours, mut lost, mut by_pgrx) = (Vec::new(), Vec::new(), 0);
    for error in errors.iter().filter(|error| is_ours(error)) {
        if between(error, "kind")[0] != "Leak_DefinitelyLost" {
            ours.push(error);
        } else if error.contains("<fn>pgrx_pg_sys::submodules::panic::do_ereport</fn>") {
            // pgrx 0.18.1 leaks the text domain when it passes on a Postgres error.
            by_pgrx += between(error, "leakedbytes")[0].parse::<usize>().unwrap();
        } else {
            lost.push(error);
        }
    }
    println!("{} errors in all", errors.len());
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(lost.is_empty(), "{lost:#?}");
    // About a dozen bytes per call.
    assert!(by_pgrx <= CALLS * 16, "{by_pgrx} bytes");
    figures(
        "under valgrind",
        &format!(
            "{CALLS} calls in one session, {} of them failed or cancelled, with the debug build | \
             invalid or uninitialised memory read or written by the library: {}; memory definitely lost: {}, and {by_pgrx} bytes by pgrx",
            CALLS / 11,
            ours.len(),
            lost.len()
        ),
    );
}
