//! The token is sent only in the body of requests, whatever Matomo answers.

use fake_matomo::{Fault, TokenPlace, When};

use super::*;

/// As long as Matomo's 32 hexadecimal digits, but with the "secret" that tests look for.
const LONG: &str = "secret7e1d3c5b9a8f6e4d2c0b1a3f5e7d9c";

#[test]
fn the_token_is_sent_in_the_body_only() {
    let mut stage = Stage::new();
    stage.fake.fail(Fault::Reset, When::live().times(1));
    stage.execute("SET matomo.max_retries = 1");
    stage.db.query(&stage.call("matomo", &[]), &[]).unwrap();
    let requests = stage.fake.requests();
    assert!(requests.len() >= 5, "{}", requests.len());
    for seen in requests {
        assert_eq!((seen.verb.as_str(), seen.token), ("POST", TokenPlace::Body));
        assert_eq!(seen.path, "/index.php");
        let rest = format!("{:?}{:?}", seen.params, seen.headers);
        assert!(!rest.contains(stage.fake.token()), "{rest}");
    }
}

#[test]
fn a_matomo_that_quotes_the_token_does_not_make_us_tell_it() {
    let token = "secret-token";
    let hidden = "the token *** was sent";
    let quoted = format!("the token {token} was sent");
    let mut stage = Stage::new();
    for (fault, message) in [
        (Fault::EchoToken, "Matomo answered with HTTP status 500".to_owned()),
        (Fault::ErrorEnvelope(quoted.clone()), format!("Matomo answered with an error: {hidden}")),
        (
            Fault::ErrorEnvelope(format!("Allowed memory size: {quoted}")),
            format!("the request is too much for Matomo: Allowed memory size: {hidden}"),
        ),
        (
            Fault::Raw(quoted.clone().into()),
            format!("the answer of Matomo is not JSON but text: {hidden}"),
        ),
        (
            Fault::Raw(format!("<title>{quoted}</title>").into()),
            format!(
                "the answer of Matomo is not JSON but an HTML page with the title \"{hidden}\""
            ),
        ),
        (
            Fault::Raw(format!("{{\"timezone\":\"{quoted}\"}}").into()),
            format!("unexpected answer of Matomo: timezone \"{hidden}\""),
        ),
        (
            Fault::Redirect(302, format!("https://x.example.org/?token_auth={token}")),
            "Matomo redirects to \"https://x.example.org/?token_auth=***\"".to_owned(),
        ),
    ] {
        stage.fake.fail(fault, When::always());
        let error = stage.refuses(&[]);
        assert_eq!(error.message(), message);
        stage.fake.heal();
    }
    for words in [
        "Unable to authenticate with the provided token.",
        "requires 'view'",
        "Too many failed logins.",
    ] {
        stage.fake.fail(Fault::ErrorEnvelope(format!("{words} {quoted}")), When::always());
        let error = stage.refuses(&[]);
        assert!(error.detail().unwrap().ends_with(&format!("{words} {hidden}")), "{error:?}");
        stage.fake.heal();
    }
}

/// Matomo's messages are cut to 200 characters, which may cut a token too.
#[test]
fn a_part_of_the_token_is_not_told_either() {
    let mut stage = Stage::with(|options| options.token = LONG.to_owned());
    for before in 160..200 {
        let words = format!("{} {LONG} {LONG}", "x".repeat(before));
        for fault in [
            Fault::ErrorEnvelope(words.clone()),
            Fault::Raw(words.clone().into()),
            Fault::Raw(format!("<title>{words}</title>").into()),
        ] {
            stage.fake.fail(fault, When::always());
            let call = stage.call("matomo", &[]);
            let error = error(&mut stage.db, &call);
            let begin = &LONG[..4];
            assert!(!error.message().contains(begin), "after {before}: {error:?}");
            stage.fake.heal();
        }
    }
}

#[test]
fn a_token_that_must_be_encoded_is_hidden_in_each_form() {
    for (token, encoded) in [
        ("secret +/=&?", ["secret+%2B%2F%3D%26%3F", "secret%20%2B%2F%3D%26%3F"]),
        ("secret/a+b", ["secret%2Fa%2Bb", "secret%2fa%2bb"]),
        ("sécret secret", ["s%C3%A9cret+secret", "s%C3%A9cret%20secret"]),
    ] {
        let mut stage = Stage::with(|options| options.token = token.to_owned());
        for quoted in [token, encoded[0], encoded[1]] {
            for fault in [
                Fault::ErrorEnvelope(quoted.to_owned()),
                Fault::Raw(format!("sent: token_auth={quoted}").into()),
            ] {
                stage.fake.fail(fault, When::always());
                let call = stage.call("matomo", &[]);
                let error = error(&mut stage.db, &call);
                assert!(!error.message().contains("cret"), "{token}: {error:?}");
                assert!(error.message().contains("***"), "{token}: {error:?}");
                stage.fake.heal();
            }
        }
    }
}
