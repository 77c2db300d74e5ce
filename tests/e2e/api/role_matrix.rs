//! What each kind of role may do with a registered site, its server, its visits and its token.

use std::collections::BTreeMap;

use postgres::Client;

use crate::support::report::proven;
use crate::support::sites::*;
use crate::support::*;

/// What a role may try, and how: with the site `$site` of `$owner`. Changes are rolled back.
const DEEDS: [(&str, &str); 14] = [
    (
        "sync with a key",
        "SELECT matomo_sync(1, '$url', '$key', '2026-10-24', '2026-10-24', 'pg_temp.scratch')",
    ),
    (
        "sync by the server",
        "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-24', end_date => '2026-10-24',
            destination => 'pg_temp.scratch')",
    ),
    (
        "check",
        "SELECT matomo_check(1, '2026-10-24', '2026-10-24', server => 'analytics', destination => 'pg_temp.scratch')",
    ),
    ("register a site", "SELECT matomo_add_site('analytics', 2)"),
    ("alter the site", "SELECT matomo_alter_site($site, every => '1 day')"),
    ("run the site", "CALL matomo_sync_site($site)"),
    ("remove the site", "SELECT matomo_remove_site($site)"),
    (
        "make a server",
        "CREATE SERVER other FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org')",
    ),
    ("turn the server", "ALTER SERVER analytics OPTIONS (SET url 'https://a.example.org')"),
    (
        "read the visits",
        "SELECT FROM $owner.matomo, $owner.matomo_visits, $owner.matomo_conversions, $owner.matomo_items LIMIT 1",
    ),
    ("add companions", "SELECT matomo_create_companions('$owner.bare')"),
    ("read the ledger's table", "SELECT FROM matomo_ledger LIMIT 1"),
    ("write to the ledger", "DELETE FROM matomo_ledger"),
    (
        "read the owner's token",
        "DO $$ BEGIN PERFORM FROM pg_user_mappings WHERE usename = '$owner' AND umoptions IS NOT NULL;
            IF NOT FOUND THEN RAISE insufficient_privilege; END IF; END $$",
    ),
];

/// The results of a role's tries: what is allowed, and the errors of the rest.
struct Tried {
    may: Vec<&'static str>,
    refused: BTreeMap<String, Vec<&'static str>>,
    sees: (i64, i64),
}

fn try_all(db: &mut Client, replace: &[(&str, &str)]) -> Tried {
    let count = |db: &mut Client, view: &str| one(db, &format!("SELECT count(*) FROM {view}"));
    let sees = (count(db, "matomo_sites"), count(db, "matomo_runs"));
    run(
        db,
        "CREATE TEMP TABLE scratch (LIKE matomo_action); CREATE UNIQUE INDEX ON scratch (action_id)",
    );
    let mut tried = Tried { may: Vec::new(), refused: BTreeMap::new(), sees };
    for (deed, sql) in DEEDS {
        let sql =
            replace.iter().fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, value));
        let commits = sql.starts_with("CALL");
        if !commits {
            run(db, "BEGIN");
        }
        match db.batch_execute(&sql) {
            Ok(()) => tried.may.push(deed),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{deed}: {error:?}"));
                tried.refused.entry(error.code().code().to_owned()).or_default().push(deed);
            }
        }
        if !commits {
            run(db, "ROLLBACK");
        }
    }
    tried
}

/// A role and everything that it may do.
struct Kind {
    case: &'static str,
    made: &'static str,
    promised: &'static str,
    role: String,
    /// How many sites and runs it sees.
    sees: (i64, i64),
    /// How many objects of the extension it may touch, besides those that everybody may.
    granted: usize,
    /// Whether requests by the server fail for want of a token, not of a privilege.
    lacks_only_token: bool,
    may: &'static [&'static str],
}

/// Requests to Matomo with the role's own credentials, and nothing more.
const OWN_MATOMO: [&str; 4] = ["sync with a key", "sync by the server", "check", "register a site"];

