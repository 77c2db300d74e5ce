//! One HTTP request: read, logged, then answered or failed.

use crate::answer::{Answer, NOT_FOUND};
use crate::api::{self, Caller};
use crate::body::{Script, Step};
use crate::errors;
use crate::faults::{Fault, Page};
use crate::params::Params;
use crate::seen::{Seen, TokenPlace};
use crate::server::{Shared, locked};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use std::future::pending;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// Counts a request as in progress while it lives.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn new(shared: &Arc<Shared>) -> UnderWay {
        let now = shared.under_way.fetch_add(1, SeqCst) + 1;
        shared.peak.fetch_max(now, SeqCst);
        UnderWay(Arc::clone(shared))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

/// Answers a request; an error closes the connection.
pub async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> io::Result<Response<Script>> {
    let _under_way = UnderWay::new(&shared);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (mut seen, caller) = read(&shared, &head, &body);
    let number = shared.log(seen.clone());
    let latency = locked(&shared.knobs).latency;
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = locked(&shared.faults).next(&seen);
    if let Some(fault) = &fault {
        seen.fault = Some(format!("{fault:?}").chars().take(60).collect());
        shared.amend(number, 0, seen.fault.clone());
    }
    let answer = match &fault {
        Some(Fault::Hang) => return pending().await,
        Some(Fault::Reset) => return Err(io::Error::other("closed on purpose")),
        Some(Fault::Says(saying)) => {
            Some(errors::answer(saying, &seen.params, &locked(&shared.knobs)))
        }
        Some(fault) => spoilt(fault, &body),
        None => None,
    };
    let mut answer = answer.unwrap_or_else(|| remembered(&shared, &seen, caller));
    match &fault {
        Some(Fault::Around(before, behind)) => {
            answer.body = [before.as_bytes(), &answer.body, behind.as_bytes()].concat();
        }
        Some(Fault::CutBy(at, by)) => {
            answer.body.truncate(*at);
            answer.body.extend_from_slice(by.as_bytes());
        }
        _ => {}
    }
    shared.amend(number, answer.status, seen.fault);
    let accepts_gzip =
        seen.headers.iter().any(|(n, v)| n == "accept-encoding" && v.contains("gzip"));
    if accepts_gzip && locked(&shared.knobs).gzip && !answer.body.is_empty() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&answer.body)?;
        answer.body = encoder.finish()?;
        answer.headers.push(("content-encoding", "gzip".to_owned()));
    }
    respond(answer, fault)
}

fn read(shared: &Shared, head: &hyper::http::request::Parts, body: &Bytes) -> (Seen, Caller) {
    let mut params = Params::parse(&String::from_utf8_lossy(body));
    let mut query = Params::parse(head.uri.query().unwrap_or(""));
    let in_body = params.take("token_auth").filter(|t| !t.is_empty());
    let in_query = query.take("token_auth").filter(|t| !t.is_empty());
    params.0.append(&mut query.0);
    let token = match (&in_body, &in_query) {
        (Some(_), Some(_)) => TokenPlace::BodyAndQuery,
        (Some(_), None) => TokenPlace::Body,
        (None, Some(_)) => TokenPlace::Query,
        (None, None) if head.headers.contains_key("authorization") => TokenPlace::Header,
        (None, None) => TokenPlace::None,
    };
    let headers = head.headers.iter().filter(|(name, _)| *name != "authorization");
    let headers =
        headers.map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
    let seen = Seen {
        method: params.get("method").unwrap_or("").to_owned(),
        verb: head.method.to_string(),
        path: head.uri.path().to_owned(),
        params,
        token,
        headers: headers.collect(),
        at: Instant::now(),
        status: 0,
        fault: None,
    };
    let caller = match in_body {
        Some(token) if token == shared.token => Caller::Token,
        Some(token) => {
            let other = locked(&shared.knobs).tokens.get(&token).cloned();
            other.map_or(Caller::Nobody, Caller::Other)
        }
        None => Caller::Nobody,
    };
    (seen, caller)
}

/// The answer of a healthy Matomo, cached if the knob `remembers` is on.
fn remembered(shared: &Shared, seen: &Seen, caller: Caller) -> Answer {
    let is_kept = seen.method == "Live.getLastVisitsDetails" && caller == Caller::Token;
    if !(locked(&shared.knobs).remembers && is_kept) {
        return healthy(shared, seen, caller);
    }
    let asked = format!("{:?}", seen.params);
    if let Some(answer) = locked(&shared.remembered).get(&asked) {
        return answer.clone();
    }
    let answer = healthy(shared, seen, caller);
    locked(&shared.remembered).insert(asked, answer.clone());
    answer
}

