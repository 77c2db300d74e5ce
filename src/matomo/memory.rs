//! Memory that grows with an answer of Matomo. Rust ends the process when there is none, and
//! Postgres then restarts with all its sessions; so it is asked for first, and its lack is an error.

use std::fmt;
use std::hint::black_box;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::Fault;
use crate::matomo::json;

/// What the room of all threads together comes to.
static RESERVED: AtomicUsize = AtomicUsize::new(0);

/// What else takes memory meanwhile.
const SLACK: usize = 16 << 20;

/// Memory that there was when it was asked for; others are not promised it while this lives.
pub struct Reservation(usize);

impl Reservation {
    /// Bytes that all threads may still take.
    pub fn total_bytes() -> usize {
        RESERVED.load(Ordering::Relaxed)
    }

    /// Asks for so many bytes.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`].
    pub fn reserve(bytes: usize) -> Result<Reservation, Fault> {
        let others = RESERVED.fetch_add(bytes, Ordering::Relaxed);
        let room = Reservation(bytes);
        let all = others.saturating_add(bytes).saturating_add(SLACK);
        let mut probe: Vec<u8> = Vec::new();
        probe.try_reserve_exact(all).map_err(|_| Fault::OutOfMemory)?;
        // Else the compiler would leave it out.
        black_box(probe.as_ptr());
        Ok(room)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The text of an answer, with room for what is made of it while it lives.
pub struct Body {
    text: String,
    _reservation: Reservation,
}

/// What may be made of a byte at most: 5 by the visits and actions that [`crate::matomo::answer`] allows for
/// an answer of some length, each of some 400 bytes in two lists, one of which doubles; 8 by the parts
/// of a visit while its rows are made, of which custom variables take most.
const FACTOR: usize = 14;
/// The same of mending: three bytes in place of one, in a text that doubles.
const TO_MEND: usize = 6;

impl Body {
    /// Mends the body of an answer.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`]; [`Fault::TooLarge`] when it is longer than that many bytes.
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

/// A text that only grows as far as there is memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FallibleText {
    text: String,
    is_cut: bool,
}

impl FallibleText {
    pub fn push(&mut self, text: &str) {
        if self.text.try_reserve(text.len()).is_ok() {
            self.text.push_str(text);
        } else {
            self.is_cut = true;
        }
    }

    /// Another one.
    pub fn push_all(&mut self, text: &FallibleText) {
        self.push(text);
        self.is_cut |= text.is_cut;
    }

    /// Takes the last character away.
    pub fn pop(&mut self) {
        self.text.pop();
    }

    /// Whether there was no memory for a part of it.
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
