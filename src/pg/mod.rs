//! A thin, safe layer over pgrx: SPI, settings, roles, locks, `ereport`, encodings, secrecy.

pub mod encoding;
pub mod ereport;
pub mod extension;
pub mod failed;
pub mod local_settings;
pub mod locks;
pub mod process;
pub mod roles;
pub mod secrecy;
pub mod server_text;
pub mod spi;
pub mod subtransaction;
pub mod watch;
