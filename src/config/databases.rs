//! Parses `matomo.database`, a list of database names. Pure.

/// Parses the list: names separated by commas, in double quotes if they contain a comma, a quote, or
/// leading or trailing blanks. Letters keep their case, as with `pg_cron`. Duplicates are dropped.
pub fn parse(list: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut rest = list.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        let mut name = String::new();
        match rest.peek() {
            None => return names,
            Some('"') => {
                rest.next();
                while let Some(c) = rest.next() {
                    if c == '"' && rest.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
            }
            Some(_) => {
                while let Some(c) = rest.next_if(|c| *c != ',') {
                    name.push(c);
                }
                name.truncate(name.trim_end().len());
            }
        }
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let none: [&str; 0] = [];
        assert_eq!(parse(""), none);
        assert_eq!(parse(" , ,"), none);
        assert_eq!(parse("postgres"), ["postgres"]);
        assert_eq!(parse(" Shop,blog ,Shop, my data"), ["Shop", "blog", "my data"]);
        assert_eq!(parse(r#""a,b" , " c ","say ""hi""",d"#), ["a,b", " c ", "say \"hi\"", "d"]);
        assert_eq!(parse("\"open, end"), ["open, end"]);
        assert_eq!(parse("\"\",x"), ["x"]);
    }
}
