//! The token, and how it is kept out of texts. Pure.

use std::fmt;

/// A `token_auth` that never appears in debug output.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Wraps the text.
    pub fn new(text: &str) -> Token {
        Token(text.to_owned())
    }

    /// The token itself, for the request only.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Removes the token from a text from outside, which may quote the request.
    pub fn hide_in(&self, text: &str) -> String {
        // A token with special characters may be quoted encoded, as in a URL or a form.
        let encoded = percent_encoded(&self.0);
        let forms = [encoded.replace("%20", "+"), lower_escapes(&encoded), encoded];
        forms.iter().fold(text.replace(&self.0, "***"), |text, form| text.replace(form, "***"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            (byte as char).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// `%2F` as `%2f`.
fn lower_escapes(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        text += &format!("%{}{rest}", digits.to_ascii_lowercase());
    }
    text
}
