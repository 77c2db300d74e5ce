use super::*;

fn hosts(list: &str) -> AllowedHosts {
    AllowedHosts::new(list, false).unwrap()
}

fn judge(list: &str, host: &str, address: &str) -> Option<RefusalReason> {
    let hosts = hosts(list);
    let named = hosts.admit_name(host);
    let judged = named.and_then(|()| hosts.admit(host, address.parse().unwrap(), true));
    judged.err().map(|refusal| refusal.why)
}

#[test]
fn names_suffixes_and_blocks_allow_what_they_name() {
    let list = "Analytics.Example.org, *.Matomo.cloud., 10.0.0.0/8,[fd00::7]";
    for (host, address) in [
        ("analytics.example.org", "192.0.2.1"),
        ("ANALYTICS.example.ORG.", "192.0.2.1"),
        ("acme.matomo.cloud", "192.0.2.1"),
        ("a.b.matomo.cloud.", "192.0.2.1"),
        ("anything.example.net", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("mapped.example.net", "::ffff:10.1.2.3"),
        ("six.example.net", "fd00::7"),
    ] {
        assert_eq!(judge(list, host, address), None, "{host}");
    }
    for (host, address) in [
        ("example.org", "192.0.2.1"),
        ("xanalytics.example.org", "192.0.2.1"),
        ("analytics.example.org.evil.net", "192.0.2.1"),
        ("analytics.example.org..", "192.0.2.1"),
        ("matomo.cloud", "192.0.2.1"),
        ("evilmatomo.cloud", "192.0.2.1"),
        (".matomo.cloud", "192.0.2.1"),
        ("anything.example.net", "11.1.2.3"),
        ("six.example.net", "fd00::8"),
        // A gateway's way to an address is not that address.
        ("nat.example.net", "64:ff9b::10.1.2.3"),
    ] {
        assert_eq!(judge(list, host, address), Some(RefusalReason::NotListed), "{host}");
    }
}

#[test]
fn a_name_is_not_looked_up_in_vain() {
    let refused = |list, host| hosts(list).admit_name(host).err().map(|refusal| refusal.why);
    assert_eq!(refused("a.example.org", "b.example.org"), Some(RefusalReason::NotListed));
    assert_eq!(refused("a.example.org,10.0.0.0/8", "b.example.org"), None);
    assert_eq!(refused("", "a.example.org"), Some(RefusalReason::NotListed));
    assert_eq!(refused("*", "a.example.org"), None);
    for host in ["metadata.google.internal", "Metadata.Google.Internal.", "metadata.goog"] {
        assert!(matches!(refused("*", host), Some(RefusalReason::Reserved(_))), "{host}");
        assert!(matches!(refused(host, host), Some(RefusalReason::Reserved(_))), "{host}");
    }
}

#[test]
fn no_entry_allows_what_is_reserved() {
    for list in ["*", "evil.example.org", "169.254.0.0/16", "169.254.169.254,::/0,0.0.0.0/0"] {
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"] {
            let why = judge(list, "evil.example.org", address);
            assert!(
                matches!(why, Some(RefusalReason::Reserved("link-local"))),
                "{list} {address}: {why:?}"
            );
        }
    }
}

#[test]
fn plain_http_is_for_this_machine_unless_allowed() {
    let address = |text: &str| text.parse().unwrap();
    for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(hosts("*").admit("localhost", address(here), false), Ok(()));
    }
    let refusal = hosts("*").admit("m.example.org", address("10.0.0.1"), false).unwrap_err();
    assert_eq!(refusal.why, RefusalReason::Plain);
    assert_eq!(hosts("*").admit("m.example.org", address("10.0.0.1"), true), Ok(()));
    let open = AllowedHosts::new("*", true).unwrap();
    assert_eq!(open.admit("m.example.org", address("10.0.0.1"), false), Ok(()));
    // It opens nothing else.
    assert!(open.admit("m.example.org", address("169.254.1.1"), false).is_err());
    assert!(AllowedHosts::new("a", true).unwrap().admit("b", address("10.0.0.1"), false).is_err());
}

#[test]
fn entries_that_mean_nothing() {
    for (entry, why) in [
        ("10.0.0.0/33", "its mask is longer than the address"),
        ("10.0.0.1/8", "it has bits set to the right of the mask"),
        ("*.*.example.org", "it is neither a name nor an address"),
        ("a*.example.org", "it is neither a name nor an address"),
        ("*example.org", "it is neither a name nor an address"),
        ("a..example.org", "it is neither a name nor an address"),
        ("a b", "it is neither a name nor an address"),
        ("*.", "it is neither a name nor an address"),
        ("https://a.example.org", "give the host alone, without scheme, port and folder"),
        ("a.example.org:443", "give the host alone, without scheme, port and folder"),
        ("a.example.org/matomo", "it is no address"),
        ("münchen.example.org", "write it in the form xn--"),
        ("10.0.0", "write the address in its usual form"),
        ("2130706433", "write the address in its usual form"),
        ("0x7f.1", "write the address in its usual form"),
        ("0177.0.0.01", "write the address in its usual form"),
    ] {
        let expected = InvalidHostPattern { entry: entry.to_owned(), why };
        assert_eq!(AllowedHosts::new(&format!("good.example.org, {entry}"), false), Err(expected));
    }
}
