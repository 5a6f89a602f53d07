use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::config::{Classes, Overrides, load_text};

/// What the program prints, as the settings that `check` accepts.
fn loaded(starter: &Starter) -> Config {
    let text = starter.to_string();
    let read = load_text(text.as_bytes(), std::iter::empty(), &Overrides::default());
    match read {
        Ok(effective) => effective.config,
        Err(mistakes) => panic!("{mistakes}\n{text}"),
    }
}

fn policy(response: &Value, chosen: Option<&str>) -> Starter {
    from_text("policy.json", response.to_string().as_bytes(), chosen).unwrap()
}

fn mistakes(response: &str) -> String {
    match from_text("policy.json", response.as_bytes(), None) {
        Err(error) => error.to_string(),
        Ok(starter) => panic!("{response}\n{starter}"),
    }
}

fn with_limits(limits: &Value) -> Value {
    json!({ "instance_id": "123", "policy": { "slug": "strict", "limits": limits } })
}

/// Name, seconds between two calls, burst and calls in flight of each class.
fn values(config: &Config) -> Vec<(String, f64, u32, Option<u32>)> {
    let classes = config.limit.classes.iter();
    let values = classes.map(|class| {
        let quota = class.quota.unwrap();
        let interval = quota.interval().as_secs_f64();
        let interval = (interval * 1000.0).round() / 1000.0;
        let in_flight = class.max_in_flight.map(std::num::NonZeroU32::get);
        (class.name.clone(), interval, quota.burst.get(), in_flight)
    });
    values.collect()
}

/// The most calls that a class lets through within a minute, by the times at which a bucket of
/// its rate has tokens.
fn most_in_a_minute(class: &crate::config::Class) -> u64 {
    let quota = class.quota.unwrap();
    let mut calls = u64::from(quota.burst.get());
    let mut next = quota.interval();
    // Intervals are whole nanoseconds.
    while next + Duration::from_micros(1) < Duration::from_secs(60) {
        calls += 1;
        next += quota.interval();
    }
    calls
}

/// The comments say of every class what its settings do.
fn assert_comments_hold(starter: &Starter) {
    let text = starter.to_string();
    let config = loaded(starter);
    for class in &config.limit.classes {
        let quota = class.quota.unwrap();
        let name = format!("\nname = \"{}\"\n", class.name);
        let before = text.split(&name).next().unwrap();
        let comment = before.rsplit("\n\n").next().unwrap().replace("\n# ", " ");
        let effect = comment.split("Effect for each number: ").nth(1).unwrap();
        let most = format!("at most {} in any minute", most_in_a_minute(class));
        assert!(effect.contains(&most), "{most}: {effect}");
        let pace = effect.split(',').next().unwrap();
        let words: Vec<&str> = pace.split(' ').collect();
        let rate = match words[..] {
            ["one", "in", seconds, "s"] => 1.0 / seconds.parse::<f64>().unwrap(),
            [rate, "a", "second"] => rate.parse().unwrap(),
            _ => panic!("{pace}"),
        };
        assert!((quota.rate / rate - 1.0).abs() < 0.002, "{pace}: {quota:?}");
        let at_once = format!("{} at once after a quiet time", quota.burst);
        assert_eq!(effect.contains(&at_once), quota.burst.get() > 1, "{effect}");
        let in_flight = class
            .max_in_flight
            .map(|calls| format!("{calls} at the same time"));
        assert_eq!(
            in_flight.is_some_and(|it| effect.contains(&it)),
            class.max_in_flight.is_some(),
            "{effect}"
        );
    }
}

