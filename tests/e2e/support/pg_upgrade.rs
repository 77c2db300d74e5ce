//! `pg_upgrade` between two servers.

use std::path::Path;
use std::process::Command;

use crate::support::cluster::Cluster;

/// The last lines of the logs that a failed upgrade leaves.
fn logs(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        if entry.path().is_dir() {
            text += &logs(&entry.path());
        } else if entry.path().extension().is_some_and(|end| end == "log") {
            let all = std::fs::read_to_string(entry.path()).unwrap();
            let last: Vec<_> = all.lines().rev().take(8).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            text += &format!("\n{}:\n{}\n", entry.path().display(), last.join("\n"));
        }
    }
    text
}

/// Runs `pg_upgrade` on two stopped servers.
pub fn pg_upgrade(old: &Cluster, new: &Cluster) {
    let bindir = |cluster: &Cluster| {
        std::fs::read_to_string(cluster.dir.join("bindir")).unwrap().trim().to_owned()
    };
    let program = format!("{}/pg_upgrade", bindir(new));
    // SAFETY: only queries the user ID.
    let mut command = if unsafe { libc::geteuid() } == 0 {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", &program]);
        command
    } else {
        Command::new(&program)
    };
    command.args(["-b", &bindir(old), "-B", &bindir(new), "-U", "postgres", "-d"]);
    command.arg(old.dir.join("data")).arg("-D").arg(new.dir.join("data"));
    command.args(["-p", &old.port().to_string(), "-P", &new.port().to_string()]);
    // It writes its logs and sockets to the current folder.
    command.current_dir(&new.dir).env_remove("PGOPTIONS").env_remove("PGHOST");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", logs(&new.dir.join("data/pg_upgrade_output.d")));
}
