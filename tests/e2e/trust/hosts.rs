//! Forbidden hosts, in every form in which they can be written.

use std::time::Duration;

use super::network::promise;
use super::stage::{Promise, Stage};
use crate::support::cluster::shared;
use crate::support::report::{proven, said};
use crate::support::*;

const NEVER: &str = "Link-local addresses and metadata services are never allowed";
const LIST: &str = "add it to matomo.allowed_hosts";
const PLAIN: &str = "Use https://";

impl Stage {
    #[track_caller]
    fn forbids(&mut self, case: &str, url: &str, message: &str, detail: &str, hint: &str) {
        self.url = url.to_owned();
        let injected = format!("`{url}`").replace(&self.fake.port().to_string(), "PORT");
        let promised = Promise { detail, ..promise("42501", message, 0, hint) };
        let took = self.fails(case, &injected, &promised);
        assert!(took < Duration::from_secs(1), "{url}: somebody was asked");
    }
}

#[test]
fn hosts() {
    let mut stage = Stage::new("Hosts", "e3a64f08hostsnobodymayask5d7c1b92");
    let own = stage.url.clone();
    let port = stage.fake.port();
    reserved(&mut stage);
    misleading(&mut stage);
    run(&mut stage.db, "SET matomo.allowed_hosts = '*.example.org, 10.0.0.0/8'");
    let message = "a connection to \"127.0.0.1\" is not allowed";
    let detail = "Neither the host nor its address 127.0.0.1 is in matomo.allowed_hosts.";
    stage.forbids("not in the list", &own, message, detail, LIST);
    let (url, message) =
        (format!("http://2130706433:{port}"), "a connection to \"2130706433\" is not allowed");
    stage.forbids("not in the list, decimal", &url, message, detail, LIST);
    run(&mut stage.db, "SET matomo.allowed_hosts = '*.example.org'");
    let message = "a connection to \"nowhere.invalid\" is not allowed";
    let detail = "The host is not in matomo.allowed_hosts.";
    let case = "not in the list, nor looked up";
    stage.forbids(case, "https://nowhere.invalid", message, detail, LIST);
    stage.url = own.clone();
    for (case, list, host) in [
        ("an address in the list", "127.0.0.1", "127.0.0.1"),
        ("a block", "10.0.0.0/8, 127.0.0.0/8", "127.0.0.1"),
        ("a name", "localhost", "localhost"),
        ("a name in capitals", "LocalHost.", "LOCALHOST"),
        ("a name by its block", "127.0.0.0/8", "localhost"),
        ("a mapped address", "127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        run(&mut stage.db, &format!("SET matomo.allowed_hosts = '{list}'"));
        stage.url = format!("http://{host}:{port}");
        stage.works(case, &format!("`http://{host}:PORT`; `matomo.allowed_hosts` is `{list}`"));
    }
    run(&mut stage.db, "RESET matomo.allowed_hosts");
    plain_http(&mut stage);
    stage.url = own;
    stage.finish();
}

fn reserved(stage: &mut Stage) {
    // Even the widest list does not allow them.
    run(&mut stage.db, "SET matomo.allowed_hosts = '*, 169.254.0.0/16, 0.0.0.0/0, ::/0'");
    let link_local = "link-local";
    let metadata = "that of a cloud's metadata service";
    for (case, host, address, what) in [
        ("link-local", "169.254.169.254", "169.254.169.254", link_local),
        ("decimal", "2852039166", "169.254.169.254", link_local),
        ("hexadecimal", "0xa9fea9fe", "169.254.169.254", link_local),
        ("octal", "0251.0376.0251.0376", "169.254.169.254", link_local),
        ("mixed and short", "0xa9.16689662", "169.254.169.254", link_local),
        ("IPv4 in IPv6", "[::ffff:169.254.169.254]", "::ffff:169.254.169.254", link_local),
        ("the same in hexadecimal", "[::ffff:a9fe:a9fe]", "::ffff:169.254.169.254", link_local),
        ("compatible", "[::a9fe:a9fe]", "::a9fe:a9fe", link_local),
        ("NAT64", "[64:ff9b::169.254.169.254]", "64:ff9b::a9fe:a9fe", link_local),
        ("6to4", "[2002:a9fe:a9fe::1]", "2002:a9fe:a9fe::1", link_local),
        ("link-local, IPv6", "[fe80::1]", "fe80::1", link_local),
        ("another of Amazon's", "169.254.170.2", "169.254.170.2", link_local),
        ("Amazon, IPv6", "[fd00:ec2::254]", "fd00:ec2::254", metadata),
        ("Alibaba", "100.100.100.200", "100.100.100.200", metadata),
        ("Azure", "168.63.129.16", "168.63.129.16", metadata),
    ] {
        for scheme in ["http", "https"] {
            let bare = host.trim_matches(['[', ']']);
            let message = format!("a connection to \"{bare}\" is not allowed");
            let detail = format!("The host's address {address} is {what}.");
            let url = format!("{scheme}://{host}/latest");
            stage.forbids(&format!("{case}, {scheme}"), &url, &message, &detail, NEVER);
        }
    }
    for (case, host) in [
        ("Google's name", "metadata.google.internal"),
        ("in capitals and with a dot", "Metadata.Google.INTERNAL."),
    ] {
        let message = format!("a connection to \"{}\" is not allowed", host.to_lowercase());
        let detail = "The host's name is that of a cloud's metadata service.";
        stage.forbids(case, &format!("http://{host}"), &message, detail, NEVER);
    }
    run(&mut stage.db, "RESET matomo.allowed_hosts");
}

/// URLs in which programs disagree about the host.
fn misleading(stage: &mut Stage) {
    // CREATE SERVER would refuse them.
    stage.by_key = true;
    let invalid = |why: &str| format!("invalid URL of Matomo: {why}");
    let neither = "its host is neither a name nor an address";
    for (case, url, why) in [
        (
            "a user's name",
            "http://169.254.169.254@matomo.example.org",
            "it holds a user name or password",
        ),
        ("a backslash", r"http://matomo.example.org\@169.254.169.254", "it is malformed"),
        ("percent", "http://169.254.169%2e254", "it is malformed"),
        ("a zone", "http://[fe80::1%25eth0]", neither),
        (
            "letters that look like digits",
            "http://①⑥⑨.254.169.254",
            "it is not ASCII; write its host in the form xn--",
        ),
        ("a space", "http://169.254.169.254 .example.org", "it is malformed"),
    ] {
        stage.url = url.to_owned();
        let (message, injected) = (invalid(why), format!("`{url}`"));
        let promised = promise("22023", &message, 0, "a URL such as https://analytics.example.org");
        stage.fails(case, &injected, &promised);
    }
    stage.by_key = false;
}

fn plain_http(stage: &mut Stage) {
    // An address that no machine has, so that no request leaves when it is allowed.
    let (url, host) = ("http://255.255.255.255:1", "255.255.255.255");
    let message = format!("a connection to \"{host}\" without TLS is not allowed");
    let detail = format!(
        "The host's address {host} is of another machine, and the URL begins with http://."
    );
    stage.forbids("http:// to another machine", url, &message, &detail, PLAIN);
    run(&mut stage.db, "SET matomo.allow_http = on");
    stage.url = url.to_owned();
    let message = "could not connect to Matomo: …";
    let injected = format!("`{url}`; `matomo.allow_http` is on; nobody has this address");
    let hint = super::network::UNREACHABLE;
    let case = "http:// to another machine, allowed";
    stage.fails(case, &injected, &promise("08001", message, 0, hint));
    run(&mut stage.db, "RESET matomo.allow_http");
}

#[test]
fn only_superusers_widen_the_hosts() {
    let (name, mut db) = named_database();
    let role = role(&mut db);
    let fake = serve(Noon::new().world(1));
    run(
        &mut db,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_sync TO {role}; GRANT CREATE ON SCHEMA public TO {role};
             ALTER DATABASE {name} SET matomo.allowed_hosts = 'a.example.org'"
        ),
    );
    let call = sync_sql(&fake, 1, "");
    let message = "a connection to \"127.0.0.1\" is not allowed";
    let (mut tries, mut refusals) = (0, Vec::new());
    // With the settings known already or loaded by the call.
    for load in ["", "SELECT count(*) FROM pg_settings", "LOAD 'matomo_postgres'"] {
        for setting in ["matomo.allowed_hosts = '*'", "matomo.allow_http = on"] {
            let mut session = shared().connect_as(&name, &role);
            if load.starts_with("LOAD") {
                // A role that is not a superuser cannot LOAD the library, but any of our functions
                // does.
                let _ = session.batch_execute("SELECT matomo_sync(NULL, NULL, NULL)");
                let refused = error(&mut session, &format!("SET {setting}"));
                let parameter = setting.split(' ').next().unwrap();
                let message = format!("permission denied to set parameter \"{parameter}\"");
                assert_eq!((refused.code().code(), refused.message()), ("42501", &*message));
            } else {
                run(&mut session, load);
                run(&mut session, &format!("SET {setting}"));
            }
            let refused = error(&mut session, &call);
            assert_eq!((refused.code().code(), refused.message()), ("42501", message), "{load}");
            tries += 1;
            refusals.push(said(&refused));
        }
    }
    let connections = fake.connections();
    assert_eq!(connections, 0);
    refusals.dedup();
    proven(
        "Privileges",
        "the list of hosts, for who is no superuser",
        &format!(
            "`SET matomo.allowed_hosts` and `matomo.allow_http`, before and after the library is loaded: {tries} ways"
        ),
        "refused, or without effect",
        &format!("{}; {connections} connections", refusals.join("; ")),
    );
    let mut session = shared().connect_as(&name, &role);
    let stored = error(&mut session, &format!("ALTER ROLE {role} SET matomo.allowed_hosts = '*'"));
    assert_eq!(stored.code().code(), "42501");
    let shown: String = one(&mut session, "SHOW matomo.allowed_hosts");
    assert_eq!(shown, "a.example.org", "a role may see what it may not change");
    // A role that a superuser trusts.
    run(&mut db, &format!("GRANT SET ON PARAMETER matomo.allowed_hosts TO {role}"));
    run(&mut session, "SET matomo.allowed_hosts = '*'");
    run(&mut session, &call);
    run(&mut db, &format!("REVOKE SET ON PARAMETER matomo.allowed_hosts FROM {role}"));
}

