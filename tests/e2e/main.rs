//! End-to-end tests: a real Postgres with the built extension, and a fake Matomo over real HTTP.
//! `make test` builds what they need. Folders mirror those of `src/`; `support` has shared helpers.
//! `bad_input`, `boundaries`, `histories`, `pairs` and `trust` are suites with terms of their own,
//! which start with how to read a failure.

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
