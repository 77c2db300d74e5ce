//! Injected faults.

use crate::errors::Saying;
use crate::seen::Seen;

/// The body of an error status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Json,
    Html,
    Empty,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Reads the request and never answers; the socket stays open.
    Hang,
    /// Sends the headers and half of the body, then nothing more.
    HangMidBody,
    /// Sends the right answer, one byte a second.
    Dribble,
    /// Answers with this status.
    Status(u16, Page),
    /// 429 with `Retry-After` in seconds.
    RetryAfter(u64),
    /// 200 with a login page.
    Html,
    /// 200 with an empty body.
    Empty,
    /// Announces the full Content-Length, sends half, then closes the connection.
    HalfBody,
    /// Closes the connection without an answer.
    Reset,
    /// 200 with Matomo's error envelope.
    ErrorEnvelope(String),
    /// This message of Matomo's, in the language of the request.
    Says(Saying),
    /// 500 with Matomo's error envelope.
    Status500Envelope(String),
    /// A redirect with this status and Location.
    Redirect(u16, String),
    /// An endless chunked list of visits.
    Endless,
    /// A valid answer of this many bytes.
    OverSize(usize),
    /// 200 with these bytes as JSON.
    Raw(Vec<u8>),
    /// The right answer with the first text before it and the second after it.
    Around(&'static str, &'static str),
    /// The right answer up to this byte, then this text.
    CutBy(usize, &'static str),
    /// 200 with `{"value":1}`.
    NotArray,
    /// A 500 page that quotes the request's body, token included.
    EchoToken,
}

/// Which requests a fault hits. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct When {
    /// Only this Matomo method.
    pub method: Option<String>,
    /// Only requests with these parameters.
    pub params: Vec<(String, String)>,
    /// Only requests with a greater `filter_limit`: a server too weak for large pages.
    pub limit_over: Option<i64>,
    /// The number of matching requests to let through first.
    pub after: usize,
    /// The number of requests to hit after that; `None` means all.
    pub times: Option<usize>,
}

impl When {
    pub fn always() -> When {
        When::default()
    }

    pub fn once() -> When {
        When::default().times(1)
    }

    /// Only `Live.getLastVisitsDetails`.
    pub fn live() -> When {
        When::default().method("Live.getLastVisitsDetails")
    }

    pub fn method(mut self, name: &str) -> When {
        self.method = Some(name.to_owned());
        self
    }

    /// Only requests with this parameter, for instance one day's `date`.
    pub fn param(mut self, name: &str, value: &str) -> When {
        self.params.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Only when `filter_limit` is greater than this.
    pub fn limit_over(mut self, limit: i64) -> When {
        self.limit_over = Some(limit);
        self
    }

    /// Lets this many requests through first.
    pub fn after(mut self, requests: usize) -> When {
        self.after = requests;
        self
    }

    /// Hits this many requests.
    pub fn times(mut self, requests: usize) -> When {
        self.times = Some(requests);
        self
    }

    fn matches(&self, seen: &Seen) -> bool {
        let limit = || seen.params.get("filter_limit").and_then(|n| n.parse().ok()).unwrap_or(100);
        self.method.as_ref().is_none_or(|m| *m == seen.method)
            && self.params.iter().all(|(name, value)| seen.params.get(name) == Some(value))
            && self.limit_over.is_none_or(|most| limit() > most)
    }
}

/// The active faults, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Plan(Vec<(Fault, When)>);

impl Plan {
    pub fn add(&mut self, fault: Fault, when: When) {
        self.0.push((fault, when));
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault for this request, if any; counts the request.
    pub fn next(&mut self, seen: &Seen) -> Option<Fault> {
        for (fault, when) in self.0.iter_mut().filter(|(_, when)| when.matches(seen)) {
            if when.after > 0 {
                when.after -= 1;
                continue;
            }
            match &mut when.times {
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
            }
            return Some(fault.clone());
        }
        None
    }
}
