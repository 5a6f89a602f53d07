use std::collections::BTreeMap;
use std::num::NonZeroU32;

use http::HeaderMap;
use http::HeaderValue;

use super::*;
use crate::observe::metrics::Route;

/// Two tenants and rules: `acme` has instances 1 and 2, `zoo` has 3 and its
/// networks.
fn tenants(access: &config::Access, zoo: &[&str]) -> (Tenants, Metrics) {
    let metrics = Metrics::new(10);
    let tenant = |name: &str, instances: &[&str], networks: &[&str]| config::Tenant {
        name: name.to_owned(),
        instances: instances.iter().map(ToString::to_string).collect(),
        weight: NonZeroU32::MIN,
        quota: None,
        networks: nets(networks),
        key: None,
        keys: vec![],
        tokens: BTreeMap::new(),
    };
    let all = [tenant("acme", &["1", "2"], &[]), tenant("zoo", &["3"], zoo)];
    (Tenants::new(&all, access, &metrics), metrics)
}

fn nets(networks: &[&str]) -> Vec<IpNet> {
    networks.iter().map(|net| net.parse().unwrap()).collect()
}

fn access(networks: &[&str], instances: Instances, trusted: &[&str]) -> config::Access {
    config::Access {
        networks: nets(networks),
        instances,
        trusted_proxies: nets(trusted),
    }
}

fn at(address: &str) -> Client {
    Client::At(address.parse().unwrap())
}

#[test]
fn an_instance_belongs_to_its_tenant_only() {
    let (tenants, _) = tenants(&access(&[], Instances::Any, &[]), &[]);
    let same = |one, other| Arc::ptr_eq(tenants.of(one).unwrap(), tenants.of(other).unwrap());
    assert!(same("1", "2"));
    assert!(!same("1", "3"));
    assert!(tenants.of("4").is_none());
    assert!(tenants.of("").is_none());
}

#[test]
fn without_networks_there_is_no_rule_and_a_stream_in_memory_is_always_admitted() {
    let (open, _) = tenants(&access(&[], Instances::Any, &[]), &[]);
    for client in [Client::Local, Client::Unknown, at("203.0.113.9"), at("::1")] {
        assert_eq!(open.may_connect(client), Ok(()));
    }
    let (closed, _) = tenants(&access(&["10.0.0.0/8"], Instances::Any, &[]), &[]);
    assert_eq!(closed.may_connect(Client::Local), Ok(()));
    assert_eq!(closed.may_connect(Client::Unknown), Err(Denied::Networks));
}

#[test]
fn an_ipv4_address_in_ipv6_form_is_compared_as_ipv4() {
    let rules = access(&["10.0.0.0/8", "2001:db8::/32"], Instances::Any, &[]);
    let (tenants, _) = tenants(&rules, &[]);
    for inside in ["10.9.8.7", "::ffff:10.9.8.7", "2001:db8::7"] {
        assert_eq!(tenants.may_connect(at(inside)), Ok(()), "{inside}");
    }
    for outside in ["11.0.0.1", "::ffff:11.0.0.1", "2001:db9::7", "::10.9.8.7"] {
        assert_eq!(
            tenants.may_connect(at(outside)),
            Err(Denied::Networks),
            "{outside}"
        );
    }
}

#[test]
fn a_tenants_networks_hold_for_its_instances_only() {
    let (tenants, _) = tenants(&access(&[], Instances::Any, &[]), &["192.0.2.0/24"]);
    let may = |from, instance| {
        let preflight = tenants.may_preflight(from, instance);
        let may = tenants.may_use(from, instance, false).map(|_| ());
        assert_eq!(preflight, may);
        may
    };
    assert_eq!(may(at("192.0.2.1"), Some("3")), Ok(()));
    assert_eq!(may(Client::Local, Some("3")), Ok(()));
    for from in [at("192.0.3.1"), Client::Unknown] {
        assert_eq!(may(from, Some("3")), Err(Denied::TenantNetworks));
        assert_eq!(may(from, Some("1")), Ok(()));
        assert_eq!(may(from, Some("4")), Ok(()));
        assert_eq!(may(from, None), Ok(()));
    }
}

