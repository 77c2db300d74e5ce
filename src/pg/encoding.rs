//! Databases in encodings other than UTF8. Our text is UTF-8. Postgres converts it, and characters
//! that the database cannot hold become question marks, so that no visit is lost. SQL_ASCII holds
//! any bytes.

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::ptr;

use once_cell::sync::OnceCell;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::{Error, Result};

/// The encoding of this database if it needs conversion. Constant for the life of the backend.
struct Other {
    code: c_int,
    /// The conversion from UTF8, `None` if Postgres has none.
    conversion: Option<pg_sys::Oid>,
}

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;
const SQL_ASCII: c_int = pg_sys::pg_enc::PG_SQL_ASCII as c_int;
/// Bytes of text to convert at once; each may become four bytes.
const PART: usize = 16_384;

fn other() -> Option<&'static Other> {
    static OTHER: OnceCell<Option<Other>> = OnceCell::new();
    let find = || {
        // SAFETY: main thread; a constant of the database.
        let code = unsafe { pg_sys::GetDatabaseEncoding() };
        if code == UTF8 || code == SQL_ASCII {
            return None;
        }
        // SAFETY: main thread, within a transaction.
        let conversion = unsafe { pg_sys::FindDefaultConversionProc(UTF8, code) };
        Some(Other {
            code,
            conversion: Some(conversion).filter(|oid| *oid != pg_sys::Oid::INVALID),
        })
    };
    OTHER.get_or_init(find).as_ref()
}

/// Checks that Postgres can convert UTF-8 to the encoding of the database.
///
/// # Errors
/// [`Error::Encoding`].
pub fn check() -> Result<()> {
    match other() {
        Some(Other { conversion: None, .. }) => {
            Err(Error::Encoding(name().to_string_lossy().into_owned()))
        }
        _ => Ok(()),
    }
}

/// Whether the database counts bytes where others count characters.
pub fn counts_bytes() -> bool {
    // SAFETY: main thread; a constant of the database.
    unsafe { pg_sys::GetDatabaseEncoding() == SQL_ASCII }
}

/// Name of the database's encoding.
pub fn name() -> &'static CStr {
    // SAFETY: main thread; the name is static.
    unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }
}

/// Converts a text to the database's encoding.
pub fn to_server(text: &str) -> Cow<'_, [u8]> {
    match other() {
        Some(Other { code, conversion: Some(conversion) }) if !text.is_ascii() => {
            Cow::Owned(convert(text, *code, *conversion))
        }
        _ => Cow::Borrowed(text.as_bytes()),
    }
}

/// Converts a text of the database. Bytes that are no text, as SQL_ASCII may hold them, become U+FFFD.
pub fn from_server(bytes: &[u8]) -> String {
    let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
    if bytes.is_ascii() || other().is_none() {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    // SAFETY: main thread, within a transaction; the result is the text itself or a new one that ends with NUL.
    let text = unsafe {
        let text = pg_sys::pg_server_to_any(bytes.as_ptr().cast(), length, UTF8);
        if ptr::eq(text, bytes.as_ptr().cast()) { bytes } else { CStr::from_ptr(text).to_bytes() }
    };
    String::from_utf8_lossy(text).into_owned()
}

/// Prepares a message for ereport. A Rust string is always UTF-8, so in other encodings only its
/// ASCII characters are kept.
pub fn message(text: String) -> String {
    if text.is_ascii() || other().is_none() {
        return text;
    }
    text.chars().map(|char| if char.is_ascii() { char } else { '?' }).collect()
}

/// Converts the arguments of a query to the database's encoding; `None` if it needs no conversion.
pub fn arguments<'a>(args: &[DatumWithOid<'a>]) -> Option<Vec<DatumWithOid<'a>>> {
    other()?;
    let convert = |arg: &DatumWithOid<'a>| {
        let kind = arg.oid();
        let datum = arg.datum().map(|datum| datum.sans_lifetime());
        // SAFETY: main thread; the value has the type `kind`, and so has the result.
        let datum = datum.map(|datum| unsafe {
            match kind {
                pg_sys::TEXTOID => text(datum),
                pg_sys::TEXTARRAYOID => texts(datum),
                _ => datum,
            }
        });
        // SAFETY: as above.
        unsafe { DatumWithOid::new(datum, kind) }
    };
    Some(args.iter().map(convert).collect())
}

/// # Safety
/// Main thread; the datum is a text in UTF-8.
unsafe fn text(datum: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: the caller's promise; the copy lives in the current memory context.
    unsafe {
        let ours = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        let ours = String::from_utf8_lossy(pgrx::varlena::varlena_to_byte_slice(ours));
        let bytes = to_server(&ours);
        let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
        pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length).into()
    }
}

/// # Safety
/// Main thread; the datum is an array of texts in UTF-8, with at most one dimension.
unsafe fn texts(datum: pg_sys::Datum) -> pg_sys::Datum {
    let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the caller's promise; text has variable length and integer alignment.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let (length, by_value, align) = (-1, false, b'i' as std::ffi::c_char);
        pg_sys::deconstruct_array(
            array,
            pg_sys::TEXTOID,
            length,
            by_value,
            align,
            &mut elements,
            &mut nulls,
            &mut count,
        );
        for n in 0..usize::try_from(count).unwrap_or(0) {
            if !*nulls.add(n) {
                *elements.add(n) = text(*elements.add(n));
            }
        }
        let (mut dimension, mut first) = (count, 1);
        pg_sys::construct_md_array(
            elements,
            nulls,
            1,
            &mut dimension,
            &mut first,
            pg_sys::TEXTOID,
            length,
            by_value,
            align,
        )
        .into()
    }
}

fn convert(text: &str, code: c_int, conversion: pg_sys::Oid) -> Vec<u8> {
    let mut converted = Vec::with_capacity(text.len());
    let mut room = vec![0_u8; 4 * PART + 1];
    let mut rest = text;
    while !rest.is_empty() {
        let part = &rest[..floor_char_boundary(rest, PART)];
        // SAFETY: main thread, within a transaction; the room is enough for any part. The result
        // ends at the first NUL; texts contain none.
        let done = unsafe {
            let done = pg_sys::pg_do_encoding_conversion_buf(
                conversion,
                UTF8,
                code,
                part.as_ptr().cast_mut(),
                part.len() as c_int,
                room.as_mut_ptr(),
                room.len() as c_int,
                true,
            );
            converted.extend_from_slice(CStr::from_ptr(room.as_ptr().cast()).to_bytes());
            usize::try_from(done).unwrap_or(0)
        };
        rest = rest.get(done..).unwrap_or_default();
        if done < part.len() {
            converted.push(b'?');
            let mut chars = rest.chars();
            chars.next();
            rest = chars.as_str();
        }
    }
    converted
}

/// The last character boundary at or before a place.
fn floor_char_boundary(text: &str, place: usize) -> usize {
    if place >= text.len() {
        return text.len();
    }
    (0..=place).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
