//! Messages of a server.

use std::sync::{Arc, Mutex};

use postgres::error::DbError;
use postgres::{Client, NoTls};

use crate::support::cluster::{Cluster, shared};

/// Messages of a server, as (severity, message), the oldest first.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<(String, String)>>>);

impl Notices {
    /// A connection's callback.
    pub fn push(&self, notice: DbError) {
        let line = (notice.severity().to_owned(), notice.message().to_owned());
        self.0.lock().unwrap().push(line);
    }

    /// Takes all messages so far.
    pub fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A connection to a new database in the shared cluster, and its messages.
pub fn database_with_notices() -> (Client, Notices) {
    let notices = Notices::default();
    let mut config = shared().config(&shared().database(), "postgres");
    let theirs = notices.clone();
    config.notice_callback(move |notice| theirs.push(notice));
    (config.connect(postgres::NoTls).expect("connects"), notices)
}

/// A connection that keeps the server's messages.
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
    /// Takes all warnings so far, except those about long visits, of which random worlds have many.
    pub fn warnings(&self) -> Vec<DbError> {
        let all = self.take("WARNING");
        all.into_iter().filter(|line| !line.message().contains("only the first actions")).collect()
    }

    /// Takes the notices that contain some words.
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
