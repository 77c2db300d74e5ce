//! Whether an answer of Matomo is an error, and which: status and body both count, as failures
//! also come with HTTP 200. Pure.

use serde::Deserialize;
use ureq::http::StatusCode;

use crate::error::Fault;

#[derive(Deserialize)]
struct Envelope {
    result: String,
    #[serde(default)]
    message: String,
}

/// `None` for JSON that is no error. `hide` takes the token out of words of Matomo, before they are
/// cut to length: it would not know half a token.
pub fn judge(status: StatusCode, body: &str, hide: &dyn Fn(&str) -> String) -> Option<Fault> {
    let text = body.trim_start();
    let excerpt = |text: &str| excerpt(&hide(text));
    let envelope =
        serde_json::from_str::<Envelope>(text).ok().filter(|envelope| envelope.result == "error");
    if let Some(envelope) = envelope {
        return Some(by_message(status, &envelope.message, excerpt(&envelope.message)));
    }
    match status.as_u16() {
        300..=399 => return Some(Fault::Redirected(String::new())),
        429 => return Some(Fault::RateLimited(None)),
        401 => return Some(Fault::TokenRefused(String::new())),
        200..=299 => {}
        other => return Some(Fault::Status(other)),
    }
    match text.as_bytes().first() {
        None => Some(Fault::Broken("it is empty".to_owned())),
        Some(b'{') if text.trim_end().ends_with('}') => None,
        Some(b'[') if text.trim_end().ends_with(']') => None,
        Some(b'{' | b'[') => Some(Fault::Broken("it ends in the middle".to_owned())),
        Some(b'<') => Some(Fault::NotJson(html(title(text).map(excerpt)))),
        Some(_) => Some(Fault::NotJson(format!("text: {}", excerpt(text)))),
    }
}

/// Judges by the whole of a message; the fault gets what may be shown of it.
fn by_message(status: StatusCode, whole: &str, message: String) -> Fault {
    let has = |words: &str| whole.contains(words);
    if has("Too many failed logins") {
        Fault::LockedOut(message)
    } else if has("Allowed memory size") || has("aximum execution time") {
        Fault::Exhausted(message)
    } else if has("requires '") || has("requires at least one of") || has("checkUserHas") {
        Fault::NoAccess(message)
    } else if status == StatusCode::UNAUTHORIZED
        || has("authenticate with the provided token")
        || has("token_auth")
    {
        Fault::TokenRefused(message)
    } else if has("unexpected website was found") {
        Fault::UnknownSite(message)
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Fault::RateLimited(None)
    } else {
        Fault::Matomo(message)
    }
}

/// What a person needs of an HTML page to recognise it.
fn html(title: Option<String>) -> String {
    match title.filter(|title| !title.is_empty()) {
        Some(title) => format!("an HTML page with the title \"{title}\""),
        None => "an HTML page".to_owned(),
    }
}

fn title(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let at = lower.find("<title")?;
    let begin = at + lower.get(at..)?.find('>')? + 1;
    let end = begin + lower.get(begin..)?.find("</title")?;
    text.get(begin..end)
}

/// One line of at most 200 characters.
pub fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Option<Fault> {
        judge(StatusCode::from_u16(status).unwrap(), body, &str::to_owned)
    }

    fn error(message: &str) -> String {
        format!(r#"{{"result":"error","message":"{message}"}}"#)
    }

    #[test]
    fn good_answers() {
        assert_eq!(judged(200, "[]"), None);
        assert_eq!(judged(200, r#"{"idsite":1,"result":"fine"}"#), None);
    }

    /// Messages as Matomo 5.2 sends them, and older ones with HTTP 200.
    #[test]
    fn errors_of_matomo() {
        let no_access =
            "You can't access this resource as it requires 'view' access for the website id = 4.";
        let refused =
            "Unable to authenticate with the provided token. It is either invalid or expired.";
        let locked = "Too many failed logins. Please wait and try logging in again later.";
        let unknown =
            "An unexpected website was found in the request: website id was set to '999' .";
        for status in [200, 401] {
            assert!(matches!(judged(status, &error(no_access)), Some(Fault::NoAccess(_))));
            assert!(matches!(judged(status, &error(refused)), Some(Fault::TokenRefused(_))));
        }
        assert!(matches!(judged(500, &error(locked)), Some(Fault::LockedOut(_))));
        assert!(matches!(judged(200, &error(unknown)), Some(Fault::UnknownSite(_))));
        assert_eq!(judged(200, &error("x  y")), Some(Fault::Matomo("x y".to_owned())));
        let memory = error("Allowed memory size of 134217728 bytes exhausted");
        assert!(matches!(judged(500, &memory), Some(Fault::Exhausted(_))));
    }

    #[test]
    fn answers_that_are_none() {
        assert_eq!(judged(502, "<html>"), Some(Fault::Status(502)));
        assert_eq!(judged(404, ""), Some(Fault::Status(404)));
        assert_eq!(judged(301, ""), Some(Fault::Redirected(String::new())));
        assert_eq!(judged(429, ""), Some(Fault::RateLimited(None)));
        for broken in [" \n", "[{", "{\"a\":[", "[1,2] x"] {
            assert!(matches!(judged(200, broken), Some(Fault::Broken(_))), "{broken}");
        }
        let page = judged(200, "<!DOCTYPE html><TITLE>\n Sign in </TITLE>");
        assert_eq!(
            page,
            Some(Fault::NotJson("an HTML page with the title \"Sign in\"".to_owned()))
        );
        assert_eq!(judged(200, "GIF89a"), Some(Fault::NotJson("text: GIF89a".to_owned())));
    }
}
