//! A helper thread and its queue of messages: the thread waits for the network, while the main thread
//! of the backend can react to cancel, terminate and shutdown.
//!
//! Only the main thread calls Postgres. The helper blocks all signals, so that Postgres' handlers run
//! on the main thread.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// The main thread's end. Dropping it stops the helper, also after an ERROR.
pub struct Helper<T> {
    queue: Option<Receiver<T>>,
    /// Number of items in the queue.
    waiting: Arc<AtomicUsize>,
    wakeup: UnixStream,
    thread: Option<JoinHandle<()>>,
    cancel: Box<dyn Fn() -> Instant>,
}

/// The helper's end.
pub struct Outbox<T> {
    queue: Option<SyncSender<T>>,
    waiting: Arc<AtomicUsize>,
    wakeup: UnixStream,
}

impl<T> Outbox<T> {
    /// Sends a message; waits while the queue is full. Returns false if the reader is gone.
    pub fn send(&mut self, item: T) -> bool {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(item).is_ok());
        self.wake_reader();
        sent
    }

    /// Whether the reader has taken all that was sent.
    pub fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    fn wake_reader(&mut self) {
        // If the socket is full, the reader already has a wakeup.
        let _ = self.wakeup.write(&[1]);
    }
}

impl<T> Drop for Outbox<T> {
    fn drop(&mut self) {
        // Close the queue first, so that the reader finds it closed when it wakes.
        self.queue = None;
        self.wake_reader();
    }
}

/// Longest time between two checks for interrupts, in milliseconds.
const CHECK_MS: i64 = 100;
/// How long to wait in total for helpers that were told to stop. After that they are left alone: one
/// that hangs in connect or in the resolver ends after `matomo.connect_timeout` at the latest.
const STOP_GRACE: Duration = Duration::from_millis(300);

impl<T: Send + 'static> Helper<T> {
    /// Starts `work` on a new thread. The queue holds at most `room` items. `cancel` must make
    /// `work` return soon, from any thread; it returns the time of the first cancel.
    ///
    /// # Errors
    /// [`Error::Internal`] if no thread or socket can be created.
    pub fn start(
        room: usize,
        cancel: impl Fn() -> Instant + 'static,
        work: impl FnOnce(&mut Outbox<T>) + Send + 'static,
    ) -> Result<Helper<T>> {
        let failed =
            |error: std::io::Error| Error::Internal(format!("cannot start a thread: {error}"));
        let (wakeup, their_wakeup) = UnixStream::pair().map_err(failed)?;
        wakeup.set_nonblocking(true).map_err(failed)?;
        their_wakeup.set_nonblocking(true).map_err(failed)?;
        let (sender, queue) = sync_channel(room);
        let waiting = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&waiting);
        let run = move || {
            let mut outbox = Outbox { queue: Some(sender), waiting: theirs, wakeup: their_wakeup };
            // After a panic the last message is missing, which the reader reports.
            let _ = catch_unwind(AssertUnwindSafe(|| work(&mut outbox)));
        };
        let builder = thread::Builder::new().name("matomo fetch".to_owned());
        let thread = with_signals_blocked(|| builder.spawn(run)).map_err(failed)?;
        let (queue, thread, cancel) = (Some(queue), Some(thread), Box::new(cancel));
        Ok(Helper { queue, waiting, wakeup, thread, cancel })
    }

    /// The next item; `None` if the helper has ended. Raises an ERROR on cancel, terminate or
    /// `statement_timeout`, like any wait of Postgres.
    pub fn next(&mut self) -> Option<T> {
        loop {
            pgrx::check_for_interrupts!();
            match self.queue.as_ref()?.try_recv() {
                Ok(item) => {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    crate::pg::watch::progress();
                    return Some(item);
                }
                Err(TryRecvError::Disconnected) => {
                    self.queue = None;
                    return None;
                }
                Err(TryRecvError::Empty) => self.wait(),
            }
        }
    }

    /// Waits for a wakeup, a signal or [`CHECK_MS`].
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
                self.wakeup.as_raw_fd(),
                CHECK_MS,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        let mut wakeups = [0; 64];
        while matches!(self.wakeup.read(&mut wakeups), Ok(1..)) {}
    }
}

impl<T> Drop for Helper<T> {
    fn drop(&mut self) {
        // A helper that has ended needs no cancel, so that its client stays usable. One that waits
        // for room in the queue fails to send.
        let since = match self.queue.take() {
            Some(_) => (self.cancel)(),
            None => Instant::now(),
        };
        let Some(thread) = self.thread.take() else { return };
        let deadline = since + STOP_GRACE;
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

/// Runs `start` with all signals blocked; a thread started in it inherits that.
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