#[test]
fn each_kind_of_role_may_do_what_is_its_own_and_no_more() {
    let fake = serve_two();
    let (name, mut admin, owner) = database_and_role();
    let [nobody, stranger, member, outsider, watcher, keeper] =
        std::array::from_fn(|_| role(&mut admin));
    server_for(&mut admin, &fake, &owner);
    server_for(&mut admin, &fake, &stranger);
    for role in [&member, &outsider, &keeper] {
        may_have_sites(&mut admin, role);
    }
    run(
        &mut admin,
        &format!(
            "ALTER ROLE {outsider} NOINHERIT; GRANT {owner} TO {member}, {outsider};
             GRANT pg_monitor TO {watcher}; GRANT USAGE ON FOREIGN DATA WRAPPER matomo TO {keeper};
             ALTER SERVER analytics OWNER TO {keeper}"
        ),
    );
    let mut db = connect_as(&name, &owner);
    run(&mut db, &format!("SET search_path = {owner}, public"));
    let site = add_site(&mut db, ", start_date => '2026-10-24'").to_string();
    run(&mut db, "CALL matomo_sync_all()");
    run(&mut db, "SET matomo.companions = ''; SELECT matomo_create_table('bare')");
    let kinds = [
        Kind {
            case: "a role without grants",
            made: "",
            promised: "nothing, and sees nothing",
            role: nobody,
            sees: (0, 0),
            granted: 0,
            lacks_only_token: false,
            may: &[],
        },
        Kind {
            case: "a stranger",
            made: "; `EXECUTE` on all, `USAGE` on the server and a mapping of its own",
            promised: "ask that Matomo with its own token, and have sites of its own",
            role: stranger,
            sees: (0, 0),
            granted: 6,
            lacks_only_token: false,
            may: &OWN_MATOMO,
        },
        Kind {
            case: "the site's owner",
            made: "; the same, and it has registered the site",
            promised: "all that is its own: its sites, its table, its token",
            role: owner.clone(),
            sees: (1, 1),
            granted: 6,
            lacks_only_token: false,
            may: &[
                "sync with a key",
                "sync by the server",
                "check",
                "register a site",
                "alter the site",
                "run the site",
                "remove the site",
                "read the visits",
                "add companions",
                "read the owner's token",
            ],
        },
        Kind {
            case: "a member of the owner",
            made: "; `EXECUTE` on all, and inherits the owner's rights; no mapping of its own",
            promised: "the owner's sites and table; not its token, which is the mapping's role's alone",
            role: member,
            sees: (1, 2),
            granted: 6,
            lacks_only_token: true,
            may: &[
                "sync with a key",
                "alter the site",
                "run the site",
                "remove the site",
                "read the visits",
                "add companions",
            ],
        },
        Kind {
            case: "a member that does not inherit",
            made: "; the same, but `NOINHERIT`",
            promised: "no more than a stranger without a server, unless it does SET ROLE",
            role: outsider,
            sees: (0, 0),
            granted: 6,
            lacks_only_token: false,
            may: &["sync with a key"],
        },
        Kind {
            case: "a member of pg_monitor",
            made: "",
            promised: "see all sites and runs, and do nothing",
            role: watcher,
            sees: (1, 3),
            granted: 0,
            lacks_only_token: false,
            may: &[],
        },
        Kind {
            case: "the server's owner, without a mapping",
            made: "; `EXECUTE` on all, `USAGE` on the wrapper",
            promised: "make and turn servers, to which mappings' tokens then go, as those of any foreign server; no site of others",
            role: keeper,
            sees: (0, 0),
            granted: 7,
            lacks_only_token: true,
            may: &["sync with a key", "make a server", "turn the server"],
        },
        Kind {
            case: "a superuser",
            made: "; without a mapping",
            promised: "everything but to ask without a token",
            role: "postgres".to_owned(),
            sees: (1, 3),
            granted: 0,
            lacks_only_token: true,
            may: &[
                "sync with a key",
                "alter the site",
                "run the site",
                "remove the site",
                "make a server",
                "turn the server",
                "read the visits",
                "add companions",
                "read the ledger's table",
                "write to the ledger",
                "read the owner's token",
            ],
        },
    ];
    let total = privileges(&mut admin, "postgres").len();
    let everybodys = privileges(&mut admin, &kinds[0].role).len();
    for Kind { case, made, promised, role, sees, granted, lacks_only_token, may } in kinds {
        let mut db = connect_as(&name, &role);
        run(&mut db, &format!("SET search_path = {role}, public"));
        let replace = [
            ("$site", &*site),
            ("$owner", &*owner),
            ("$url", &*fake.url()),
            ("$key", fake.token()),
        ];
        let tried = try_all(&mut db, &replace);
        let refused: Vec<_> = tried
            .refused
            .iter()
            .map(|(state, deeds)| format!("`{state}`: {}", deeds.join(", ")))
            .collect();
        let refused = if refused.is_empty() { "nothing".to_owned() } else { refused.join("; ") };
        let done = if tried.may.is_empty() { "nothing".to_owned() } else { tried.may.join(", ") };
        assert_eq!(tried.may, may, "{case}");
        for (state, deeds) in &tried.refused {
            for deed in deeds {
                let is_asking = OWN_MATOMO[1..].contains(deed);
                let expected = if lacks_only_token && is_asking { "28000" } else { "42501" };
                assert_eq!(state, expected, "{case}: {deed}");
            }
        }
        assert_eq!(tried.sees, sees, "{case}");
        let touched = privileges(&mut admin, &role).len();
        let expected = if role == "postgres" { total } else { everybodys + granted };
        assert_eq!(touched, expected, "{case}");
        let (sites, runs) = tried.sees;
        proven(
            "Privileges",
            case,
            &format!("{} deeds with a registered site{made}", DEEDS.len()),
            promised,
            &format!(
                "may touch {touched} of {total} objects; sees sites: {sites}, runs: {runs}; may: {done}; refused: {refused}"
            ),
        );
    }
}
