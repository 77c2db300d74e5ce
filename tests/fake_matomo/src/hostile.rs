//! Pages that no Matomo would send and that break a careless reader; the same seed gives the same
//! page. The expected result is known: every visit, with all of its actions.

use std::fmt::Write;

use crate::hostile_words::{ACTION_KEYS, KINDS, NUMBERS, SCRAPS, TIMES, VISIT_KEYS};
use crate::odd;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// An answer to `Live.getLastVisitsDetails`.
#[derive(Debug)]
pub struct HostilePage {
    pub body: Vec<u8>,
    /// Each visit's idVisit and number of actions.
    pub visits: Vec<(i64, usize)>,
}

/// Makes a page. The ids of its visits start at `seed * 100`.
pub fn page(seed: u64) -> HostilePage {
    let mut maker = Maker(ChaCha8Rng::seed_from_u64(seed));
    let first = i64::try_from(seed % 10_000_000_000).unwrap_or_default() * 100;
    let mut visits: Vec<(i64, usize)> = Vec::new();
    let mut texts = Vec::new();
    for n in 0..maker.up_to(12) as i64 {
        // When a visit comes twice, the last one counts.
        let id = if maker.odds(10) { first + n / 2 } else { first + n };
        let (text, actions) = maker.visit(id);
        texts.push(text);
        visits.retain(|(other, _)| *other != id);
        visits.push((id, actions));
    }
    let space = maker.pick(&["", " ", "\n\t", "\r\n"]);
    let text = format!("{space}[{space}{}{space}]{space}", texts.join(","));
    HostilePage { body: bytes(&text), visits }
}

/// The page with bytes flipped, removed, doubled or inserted: most results are no longer JSON.
pub fn mutilated(seed: u64, body: &[u8]) -> Vec<u8> {
    let mut maker = Maker(ChaCha8Rng::seed_from_u64(seed));
    let mut body = body.to_vec();
    for _ in 0..=maker.up_to(2) {
        if body.is_empty() {
            break;
        }
        let at = maker.up_to(body.len());
        let end = (at + maker.up_to(40)).min(body.len());
        match maker.up_to(6) {
            0 => body[at] ^= 1 << maker.up_to(8),
            1 => body.truncate(at),
            2 => drop(body.drain(at..end)),
            3 => body.extend_from_within(at..end),
            4 => body.insert(at, b"{}[]\",:\\\0\xff"[maker.up_to(10)]),
            _ => body[at] = b"{}[]\",:\\0n"[maker.up_to(10)],
        }
    }
    body
}

fn bytes(text: &str) -> Vec<u8> {
    let parts: Vec<_> = text.split('\u{e000}').map(str::as_bytes).collect();
    parts.join(&0xff)
}

struct Maker(ChaCha8Rng);

