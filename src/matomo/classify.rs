//! Classifies an answer of Matomo: success, or which error. Status and body both count, as errors
//! also come with HTTP 200. Pure.
//!
//! Messages come in the language of the token's user or of the request. Language-neutral signs are
//! checked first, then known wordings. For the rest, the client repeats the request in English, and
//! asks which sites the token may see before it reports a refused token.

use serde::Deserialize;
use serde::de::IgnoredAny;
use ureq::http::StatusCode;

use crate::error::Fault;

#[derive(Deserialize)]
struct Envelope {
    result: String,
    #[serde(default)]
    message: String,
}

/// `None` for JSON that is no error. `hide` removes the token from Matomo's words before they are
/// cut to length, as it would not recognise half a token. [`Fault::Matomo`] is an unknown message,
/// [`Fault::NoAccess`] any refusal.
pub fn fault_of(status: StatusCode, body: &str, hide: &dyn Fn(&str) -> String) -> Option<Fault> {
    let text = body.trim();
    let excerpt = |text: &str| excerpt(&hide(text));
    let envelope =
        serde_json::from_str::<Envelope>(text).ok().filter(|envelope| envelope.result == "error");
    if let Some(envelope) = envelope {
        return Some(by_message(status, &envelope.message, excerpt(&envelope.message)));
    }
    let is_complete = (text.starts_with('{') && text.ends_with('}'))
        || (text.starts_with('[') && text.ends_with(']'));
    if !is_complete && let Some(words) = given_up(text) {
        return Some(Fault::Exhausted(words.to_owned()));
    }
    match status.as_u16() {
        300..=399 => return Some(Fault::Redirected(String::new())),
        429 => return Some(Fault::RateLimited(None)),
        200..=299 => {}
        503 if text.contains("maintenance") => return Some(Fault::Maintenance),
        _ if text.starts_with("GIF8") => {}
        other => return Some(Fault::Status(other)),
    }
    if is_complete {
        return None;
    }
    match text.as_bytes().first() {
        None => Some(Fault::Broken("it is empty".to_owned())),
        Some(b'{' | b'[') => Some(behind(text)),
        Some(_) if php(text).is_some() => php(text),
        Some(_) if holds_json(text) => Some(Fault::Mixed("text before")),
        // It may hold visits, whose titles must not be shown.
        Some(_) if text.starts_with("<?xml") => Some(Fault::NotJson("XML".to_owned())),
        Some(b'<') => Some(Fault::NotJson(html(title(text).map(excerpt)))),
        Some(b'G') if text.starts_with("GIF8") => Some(Fault::NotJson("a GIF image".to_owned())),
        Some(_) => {
            // Shows nothing that may belong to a visit.
            let words = text.split(['{', '[', '"']).next().unwrap_or_default().trim();
            let what = if words.is_empty() { "text" } else { "text: " };
            Some(Fault::NotJson(what.to_owned() + &excerpt(words)))
        }
    }
}

/// Too many failed logins, in known languages: a further request in English would prolong the
/// lockout.
const LOCKED_OUT: [&str; 2] = ["Too many failed logins", "Trop d'échecs de connexion"];
/// The database aborted a query: MySQL and MariaDB, by number or name.
const QUERY_TOO_LONG: [&str; 4] =
    ["SQLSTATE[70100]", "General error: 3024", "General error: 1969", "max_statement_time"];
/// PHP or the database aborted a request.
const EXHAUSTED: [&str; 3] =
    ["Allowed memory size", "Maximum execution time", "maximum execution time"];
/// The database is gone or too busy, as opposed to an error of the query.
const DATABASE: [&str; 3] = ["SQLSTATE[HY000]", "SQLSTATE[08", "SQLSTATE[40"];

