//! An answer before it is sent, and texts used in several places.

use crate::writer::{Style, Writer};

/// nginx's 404 page.
pub const NOT_FOUND: &str = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not \
    Found</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n</body>\r\n</html>\r\n";

/// Status, content type, other headers, body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        let content_type = "application/json; charset=utf-8";
        Answer { status, content_type, headers: Vec::new(), body: body.into() }
    }

    pub fn html(status: u16, body: impl Into<Vec<u8>>) -> Answer {
        Answer { status, content_type: "text/html", headers: Vec::new(), body: body.into() }
    }

    /// A refusal or failure in Matomo's error envelope.
    pub fn error(status: u16, message: &str) -> Answer {
        let mut w = Writer::new(Style::default());
        w.braces(|w| {
            w.str("result", "error");
            w.str("message", message);
        });
        Answer::json(status, w.out)
    }

    /// A redirect as nginx sends it.
    pub fn redirect(status: u16, location: &str) -> Answer {
        let page = "<html>\r\n<head><title>301 Moved Permanently</title></head>\r\n</html>\r\n";
        Answer { headers: vec![("location", location.to_owned())], ..Answer::html(status, page) }
    }
}
