//! Query and headers (design §3.1, wawp-api §3).

use super::*;

#[test]
fn the_instance_is_found_in_query_then_header() {
    for (target, headers, instance) in [
        ("/", &[][..], None),
        ("/?instance_id=1", &[], Some("1")),
        ("/?a=b&instance_id=1&c", &[], Some("1")),
        ("/?instance%5Fid=1", &[], Some("1")),
        ("/?instance_id=a%20b+c", &[], Some("a b c")),
        ("/?instance_id=a%3Db%26c=d", &[], Some("a=b&c=d")),
        ("/", &[("x-instance-id", "2")], Some("2")),
        ("/", &[("X-Instance-ID", "2")], Some("2")),
        ("/?instance_id=1", &[("x-instance-id", "2")], Some("1")),
        ("/?instance_id=", &[("x-instance-id", "2")], Some("2")),
        ("/?instance_id", &[("x-instance-id", "2")], Some("2")),
        ("/?instance_id=1&instance_id=2", &[], Some("1")),
        ("/?Instance_Id=1", &[], None),
        ("/?xinstance_id=1", &[], None),
        ("/?instance_id[]=1", &[], None),
        ("/instance_id=1", &[], None),
        ("/", &[("x-instance-id", "")], None),
    ] {
        let found = of_head(target, headers);
        assert_eq!(found.instance.as_deref(), instance, "{target} {headers:?}");
    }
}

#[test]
fn an_instance_of_absurd_length_is_none() {
    let name = |length: usize| "x".repeat(length);
    for (length, found) in [(1, true), (128, true), (129, false), (30_000, false)] {
        let target = format!("/?instance_id={}", name(length));
        assert_eq!(of_head(&target, &[]).instance.is_some(), found, "{length}");
        let header = name(length);
        let headers = [("x-instance-id", &*header)];
        assert_eq!(of_head("/", &headers).instance.is_some(), found, "{length}");
    }
    // What cannot be the instance's name leaves the place to the next.
    let target = format!("/?instance_id={}", name(200));
    let found = of_head(&target, &[("x-instance-id", "2")]);
    assert_eq!(found.instance.as_deref(), Some("2"));
}

#[test]
fn credentials_are_found_in_every_place() {
    use Place::{Authorization, Header, Query};
    for (target, headers, credentials) in [
        ("/", &[][..], &[][..]),
        ("/?access_token=t", &[], &[(Query, "t")]),
        ("/?access%5ftoken=%74", &[], &[(Query, "t")]),
        ("/?access_token=", &[], &[]),
        (
            "/",
            &[("authorization", "Bearer t")],
            &[(Authorization, "Bearer t")],
        ),
        ("/", &[("access-token", "t")], &[(Header, "t")]),
        ("/?token=t", &[("x-access-token", "t")], &[]),
        (
            "/?access_token=q",
            &[("access-token", "h"), ("authorization", "a")],
            &[(Query, "q"), (Authorization, "a"), (Header, "h")],
        ),
    ] {
        let found = of_head(target, headers);
        assert_eq!(found, who(None, credentials), "{target} {headers:?}");
    }
}

#[test]
fn credentials_in_different_places_are_different() {
    let all = [
        who(None, &[]),
        who(None, &[(Place::Query, "t")]),
        who(None, &[(Place::Authorization, "t")]),
        who(None, &[(Place::Header, "t")]),
        who(None, &[(Place::Body, "t")]),
        who(None, &[(Place::Query, "u")]),
        who(None, &[(Place::Query, "t"), (Place::Body, "t")]),
        who(None, &[(Place::Query, "t\u{1}t")]),
    ];
    for (place, one) in all.iter().enumerate() {
        for other in &all[place + 1..] {
            assert_ne!(one.credential, other.credential);
        }
    }
}

#[test]
fn places_that_disagree_on_the_instance_prove_nothing() {
    for (target, headers) in [
        ("/?instance_id=1&instance_id=2&access_token=t", &[][..]),
        ("/?instance_id=1&access_token=t", &[("x-instance-id", "2")]),
        (
            "/?access_token=t",
            &[("x-instance-id", "1"), ("x-instance-id", "2")],
        ),
    ] {
        let found = of_head(target, headers);
        assert_eq!(found.instance.as_deref(), Some("1"), "{target}");
        assert_eq!(found.credential, None, "{target}");
    }
    let agreed = of_head("/?instance_id=1&access_token=t", &[("x-instance-id", "1")]);
    assert_eq!(agreed, who(Some("1"), &[(Place::Query, "t")]));
}

#[test]
fn nothing_here_prints_a_credential() {
    let found = of_head("/?instance_id=1&access_token=s3cret", &[]);
    assert!(!format!("{found:?}").contains("s3cret"));
}
