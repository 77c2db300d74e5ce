//! What a server says besides results.

use std::sync::{Arc, Mutex};

use postgres::error::DbError;
use postgres::{Client, NoTls};

use crate::support::cluster::{Cluster, shared};

/// What a server says besides results, as (severity, message), the oldest first.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<(String, String)>>>);

impl Notices {
    /// Takes note of one, as a connection's callback.
    pub fn push(&self, notice: DbError) {
        let line = (notice.severity().to_owned(), notice.message().to_owned());
        self.0.lock().unwrap().push(line);
    }

    /// Takes all that have come so far.
    pub fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A database of its own in the shared cluster, and what it says to the connection.
pub fn database_with_notices() -> (Client, Notices) {
    let notices = Notices::default();
    let mut config = shared().config(&shared().database(), "postgres");
    let theirs = notices.clone();
    config.notice_callback(move |notice| theirs.push(notice));
    (config.connect(postgres::NoTls).expect("connects"), notices)
}

/// A connection that keeps what the server says besides results.
pub fn connect_with_notices(cluster: &Cluster, database: &str, user: &str) -> (Client, Errors) {
    let errors = Errors::default();
    let theirs = errors.clone();
    let mut config = cluster.config(database, user);
    config.notice_callback(move |notice| theirs.0.lock().unwrap().push(notice));
    (config.connect(NoTls).expect("connects"), errors)
}

/// Notices and warnings.
#[derive(Clone, Default)]
pub struct Errors(std::sync::Arc<std::sync::Mutex<Vec<DbError>>>);

impl Errors {
    /// Takes the warnings that have come so far, but for those of long visits, which made-up worlds
    /// are full of.
    pub fn warnings(&self) -> Vec<DbError> {
        let all = self.take("WARNING");
        all.into_iter().filter(|line| !line.message().contains("only the first actions")).collect()
    }

    /// Takes the notices that speak of something.
    pub fn notices_of(&self, words: &str) -> Vec<String> {
        let all = self.take("NOTICE");
        all.iter()
            .map(|notice| notice.message().to_owned())
            .filter(|line| line.contains(words))
            .collect()
    }

    fn take(&self, severity: &str) -> Vec<DbError> {
        let mut all = self.0.lock().unwrap();
        let (taken, rest) = all.drain(..).partition(|notice| notice.severity() == severity);
        *all = rest;
        taken
    }
}
