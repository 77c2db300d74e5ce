//! Settings, credentials, and the secrecy of the token.

mod credentials;
mod secrecy;
mod secrecy_calls;
mod secrecy_metadata;
mod secrecy_plans;
mod session_settings;
