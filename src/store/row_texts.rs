//! Reads the rows of a query as texts, without copying values that are stored as text: several
//! times as fast as a cast to text in the query, or as reading single values.

use std::ffi::CStr;

use pgrx::prelude::*;

/// Reads the rows of the last query.
pub struct RowTexts {
    rows: *mut pg_sys::SPITupleTable,
    count: usize,
    conversions: Vec<Conversion>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

/// How a value becomes text.
enum Conversion {
    /// The value is stored as text.
    Text,
    /// The same, with blanks at the end that do not count.
    Padded,
    /// The output function of its type.
    Output(pg_sys::FmgrInfo),
}

impl RowTexts {
    /// The rows of the query that SPI has just run.
    ///
    /// # Safety
    /// Inside the SPI connection of that query; the result must not outlive it, nor the next query.
    pub unsafe fn of_last_query() -> RowTexts {
        // SAFETY: the caller's promise; SPI set all this, or null for a query without a result.
        unsafe {
            let rows = pg_sys::SPI_tuptable;
            if rows.is_null() {
                let (conversions, values, nulls) = (Vec::new(), Vec::new(), Vec::new());
                return RowTexts { rows, count: 0, conversions, values, nulls };
            }
            let columns = usize::try_from((*(*rows).tupdesc).natts).unwrap_or(0);
            let conversions = (1..).take(columns).map(|n| {
                let kind = pg_sys::getBaseType(pg_sys::SPI_gettypeid((*rows).tupdesc, n));
                if [pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::JSONOID].contains(&kind) {
                    return Conversion::Text;
                }
                if kind == pg_sys::BPCHAROID {
                    return Conversion::Padded;
                }
                let (mut function, mut is_varlena) = (pg_sys::Oid::INVALID, false);
                let mut found = pg_sys::FmgrInfo::default();
                pg_sys::getTypeOutputInfo(kind, &mut function, &mut is_varlena);
                pg_sys::fmgr_info(function, &mut found);
                Conversion::Output(found)
            });
            let conversions = conversions.collect();
            let values = vec![pg_sys::Datum::null(); columns];
            let count = usize::try_from((*rows).numvals).unwrap_or(0);
            RowTexts { rows, count, conversions, values, nulls: vec![true; columns] }
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Passes each value of a row to `work`, with its column.
    pub fn row(&mut self, row: usize, mut work: impl FnMut(usize, Option<&[u8]>)) {
        assert!(row < self.count);
        // SAFETY: the row is there; both arrays have room for all columns.
        unsafe {
            let tuple = *(*self.rows).vals.add(row);
            let (values, nulls) = (self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
            pg_sys::heap_deform_tuple(tuple, (*self.rows).tupdesc, values, nulls);
        }
        for (column, kind) in self.conversions.iter_mut().enumerate() {
            if self.nulls[column] {
                work(column, None);
                continue;
            }
            let value = self.values[column];
            // SAFETY: the value is of the type whose kind this is.
            unsafe {
                match kind {
                    Conversion::Text => {
                        let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                        work(column, Some(pgrx::varlena::varlena_to_byte_slice(text)));
                    }
                    Conversion::Padded => {
                        let text = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
                        let text = pgrx::varlena::varlena_to_byte_slice(text);
                        let end = text.iter().rposition(|byte| *byte != b' ');
                        work(column, Some(&text[..end.map_or(0, |end| end + 1)]));
                    }
                    Conversion::Output(function) => {
                        let text = pg_sys::OutputFunctionCall(function, value);
                        work(column, Some(CStr::from_ptr(text).to_bytes()));
                        pg_sys::pfree(text.cast());
                    }
                }
            }
        }
    }
}
