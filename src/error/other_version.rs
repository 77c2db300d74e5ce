//! The library and the extension's objects in a database are of different versions. Pure.

use std::fmt;

/// The two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherVersion {
    library: &'static str,
    objects: String,
}

impl OtherVersion {
    /// The versions, if the library cannot use the objects. A patch release (0.2.1 after 0.2.0) changes
    /// nothing that either relies on, so that packages may be upgraded first.
    pub fn find(library: &'static str, objects: &str) -> Option<OtherVersion> {
        let other = || OtherVersion { library, objects: objects.to_owned() };
        (series(library) != series(objects)).then(other)
    }

    /// The HINT line.
    pub fn hint(&self) -> &'static str {
        if series(&self.objects) < series(self.library) {
            "Run ALTER EXTENSION matomo_postgres UPDATE."
        } else {
            "Reconnect; where the library is in shared_preload_libraries, restart the server."
        }
    }
}

impl fmt::Display for OtherVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OtherVersion { library, objects } = self;
        write!(
            f,
            "extension matomo_postgres is version {objects} in this database, its library {library}"
        )
    }
}

/// The first two numbers of a version.
fn series(version: &str) -> Vec<Option<u32>> {
    version.split('.').take(2).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_releases_go_together() {
        for objects in ["0.2.0", "0.2.1", "0.2"] {
            assert_eq!(OtherVersion::find("0.2.7", objects), None, "{objects}");
        }
        for (objects, hint) in [
            ("0.1.0", "Run ALTER EXTENSION"),
            ("0.3.0", "Reconnect"),
            ("0.10.0", "Reconnect"),
            ("1.0", "Reconnect"),
        ] {
            let other = OtherVersion::find("0.2.7", objects).unwrap();
            assert!(other.hint().starts_with(hint), "{objects}: {}", other.hint());
        }
    }
}
