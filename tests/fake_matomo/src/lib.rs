//! A Matomo made up for tests: a world of sites and visits, served as a real Matomo 5 serves them,
//! with faults on demand and an oracle that says which rows a right copy has. See README.md.

pub mod action;
mod action_json;
mod answer;
mod api;
mod body;
pub mod catalog;
mod dates;
mod errors;
mod faults;
pub mod generate;
mod handler;
pub mod hostile;
mod journey;
mod json;
mod live;
pub mod mutate;
mod names;
mod nasty;
pub mod oracle;
mod params;
mod seen;
mod server;
mod sites;
mod tls;
pub mod visit;
pub mod world;
mod writer;
pub mod zone;

pub use action::{Action, CustomVariable, Item, Kind, TimeSpent};
pub use errors::Saying;
pub use faults::{Fault, Page, When};
pub use generate::{Plan, SitePlan};
pub use oracle::{ActionTime, COLUMNS, OracleRow};
pub use params::Params;
pub use seen::{Seen, TokenPlace};
pub use server::{Fake, Hook, Knobs, Options};
pub use tls::TlsKind;
pub use visit::{Device, Referrer, Visit};
pub use world::{Clock, Recorded, Site, World};
pub use zone::Zone;
