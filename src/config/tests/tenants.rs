//! Tenants, access and the budget they share.

use super::{refused::refused, *};

/// A tenant that needs nothing else.
const TENANT: &str = "[[tenant]]\nname = \"a\"\ninstances = [\"1\", \"2\"]\n";

fn networks(text: &str) -> Vec<String> {
    let text = format!("[access]\nnetworks = [{text}]");
    let networks = good(&text).access.networks;
    networks.iter().map(ToString::to_string).collect()
}

#[test]
fn a_tenant_has_weight_one_and_no_budget_by_default() {
    let tenants = good(TENANT).tenants;
    assert_eq!(
        tenants,
        [Tenant {
            name: "a".into(),
            instances: vec!["1".into(), "2".into()],
            weight: NonZeroU32::MIN,
            quota: None,
            networks: vec![],
            key: None,
            keys: vec![],
            tokens: Default::default(),
        }]
    );
}

#[test]
fn tenants_keep_their_order_and_their_settings() {
    let tenants = good(&format!(
        "{TENANT}weight = 1000\nrate = 0.5\nburst = 3\nnetworks = [\"10.0.0.0/8\"]\nkey = \"{0}\"\n\
         [tenant.tokens]\n1 = \"one\"\n[[tenant]]\nname = \"B.c_d-9\"\ninstances = [\"{1}\"]\nkey = \"{0}2\"\nburst = 0",
        "k".repeat(16),
        "i".repeat(128),
    ))
    .tenants;
    let [a, b] = &tenants[..] else {
        panic!("{tenants:?}")
    };
    assert_eq!((a.weight.get(), a.quota), (1000, quota(0.5, 3)));
    assert_eq!(a.networks, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(a.key, Some(Secret::new("k".repeat(16))));
    // Only the instances for which the key is valid have a token.
    assert_eq!(a.tokens.keys().collect::<Vec<_>>(), ["1"]);
    assert_eq!(a.tokens["1"].expose(), "one");
    assert_eq!((b.name.as_str(), b.quota), ("B.c_d-9", None));
}

#[test]
fn a_tenant_may_come_from_a_variable() {
    let env = [(
        "WAWP_GATEWAY_TENANT",
        "[{name = \"b\", instances = [\"1\"], tokens = {1 = \"t\"}}]",
    )];
    // As with classes, the list of the strongest layer replaces the others.
    let tenants = load_text(TENANT, &env, &Overrides::default())
        .unwrap()
        .config
        .tenants;
    assert_eq!((tenants.len(), tenants[0].name.as_str()), (1, "b"));
}

#[test]
fn egress_and_access_are_read() {
    let config = good(
        "[egress]\nrate = 70\nburst = 7\n\
         [access]\ninstances = \"listed\"\ntrusted_proxies = [\"::1\"]",
    );
    assert_eq!(config.egress.quota, quota(70.0, 7));
    assert_eq!(config.access.instances, Instances::Listed);
    assert_eq!(config.access.trusted_proxies, ["::1/128".parse().unwrap()]);
    let env = [
        ("WAWP_GATEWAY_EGRESS__RATE", "3"),
        ("WAWP_GATEWAY_EGRESS__BURST", "1"),
        ("WAWP_GATEWAY_ACCESS__NETWORKS", "10.0.0.1, ::1"),
    ];
    let config = load_text("", &env, &Overrides::default()).unwrap().config;
    assert_eq!(config.egress.quota, quota(3.0, 1));
    assert_eq!(config.access.networks.len(), 2);
}

#[test]
fn an_address_is_a_network_of_one_and_mapped_addresses_are_ipv4() {
    for (written, read) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3/32", "10.1.2.3/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::fffe:0:0/95", "::fffe:0.0.0.0/95"),
    ] {
        let expected: ipnet::IpNet = read.parse().unwrap();
        assert_eq!(networks(&format!("\"{written}\"")), [expected.to_string()]);
    }
}

