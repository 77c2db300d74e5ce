//! The options of foreign servers and user mappings, and their valid values.

use std::ffi::CString;
use std::ops::RangeInclusive;
use std::ptr;

use pgrx::pg_sys;

use crate::error::{Error, Result, SiteError};
use crate::matomo::http::endpoint::Endpoint;

/// The options of a server. They override the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub url: Option<String>,
    /// Path.
    pub ca_file: Option<String>,
    /// Seconds.
    pub timeout: Option<u32>,
    /// Seconds.
    pub connect_timeout: Option<u32>,
    pub language: Option<String>,
    /// Visits per page.
    pub page_size: Option<u32>,
    /// Days fetched at once.
    pub fetch_workers: Option<u32>,
}

/// The names of [`Options`].
const OF_SERVER: [&str; 7] =
    ["url", "ca_file", "timeout", "connect_timeout", "language", "page_size", "fetch_workers"];

/// Valid page sizes, in visits.
pub const PAGE_SIZES: RangeInclusive<i32> = 1..=10_000;

/// Valid numbers of days fetched at once.
pub const WORKERS: RangeInclusive<i32> = 1..=8;

/// Valid connect timeouts, in seconds.
pub const CONNECT_TIMEOUTS: RangeInclusive<i32> = 1..=3_600;

/// Valid request timeouts, in seconds.
pub const REQUEST_TIMEOUTS: RangeInclusive<i32> = 1..=86_400;

/// The only option of a user mapping.
pub const TOKEN: &str = "token";

/// The kind of object that has options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    Server,
    UserMapping,
    /// The foreign-data wrapper itself, or a foreign table; neither has options.
    Other,
}

/// Checks options as they are given in DDL.
///
/// # Errors
/// [`SiteError::InvalidOption`], [`SiteError::MissingOption`], [`SiteError::SuperuserOption`] and
/// [`Error::Argument`].
pub fn validate(given: &[(String, String)], kind: ObjectKind) -> Result<()> {
    let names: &[&'static str] = match kind {
        ObjectKind::Server => &OF_SERVER,
        ObjectKind::UserMapping => &[TOKEN],
        ObjectKind::Other => &[],
    };
    if let Some((name, _)) = given.iter().find(|(name, _)| !names.contains(&name.as_str())) {
        return Err(SiteError::InvalidOption { name: name.clone(), valid: names.to_vec() }.into());
    }
    match kind {
        ObjectKind::Server => {
            let options = Options::read(given)?;
            if let Some(url) = &options.url {
                Endpoint::parse(url)?;
            }
            // SAFETY: main thread, within a transaction.
            if options.ca_file.is_some() && !unsafe { pg_sys::superuser() } {
                return Err(SiteError::SuperuserOption("ca_file").into());
            }
            if options.url.is_none() {
                return Err(SiteError::MissingOption("url").into());
            }
            Ok(())
        }
        ObjectKind::UserMapping => {
            // A dump by a role that may not read a mapping's options has a mapping without any. So
            // a missing token is reported only when the server is used.
            let is_blank = given.iter().any(|(_, token)| token.trim().is_empty());
            if is_blank { Err(Error::empty_token("option \"token\"")) } else { Ok(()) }
        }
        ObjectKind::Other => Ok(()),
    }
}

impl Options {
    /// Reads the options of a server; unknown ones are ignored.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn read(given: &[(String, String)]) -> Result<Options> {
        let mut options = Options::default();
        for (name, value) in given {
            let text = || Some(value.clone()).filter(|value| !value.is_empty());
            let seconds = pg_sys::GUC_UNIT_S as i32;
            let number = |range, unit| number(name, value, range, unit).map(Some);
            match name.as_str() {
                "url" => options.url = text(),
                "ca_file" => options.ca_file = text(),
                "language" => options.language = text(),
                "timeout" => options.timeout = number(REQUEST_TIMEOUTS, seconds)?,
                "connect_timeout" => {
                    options.connect_timeout = number(CONNECT_TIMEOUTS, seconds)?;
                }
                "page_size" => options.page_size = number(PAGE_SIZES, 0)?,
                "fetch_workers" => options.fetch_workers = number(WORKERS, 0)?,
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Parses a number as Postgres does for a setting, with an optional unit of time.
fn number(name: &str, value: &str, range: RangeInclusive<i32>, unit: i32) -> Result<u32> {
    let text = CString::new(value).unwrap_or_default();
    let mut number = 0;
    // SAFETY: main thread; both pointers are to locals.
    let is_number = unsafe { pg_sys::parse_int(text.as_ptr(), &mut number, unit, ptr::null_mut()) };
    if !is_number || !range.contains(&number) {
        let what = if unit == 0 { "" } else { " seconds, or a time such as 2min" };
        return Err(Error::Argument {
            message: format!("invalid value for option \"{name}\": \"{value}\""),
            hint: format!("Give a number from {} to {}{what}.", range.start(), range.end()),
        });
    }
    Ok(number.unsigned_abs())
}