#[test]
fn the_recommended_classes_do_what_their_comments_say() {
    let starter = recommended();
    assert_comments_hold(&starter);
    let config = loaded(&starter);
    let messages = ("messages".to_owned(), 4.0, 3, Some(2));
    assert_eq!(values(&config)[1], messages);
    // The example of a new number counts as soon as its lines are no comments.
    let text = starter
        .to_string()
        .replace("\n#", "\n")
        .replace("\n ", "\n# ");
    let text = text.trim_start_matches("# ");
    let effective = load_text(
        format!("# {text}").as_bytes(),
        std::iter::empty(),
        &Overrides::default(),
    );
    let config = effective
        .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
        .config;
    let new = ("new-number".to_owned(), 60.002, 1, Some(1));
    assert_eq!(values(&config)[1], new);
    let classes = Classes::new(&config);
    let class =
        |instance| classes.class_of(&http::Method::POST, "/v2/send/text", false, Some(instance));
    assert_eq!((class("ID"), class("other")), (Some(1), Some(2)));
}

#[test]
fn each_class_has_its_requests_and_receipts_have_none() {
    let config = loaded(&recommended());
    let classes = Classes::new(&config);
    let class = |method: &str, path: &str| {
        let is_batch_path = config.batch.paths.iter().any(|known| known == path);
        let method = method.parse().unwrap();
        let at = classes.class_of(&method, path, is_batch_path, Some("1"))?;
        Some(config.limit.classes[at].name.clone())
    };
    for (method, path, expected) in [
        ("POST", "/v2/send/text", Some("messages")),
        ("GET", "/v2/send/image", Some("messages")),
        ("PUT", "/v2/send/reaction", Some("messages")),
        ("POST", "/wp-json/awp/v1/send", Some("messages")),
        ("GET", "/send-text", Some("messages")),
        ("POST", "/v2/send/start-typing", Some("typing")),
        ("POST", "/v2/send/seen", None),
        ("POST", "/wp-json/awp/v1/sendSeen", None),
        ("GET", "/v2/groups", Some("groups")),
        ("POST", "/v2/groups/1@g.us/participants/add", Some("groups")),
        ("GET", "/v2/contacts/check-exists", Some("checks")),
        ("GET", "/v2/contacts/all", None),
        ("GET", "/v2/session/info", None),
    ] {
        assert_eq!(class(method, path).as_deref(), expected, "{method} {path}");
    }
}

