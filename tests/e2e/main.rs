//! End-to-end tests: a real Postgres with the built extension, and a fake Matomo over real HTTP.
//! `make test` builds what they need. Folders are those of `src/`; `support` is what tests need;
//! `bad_input`, `boundaries`, `histories`, `pairs` and `trust` are suites with words of their own, and
//! begin with how to read a failure.

mod api;
mod bad_input;
mod boundaries;
mod config;
mod histories;
mod matomo;
mod pairs;
mod project;
mod rows;
mod state;
mod store;
mod support;
mod sync;
mod trust;
mod worker;
