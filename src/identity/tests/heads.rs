//! Instance and credentials in the query and the headers.

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
        ("/?instance_id[]=1", &[], Some("1")),
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
    // What cannot be an id does not count.
    let target = format!("/?instance_id={}", name(200));
    let found = of_head(&target, &[("x-instance-id", "2")]);
    assert_eq!(found.instance.as_deref(), Some("2"));
}

#[test]
fn credentials_are_found_in_every_source() {
    use CredentialSource::{Authorization, Header, Query};
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
        assert_eq!(
            found,
            identity_of(None, credentials),
            "{target} {headers:?}"
        );
    }
}

#[test]
fn credentials_from_different_sources_are_different() {
    let all = [
        identity_of(None, &[]),
        identity_of(None, &[(CredentialSource::Query, "t")]),
        identity_of(None, &[(CredentialSource::Authorization, "t")]),
        identity_of(None, &[(CredentialSource::Header, "t")]),
        identity_of(None, &[(CredentialSource::Body, "t")]),
        identity_of(None, &[(CredentialSource::Query, "u")]),
        identity_of(
            None,
            &[
                (CredentialSource::Query, "t"),
                (CredentialSource::Body, "t"),
            ],
        ),
        identity_of(None, &[(CredentialSource::Query, "t\u{1}t")]),
    ];
    for (index, one) in all.iter().enumerate() {
        for other in &all[index + 1..] {
            assert_ne!(one.credential, other.credential);
        }
    }
}

#[test]
fn a_head_that_names_two_instances_is_ambiguous_in_every_spelling() {
    for (target, headers) in [
        ("/?instance_id=1&instance_id=2&access_token=t", &[][..]),
        ("/?instance_id=1&instance.id=2&access_token=t", &[]),
        ("/?instance_id=1&instance+id=2&access_token=t", &[]),
        ("/?instance_id=1&instance%20id=2&access_token=t", &[]),
        ("/?instance_id=1&instance[id=2&access_token=t", &[]),
        ("/?instance_id=1&instance%5Bid=2&access_token=t", &[]),
        ("/?instance_id=1&+instance_id=2&access_token=t", &[]),
        ("/?instance_id=1&%20%09instance.id=2&access_token=t", &[]),
        ("/?instance_id=1&instance_id%00x=2&access_token=t", &[]),
        ("/?instance_id=1&instance_id[]=2&access_token=t", &[]),
        ("/?instance_id=1&instance_id%5B0%5D=1&access_token=t", &[]),
        ("/?instance_id[]=1&access_token=t", &[]),
        ("/?instance_id=1&access_token=t", &[("x-instance-id", "2")]),
        ("/?instance_id=1&access_token=t", &[("x_instance_id", "2")]),
        (
            "/?access_token=t",
            &[("x-instance-id", "1"), ("x-instance-id", "2")],
        ),
        ("/?instance_id=1&access_token=t&access.token=u", &[]),
        ("/?instance_id=1&access_token=t&access_token=u", &[]),
        ("/?instance_id=1&access_token[]=t", &[]),
        (
            "/?instance_id=1",
            &[("access-token", "t"), ("access_token", "u")],
        ),
        (
            "/?instance_id=1",
            &[("authorization", "Bearer t"), ("authorization", "Bearer u")],
        ),
    ] {
        let found = of_head(target, headers);
        assert_eq!(found.instance.as_deref(), Some("1"), "{target}");
        assert_eq!(found.credential, None, "{target}");
        assert_eq!(found.certainty, Certainty::Ambiguous, "{target}");
    }
    for target in [
        "/?instance_id=1&access_token=t&instance.id=1",
        "/?instance_id=1&access_token=t&instance_id=%201%0A",
        "/?instance_id=1&access_token=t&access.token=t",
        "/?instance_id=1&access_token=t&instance.id=",
        "/?instance_id=1&access_token=t&instance[id]=2",
    ] {
        let agreed = of_head(target, &[("x-instance-id", "1")]);
        let expected = identity_of(Some("1"), &[(CredentialSource::Query, "t")]);
        assert_eq!(agreed, expected, "{target}");
    }
}

#[test]
fn ids_and_credentials_are_trimmed() {
    let plain = of_head("/?instance_id=123&access_token=t", &[]);
    for target in [
        "/?instance_id=123%20&access_token=t",
        "/?instance_id=%09123&access_token=t%0A",
        "/?instance_id=123%00&access_token=+t",
        "/?instance_id=123%2520&access_token=t",
        "/?instance_id=+123+&access_token=t%00",
    ] {
        assert_eq!(of_head(target, &[]), plain, "{target}");
    }
    let bearer = |value| of_head("/", &[("authorization", value)]).credential;
    assert_eq!(bearer("Bearer t"), bearer("bearer \t t"));
    assert_ne!(bearer("Bearer t"), bearer("Bearer t u"));
}

#[test]
fn nothing_here_prints_a_credential() {
    let found = of_head("/?instance_id=1&access_token=s3cret", &[]);
    assert!(!format!("{found:?}").contains("s3cret"));
}