#[test]
fn each_tenant_is_checked() {
    let second = TENANT.replace("\"a\"", "\"b\"");
    for (text, line, piece) in [
        (
            TENANT.replace("name = \"a\"\n", ""),
            1,
            "tenant[0].name: must be there",
        ),
        (
            TENANT.replace("instances = [\"1\", \"2\"]\n", ""),
            1,
            "tenant[0].instances: must be there",
        ),
        (
            TENANT.replace("[\"1\", \"2\"]", "[]"),
            3,
            "tenant[0].instances = []: a list of at least one",
        ),
        (
            TENANT.replace("\"2\"", "\"\""),
            3,
            "tenant[0].instances = \"\": an instance's id",
        ),
        (TENANT.replace("\"2\"", "2"), 3, "in quotes"),
        (TENANT.replace("\"2\"", "\"\\u0007\""), 3, "of 1 to 128"),
        (
            TENANT.replace("\"2\"", &format!("\"{}\"", "é".repeat(65))),
            3,
            "of 1 to 128 bytes",
        ),
        (
            TENANT.replace("\"2\"", "\"1\""),
            3,
            "tenant[0].instances = \"1\": an instance that is not listed before",
        ),
        (
            format!("{TENANT}{}", second.replace("\"1\", ", "\n\"3\",\n")),
            8,
            "tenant[1].instances = \"2\": an instance that is not listed before, here or in another tenant",
        ),
        (
            format!("{TENANT}[[tenant]]\nname = \"a\"\ninstances = [\"3\"]"),
            5,
            "tenant[1].name = \"a\": a name that no tenant before has",
        ),
        (TENANT.replace("\"a\"", "\"other\""), 2, "which metrics use"),
        (TENANT.replace("\"a\"", "\"none\""), 2, "which metrics use"),
        (TENANT.replace("\"a\"", "\"a b\""), 2, "a name of 1 to 64"),
        (
            TENANT.replace("\"a\"", &format!("\"{}\"", "a".repeat(65))),
            2,
            "a name of 1 to 64",
        ),
        (
            format!("{TENANT}weight = 0"),
            4,
            "tenant[0].weight = 0: a whole number from 1 to 1000",
        ),
        (format!("{TENANT}weight = 1001"), 4, "from 1 to 1000"),
        (format!("{TENANT}weight = 1.5"), 4, "from 1 to 1000"),
        (
            format!("{TENANT}rate = 5"),
            4,
            "tenant[0].rate = 5: burst must be 1 or more",
        ),
        (
            format!("{TENANT}rate = 5\nburst = 0"),
            5,
            "tenant[0].burst = 0: burst must be 1 or more",
        ),
        (format!("{TENANT}rate = \"x\""), 4, "requests per second"),
        (
            format!("{TENANT}networks = [\n\"::1\",\n\"a\"]"),
            6,
            "tenant[0].networks = \"a\": an IP address or network",
        ),
        (
            format!("{TENANT}wieght = 1"),
            4,
            "unknown key; did you mean tenant[0].weight?",
        ),
        (
            TENANT.replace("[[tenant]]", "[tenant]"),
            1,
            "a list of tables, each begun by [[tenant]]",
        ),
        ("tenant = 5".to_owned(), 1, "tenant = …: a list of tables"),
    ] {
        refused(&text, line, piece);
    }
}

#[test]
fn every_mistake_of_every_tenant_is_reported_at_once() {
    let message = bad(&format!(
        "{TENANT}rate = 1\nkey = \"short\"\n{}weight = 0\n",
        TENANT.replace("\"2\"", "\"3\"")
    ));
    let lines: Vec<&str> = message.lines().collect();
    assert_eq!(lines.len(), 6, "{message}");
    for (line, start) in lines.iter().zip([
        "4: tenant[0].rate = 1: ",
        "5: tenant[0].key = \"…\": ",
        "7: tenant[1].name = \"a\": ",
        "8: tenant[1].instances = \"1\": ",
        "9: tenant[1].weight = 0: ",
        "5 mistakes",
    ]) {
        assert!(line.starts_with(start), "{message}");
    }
}
