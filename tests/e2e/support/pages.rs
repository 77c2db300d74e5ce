//! Pages of the documentation.

use std::path::Path;

/// The folder of the whole project.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A page by its path in the repository.
pub fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The code block that begins with `begin`.
pub fn block<'a>(page: &'a str, begin: &str) -> &'a str {
    let mut blocks =
        page.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap().1);
    blocks.find(|block| block.starts_with(begin)).unwrap_or_else(|| panic!("no block: {begin}"))
}
