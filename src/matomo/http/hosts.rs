//! Which machines requests may go to: `matomo.allowed_hosts` and `matomo.allow_http`. Pure.

use std::net::IpAddr;

use crate::error::{Error, HostRefusal, Why};
use crate::matomo::http::address::{Block, is_here, reserved};

/// The two settings, ready to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// Hosts that may be asked, and by which of their properties.
    entries: Vec<Entry>,
    /// Whether other machines may be asked without TLS.
    http: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// `*`
    Any,
    /// `analytics.example.org`
    Name(String),
    /// `*.example.org`, kept with its first dot.
    Suffix(String),
    Block(Block),
}

/// An entry of the setting that means nothing, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct BadEntry {
    pub entry: String,
    pub why: &'static str,
}

/// Names of metadata services, whatever address they are given.
const METADATA: [&str; 3] =
    ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"];

impl Hosts {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first entry that is none.
    pub fn new(list: &str, http: bool) -> Result<Hosts, BadEntry> {
        let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        let entries = texts.map(Entry::parse).collect::<Result<_, _>>()?;
        Ok(Hosts { entries, http })
    }

    /// Judges a host by its name, before anybody looks it up: what is refused is not even asked for.
    ///
    /// # Errors
    /// [`HostRefusal`].
    pub fn admit_name(&self, host: &str) -> Result<(), HostRefusal> {
        let refuse = |why| Err(HostRefusal { host: host.to_owned(), address: None, why });
        let name = normal(host);
        if METADATA.contains(&name.as_str()) {
            return refuse(Why::Reserved("that of a cloud's metadata service"));
        }
        // A block may have its address.
        let may_be = |entry: &Entry| matches!(entry, Entry::Block(_)) || entry.names(&name);
        if self.entries.iter().any(may_be) { Ok(()) } else { refuse(Why::NotListed) }
    }

    /// Judges one address of a host, to which a connection is about to be made.
    ///
    /// # Errors
    /// [`HostRefusal`].
    pub fn admit(&self, host: &str, address: IpAddr, tls: bool) -> Result<(), HostRefusal> {
        let refuse = |why| Err(HostRefusal { host: host.to_owned(), address: Some(address), why });
        if let Some(what) = reserved(address) {
            return refuse(Why::Reserved(what));
        }
        let (name, canonical) = (normal(host), address.to_canonical());
        let listed = |entry: &Entry| match entry {
            Entry::Block(block) => block.has(canonical),
            other => other.names(&name),
        };
        if !self.entries.iter().any(listed) {
            return refuse(Why::NotListed);
        }
        if !(tls || self.http || is_here(address)) {
            return refuse(Why::Plain);
        }
        Ok(())
    }
}

impl From<BadEntry> for Error {
    fn from(BadEntry { entry, why }: BadEntry) -> Error {
        Error::Argument {
            message: format!("invalid entry \"{entry}\" in matomo.allowed_hosts: {why}"),
            hint: "A list of names, *.suffix, addresses and CIDR blocks is needed, separated by \
                   commas."
                .to_owned(),
        }
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Entry, BadEntry> {
        let bad = |why| Err(BadEntry { entry: text.to_owned(), why });
        if text == "*" {
            return Ok(Entry::Any);
        }
        let (name, suffix) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if text.contains(['/', ':']) {
            return match text.parse() {
                Ok(block) => Ok(Entry::Block(block)),
                Err(_) if !text.contains('/') || text.contains("//") => {
                    bad("give the host alone, without scheme, port and folder")
                }
                Err(why) => bad(why),
            };
        }
        if let Ok(block) = text.parse() {
            return Ok(Entry::Block(block));
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
        // As programs read numbers for addresses in several ways, such an entry would mislead.
        if name.split('.').next_back().is_some_and(is_number) {
            return bad("write the address in its usual form");
        }
        Ok(if suffix { Entry::Suffix(format!(".{name}")) } else { Entry::Name(name) })
    }

    /// Whether it means a host by this name, in its normal form.
    fn names(&self, name: &str) -> bool {
        match self {
            Entry::Any => true,
            Entry::Name(own) => own == name,
            Entry::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            Entry::Block(_) => false,
        }
    }
}

/// A name in lower case and without the dot that may end it.
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
