//! Answers as Matomo 4 and 5 send them.

use super::*;

fn judged(status: u16, body: &str) -> Option<Fault> {
    fault_of(StatusCode::from_u16(status).unwrap(), body, &str::to_owned)
}

fn error(message: &str) -> String {
    serde_json::json!({"result": "error", "message": message}).to_string()
}

#[test]
fn good_answers() {
    assert_eq!(judged(200, "[]"), None);
    assert_eq!(judged(200, r#"{"idsite":1,"result":"fine"}"#), None);
    let titles = r#"[{"title":"Notice: Allowed memory size <!-- SQLSTATE[HY000] 'view'"}]"#;
    assert_eq!(judged(200, titles), None);
}

const NO_VIEW: [&str; 5] = [
    "You can't access this resource as it requires 'view' access for the website id = 2.",
    "Vous ne pouvez pas accéder à cette ressource car elle nécessite l'accès 'view' pour le site id = 2.",
    "Sie haben keinen Zugriff auf diese Ressource, weil sie 'view' Zugriff für die Webseite id = 2 benötigt.",
    "No puede acceder a este recurso en tanto necesita del acceso a 'view' para el sitio de internet id = 2.",
    "Вы не можете получить доступ к этому ресурсу, так как он требует прав 'view' к сайту id = 2.",
];

/// Which kind it is of, whatever it says.
fn kind(status: u16, message: &str) -> &'static str {
    match judged(status, &error(message)) {
        Some(Fault::NoAccess(_)) => "access",
        Some(Fault::AddressRefused(_)) => "address",
        Some(Fault::LockedOut(_)) => "locked out",
        Some(Fault::UnknownSite(_)) => "site",
        Some(Fault::VisitsLogOff(_)) => "log",
        Some(Fault::Exhausted(_)) => "exhausted",
        Some(Fault::Transient(_)) => "passing",
        Some(Fault::RateLimited(_)) => "rate",
        Some(Fault::Matomo(_)) => "not understood",
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_of_matomo() {
    for status in [200, 401] {
        for words in NO_VIEW {
            assert_eq!(kind(status, words), "access");
        }
        let refused =
            "Unable to authenticate with the provided token. It is either invalid or expired.";
        assert_eq!(kind(status, refused), "access");
    }
    for (status, words, expected) in [
        (500, "Too many failed logins. Please wait and try logging in again later.", "locked out"),
        (500, "Trop d'échecs de connexion. Veuillez patienter", "locked out"),
        (401, "You cannot use this Matomo as your IP 127.0.0.1 is not allowed.", "address"),
        (
            200,
            "An unexpected website was found in the request: website id was set to '999' .",
            "site",
        ),
        (200, "Could not run the query in time.  Please try again. Get in touch with", "exhausted"),
        (200, "The query took too long to execute.  Please try again. ", "exhausted"),
        (200, "Impossible d'exécuter la requête à temps.  ", "not understood"),
        (200, "Die Ausführung der Abfrage dauerte zu lange.  ", "not understood"),
        (200, "Visits log is deactivated in website settings. ", "log"),
        (200, "Visits log is deactivated globally. ", "log"),
        (200, "SQLSTATE[HY000]: General error: 2006 MySQL server has gone away", "passing"),
        (500, "SQLSTATE[HY000] [2002] Connection refused", "passing"),
        (200, "SQLSTATE[HY000]: General error: 3024 Query execution was interrupted", "exhausted"),
        (200, "SQLSTATE[42S02]: Base table or view not found", "not understood"),
        (500, "Allowed memory size of 134217728 bytes exhausted", "exhausted"),
        (429, "Too many requests", "rate"),
        (401, "Etwas anderes.", "access"),
    ] {
        assert_eq!(kind(status, words), expected, "{words}");
    }
    assert_eq!(judged(200, &error("x  y")), Some(Fault::Matomo("x y".to_owned())));
}

#[test]
fn sites_that_a_token_may_see() {
    assert_eq!(sites("[1,\"2\"]"), Some(vec![1, 2]));
    assert_eq!(sites("[]"), Some(Vec::new()));
    for other in ["{}", "[null]", "[\"x\"]", ""] {
        assert_eq!(sites(other), None);
    }
}

#[test]
fn answers_that_are_none() {
    assert_eq!(judged(502, "<html>"), Some(Fault::Status(502)));
    assert_eq!(judged(404, ""), Some(Fault::Status(404)));
    assert_eq!(judged(401, "<html>Authorization Required"), Some(Fault::Status(401)));
    assert_eq!(judged(301, ""), Some(Fault::Redirected(String::new())));
    assert_eq!(judged(429, ""), Some(Fault::RateLimited(None)));
    for broken in [" \n", "[{", "{\"a\":[", "[1,2"] {
        assert!(matches!(judged(200, broken), Some(Fault::Broken(_))), "{broken}");
    }
    for (body, what) in [
        ("<!DOCTYPE html><TITLE>\n Sign in </TITLE>", "an HTML page with the title \"Sign in\""),
        ("GIF89a\u{1}", "a GIF image"),
        ("\"idVisit\":5},{\"a\":", "text"),
        ("Fehler {\"idVisit\":5", "text: Fehler"),
    ] {
        assert_eq!(judged(200, body), Some(Fault::NotJson(what.to_owned())));
    }
    assert_eq!(judged(400, "GIF89a"), judged(200, "GIF89a"));
    let page = "<html>Matomo is in scheduled maintenance. Please come back later.";
    assert_eq!(judged(503, page), Some(Fault::Maintenance));
    assert_eq!(judged(503, "<html>Service Unavailable"), Some(Fault::Status(503)));
}

#[test]
fn what_stands_around_json() {
    let visits = r#"[{"idVisit":1,"title":"Warning: secret"}]"#;
    let php = |kind| Some(Fault::Php(kind));
    for (before, expected) in [
        ("\nNotice: Undefined index: x in /var/www/y.php on line 3\n", php("Notice")),
        (
            "<br />\n<b>Deprecated</b>:  strlen() in <b>/x.php</b> on line <b>5</b><br />\n",
            php("Deprecated"),
        ),
        ("DEBUG: Live[2026-11-20 01:02:03] [abc] Executed\n", Some(Fault::Mixed("text before"))),
    ] {
        assert_eq!(judged(200, &format!("{before}{visits}")), expected, "{before}");
    }
    for (behind, expected) in [
        ("\n<!-- served from cache -->", Some(Fault::Mixed("an HTML comment behind"))),
        ("<br />\n<b>Warning</b>:  Unknown: x in <b>y</b>", php("Warning")),
        (" x", Some(Fault::Mixed("text behind"))),
    ] {
        assert_eq!(judged(200, &format!("{visits}{behind}")), expected, "{behind}");
    }
    let memory = "<br />\n<b>Fatal error</b>:  Allowed memory size of 134217728 bytes exhausted \
                  (tried to allocate 20480 bytes) in <b>/var/www/x.php</b> on line <b>5</b><br />";
    let words = "Allowed memory size of 134217728 bytes exhausted (tried to allocate 20480 bytes)";
    for status in [200, 500] {
        for body in [memory.to_owned(), format!("{}{memory}", &visits[..20])] {
            assert_eq!(judged(status, &body), Some(Fault::Exhausted(words.to_owned())), "{body}");
        }
    }
    // Of a visit that PHP's words stand in, no more than these is told, and nothing of one that has
    // only some of them.
    let title = |title: &str| judged(200, &format!(r#"[{{"idVisit":7,"title":"{title}"#));
    let broken = Some(Fault::Broken("it ends in the middle".to_owned()));
    assert_eq!(title("Maximum execution time of jane@example.org"), broken);
    assert_eq!(title("Allowed memory size of 5 bytes for jane"), broken);
    let words = "Maximum execution time of 30 seconds exceeded".to_owned();
    assert_eq!(title(&format!("{words} by jane@example.org")), Some(Fault::Exhausted(words)));
    let xml = "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\n<result><row><title>jane</title></row></result>";
    assert_eq!(judged(200, xml), Some(Fault::NotJson("XML".to_owned())));
}