#[test]
fn a_list_that_cannot_be_read_allows_nobody() {
    let (name, mut db) = named_database();
    let fake = serve(Noon::new().world(1));
    // Before the library is loaded, as in postgresql.conf.
    run(
        &mut db,
        &format!("ALTER DATABASE {name} SET matomo.allowed_hosts = '127.0.0.1, 10.1.0.0/8'"),
    );
    let mut session = shared().connect(&name);
    let refused = error(&mut session, &sync_sql(&fake, 1, ""));
    let message = "invalid entry \"10.1.0.0/8\" in matomo.allowed_hosts: it has bits set to the right of the mask";
    assert_says(&refused, "22023", message, &[], "names, *.suffix, addresses and CIDR blocks");
    assert_eq!(fake.connections(), 0);
    // An empty list allows nothing.
    run(&mut session, "SET matomo.allowed_hosts = ''");
    assert_eq!(error(&mut session, &sync_sql(&fake, 1, "")).code().code(), "42501");
    // In the form in which Postgres writes lists.
    run(&mut session, "SET matomo.allowed_hosts = 'a.example.org', '127.0.0.1'");
    run(&mut session, &sync_sql(&fake, 1, ""));
}

#[test]
fn a_kept_connection_is_of_no_use_once_its_host_is_not_allowed() {
    let fake = serve(Noon::new().world(1));
    let mut db = database();
    run(&mut db, &sync_sql(&fake, 1, ", force => true"));
    for setting in ["matomo.allowed_hosts = '10.0.0.0/8'", "matomo.allowed_hosts = ''"] {
        run(&mut db, &format!("SET {setting}"));
        let refused = error(&mut db, &sync_sql(&fake, 1, ", force => true"));
        assert_eq!(refused.code().code(), "42501");
    }
    run(&mut db, "RESET matomo.allowed_hosts");
    run(&mut db, &sync_sql(&fake, 1, ", force => true"));
    let check = sync_sql(&fake, 1, "")
        .replace("matomo_sync(1,", "matomo_check(1, now()::date, now()::date,");
    run(&mut db, "SET matomo.allowed_hosts = '10.0.0.0/8'");
    assert_eq!(error(&mut db, &check).code().code(), "42501", "a check asks nobody else");
}