#[test]
fn listed_means_of_a_tenant() {
    let (tenants, _) = tenants(&access(&[], Instances::Listed, &[]), &[]);
    let may = |instance| tenants.may_use(Client::Local, instance, false).map(|_| ());
    assert_eq!(may(Some("1")), Ok(()));
    assert_eq!(may(Some("4")), Err(Denied::Unlisted));
    assert_eq!(may(None), Err(Denied::NoInstance));
    for instance in [Some("4"), None] {
        assert_eq!(tenants.may_preflight(Client::Local, instance), Ok(()));
    }
}

#[test]
fn several_instances_are_refused_if_a_rule_depends_on_the_instance() {
    let may = |instances, zoo: &[&str]| {
        let (tenants, _) = tenants(&access(&["10.0.0.0/8"], instances, &[]), zoo);
        let depends = tenants.depends_on_instance();
        let may = tenants.may_use(Client::Local, Some("1"), true).map(|_| ());
        (depends, may)
    };
    assert_eq!(may(Instances::Any, &[]), (false, Ok(())));
    assert_eq!(may(Instances::Listed, &[]), (true, Err(Denied::Ambiguous)));
    assert_eq!(
        may(Instances::Any, &["10.0.0.0/8"]),
        (true, Err(Denied::Ambiguous))
    );
}

#[test]
fn requests_count_for_their_tenant_and_all_others_as_other() {
    let (tenants, metrics) = tenants(&access(&[], Instances::Any, &[]), &[]);
    let series = |tenant: &str, route: &str, count| {
        format!(
            "wawp_gateway_tenant_requests_total{{route=\"{route}\",tenant=\"{tenant}\"}} {count}\n"
        )
    };
    let exposition = metrics.exposition();
    for tenant in ["acme", "zoo", "other"] {
        for route in ["seen", "other"] {
            let zero = series(tenant, route, 0);
            assert!(exposition.contains(&zero), "{zero} is not in {exposition}");
        }
    }
    let count = |instance, route| {
        let figures = tenants.may_use(Client::Local, instance, false).unwrap();
        figures.requests(route).inc();
    };
    count(Some("1"), Route::ReceiptPath);
    count(Some("2"), Route::ReceiptPath);
    count(Some("4"), Route::Other);
    count(None, Route::Other);
    let exposition = metrics.exposition();
    assert!(exposition.contains(&series("acme", "seen", 2)));
    assert!(exposition.contains(&series("zoo", "seen", 0)));
    assert!(exposition.contains(&series("other", "other", 2)));
}

/// The client of a request with these `X-Forwarded-For` fields on a connection
/// of `peer`, where 10/8 and fd00::/8 are trusted.
fn client(peer: &str, fields: &[&str]) -> Client {
    let rules = access(&[], Instances::Any, &["10.0.0.0/8", "fd00::/8"]);
    let (tenants, _) = tenants(&rules, &[]);
    let mut headers = HeaderMap::new();
    for field in fields {
        headers.append("x-forwarded-for", HeaderValue::from_str(field).unwrap());
    }
    tenants.client(Some(peer.parse().unwrap()), &headers)
}

#[test]
fn only_a_trusted_proxy_states_the_address_of_its_client() {
    let forwarded = &["203.0.113.9"];
    for trusted in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1"] {
        assert_eq!(client(trusted, forwarded), at("203.0.113.9"), "{trusted}");
        assert_eq!(client(trusted, &[]), {
            let peer: IpAddr = trusted.parse().unwrap();
            Client::At(peer.to_canonical())
        });
    }
    for untrusted in ["198.51.100.1", "11.0.0.1", "fe00::1"] {
        assert_eq!(client(untrusted, forwarded), at(untrusted));
        assert_eq!(client(untrusted, &["nonsense"]), at(untrusted));
    }
    let (tenants, _) = tenants(&access(&[], Instances::Any, &["10.0.0.0/8"]), &[]);
    assert_eq!(tenants.client(None, &HeaderMap::new()), Client::Local);
}

