//! The URL of a Matomo, as given and as requested. Pure.

use std::net::Ipv6Addr;

use ureq::http::Uri;

use crate::error::{Error, Result};

/// The address of a Matomo's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    host: String,
}

impl Endpoint {
    /// Parses the URL of a Matomo, with its folder, with or without `index.php`.
    ///
    /// # Errors
    /// [`Error::Argument`]. The message does not repeat a URL that may hold a password.
    pub fn parse(text: &str) -> Result<Endpoint> {
        let refuse = |why: &str| {
            Err(Error::Argument {
                message: format!("invalid URL of Matomo: {why}"),
                hint: "Give a URL such as https://analytics.example.org or \
                       https://www.example.org/matomo."
                    .to_owned(),
            })
        };
        if !text.is_ascii() {
            return refuse("it is not ASCII; write its host in the form xn--");
        }
        let Ok(uri) = text.parse::<Uri>() else {
            return refuse("it is malformed");
        };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return refuse("it does not begin with https:// or http://");
        };
        if !matches!(scheme, "http" | "https") {
            return refuse(&format!("scheme \"{scheme}\" is not supported"));
        }
        if authority.as_str().contains('@') {
            return refuse("it holds a user name or password");
        }
        if authority.host().is_empty() {
            return refuse("it has no host");
        }
        let bare = authority.host().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !bare.map_or(authority.host().bytes().all(good), |v6| v6.parse::<Ipv6Addr>().is_ok()) {
            return refuse("its host is neither a name nor an address");
        }
        // `Uri` accepts a port that is no number.
        if authority.port().is_some() != (authority.as_str().len() > authority.host().len()) {
            return refuse("its port is no number");
        }
        if uri.query().is_some() || text.contains('#') {
            return refuse("it has a query or a fragment");
        }
        let folder = uri.path().trim_end_matches("index.php").trim_end_matches('/');
        // Normalises the URL: one Matomo, one URL.
        let default_port = if scheme == "https" { 443 } else { 80 };
        let name = authority.host().to_ascii_lowercase();
        let host = match authority.port_u16().filter(|port| *port != default_port) {
            Some(port) => format!("{scheme}://{name}:{port}"),
            None => format!("{scheme}://{name}"),
        };
        Ok(Endpoint { url: format!("{host}{folder}/index.php"), host })
    }

    /// The URL of requests.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port, given or the default.
    pub fn port(&self) -> u16 {
        let port = self.url.parse::<Uri>().ok().and_then(|uri| uri.port_u16());
        port.unwrap_or(if self.host.starts_with("https:") { 443 } else { 80 })
    }

    /// Scheme, host and port, for messages.
    pub fn host(&self) -> &str {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_index_php() {
        for (given, url) in [
            ("https://a.example.org", "https://a.example.org/index.php"),
            ("https://a.example.org/", "https://a.example.org/index.php"),
            ("https://a.example.org/index.php", "https://a.example.org/index.php"),
            ("http://127.0.0.1:8080/matomo", "http://127.0.0.1:8080/matomo/index.php"),
            ("https://[::1]:8443/m/", "https://[::1]:8443/m/index.php"),
            ("HTTPS://A.Example.ORG:443/Matomo", "https://a.example.org/Matomo/index.php"),
            ("https://a.example.org:0443", "https://a.example.org/index.php"),
            ("http://127.0.0.1:80", "http://127.0.0.1/index.php"),
            ("http://a.example.org:443", "http://a.example.org:443/index.php"),
            ("https://[FE80::1]:443", "https://[fe80::1]/index.php"),
        ] {
            assert_eq!(Endpoint::parse(given).unwrap().url(), url);
        }
        let endpoint = Endpoint::parse("https://a.example.org:444/x").unwrap();
        assert_eq!(endpoint.host(), "https://a.example.org:444");
        assert_eq!(endpoint.port(), 444);
        for (url, port) in [("https://a.example.org", 443), ("http://[::1]", 80)] {
            assert_eq!(Endpoint::parse(url).unwrap().port(), port);
        }
    }

    #[test]
    fn what_is_refused() {
        for (given, why) in [
            ("", "malformed"),
            ("analytics.example.org", "does not begin"),
            ("/matomo", "does not begin"),
            ("ftp://a.example.org", "scheme \"ftp\""),
            ("file:///etc/passwd", "malformed"),
            ("https://user:secret@a.example.org", "user name or password"),
            ("https://a.example.org/?module=API", "query"),
            ("https://a.example.org/#x", "fragment"),
            ("https://a b.example.org", "malformed"),
            ("https://", "malformed"),
            ("https://münchen.example.org", "xn--"),
            ("https://a.example.org%2f@b", "user name"),
            ("https://a%2eexample.org", "malformed"),
            ("https://169.254.169.254%00.example.org", "malformed"),
            ("https://a.example.org\\@b.example.org", "malformed"),
            ("https://a.example.org\t", "malformed"),
            ("https://[fe80::1%25eth0]", "neither a name nor"),
            ("https://[a.example.org]", "neither a name nor"),
            ("https://[v1.x]", "neither a name nor"),
            ("https://a.example.org;b", "neither a name nor"),
            ("https://a.example.org,b", "neither a name nor"),
            ("https://a.example.org:port", "port is no number"),
            ("https://a.example.org:99999", "port"),
        ] {
            let error = Endpoint::parse(given).unwrap_err().to_string();
            assert!(error.contains(why), "{given}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
