//! End-to-end tests: a real Postgres with the built extension, and a fake Matomo over real HTTP.
//! `make test` builds what they need.

mod bad_input;
mod cluster;
mod exactness;
mod odd_data;
mod readme;
mod support;
