//! Matomo: questions, answers, paging, errors, timezones. No Postgres, no settings.

pub mod answer;
pub mod backoff;
pub mod client;
pub mod http;
pub mod json;
pub mod memory;
pub mod pager;
pub mod refusal;
pub mod room;
pub mod understanding;
pub mod visit;
pub mod zone;
