//! A helper thread and its mailbox: work that waits for the network happens there, while the main
//! thread of the backend stays ready for cancel, terminate and shutdown.
//!
//! Postgres is called by the main thread only. The helper has all signals blocked, so that every
//! signal meets the thread whose handlers know Postgres.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// The main thread's end. Dropping it ends the helper, also when an ERROR unwinds the stack.
pub struct Helper<T> {
    mail: Option<Receiver<T>>,
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
    cancel: Box<dyn Fn() -> Instant>,
}

/// The helper's end.
pub struct Outbox<T> {
    mail: Option<SyncSender<T>>,
    bell: UnixStream,
}

impl<T> Outbox<T> {
    /// Hands something over; waits while the mailbox is full. False when nobody reads any more.
    pub fn send(&mut self, item: T) -> bool {
        let sent = self.mail.as_ref().is_some_and(|mail| mail.send(item).is_ok());
        self.ring();
        sent
    }

    fn ring(&mut self) {
        // A full pipe is a bell that is ringing already.
        let _ = self.bell.write(&[1]);
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        // Hang up first, so that the reader whom the bell wakes sees it.
        self.mail = None;
        self.ring();
    }
}

/// How often the main thread looks for interrupts, should no signal wake it.
const GLANCE_MS: i64 = 100;
/// How long to wait for helpers that were told to stop, all together, before leaving it to end by itself, as one
/// does that hangs in a connect or in the resolver, at the latest after `matomo.connect_timeout`.
const PATIENCE: Duration = Duration::from_millis(300);

impl<T: Send + 'static> Helper<T> {
    /// Starts `work` on a thread of its own. At most `room` items wait in the mailbox. `cancel`
    /// must make `work` return soon, from any thread, and gives when that was asked for first.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system gives no thread or socket.
    pub fn start(
        room: usize,
        cancel: impl Fn() -> Instant + 'static,
        work: impl FnOnce(&mut Outbox<T>) + Send + 'static,
    ) -> Result<Helper<T>> {
        let failed =
            |error: std::io::Error| Error::Internal(format!("cannot start a thread: {error}"));
        let (bell, their_bell) = UnixStream::pair().map_err(failed)?;
        bell.set_nonblocking(true).map_err(failed)?;
        their_bell.set_nonblocking(true).map_err(failed)?;
        let (sender, mail) = sync_channel(room);
        let run = move || {
            let mut outbox = Outbox { mail: Some(sender), bell: their_bell };
            // A panic ends the mail without a last word, which the reader reports.
            let _ = catch_unwind(AssertUnwindSafe(|| work(&mut outbox)));
        };
        let builder = thread::Builder::new().name("matomo fetch".to_owned());
        let thread = with_signals_blocked(|| builder.spawn(run)).map_err(failed)?;
        Ok(Helper { mail: Some(mail), bell, thread: Some(thread), cancel: Box::new(cancel) })
    }

    /// The next item, or `None` when the helper has ended. Raises an ERROR on cancel, terminate
    /// or `statement_timeout`, as any wait of Postgres does.
    pub fn next(&mut self) -> Option<T> {
        loop {
            pgrx::check_for_interrupts!();
            match self.mail.as_ref()?.try_recv() {
                Ok(item) => {
                    crate::pg::watch::progress();
                    return Some(item);
                }
                Err(TryRecvError::Disconnected) => {
                    self.mail = None;
                    return None;
                }
                Err(TryRecvError::Empty) => self.wait(),
            }
        }
    }

    /// Waits for the bell, a signal or [`GLANCE_MS`].
    fn wait(&mut self) {
        let events = pg_sys::WL_LATCH_SET
            | pg_sys::WL_SOCKET_READABLE
            | pg_sys::WL_TIMEOUT
            | pg_sys::WL_EXIT_ON_PM_DEATH;
        // SAFETY: main thread; MyLatch lives as long as the backend, the socket as long as self.
        unsafe {
            pg_sys::WaitLatchOrSocket(
                pg_sys::MyLatch,
                events as i32,
                self.bell.as_raw_fd(),
                GLANCE_MS,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        let mut rings = [0; 64];
        while matches!(self.bell.read(&mut rings), Ok(1..)) {}
    }
}

impl<T> Drop for Helper<T> {
    fn drop(&mut self) {
        // A helper that has hung up by itself needs no telling, and its tools can be used again.
        // One that waits for room finds nobody to send to.
        let since = match self.mail.take() {
            Some(_) => (self.cancel)(),
            None => Instant::now(),
        };
        let Some(thread) = self.thread.take() else { return };
        let patience = since + PATIENCE;
        while !thread.is_finished() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// Runs `start` with all signals blocked, which a thread started in it inherits.
fn with_signals_blocked<R>(start: impl FnOnce() -> R) -> R {
    // SAFETY: plain libc calls on local sets.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}
