use super::*;

fn read(text: &str) -> Result<ClusterUrl, ClusterUrlError> {
    ClusterUrl::try_from(text.to_owned())
}

#[test]
fn every_form_is_read_and_shown_with_its_defaults() {
    for (text, shown) in [
        ("redis://a", "redis://a:6379/0"),
        ("redis://10.0.0.1:7000/3", "redis://10.0.0.1:7000/3"),
        ("redis://a/", "redis://a:6379/0"),
        ("REDISS://[::1]:7000", "rediss://[::1]:7000/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("unix:///run/r%20s?db=2", "unix:///run/r s?db=2"),
        (
            "redis+sentinel://a,b:7000,[::1]/mymaster",
            "redis+sentinel://a:26379,b:7000,[::1]:26379/mymaster/0",
        ),
        (
            "redis+sentinel://a/my-master/4",
            "redis+sentinel://a:26379/my-master/4",
        ),
    ] {
        assert_eq!(read(text).unwrap().to_string(), shown, "{text}");
    }
}

#[test]
fn user_and_password_are_decoded_and_never_shown() {
    for (text, user, password) in [
        ("redis://hush1:hush2@a", Some("hush1"), "hush2"),
        ("rediss://:hush2@a/1", None, "hush2"),
        ("redis://:hush%40%3a2@a", None, "hush@:2"),
        ("redis://:hush@2@a", None, "hush@2"),
        ("unix://hush1:hush2@/run/s", Some("hush1"), "hush2"),
        ("redis+sentinel://:hush2@a,b/m", None, "hush2"),
    ] {
        let url = read(text).unwrap();
        let credentials = url.credentials.as_ref().unwrap();
        assert_eq!(
            (
                credentials.user.as_ref().map(Secret::expose),
                credentials.password.expose()
            ),
            (user, password)
        );
        let shown = format!("{url} {url:?}");
        assert!(!shown.contains("hush") && shown.contains('…'), "{shown}");
        // What is printed does not become a password when it is read again.
        assert!(read(&url.to_string()).is_err());
    }
}

#[test]
fn everything_else_is_refused_without_a_word_of_it() {
    for text in [
        "",
        "hush",
        "http://hush",
        "redis://",
        "redis://hush:",
        "redis://hush:0",
        "redis://hush:65536",
        "redis://hush/x",
        "redis://hush/-1",
        "redis://hush/01",
        "redis://hush/65536",
        "redis://hush/0/0",
        "redis://hush@a",
        "redis://hush:@a",
        "redis://hush:a b@a",
        "redis://hush:%00@a",
        "redis://hush:%ff@a",
        "redis://hush?db=1",
        "unix://hush",
        "unix://",
        "unix:///",
        "unix:///hush?x=1",
        "redis+sentinel://hush",
        "redis+sentinel://hush/",
        "redis+sentinel:///hush",
        "redis+sentinel://hush,/m",
        "redis+sentinel://hush/a b",
        "redis+sentinel://hush/m/x",
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.contains("redis://") && !error.contains("hush"));
    }
    assert!(read(&format!("unix:///{}", "x".repeat(MAX_PATH))).is_err());
    let many = vec!["a"; MAX_SENTINELS + 1].join(",");
    assert!(read(&format!("redis+sentinel://{many}/m")).is_err());
}