/// The answer of a healthy Matomo.
fn healthy(shared: &Shared, seen: &Seen, caller: Caller) -> Answer {
    match seen.path.as_str() {
        "/" | "/index.php" | "/matomo/" | "/matomo/index.php" => {}
        "/matomo" => {
            let host = seen.headers.iter().find(|h| h.0 == "host").map_or("", |h| h.1.as_str());
            return Answer::redirect(301, &format!("{}://{host}/matomo/", shared.scheme));
        }
        _ => return Answer::html(404, NOT_FOUND),
    }
    // Locked before the world, and released: a test may hold both locks, in either order.
    let knobs = locked(&shared.knobs).clone();
    let mut world = locked(&shared.world);
    if seen.method == "Live.getLastVisitsDetails" {
        let hook = locked(&shared.hook).clone();
        if let Some(hook) = hook {
            hook(&mut world, seen);
        }
    }
    api::answer(&world, &knobs, seen, caller, &mut locked(&shared.refused))
}

/// The answer that a fault sends instead; `None` when it only affects the sending.
fn spoilt(fault: &Fault, body: &Bytes) -> Option<Answer> {
    let login = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form><input name=\"login\">\
        <input type=\"password\"></form></body></html>\n";
    Some(match fault {
        Fault::Status(status, Page::Empty) => Answer::html(*status, ""),
        Fault::Status(status, Page::Json) => Answer::json(*status, "[]"),
        Fault::Status(status, Page::Html) => Answer::html(
            *status,
            format!(
                "<html>\r\n<head><title>{status}</title></head>\r\n<body><h1>{status}</h1></body></html>\r\n"
            ),
        ),
        Fault::RetryAfter(seconds) => {
            let headers = vec![("retry-after", seconds.to_string())];
            Answer { headers, ..Answer::error(429, "Too many requests") }
        }
        Fault::Html => Answer::html(200, login),
        Fault::Empty => Answer::json(200, ""),
        Fault::ErrorEnvelope(words) => Answer::error(200, words),
        Fault::Status500Envelope(words) => Answer::error(500, words),
        Fault::Redirect(status, location) => Answer::redirect(*status, location),
        Fault::Raw(bytes) => Answer::json(200, bytes.clone()),
        Fault::NotArray => Answer::json(200, r#"{"value":1}"#),
        Fault::EchoToken => {
            let quoted = String::from_utf8_lossy(body);
            Answer::html(
                500,
                format!("<html><body><h1>Error</h1><pre>Request was: {quoted}</pre></body></html>"),
            )
        }
        Fault::Endless | Fault::OverSize(_) => Answer::json(200, ""),
        Fault::Hang
        | Fault::Reset
        | Fault::HangMidBody
        | Fault::Dribble
        | Fault::HalfBody
        | Fault::Says(_)
        | Fault::Around(..)
        | Fault::CutBy(..) => return None,
    })
}

fn respond(answer: Answer, fault: Option<Fault>) -> io::Result<Response<Script>> {
    let mut response =
        Response::builder().status(answer.status).header("content-type", answer.content_type);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(script(answer.body, fault)).map_err(io::Error::other)
}

/// How the body is sent.
fn script(bytes: Vec<u8>, fault: Option<Fault>) -> Script {
    match fault {
        Some(Fault::HangMidBody) => Script::half(bytes, Step::Silence),
        Some(Fault::HalfBody) => Script::half(bytes, Step::Break),
        Some(Fault::Dribble) => {
            let length = bytes.len() as u64;
            let steps = bytes.into_iter().flat_map(|b| {
                [Step::Data(Bytes::from(vec![b])), Step::Wait(Duration::from_secs(1))]
            });
            Script::new(Some(length), steps)
        }
        Some(Fault::Endless) => {
            let visit = r#"{"idSite":1,"idVisit":1,"lastActionTimestamp":1,"actionDetails":[]},"#;
            let chunk = Bytes::from(visit.repeat(1000));
            let start = std::iter::once(Step::Data(Bytes::from_static(b"[")));
            Script::new(
                None,
                start.chain(std::iter::repeat_with(move || Step::Data(chunk.clone()))),
            )
        }
        Some(Fault::OverSize(size)) => over_size(size),
        _ => Script::whole(bytes),
    }
}

/// One visit with a value that no row keeps, long enough to give the answer this size.
fn over_size(size: usize) -> Script {
    let (start, end) =
        (r#"[{"idSite":1,"idVisit":1,"lastActionTimestamp":1,"visitorTypeIcon":""#, r#""}]"#);
    let size = size.max(start.len() + end.len());
    let padding = size - start.len() - end.len();
    let block = Bytes::from(vec![b'x'; 65_536]);
    let blocks = (0..padding)
        .step_by(block.len())
        .map(move |at| block.slice(..block.len().min(padding - at)));
    let all = std::iter::once(Bytes::from_static(start.as_bytes()))
        .chain(blocks)
        .chain(std::iter::once(Bytes::from_static(end.as_bytes())));
    Script::new(Some(size as u64), all.map(Step::Data))
}
