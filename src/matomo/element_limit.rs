//! A limit on the visits and actions of an answer, by its length. Pure.
//!
//! In memory each takes a few hundred bytes, even one that is two bytes of JSON.

use std::cell::Cell;

use serde::de::Error;

/// Minimum length of an answer for each of its visits and actions. Matomo's have several hundred
/// bytes each.
pub const BYTES_PER_ELEMENT: usize = 256;
/// Visits and actions that any answer may have.
const FREE_ELEMENTS: usize = 10_000;

/// The error for an answer that has more.
pub const EXCEEDED: &str = "it has more visits and actions than an answer of its length can have";

thread_local! {
    /// How many more visits and actions the current answer may have; `None` once it had too many.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Starts counting for an answer.
pub fn begin(body: &str) {
    LEFT.set(Some(FREE_ELEMENTS + body.len() / BYTES_PER_ELEMENT));
}

/// Counts a visit or an action.
///
/// # Errors
/// [`EXCEEDED`].
pub fn count_one<E: Error>() -> Result<(), E> {
    let left = LEFT.get().and_then(|left| left.checked_sub(1));
    LEFT.set(left);
    left.map(drop).ok_or_else(|| E::custom(EXCEEDED))
}

/// Whether the current answer has had too many.
pub fn is_exceeded() -> bool {
    LEFT.get().is_none()
}
