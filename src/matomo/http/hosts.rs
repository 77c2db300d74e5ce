//! Which hosts requests may go to: `matomo.allowed_hosts` and `matomo.allow_http`. Pure.

use std::net::IpAddr;

use crate::error::{Error, HostRefusal, RefusalReason};
use crate::matomo::http::ip_blocks::{AddressBlock, is_here, reserved};

/// The hosts that the two settings allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHosts {
    /// A host is allowed if one of these matches.
    patterns: Vec<HostPattern>,
    /// Whether other machines are allowed without TLS.
    http: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// `*`
    Any,
    /// `analytics.example.org`
    Name(String),
    /// `*.example.org`, kept with its first dot.
    Suffix(String),
    Block(AddressBlock),
}

/// An invalid entry of the setting, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidHostPattern {
    pub entry: String,
    pub why: &'static str,
}

/// Names of metadata services, refused whatever their address.
const METADATA: [&str; 3] =
    ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"];

impl AllowedHosts {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first invalid entry.
    pub fn new(list: &str, http: bool) -> Result<AllowedHosts, InvalidHostPattern> {
        let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        let patterns = texts.map(HostPattern::parse).collect::<Result<_, _>>()?;
        Ok(AllowedHosts { patterns, http })
    }

    /// Checks a host's name before the lookup: a refused name is not looked up.
    ///
    /// # Errors
    /// [`HostRefusal`].
    pub fn admit_name(&self, host: &str) -> Result<(), HostRefusal> {
        let refuse = |why| Err(HostRefusal { host: host.to_owned(), address: None, why });
        let name = normal(host);
        if METADATA.contains(&name.as_str()) {
            return refuse(RefusalReason::Reserved("that of a cloud's metadata service"));
        }
        // The host's address may be in a block.
        let may_be =
            |entry: &HostPattern| matches!(entry, HostPattern::Block(_)) || entry.names(&name);
        if self.patterns.iter().any(may_be) { Ok(()) } else { refuse(RefusalReason::NotListed) }
    }

    /// Checks an address of a host before connecting to it.
    ///
    /// # Errors
    /// [`HostRefusal`].
    pub fn admit(&self, host: &str, address: IpAddr, tls: bool) -> Result<(), HostRefusal> {
        let refuse = |why| Err(HostRefusal { host: host.to_owned(), address: Some(address), why });
        if let Some(what) = reserved(address) {
            return refuse(RefusalReason::Reserved(what));
        }
        let (name, canonical) = (normal(host), address.to_canonical());
        let listed = |entry: &HostPattern| match entry {
            HostPattern::Block(block) => block.has(canonical),
            other => other.names(&name),
        };
        if !self.patterns.iter().any(listed) {
            return refuse(RefusalReason::NotListed);
        }
        if !(tls || self.http || is_here(address)) {
            return refuse(RefusalReason::Plain);
        }
        Ok(())
    }
}

impl From<InvalidHostPattern> for Error {
    fn from(InvalidHostPattern { entry, why }: InvalidHostPattern) -> Error {
        Error::Argument {
            message: format!("invalid entry \"{entry}\" in matomo.allowed_hosts: {why}"),
            hint: "Give a list of names, *.suffix, addresses and CIDR blocks, separated by commas."
                .to_owned(),
        }
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<HostPattern, InvalidHostPattern> {
        let bad = |why| Err(InvalidHostPattern { entry: text.to_owned(), why });
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (name, suffix) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if text.contains(['/', ':']) {
            return match text.parse() {
                Ok(block) => Ok(HostPattern::Block(block)),
                Err(_) if !text.contains('/') || text.contains("//") => {
                    bad("give the host alone, without scheme, port and folder")
                }
                Err(why) => bad(why),
            };
        }
        if let Ok(block) = text.parse() {
            return Ok(HostPattern::Block(block));
        }
        if !name.is_ascii() {
            return bad("write it in the form xn--");
        }
        let is_label = |label: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !label.is_empty() && label.bytes().all(good)
        };
        let name = normal(name);
        if !name.split('.').all(is_label) {
            return bad("it is neither a name nor an address");
        }
        // Programs read numbers as addresses in several ways, so such an entry would mislead.
        if name.split('.').next_back().is_some_and(is_number) {
            return bad("write the address in its usual form");
        }
        Ok(if suffix { HostPattern::Suffix(format!(".{name}")) } else { HostPattern::Name(name) })
    }

    /// Whether it matches a host's normalised name.
    fn names(&self, name: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Name(own) => own == name,
            HostPattern::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            HostPattern::Block(_) => false,
        }
    }
}

/// A name in lower case, without a final dot.
fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
