//! Postgres' programs for dump and restore.

use std::process::Command;

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::*;

/// Runs a program; returns its output.
pub fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    assert_eq!(said, "", "{command:?} has something to say");
    output.stdout
}

/// An empty database, without the extension.
pub fn empty_database(cluster: &Cluster, name: &str) -> Client {
    run(&mut cluster.connect("postgres"), &format!("CREATE DATABASE {name}"));
    cluster.connect(name)
}
