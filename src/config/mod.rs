//! Settings, options of servers and user mappings, credentials.

pub mod access;
pub mod credentials;
pub mod databases;
pub mod open_days;
pub mod options;
pub mod settings;
pub mod worker;