impl Maker {
    /// A number from 0 to `most - 1`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0.random_range(0..most)
    }

    /// True once in this many times.
    fn odds(&mut self, times: usize) -> bool {
        self.up_to(times) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.up_to(from.len())]
    }

    fn visit(&mut self, id: i64) -> (String, usize) {
        let mut members = Vec::new();
        for _ in 0..self.up_to(20) {
            let key = self.pick(&VISIT_KEYS);
            let value = if key.ends_with("Timestamp") { self.time() } else { self.value(4) };
            members.push(format!("\"{key}\":{value}"));
        }
        self.typed(&odd::KEYS_OF_VISITS, &mut members);
        let last = self.time();
        members.push(format!("\"lastActionTimestamp\":{last}"));
        let mut actions = 0;
        // When a key comes twice, the last one counts.
        for _ in 0..if self.odds(10) { 2 } else { 1 } {
            let (text, count) = self.actions();
            members.push(format!("\"actionDetails\":{text}"));
            actions = count;
        }
        let id = if self.odds(2) { format!("\"{id}\"") } else { id.to_string() };
        let at = self.up_to(members.len() + 1);
        members.insert(at, format!("\"idVisit\":{id}"));
        (format!("{{{}}}", members.join(",")), actions)
    }

    fn actions(&mut self) -> (String, usize) {
        if self.odds(15) {
            return (self.value(0), 0);
        }
        let count = if self.odds(20) { 600 } else { self.up_to(6) };
        let actions: Vec<_> = (0..count).map(|_| self.action()).collect();
        if self.odds(8) {
            let members: Vec<_> =
                actions.iter().enumerate().map(|(n, action)| format!("\"{n}\":{action}")).collect();
            return (format!("{{{}}}", members.join(",")), count);
        }
        (format!("[{}]", actions.join(",")), count)
    }

    fn action(&mut self) -> String {
        if self.odds(30) {
            return self.value(2);
        }
        let mut members: Vec<_> = (0..self.up_to(12))
            .map(|_| {
                let key = self.pick(&ACTION_KEYS);
                let value = match key {
                    // The rows of conversions and items depend on it.
                    "type" if self.odds(2) => self.pick(&KINDS).to_owned(),
                    "timestamp" => self.time(),
                    "customVariables" => self.variables(),
                    "itemDetails" => self.items(),
                    _ => self.value(3),
                };
                format!("\"{key}\":{value}")
            })
            .collect();
        self.typed(&odd::KEYS_OF_ACTIONS, &mut members);
        format!("{{{}}}", members.join(","))
    }

    /// Adds some typed keys with arbitrary values.
    fn typed(&mut self, keys: &[odd::TypedKey], members: &mut Vec<String>) {
        for _ in 0..self.up_to(4) {
            let key = keys[self.up_to(keys.len())].0;
            let value = if self.odds(3) { self.value(2) } else { self.pick(&odd::JSON).to_owned() };
            members.push(format!("\"{key}\":{value}"));
        }
    }

    fn items(&mut self) -> String {
        if self.odds(4) {
            return self.value(3);
        }
        let items: Vec<_> = (0..self.up_to(4))
            .map(|_| {
                let mut members = vec![format!("\"itemSKU\":{}", self.value(1))];
                self.typed(&odd::KEYS_OF_ITEMS, &mut members);
                format!("{{{}}}", members.join(","))
            })
            .collect();
        format!("[{}]", items.join(","))
    }

    fn variables(&mut self) -> String {
        if self.odds(4) {
            return self.value(3);
        }
        let mut text = String::from("{");
        let many = self.odds(100);
        for n in 0..if many { 10_000 } else { self.up_to(5) } {
            let (name, value) = match many {
                true => (format!("\"name {n}\""), "1".to_owned()),
                false => (self.string(), self.value(2)),
            };
            let comma = if n == 0 { "" } else { "," };
            let scope = self.pick(&["", "Page"]);
            let _ = write!(
                text,
                "{comma}\"{n}\":{{\"customVariable{scope}Name{n}\":{name},\"customVariable{scope}Value{n}\":{value}}}"
            );
        }
        text + "}"
    }

    fn time(&mut self) -> String {
        self.pick(&TIMES).to_owned()
    }

    fn value(&mut self, depth: usize) -> String {
        if depth == 0 || !self.odds(5) {
            return self.scalar();
        }
        if self.odds(40) {
            let deep = 1 + self.up_to(3000);
            return format!("{}{}", "[".repeat(deep), "]".repeat(deep));
        }
        let list = self.odds(2);
        let parts: Vec<_> = (0..self.up_to(4))
            .map(|_| {
                let value = self.value(depth - 1);
                if list { value } else { format!("{}:{value}", self.string()) }
            })
            .collect();
        if list { format!("[{}]", parts.join(",")) } else { format!("{{{}}}", parts.join(",")) }
    }

    fn scalar(&mut self) -> String {
        match self.up_to(8) {
            0 => self.pick(&["null", "true", "false"]).to_owned(),
            1 | 2 => self.pick(&NUMBERS).to_owned(),
            _ => self.string(),
        }
    }

    fn string(&mut self) -> String {
        let length = match self.up_to(1000) {
            0 => 50_000,
            1..5 => 1000,
            _ => self.up_to(8),
        };
        let scraps: String = (0..length).map(|_| self.pick(&SCRAPS)).collect();
        format!("\"{scraps}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_repeat_and_differ() {
        assert_eq!(page(1).body, page(1).body);
        assert_ne!(page(1).body, page(2).body);
        assert_ne!(mutilated(1, &page(1).body), page(1).body);
        let visits: usize = (0..50).map(|seed| page(seed).visits.len()).sum();
        assert!(visits > 100, "{visits}");
    }
}
