//! End-to-end tests: a real Postgres with the built extension, and a fake Matomo over real HTTP.
//! `make test` builds what they need.

mod cluster;
mod exactness;
mod readme;
mod support;
