//! Names in hints. Pure.

/// Quotes a name for SQL.
pub fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_need_to_be() {
        assert_eq!(quoted("etl_2"), "etl_2");
        assert_eq!(quoted("My \"role\""), "\"My \"\"role\"\"\"");
        assert_eq!(quoted("2nd"), "\"2nd\"");
    }
}
