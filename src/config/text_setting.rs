//! The value of a setting that is a text.

use std::ffi::CString;

use pgrx::GucSetting;

use crate::pg::encoding;

/// The text, unless it is empty. Within a transaction.
pub fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let text = encoding::from_server(setting.get()?.to_bytes());
    (!text.is_empty()).then_some(text)
}
