//! Matomo: requests, answers, paging, errors, timezones. No Postgres, no settings.

pub mod answer;
pub mod backoff;
pub mod classify;
pub mod client;
pub mod diagnosis;
pub mod element_limit;
pub mod http;
pub mod json;
pub mod keys;
pub mod memory;
pub mod metadata;
pub mod pager;
pub mod visit;
pub mod zone;