#[test]
fn the_last_address_that_is_not_a_trusted_proxys_counts() {
    for (fields, expected) in [
        (&["203.0.113.9"][..], "203.0.113.9"),
        // Text before it does not.
        (&["10.0.0.2, 192.0.2.1, 203.0.113.9"], "203.0.113.9"),
        (&["nonsense, 203.0.113.9"], "203.0.113.9"),
        (&["nonsense", "203.0.113.9"], "203.0.113.9"),
        (&["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        (
            &["192.0.2.1", "203.0.113.9,10.0.0.2,fd00::5"],
            "203.0.113.9",
        ),
        // All are trusted: the first.
        (&["10.0.0.3", "10.0.0.2"], "10.0.0.3"),
        // Spellings of one address.
        (&["203.0.113.9:4711"], "203.0.113.9"),
        (&["::ffff:203.0.113.9"], "203.0.113.9"),
        (&["[::ffff:203.0.113.9]:80"], "203.0.113.9"),
        (&["2001:db8::9"], "2001:db8::9"),
        (&["[2001:db8::9]"], "2001:db8::9"),
        (&["[2001:db8::9]:4711"], "2001:db8::9"),
        (&[" \t203.0.113.9\t "], "203.0.113.9"),
        // A zone means nothing here.
        (&["fe80::1%eth0"], "fe80::1"),
        (&["[fe80::1%25eth0]:4711"], "fe80::1"),
        (&["[fe80::1%1]"], "fe80::1"),
        // Elements that are empty do not count.
        (&["203.0.113.9,"], "203.0.113.9"),
        (&["203.0.113.9, , 10.0.0.2"], "203.0.113.9"),
        (&[",203.0.113.9", ""], "203.0.113.9"),
        (&["", " , "], "10.0.0.1"),
    ] {
        assert_eq!(client("10.0.0.1", fields), at(expected), "{fields:?}");
    }
}

#[test]
fn an_address_that_cannot_be_read_is_admitted_by_no_rule() {
    for field in [
        "unknown",
        "_hidden",
        "203.0.113.9, unknown",
        "203.0.113.9, unknown, 10.0.0.2",
        "203.0.113",
        "203.0.113.09",
        "203.0.113.9:",
        "203.0.113.9:x",
        "[203.0.113.9]",
        "[2001:db8::9",
        "2001:db8::9]",
        "fe80::1%",
        "203.0.113.9%eth0",
        "2001:db8::9:4711x",
        "[2001:db8::9]4711",
        "[2001:db8::9]:x",
        "203.0.113.9 198.51.100.1",
        "\"203.0.113.9\"",
    ] {
        assert_eq!(client("10.0.0.1", &[field]), Client::Unknown, "{field:?}");
    }
    let rules = access(&[], Instances::Any, &["10.0.0.0/8"]);
    let (tenants, _) = tenants(&rules, &[]);
    let mut headers = HeaderMap::new();
    let bytes = HeaderValue::from_bytes(b"203.0.113.9\xff").unwrap();
    headers.insert("x-forwarded-for", bytes);
    let peer = "10.0.0.1".parse().ok();
    assert_eq!(tenants.client(peer, &headers), Client::Unknown);
}

#[test]
fn no_refusal_contains_a_network_or_an_address() {
    for (denied, rule) in [
        (Denied::Networks, "access.networks"),
        (Denied::TenantNetworks, "tenant.networks"),
        (Denied::Unlisted, "access.instances"),
        (Denied::NoInstance, "access.instances"),
        (Denied::Ambiguous, "access.instances"),
    ] {
        let text = denied.to_string();
        assert!(text.contains(rule), "{text}");
        assert!(!text.contains(|c: char| c.is_ascii_digit()), "{text}");
        // It must fit into a string of a structured field (RFC 8941 §3.3.3).
        assert!(text.is_ascii() && !text.contains(['"', '\\']), "{text}");
    }
}
