//! The secrecy of the token in calls of `matomo_refresh_metadata`.

use fake_matomo::{Fault, Goal, Saying, When};

use crate::support::secrecy::*;
use crate::support::*;

#[test]
fn a_refresh_does_not_tell_the_token() {
    let token = "a71c44e9refreshcalls93b05fd2e816";
    let fake = serve_with(token);
    // A Matomo that repeats what it was sent.
    fake.world().site_mut(1).goals = vec![Goal::new(1, &format!("goal {token}"))];
    let name = database_with_table();
    let mut session = Session::new(&name);
    session.db.batch_execute("EXPLAIN SELECT * FROM matomo_refresh_metadata(1)").unwrap();
    session.db.batch_execute("SET matomo.max_retries = 0").unwrap();
    let call = format!("SELECT * FROM matomo_refresh_metadata(1, '{}', '{token}')", fake.url());
    session.db.batch_execute(&call).unwrap();
    session.assert_kept("a refresh", token);
    let names = texts(&mut session.db, "SELECT g::text FROM matomo_goals g");
    assert_eq!(names.len(), 1);
    assert_absent("names", token, &names[0]);
    for (fault, when) in [
        (Fault::Says(Saying::WrongToken), When::always()),
        (Fault::EchoToken, When::always()),
        (Fault::EchoToken, When::always().method("Goals.getGoals")),
        (
            Fault::Raw(format!(r#"[{{"name":"{token}"}}]"#).into_bytes()),
            When::always().method("Goals.getGoals"),
        ),
    ] {
        let what = format!("{fault:?}");
        fake.fail(fault, when);
        let failed = session.db.batch_execute(&call);
        fake.heal();
        assert_absent(&what, token, &format!("{failed:?}"));
        session.assert_kept(&what, token);
    }
}
