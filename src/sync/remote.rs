//! Requests from the main thread's point of view: made by a helper thread, waited for.

use pgrx::PgLogLevel;

use crate::error::{Error, Result};
use crate::matomo::client::Client;
use crate::pg::report::say;
use crate::sync::helper::{Helper, Outbox};

/// Starts a thread that works with the client and tells what it finds. At most `room` items wait.
///
/// # Errors
/// [`Error::Internal`] when there is no thread to be had.
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

/// Has one thing done, and waits for it; lines for the user are shown meanwhile.
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
    while let Some(mail) = helper.next() {
        match mail {
            Reply::Notice(line) => say(PgLogLevel::NOTICE, line),
            Reply::Done(done) => result = done,
        }
    }
    result
}

/// A helper that ended without its last word, as after a panic.
pub fn ended_early() -> Error {
    Error::Internal("the thread that fetches ended without a word".to_owned())
}
