//! Settings for the hosts that syncs may connect to.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use crate::config::text_setting::text;
use crate::error::Result;
use crate::matomo::http::hosts::AllowedHosts;

static CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOWED_HOSTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"*"));
static ALLOW_HTTP: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Registers these settings.
pub fn register() {
    GucRegistry::define_string_guc(
        c"matomo.ca_file",
        c"Sets the file with trusted CA certificates (PEM).",
        c"An empty string means the system's certificate store.",
        &CA_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    // No check hook: for a refused value in postgresql.conf, Postgres would use the default, which
    // allows more. A sync refuses the value instead.
    GucRegistry::define_string_guc(
        c"matomo.allowed_hosts",
        c"Sets the hosts that syncs may connect to: names, *.suffix, addresses, CIDR blocks; * for any.",
        c"Link-local addresses and cloud metadata services are never allowed.",
        &ALLOWED_HOSTS,
        GucContext::Suset,
        GucFlags::from_bits_retain(pg_sys::GUC_LIST_INPUT as i32),
    );
    GucRegistry::define_bool_guc(
        c"matomo.allow_http",
        c"Allows http:// URLs of other machines.",
        c"The token is then sent unencrypted.",
        &ALLOW_HTTP,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// Path of the file with trusted CA certificates, unless they are the system's.
pub fn ca_file() -> Option<String> {
    text(&CA_FILE)
}

/// The hosts that syncs may connect to.
///
/// # Errors
/// [`crate::error::Error::Argument`] if the list is invalid.
pub fn allowed() -> Result<AllowedHosts> {
    Ok(AllowedHosts::new(&text(&ALLOWED_HOSTS).unwrap_or_default(), ALLOW_HTTP.get())?)
}
