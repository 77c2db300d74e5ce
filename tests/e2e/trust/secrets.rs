//! What is recorded about failures of registered sites, with a Matomo that quotes the token
//! wherever possible.

use fake_matomo::{Fault, When};

use super::network::{NOT_MATOMO, SERVER, promise};
use super::stage::{FIRST, Stage};
use crate::support::*;

#[test]
fn secrets() {
    let token = "8f1b6d3erunskeepnosecrets0a95c27e4";
    let mut stage = Stage::new("Secrets", token);
    let url = stage.url.clone();
    // Points the server to the URL of the stage's syncs.
    stage.sql(&url, "matomo");
    let site: i32 = one(
        &mut stage.db,
        &format!(
            "SELECT matomo_add_site('trusted', 1, start_date => '{FIRST}', destination => 'matomo')"
        ),
    );
    let call = format!("CALL matomo_sync_site({site})");
    let quoted = format!("the token {token} was sent");
    let hidden = "the token *** was sent";
    let own = format!("Matomo answered with an error: {hidden}");
    let title = format!(
        "the answer of Matomo is not JSON but an HTML page with the title \"Error: {hidden}\""
    );
    let text = format!("the answer of Matomo is not JSON but text: {hidden}");
    let follow = "the URL that the redirect points to";
    for (case, injected, fault, promised) in [
        (
            "an error of Matomo",
            "`{\"result\":\"error\"}` with the token in its message",
            Fault::ErrorEnvelope(quoted.clone()),
            promise("08P01", &own, 200, "Matomo's own"),
        ),
        (
            "a page",
            "HTML with the token in its title",
            Fault::Raw(format!("<html><title>Error: {quoted}</title>").into()),
            promise("08P01", &title, 200, NOT_MATOMO),
        ),
        (
            "a text",
            "with the token in it",
            Fault::Raw(quoted.clone().into()),
            promise("08P01", &text, 200, NOT_MATOMO),
        ),
        (
            "a redirect",
            "with the token in its Location",
            Fault::Redirect(302, format!("/?token_auth={token}")),
            promise("08P01", "Matomo redirects to \"/?token_auth=***\"", 302, follow),
        ),
        (
            "an echo",
            "a 500 page that quotes the request",
            Fault::EchoToken,
            promise("08006", "Matomo answered with HTTP status 500", 500, SERVER),
        ),
        (
            "a refused token",
            "401 with the token in the message",
            Fault::ErrorEnvelope(format!("token_auth: {quoted}")),
            promise("28000", "Matomo refused the token", 200, "18 refused"),
        ),
    ] {
        stage.fake.fail(fault, When::always());
        stage.fails_at(&call, case, injected, &promised);
        stage.fake.heal();
        // A refused token is not retried before it is changed or the site is altered.
        run(&mut stage.db, &format!("SELECT matomo_alter_site({site})"));
    }
    let kept = "SELECT count(*) FROM matomo_runs WHERE status = 'failed' AND return_message <> ''";
    assert_eq!(one::<i64>(&mut stage.db, kept), 6);
    stage.finish();
}
