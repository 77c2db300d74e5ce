//! Texts in the encoding of the database: results of our functions, and of statements.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::Datum;
use pgrx::prelude::*;

use crate::pg::encoding;

/// A text in the encoding of the database. pgrx's own texts panic where that is not UTF8.
pub struct ServerText(pub String);

impl IntoDatum for ServerText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // A bytea has the layout of a text.
        encoding::to_server(&self.0).as_ref().into_datum()
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

impl_sql_translatable!(ServerText, "text");

impl FromDatum for ServerText {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<ServerText> {
        // SAFETY: the caller's promise: a datum with the layout of a text.
        let text = (!is_null).then(|| unsafe {
            let text = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
            encoding::from_server(pgrx::varlena::varlena_to_byte_slice(text))
        });
        text.map(ServerText)
    }
}

// SAFETY: as pgrx does for other types that are made into a datum.
unsafe impl BoxRet for ServerText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: the datum lives in the current memory context.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}
