//! Memory that grows with an answer of Matomo. A failed allocation in Rust aborts the process, and
//! Postgres restarts with all sessions. So memory is probed first, and a lack of it is an error.

use std::fmt;
use std::hint::black_box;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Fault;
use crate::matomo::json;

/// Bytes reserved by all threads together.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// Bytes for everything else.
const SLACK: usize = 48 << 20;

/// Memory that was available when it was reserved; it is not promised to others while this exists.
pub struct Reservation(usize);

impl Reservation {
    /// Bytes reserved by all threads.
    pub fn total_bytes() -> usize {
        RESERVED.load(Ordering::Relaxed)
    }

    /// Reserves bytes.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`].
    pub fn reserve(bytes: usize) -> Result<Reservation, Fault> {
        // A request that is too large by itself must not reduce what other threads can reserve.
        probe(bytes)?;
        let others = RESERVED.fetch_add(bytes, Ordering::Relaxed);
        let room = Reservation(bytes);
        probe(others.saturating_add(bytes))?;
        Ok(room)
    }
}

/// Checks that there is memory for so many bytes, and for everything else.
fn probe(bytes: usize) -> Result<(), Fault> {
    let mut probe: Vec<u8> = Vec::new();
    probe.try_reserve_exact(bytes.saturating_add(SLACK)).map_err(|_| Fault::OutOfMemory)?;
    // Keeps the compiler from removing the probe.
    black_box(probe.as_ptr());
    Ok(())
}

impl Drop for Reservation {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The text of an answer, with a reservation for what is made of it.
pub struct Body {
    text: String,
    _reservation: Reservation,
}

/// Maximum bytes made of one byte of an answer: 14 for visits and actions, of which
/// [`crate::matomo::answer`] limits the number, each about 1,200 bytes in two lists, one of which
/// doubles; 8 for the parts of a visit while its rows are made, mostly custom variables.
const FACTOR: usize = 22;
/// The same for mending: three bytes in place of one, in a text that doubles.
const TO_MEND: usize = 6;

impl Body {
    /// Mends the body of an answer.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`]; [`Fault::TooLarge`] if it is longer than `most` bytes.
    pub fn new(bytes: Vec<u8>, most: u64) -> Result<Body, Fault> {
        let room = Reservation::reserve(TO_MEND * bytes.len())?;
        let text = json::mend(bytes);
        if text.len() as u64 > most {
            return Err(Fault::TooLarge(most));
        }
        drop(room);
        let room = Reservation::reserve(FACTOR * text.len())?;
        Ok(Body { text, _reservation: room })
    }
}

impl Deref for Body {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

/// A text that is cut off when memory runs out, instead of aborting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FallibleText {
    text: String,
    is_cut: bool,
}

impl FallibleText {
    /// Appends text.
    pub fn push(&mut self, text: &str) {
        let has_room = text.len() <= self.text.capacity() - self.text.len();
        if has_room || self.text.try_reserve(text.len()).is_ok() {
            self.text.push_str(text);
        } else {
            self.is_cut = true;
        }
    }

    /// Makes room for so many bytes, if there is memory.
    pub fn reserve(&mut self, bytes: usize) {
        // Without it, `push` fails.
        let _ = self.text.try_reserve(bytes);
    }

    /// Appends a part of another one.
    pub fn push_part(&mut self, text: &FallibleText, part: Range<usize>) {
        self.push(text.get(part).unwrap_or_default());
        self.is_cut |= text.is_cut;
    }

    /// Removes the last character.
    pub fn pop(&mut self) {
        self.text.pop();
    }

    /// Whether a part is missing for lack of memory.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

impl Deref for FallibleText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl fmt::Write for FallibleText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than any machine has.
    const TOO_MUCH: usize = isize::MAX as usize - 2 * SLACK;

    #[test]
    fn what_there_is_not_is_not_promised() {
        assert!(Reservation::reserve(1 << 20).is_ok());
        assert!(matches!(Reservation::reserve(TOO_MUCH), Err(Fault::OutOfMemory)));
        // Nothing is left of it.
        assert!(Reservation::reserve(1 << 20).is_ok());
    }

    #[test]
    fn a_mended_answer_is_not_longer_than_one_may_be() {
        let body = |bytes: &[u8]| Body::new(bytes.to_vec(), 5).map(|body| body.to_owned());
        assert_eq!(body(b"[\"a\"]").unwrap(), "[\"a\"]");
        assert!(matches!(body(b"[\"\xff\"]"), Err(Fault::TooLarge(5))));
    }
}
