//! Settings, options of servers and user mappings, credentials.

pub mod access;
pub mod credentials;
pub mod databases;
pub mod hosts;
pub mod open_days;
pub mod options;
pub mod requests;
pub mod settings;
pub mod text_setting;
pub mod worker;
