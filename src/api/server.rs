//! The validator of the foreign-data wrapper `matomo`.

use pgrx::prelude::*;

use crate::config::options::{self, ObjectKind};
use crate::pg::ereport::or_raise;

/// Checks the options of a server or user mapping. Postgres calls it on CREATE and ALTER.
#[pg_extern(strict, volatile, parallel_unsafe)]
fn matomo_fdw_validator(options: Vec<String>, catalog: pg_sys::Oid) {
    let options: Vec<_> = options
        .iter()
        .map(|option| option.split_once('=').unwrap_or((option, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let kind = match catalog {
        pg_sys::ForeignServerRelationId => ObjectKind::Server,
        pg_sys::UserMappingRelationId => ObjectKind::UserMapping,
        _ => ObjectKind::Other,
    };
    or_raise(options::validate(&options, kind));
}
