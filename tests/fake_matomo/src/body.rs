//! A response body sent in steps, so that it can stall, break off or never end.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

pub enum Step {
    Data(Bytes),
    Wait(Duration),
    /// Sends nothing more but keeps the connection open.
    Silence,
    /// Breaks the connection.
    Break,
}

pub struct Script {
    steps: Box<dyn Iterator<Item = Step> + Send>,
    /// The announced Content-Length; `None` means chunked.
    length: Option<u64>,
    waiting: Option<Pin<Box<Sleep>>>,
    silent: bool,
}

impl Script {
    pub fn new(length: Option<u64>, steps: impl Iterator<Item = Step> + Send + 'static) -> Script {
        Script { steps: Box::new(steps), length, waiting: None, silent: false }
    }

    pub fn whole(bytes: Vec<u8>) -> Script {
        let length = bytes.len() as u64;
        let steps = (length > 0).then(|| Step::Data(bytes.into()));
        Script::new(Some(length), steps.into_iter())
    }

    /// The first half, then this step.
    pub fn half(mut bytes: Vec<u8>, then: Step) -> Script {
        let length = bytes.len() as u64;
        bytes.truncate(bytes.len() / 2);
        // The pause lets the half go out before the connection breaks.
        let steps = [Step::Data(bytes.into()), Step::Wait(Duration::from_millis(50)), then];
        Script::new(Some(length), steps.into_iter())
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                if waiting.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.waiting = None;
            }
            if self.silent {
                return Poll::Pending;
            }
            match self.steps.next() {
                None => return Poll::Ready(None),
                Some(Step::Data(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Wait(time)) => self.waiting = Some(Box::pin(sleep(time))),
                Some(Step::Silence) => self.silent = true,
                Some(Step::Break) => {
                    return Poll::Ready(Some(Err(io::Error::other("broken on purpose"))));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
