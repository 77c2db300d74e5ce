//! How a Matomo is reached: hosts, connections, TLS, requests. No Postgres.

pub mod agent;
pub mod certificates;
pub mod connection_faults;
pub mod deadline;
pub mod dial;
pub mod endpoint;
pub mod hosts;
pub mod http_client;
pub mod http_settings;
pub mod ip_blocks;
pub mod stop;
pub mod tls;
pub mod token;
