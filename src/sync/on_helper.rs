//! Runs requests on a helper thread, and waits for them on the main thread.

use pgrx::PgLogLevel;

use crate::error::{Error, Result};
use crate::matomo::client::Client;
use crate::pg::ereport::say;
use crate::sync::helper::{Helper, Outbox};

/// Starts a helper thread with a clone of the client. Its queue holds at most `room` items.
///
/// # Errors
/// [`Error::Internal`] if no thread can be created.
pub fn start<T: Send + 'static>(
    client: &Client,
    room: usize,
    work: impl FnOnce(&Client, &mut Outbox<T>) + Send + 'static,
) -> Result<Helper<T>> {
    let (ours, theirs) = (client.clone(), client.clone());
    Helper::start(room, move || ours.shut_down(), move |outbox| work(&theirs, outbox))
}

enum Reply<T> {
    Notice(String),
    Done(Result<T>),
}

/// Runs `work` on a helper thread and waits for its result. Shows its NOTICEs meanwhile.
///
/// # Errors
/// Those of `work`.
pub fn ask<T: Send + 'static>(
    client: &Client,
    work: impl FnOnce(&Client, &mut dyn FnMut(String)) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut helper = start(client, 1, move |client, outbox| {
        let done = work(client, &mut |line| {
            outbox.send(Reply::Notice(line));
        });
        outbox.send(Reply::Done(done));
    })?;
    let mut result = Err(ended_early());
    while let Some(reply) = helper.next() {
        match reply {
            Reply::Notice(line) => say(PgLogLevel::NOTICE, line),
            Reply::Done(done) => result = done,
        }
    }
    result
}

/// The error if a helper ends without its last message, as after a panic.
pub fn ended_early() -> Error {
    Error::Internal("the fetch thread ended unexpectedly".to_owned())
}
