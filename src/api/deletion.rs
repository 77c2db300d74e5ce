//! SQL functions for erasure and retention.

use pgrx::JsonB;
use pgrx::datum::Interval;
use pgrx::prelude::*;

use crate::error::Error;
use crate::pg::ereport::or_raise;
use crate::state::drop_step::{self, DropArguments};
use crate::state::forget::{self, Visitor};

/// Deletes all rows of a visitor from all destinations, or from one.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = "CREATE FUNCTION matomo_forget(visitorid text DEFAULT NULL, userid text DEFAULT NULL, only_in regclass DEFAULT NULL, visitip text DEFAULT NULL)
RETURNS TABLE (destination regclass, visits bigint, actions bigint)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
#[allow(clippy::type_complexity)]
fn matomo_forget_0_2_reconnect(
    visitorid: Option<&str>,
    userid: Option<&str>,
    only_in: Option<pg_sys::Oid>,
    visitip: Option<&str>,
) -> TableIterator<
    'static,
    (name!(destination, pg_sys::Oid), name!(visits, i64), name!(actions, i64)),
> {
    let visitor = Visitor {
        id: visitorid.filter(|id| !id.is_empty()),
        account: userid.filter(|account| !account.is_empty()),
        ip: visitip.filter(|ip| !ip.is_empty()),
    };
    if visitor.id.is_none() && visitor.account.is_none() && visitor.ip.is_none() {
        or_raise::<()>(Err(Error::NoVisitor));
    }
    TableIterator::new(or_raise(forget::forget(&visitor, only_in)))
}

/// One step of `matomo_drop_before`.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = "CREATE FUNCTION matomo_drop_step(destination regclass, before timestamptz, site integer, lock_timeout interval, place jsonb DEFAULT NULL)
RETURNS TABLE (place jsonb, more boolean, dropped text, actions bigint, blocked text, holders text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
#[allow(clippy::type_complexity)]
fn matomo_drop_step_0_2_reconnect(
    destination: Option<pg_sys::Oid>,
    before: Option<TimestampWithTimeZone>,
    site: Option<i32>,
    lock_timeout: Option<Interval>,
    place: Option<JsonB>,
) -> TableIterator<
    'static,
    (
        name!(place, Option<JsonB>),
        name!(more, bool),
        name!(dropped, Option<String>),
        name!(actions, i64),
        name!(blocked, Option<String>),
        name!(holders, Option<String>),
    ),
> {
    let done = or_raise((|| {
        let destination = destination.ok_or(Error::Null("destination"))?;
        let before = before.ok_or(Error::Null("before"))?;
        let lock_timeout = lock_timeout.ok_or(Error::Null("lock_timeout"))?;
        drop_step::drop_step(DropArguments { destination, before, site, lock_timeout, place })
    })());
    TableIterator::once((
        done.place,
        done.more,
        done.dropped,
        done.actions,
        done.blocked,
        done.holders,
    ))
}