/// Classifies by the whole message; the fault gets the part that may be shown.
fn by_message(status: StatusCode, whole: &str, message: String) -> Fault {
    let has = |words: &str| whole.contains(words);
    let has_any = |all: &[&str]| all.iter().any(|words| has(words));
    if has_any(&LOCKED_OUT) {
        Fault::LockedOut(message)
    } else if has_any(&EXHAUSTED)
        || has_any(&QUERY_TOO_LONG)
        || has("Could not run the query in time")
        || has("The query took too long to execute")
    {
        Fault::Exhausted(message)
    } else if has_any(&DATABASE) {
        Fault::Transient(message)
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Fault::RateLimited(None)
    } else if has("You cannot use this Matomo as your IP") {
        Fault::AddressRefused(message)
    } else if status == StatusCode::UNAUTHORIZED || names_a_right(whole) || speaks_of_token(whole) {
        Fault::NoAccess(message)
    } else if has("unexpected website was found") {
        Fault::UnknownSite(message)
    } else if has("Visits log is deactivated") {
        Fault::VisitsLogOff(message)
    } else {
        Fault::Matomo(message)
    }
}

/// Whether a message names a missing right, which is quoted in every language.
pub fn names_a_right(message: &str) -> bool {
    ["'view'", "'write'", "'admin'", "'superuser'"].iter().any(|right| message.contains(right))
}

/// Whether an English message is about the token rather than a site.
pub fn speaks_of_token(message: &str) -> bool {
    message.contains("authenticate with the provided token") || message.contains("token_auth")
}

/// Parses the list of sites that a token may see.
pub fn sites(body: &str) -> Option<Vec<i32>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Number(i32),
        Text(String),
    }
    let ids: Vec<Id> = serde_json::from_str(body).ok()?;
    ids.into_iter()
        .map(|id| match id {
            Id::Number(id) => Some(id),
            Id::Text(id) => id.parse().ok(),
        })
        .collect()
}

/// PHP's messages when it aborts a request, in English everywhere, with a number after each part
/// but the last. Only the message is shown, as it may stand amid visits.
const GIVEN_UP: [&[&str]; 4] = [
    &["Allowed memory size of ", " bytes exhausted (tried to allocate ", " bytes)"],
    &["Allowed memory size of ", " bytes exhausted"],
    &["Maximum execution time of ", " seconds exceeded"],
    &["Maximum execution time of ", " second exceeded"],
];

fn given_up(text: &str) -> Option<&str> {
    GIVEN_UP.iter().find_map(|parts| {
        let words = &text[text.rfind(parts[0])?..];
        let mut rest = words;
        for part in *parts {
            rest = rest.strip_prefix(part)?.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        Some(&words[..words.len() - rest.len()])
    })
}

/// The fault of text after JSON, or of JSON that is cut off.
fn behind(text: &str) -> Fault {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    if !matches!(values.next(), Some(Ok(_))) {
        return Fault::Broken("it ends in the middle".to_owned());
    }
    let rest = text[values.byte_offset()..].trim_start();
    match php(rest) {
        Some(fault) => fault,
        None if rest.starts_with("<!--") => Fault::Mixed("an HTML comment behind"),
        None => Fault::Mixed("text behind"),
    }
}

/// A PHP message before any JSON, as text or HTML.
fn php(text: &str) -> Option<Fault> {
    let text = text.split(['[', '{']).next().unwrap_or_default();
    let is_said = |kind: &&str| {
        let mut places = text.match_indices(*kind).map(|(at, _)| &text[at + kind.len()..]);
        places.any(|rest| rest.starts_with(": ") || rest.starts_with("</b>:"))
    };
    let kinds = ["Fatal error", "Parse error", "Warning", "Notice", "Deprecated"];
    kinds.into_iter().find(is_said).map(Fault::Php)
}

/// Number of positions at which to look for the start of JSON.
const PLACES: usize = 100;

/// Whether a text ends in JSON.
fn holds_json(text: &str) -> bool {
    let mut places = text.match_indices(['[', '{']).take(PLACES);
    places.any(|(at, _)| serde_json::from_str::<IgnoredAny>(&text[at..]).is_ok())
}

/// Describes an HTML page by its title.
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
#[path = "classify_tests.rs"]
mod tests;
