//! The wait before a retry. Pure.

use std::time::Duration;

use crate::error::{Error, Fault};

/// Half a second, doubled with each retry, plus jitter so that sites do not retry in step. If
/// Matomo sends Retry-After, that, up to a minute.
pub fn backoff(retry: u32, error: &Error) -> Duration {
    if let Error::Request { fault: Fault::RateLimited(Some(seconds)), .. } = error {
        return Duration::from_secs((*seconds).min(60));
    }
    let base = Duration::from_millis(500) * 2u32.pow(retry.saturating_sub(1).min(6));
    base + base.mul_f64(jitter() / 4.0)
}

/// From 0 to 1, taken from the clock: enough to spread retries.
fn jitter() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |now| f64::from(now.subsec_micros() % 1000) / 1000.0)
}
