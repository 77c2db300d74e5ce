//! Requests to Matomo and its answers.

mod keep_alive;
mod languages;
mod paging;
mod recordings;
