//! Settings, credentials, and the token that shows nowhere.

mod credentials;
mod secrecy;
mod secrecy_calls;
mod secrecy_plans;
mod session_settings;
