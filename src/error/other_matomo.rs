//! The tables of a destination belong to another Matomo than the requested one. Pure.

use std::fmt;

/// A destination and the URLs of both Matomos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherMatomo {
    pub destination: String,
    pub known: String,
    pub asked: String,
    /// Its companions that have rows, if the destination itself has none.
    pub companions: Vec<String>,
}

impl OtherMatomo {
    /// The HINT line.
    pub fn hint(&self) -> String {
        let OtherMatomo { destination, known, asked, companions } = self;
        let own = "each Matomo a table of its own, with destination => '...'";
        let first = match companions.is_empty() {
            true => format!("Give {own}."),
            false => format!("TRUNCATE {} as well, or give {own}.", companions.join(", ")),
        };
        let destination = destination.replace('\'', "''");
        format!(
            "{first} If this one has moved: \
             SELECT matomo_change_url('{destination}', '{known}', '{asked}')."
        )
    }
}

impl fmt::Display for OtherMatomo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherMatomo { destination, known, .. } = self;
        write!(f, "destination \"{destination}\" holds the visits of another Matomo, {known}")
    }
}
