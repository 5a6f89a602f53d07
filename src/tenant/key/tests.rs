//! Which texts are keys, and which instances they open.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::body::ClientBody;

const ACME: &str = "acme-0123456789abcdef";
const BETA: &str = "beta-0123456789abcdef";

fn tenant(name: &str, instances: &[&str], key: Option<&str>, tokens: &[&str]) -> config::Tenant {
    config::Tenant {
        name: name.into(),
        instances: instances.iter().map(|&name| name.into()).collect(),
        weight: NonZeroU32::MIN,
        quota: None,
        networks: vec![],
        key: key.map(Secret::new),
        keys: vec![],
        tokens: tokens
            .iter()
            .map(|&name| (name.to_owned(), Secret::new(format!("token-of-{name}"))))
            .collect::<BTreeMap<_, _>>(),
    }
}

fn ring() -> Keyring {
    Keyring::new(&[
        tenant("open", &["9"], None, &["9"]),
        tenant("acme", &["1", "2"], Some(ACME), &["1"]),
        tenant("beta", &["3"], Some(BETA), &["3"]),
    ])
    .unwrap()
}

#[test]
fn without_a_key_there_is_no_ring() {
    assert!(Keyring::new(&[]).is_none());
    assert!(Keyring::new(&[tenant("a", &["1"], None, &["1"])]).is_none());
}

#[test]
fn each_of_a_tenants_keys_opens_its_instances() {
    let later = "acme-later-0123456789";
    let acme = config::Tenant {
        keys: vec![Secret::new(later)],
        ..tenant("acme", &["1"], Some(ACME), &["1"])
    };
    let only_later = config::Tenant {
        keys: vec![Secret::new("beta-later-0123456789")],
        ..tenant("beta", &["2"], None, &["2"])
    };
    let ring = Keyring::new(&[acme, only_later]).unwrap();
    for (key, instance, opens) in [
        (ACME, "1", true),
        (later, "1", true),
        (later, "2", false),
        ("beta-later-0123456789", "2", true),
        ("beta-later-0123456789", "1", false),
    ] {
        let key = ring.find(key.as_bytes(), Client::Local).unwrap();
        assert_eq!(ring.token(key, instance).is_ok(), opens);
    }
}

#[test]
fn a_key_opens_its_tenants_instances_and_no_others() {
    let ring = ring();
    let opens = |key: &str, instance| {
        let owner = ring.find(key.as_bytes(), Client::Local).unwrap();
        ring.token(owner, instance).map(Secret::expose)
    };
    assert_eq!(opens(ACME, "1"), Ok("token-of-1"));
    assert_eq!(opens(BETA, "3"), Ok("token-of-3"));
    assert_eq!(opens(ACME, "2"), Err(Refusal::NoToken));
    // An instance of another tenant with a key, of one without, and of none: all the same.
    for (key, instance) in [(ACME, "3"), (BETA, "1"), (ACME, "9"), (ACME, "77")] {
        assert_eq!(
            opens(key, instance),
            Err(Refusal::OtherTenant),
            "{instance}"
        );
    }
}

#[test]
fn a_base64_key_is_known_in_every_encoding() {
    const KEY: &str = "q83v+7/EjRkl0aWb+A==";
    let ring = Keyring::new(&[tenant("acme", &["1"], Some(KEY), &["1"])]).unwrap();
    let owner = |shown: &str| ring.find(shown.as_bytes(), Client::Local);
    for shown in [
        KEY,
        // A `+` that was not encoded is a space in a form.
        "q83v 7/EjRkl0aWb A==",
        "q83v%2B7%2FEjRkl0aWb%2BA%3D%3D",
        "q83v%2b7%2fEjRkl0aWb%2bA%3d%3d",
        "q83v+7/EjRkl0aWb%2BA==",
    ] {
        assert_eq!(owner(shown), Some(0), "{shown}");
    }
    for shown in [
        "q83v+7/EjRkl0aWb+A",
        "q83v-7_EjRkl0aWb-A==",
        "",
        "%",
        "q83v%FF",
    ] {
        assert_eq!(owner(shown), None, "{shown}");
    }
}

/// The key is replaced by the token in each part of the head, and nothing else changes.
#[test]
fn a_base64_key_is_replaced_in_the_head_however_it_is_encoded() {
    const KEY: &str = "q83v+7/EjRkl0aWb+A==";
    let ring = Keyring::new(&[tenant("acme", &["1"], Some(KEY), &["1"])]).unwrap();
    for (target, header, expected) in [
        (
            "access_token=q83v+7/EjRkl0aWb+A==",
            None,
            "access_token=token-of-1",
        ),
        (
            "a=b&access.token=q83v%2B7%2FEjRkl0aWb%2BA%3D%3D&c",
            None,
            "a=b&access.token=token-of-1&c",
        ),
        (
            "access_token=q83v%252B7%252FEjRkl0aWb%252BA%253D%253D",
            None,
            "access_token=token-of-1",
        ),
        ("", Some(("access_token", KEY)), "token-of-1"),
        (
            "",
            Some(("authorization", "Bearer q83v%2B7%2FEjRkl0aWb%2BA%3D%3D")),
            "Bearer token-of-1",
        ),
    ] {
        let mut request = http::Request::get(format!("/x?instance_id=1&{target}"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let search = ring.search(&head, Client::Local);
        let mut body = ClientBody::none(std::time::Duration::ZERO);
        assert!(
            search.replace(&mut head, &mut body).unwrap().is_some(),
            "{target}"
        );
        match header {
            None => assert_eq!(
                head.uri.query().unwrap(),
                format!("instance_id=1&{expected}")
            ),
            Some((name, _)) => assert_eq!(head.headers[name], expected),
        }
    }
}

#[test]
fn outside_its_tenants_networks_a_key_is_none() {
    let mut acme = tenant("acme", &["1"], Some(ACME), &["1"]);
    acme.networks = vec!["10.0.0.0/8".parse().unwrap()];
    let ring = Keyring::new(&[acme, tenant("beta", &["3"], Some(BETA), &["3"])]).unwrap();
    let owner = |key: &str, client| ring.find(key.as_bytes(), client);
    let at = |address: &str| Client::At(address.parse().unwrap());
    for (client, inside) in [
        (Client::Local, true),
        (at("10.1.2.3"), true),
        (at("192.0.2.1"), false),
        (Client::Unknown, false),
    ] {
        assert_eq!(owner(ACME, client), inside.then_some(0), "{client:?}");
        assert_eq!(owner(BETA, client), Some(1), "{client:?}");
    }
}

#[test]
fn nothing_printed_shows_a_key_or_a_token() {
    let printed = format!("{:?}", ring());
    assert_eq!(printed, "Keyring { keys: 2, instances: 3, .. }");
}

proptest! {
    /// Only the exact text is the key.
    #[test]
    fn no_other_text_is_a_key(at in 0..ACME.len(), byte in any::<u8>(), cut in 0..ACME.len(), more in ".{1,9}") {
        let ring = ring();
        let owner = |text: &[u8]| ring.find(text, Client::Local);
        let mut changed = ACME.as_bytes().to_vec();
        changed[at] = byte;
        prop_assert_eq!(owner(&changed).is_some(), changed == ACME.as_bytes());
        prop_assert_eq!(owner(&ACME.as_bytes()[..cut]), None);
        prop_assert_eq!(owner(format!("{ACME}{more}").as_bytes()), None);
        prop_assert_eq!((owner(ACME.as_bytes()), owner(BETA.as_bytes())), (Some(0), Some(1)));
    }
}
