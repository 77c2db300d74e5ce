//! Shared helpers. Exports those that most tests need: databases, worlds, calls, roles.

pub mod call;
pub mod case;
pub mod cluster;
pub mod db;
pub mod dump;
pub mod engines;
pub mod footprint;
pub mod four_tables;
pub mod hostile;
pub mod log;
pub mod node_tool;
pub mod noon;
pub mod operators;
pub mod overloads;
pub mod pages;
pub mod pg_upgrade;
pub mod releases;
pub mod report;
pub mod restored;
pub mod roles;
pub mod secrecy;
pub mod sites;
pub mod soak;
pub mod traps;
pub mod worker;
pub mod world;
pub mod zones;

pub use call::*;
pub use db::*;
pub use four_tables::*;
pub use log::*;
pub use noon::Noon;
pub use roles::*;
pub use world::*;
