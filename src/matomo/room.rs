//! How many visits and actions an answer may have for its length. Pure.

use std::cell::Cell;

use serde::de::Error;

/// Bytes that an answer has for each of its visits and actions, at the least: Matomo's have several
/// hundred each. Of two bytes would else come two or four hundred in memory.
pub const LEAST: usize = 256;
/// So many are no burden, however short they are.
const FREE: usize = 10_000;

/// What is said of an answer that has more.
pub const TOO_MANY: &str = "it has more visits and actions than an answer of its length can have";

thread_local! {
    /// How many visits and actions the answer that is being read may still have; none once they
    /// were too many.
    static ROOM: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Takes room for a visit or an action.
///
/// # Errors
/// When there is none.
pub fn take<E: Error>() -> Result<(), E> {
    let left = ROOM.get().and_then(|room| room.checked_sub(1));
    ROOM.set(left);
    left.map(drop).ok_or_else(|| E::custom(TOO_MANY))
}

/// Gives room to an answer that is now read.
pub fn set(body: &str) {
    ROOM.set(Some(FREE + body.len() / LEAST));
}

/// Whether all so far found room.
pub fn is_left() -> bool {
    ROOM.get().is_some()
}
