//! The value of a setting that is a text.

use std::ffi::CString;

use pgrx::GucSetting;

/// The text, unless it is empty.
pub fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let text = setting.get()?.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}