#[test]
fn a_policy_becomes_classes() {
    let starter = policy(
        &with_limits(&json!({
            "send_message_per_minute": 10, "send_message_daily_cap": 1000,
            "account_protection_seconds": 5, "concurrent_limit": 1,
            "group_req_per_minute": 30, "group_daily_cap": 500,
            "check_req_per_minute": 120, "check_daily_cap": 1_000_000,
        })),
        None,
    );
    assert_comments_hold(&starter);
    assert_eq!(starter.warnings(), [""; 0]);
    let config = loaded(&starter);
    let class = |name: &str, interval, burst, in_flight| {
        (format!("{name}-123"), interval, burst, in_flight)
    };
    // 30 a minute: 3 at once and 28 in 60 s. 120: 12 at once and 109 in 60 s.
    let expected = [
        class("typing", 0.1, 20, None),
        class("messages", 6.0, 1, Some(1)),
        class("groups", 2.143, 3, None),
        class("checks", 0.55, 12, None),
    ];
    assert_eq!(values(&config), expected);
    assert!(
        config
            .limit
            .classes
            .iter()
            .all(|class| class.instances == ["123"])
    );
    let text = starter.to_string().replace("\n# ", " ");
    for said in [
        "from the policy \"strict\" of number 123",
        "send_message_per_minute = 10, account_protection_seconds = 5, concurrent_limit = 1.",
        "send_message_daily_cap = 1000 is not enforced",
        "it is used up after 1 h 39 min",
        "check_daily_cap = 1000000 cannot be exceeded in a day",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn the_stricter_of_rate_and_gap_counts() {
    for (limits, interval, burst) in [
        (json!({"send_message_per_minute": 30}), 2.143, 3),
        (
            json!({"send_message_per_minute": 30, "account_protection_seconds": 0}),
            2.143,
            3,
        ),
        (
            json!({"send_message_per_minute": 30, "account_protection_seconds": 1}),
            2.0,
            1,
        ),
        (
            json!({"send_message_per_minute": 30, "account_protection_seconds": 7}),
            7.0,
            1,
        ),
        (json!({"account_protection_seconds": 7}), 7.0, 1),
        (json!({"account_protection_seconds": 10_000}), 10_000.0, 1),
        (json!({"send_message_per_minute": 1}), 60.002, 1),
        // Without a rate, that of `limit`.
        (json!({"concurrent_limit": 2}), 0.1, 20),
    ] {
        let starter = policy(&with_limits(&limits), None);
        assert_comments_hold(&starter);
        let values = values(&loaded(&starter));
        let (_, found, at_once, _) = &values[1];
        assert!(
            (found - interval).abs() < 0.01 * interval,
            "{limits}: {found}"
        );
        assert_eq!(*at_once, burst, "{limits}");
    }
}

#[test]
fn no_class_exceeds_its_policy_in_any_minute() {
    for per_minute in (1..200).chain([999, 59_999, 1_000_000]) {
        for gap in [0, 1, 2, 60] {
            let limits =
                json!({"send_message_per_minute": per_minute, "account_protection_seconds": gap});
            let config = loaded(&policy(&with_limits(&limits), None));
            let class = &config.limit.classes[1];
            assert!(most_in_a_minute(class) <= per_minute, "{limits}");
            let quota = class.quota.unwrap();
            let is_apart = quota.burst.get() == 1 && quota.interval() >= Duration::from_secs(gap);
            assert!(gap == 0 || is_apart, "{limits}");
        }
    }
}

#[test]
fn what_is_unknown_is_reported_and_changes_nothing() {
    let known = with_limits(&json!({"send_message_per_minute": 30}));
    let mut strange = known.clone();
    strange["next"] = json!({"secret": "token-1"});
    strange["policy"]["pace"] = json!("token-1");
    strange["policy"]["limits"]["send_message_per_hour"] = json!(1);
    strange["policy"]["limits"]["line\n[[limit.class]]\nrate = 0"] = json!(1);
    strange["policy"]["limits"]["group_req_per_minute"] = json!(null);
    strange["policy"]["limits"]["check_req_per_minute"] = json!(0);
    let starter = policy(&strange, None);
    assert_eq!(loaded(&starter), loaded(&policy(&known, None)));
    let text = starter.to_string();
    assert!(!text.contains("token-1"), "{text}");
    let flat = text.replace("\n#  ", " ").replace("\n# ", " ");
    for said in [
        "\"next\": unknown field",
        "policy.\"pace\": unknown field",
        "policy.limits.\"send_message_per_hour\": unknown field",
        "policy.limits.\"line\\n[[limit.class]]\\nrate = 0\": unknown field",
        "policy.limits.group_req_per_minute = null: its meaning is not documented",
        "policy.limits.check_req_per_minute = 0: whether this means none or no limit is not documented",
        "groups have no class: the policy has no usable group_req_per_minute",
    ] {
        assert!(flat.contains(said), "{said}\n{text}");
        let warning = format!("policy.json: {said}");
        assert!(starter.warnings().contains(&warning), "{said}");
    }
    // Of very many unknown fields the first are named and the others counted.
    for n in 0..100 {
        strange["policy"]["limits"][format!("field_{n}")] = json!(n);
    }
    let starter = policy(&strange, None);
    assert!(starter.warnings().len() < 30, "{:#?}", starter.warnings());
    assert!(starter.to_string().contains("and 86 more"), "{starter}");
}

#[test]
fn the_policy_in_force_may_be_named_and_another_may_be_chosen() {
    let listed = |slug: &str, per_minute: u32| json!({"slug": slug, "available": slug != "fast", "limits": {"send_message_per_minute": per_minute}});
    let policies = json!([listed("strict", 1), listed("fast", 600)]);
    let named = json!({"policy": "strict", "policies": policies});
    let starter = policy(&named, None);
    assert_eq!(
        values(&loaded(&starter))[1],
        ("messages".to_owned(), 60.002, 1, None)
    );
    assert!(loaded(&starter).limit.classes[1].instances.is_empty());
    let chosen = policy(&named, Some("fast"));
    assert_eq!(values(&loaded(&chosen))[1].2, 60);
    let warning = "policy.json: \"fast\" is not available for this number now";
    assert!(chosen.warnings().contains(&warning.to_owned()));
    let error = from_text("p", named.to_string().as_bytes(), Some("x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "p: policies: \"x\" is not there: \"strict\", \"fast\""
    );
    let unnamed = json!({"policies": policies}).to_string();
    let error = mistakes(&unnamed);
    assert!(
        error.contains("--policy SLUG chooses one of them: \"strict\", \"fast\""),
        "{error}"
    );
}

#[test]
fn a_response_that_is_none_is_refused_with_its_place_and_what_is_allowed() {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let limit = |value: &str| {
        format!(r#"{{"policy":{{"slug":"s","limits":{{"send_message_per_minute":{value}}}}}}}"#)
    };
    for (text, message) in [
        (
            String::new(),
            "not JSON (EOF while parsing a value at line 1 column 0)",
        ),
        (
            "<html>token-1</html>".to_owned(),
            "not JSON (expected value at line 1 column 1)",
        ),
        (
            deep,
            "not JSON (recursion limit exceeded at line 1 column 128)",
        ),
        (
            "[]".to_owned(),
            "a list; the body of a response of GET /v2/session/rate-limit is expected",
        ),
        ("{}".to_owned(), "policy: missing: an object or the slug"),
        (
            r#"{"code":"invalid_access_token","message":"token-1"}"#.to_owned(),
            "policy: missing",
        ),
        (
            r#"{"policy":7}"#.to_owned(),
            "policy: a number: an object or the slug",
        ),
        (
            r#"{"policy":"strict"}"#.to_owned(),
            "policies: a list of policies is expected",
        ),
        (
            r#"{"policy":{}}"#.to_owned(),
            "policy.limits: missing: an object is expected",
        ),
        (
            r#"{"policy":{"limits":[1]}}"#.to_owned(),
            "policy.limits: a list: an object is expected",
        ),
        (
            r#"{"policy":{"slug":1,"limits":{}}}"#.to_owned(),
            "policy.slug: a number: a text is expected",
        ),
        (
            limit("-5"),
            "send_message_per_minute: -5: a whole number from 0 to 1000000 is expected",
        ),
        (limit("1.5"), "send_message_per_minute: 1.5: a whole number"),
        (
            limit("1e99"),
            "send_message_per_minute: 1e+99: a whole number",
        ),
        (
            limit("1000001"),
            "send_message_per_minute: 1000001: a whole number",
        ),
        (
            limit("\"token-1\""),
            "send_message_per_minute: a text: a whole number",
        ),
        (
            limit("{\"a\":1}"),
            "policy.limits.send_message_per_minute: an object: a whole number",
        ),
        (
            limit("true"),
            "send_message_per_minute: true or false: a whole number",
        ),
        (
            r#"{"instance_id":"1\"]\nrate = 0","policy":{"limits":{}}}"#.to_owned(),
            "instance_id: a text: a text of 1 to 48 letters",
        ),
    ] {
        let said = mistakes(&text);
        assert!(
            said.starts_with("policy.json: ") && said.contains(message),
            "{message}\n{said}"
        );
        assert!(!said.contains("token-1"), "{said}");
    }
    // All mistakes at once.
    let two = r#"{"policy":{"limits":{"concurrent_limit":-1,"check_daily_cap":"x"}}}"#;
    assert_eq!(mistakes(two).lines().count(), 2);
    let long = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(long.path(), " ".repeat(MAX_INPUT as usize + 1)).unwrap();
    let error = from_policy(long.path(), None).unwrap_err().to_string();
    assert!(
        error.ends_with("too long: a policy has at most 64 KiB"),
        "{error}"
    );
}
