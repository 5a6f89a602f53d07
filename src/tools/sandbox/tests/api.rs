//! The vendor's API as documented.

use super::*;

const ID: &str = "false_1@c.us_AAA";

#[tokio::test]
async fn credentials_are_read_from_every_location() {
    let sandbox = Sandbox::new(Settings::default());
    let multipart = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n\0\0\r\n\
        --x\r\nContent-Disposition: form-data; name=\"instance_id\"\r\n\r\n123\r\n\
        --x\r\nContent-Disposition: form-data; name=\"access_token\"\r\n\r\ns3cret\r\n\
        --x\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1@c.us\r\n--x--\r\nepilogue";
    let json = r#"{"instance_id":"123","access_token":"s3cret","chatId":"1@c.us"}"#;
    let form = "instance_id=123&access_token=s3cret&chatId=1%40c.us";
    let header = |name: &'static str, value: &'static str| {
        let request = Request::post("/v2/send/text")
            .header(name, value)
            .header("X-Instance-ID", "123");
        request.body(Full::from(r#"{"chatId":"1@c.us"}"#)).unwrap()
    };
    let requests = [
        get("/v2/send/text?instance_id=123&access_token=s3cret&chatId=1@c.us"),
        post("/v2/send/text", r#"{"chatId":"1@c.us"}"#),
        typed("application/json; charset=utf-8", "/v2/send/text", json),
        typed("application/x-www-form-urlencoded", "/v2/send/text", form),
        typed(
            "multipart/form-data; boundary=x",
            "/v2/send/text",
            multipart,
        ),
        header("authorization", "Bearer s3cret"),
        header("access-token", "s3cret"),
    ];
    for request in requests {
        sandbox.clear();
        let shown = format!("{request:?}");
        let response = send(&sandbox, request).await;
        assert_eq!(response.status, 201, "{shown}: {:?}", response.body);
        let calls = sandbox.calls();
        assert_eq!(calls[0].instance.as_deref(), Some("123"), "{shown}");
        assert!(calls[0].body_complete, "{shown}");
    }
}

#[tokio::test]
async fn a_missing_or_invalid_token_is_401() {
    let sandbox = Sandbox::new(Settings::default());
    for query in [
        "",
        "?access_token=",
        "?instance_id=1&access_token=invalid-1",
    ] {
        let response = send(&sandbox, get(&format!("/v2/session/me{query}"))).await;
        assert_eq!(response.status, 401, "{query}");
        let json = response.json();
        assert_eq!(
            (&json["status"], &json["code"]),
            (&401.into(), &"invalid_access_token".into())
        );
        assert_eq!(json["error"], "Unauthorized");
        assert!(json["message"].is_string());
    }
    let sandbox = Sandbox::new(Settings {
        token: Some("only".to_owned()),
        ..Settings::default()
    });
    for (token, status) in [("only", 200), ("other", 401)] {
        let response = send(
            &sandbox,
            get(&format!(
                "/v2/session/me?instance_id=1&access_token={token}"
            )),
        )
        .await;
        assert_eq!(response.status, status, "{token}");
    }
}

#[tokio::test]
async fn an_unknown_instance_is_404() {
    let open = Sandbox::new(Settings::default());
    let closed = Sandbox::new(Settings {
        instances: Some(vec!["a".to_owned()]),
        ..Settings::default()
    });
    let long = "x".repeat(65);
    for (sandbox, instance, status) in [
        (&open, "123", 200),
        (&open, "A_b-9", 200),
        (&open, "missing-1", 404),
        (&open, "a.b", 404),
        (&open, long.as_str(), 404),
        (&closed, "a", 200),
        (&closed, "b", 404),
    ] {
        let response = send(
            sandbox,
            get(&format!(
                "/v2/session/me?instance_id={instance}&access_token=t"
            )),
        )
        .await;
        assert_eq!(response.status, status, "{instance}");
        if status == 404 {
            assert_eq!(response.json()["code"], "invalid_session");
        }
    }
}

#[tokio::test]
async fn a_missing_parameter_is_400_and_has_no_effect() {
    let sandbox = Sandbox::new(Settings::default());
    for (request, name) in [
        (post("/v2/send/text", "{}"), "chatId"),
        (
            post("/v2/send/seen", r#"{"chatId":"","messageIds":[]}"#),
            "chatId",
        ),
        (get("/v2/session/me?access_token=t"), "instance_id"),
    ] {
        let response = send(&sandbox, request).await;
        assert_eq!(
            (response.status.as_u16(), &response.json()["code"]),
            (400, &"missing_param".into())
        );
        assert!(response.text().contains(name));
    }
    for (request, code) in [
        (post("/v2/send/text", "{"), "invalid_param"),
        (
            post("/v2/send/seen", r#"{"chatId":"1","messageIds":"x"}"#),
            "invalid_param",
        ),
        (
            typed("multipart/form-data", "/v2/send/text", "--"),
            "invalid_param",
        ),
        (
            get("/v2/chats?instance_id=1&access_token=t&added=1"),
            "invalid_param",
        ),
    ] {
        let response = send(&sandbox, request).await;
        assert_eq!(
            (response.status.as_u16(), &response.json()["code"]),
            (400, &code.into())
        );
    }
    assert_eq!(sandbox.messages(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_quota_is_kept_per_instance_in_virtual_time() {
    let sandbox = Sandbox::new(Settings {
        quota: Some((2.0, 3)),
        ..Settings::default()
    });
    let me = |instance| {
        get(&format!(
            "/v2/session/me?instance_id={instance}&access_token=t"
        ))
    };
    for _ in 0..3 {
        assert_eq!(send(&sandbox, me("a")).await.status, 200);
    }
    let refused = send(&sandbox, me("a")).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (429, &"rate_limit_exceeded".into())
    );
    assert_eq!(send(&sandbox, me("b")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(send(&sandbox, me("a")).await.status, 200);
    assert_eq!(send(&sandbox, me("a")).await.status, 429);
    let unauthorised = get("/v2/session/me?instance_id=c&access_token=invalid");
    for _ in 0..9 {
        assert_eq!(send(&sandbox, unauthorised.clone()).await.status, 401);
    }
    assert_eq!(
        send(&sandbox, me("c")).await.status,
        200,
        "a wrong token must not use an instance's quota"
    );
}

#[tokio::test]
async fn errors_have_the_media_type_that_is_accepted() {
    let sandbox = Sandbox::new(Settings::default());
    for (accept, content_type, part) in [
        ("*/*", "application/json", "\"code\":\"not_found\""),
        (
            "application/xml",
            "application/xml; charset=utf-8",
            "<code>not_found</code>",
        ),
        (
            "text/plain",
            "text/plain; charset=utf-8",
            "Not Found: No such endpoint: /v2/a&b",
        ),
    ] {
        let mut request = get("/v2/a&b");
        request
            .headers_mut()
            .insert("accept", accept.parse().unwrap());
        let response = send(&sandbox, request).await;
        assert_eq!(
            (response.status.as_u16(), response.header("content-type")),
            (404, content_type)
        );
        assert!(response.text().contains(part), "{}", response.text());
        assert_eq!(
            response.text().contains("&amp;"),
            accept == "application/xml"
        );
    }
}

#[tokio::test]
async fn a_receipt_with_ids_has_an_empty_response() {
    let sandbox = Sandbox::new(Settings::default());
    let query = "/v2/send/seen?access_token=s3cret&chatId=1%40c.us&instance_id=123\
        &messageIds=%5B%22false_1%40c.us_AAA%22%2C%22true_1%40g.us_B_2%40c.us%22%5D&participant=null";
    for request in [
        seen(&[ID, "true_1@g.us_B_2@c.us"]),
        Request::post(query).body(Full::default()).unwrap(),
        typed("application/json", query, "{}"),
    ] {
        let response = send(&sandbox, request).await;
        assert_eq!((response.status.as_u16(), response.text()), (201, ""));
        assert_eq!(
            sandbox.calls().pop().unwrap().ids,
            [ID, "true_1@g.us_B_2@c.us"]
        );
    }
    assert_eq!(sandbox.calls()[1].target, query);
}

#[tokio::test]
async fn a_receipt_without_ids_marks_the_chat_and_names_what_it_marked() {
    let sandbox = Sandbox::new(Settings::default());
    for body in [
        r#"{"chatId":"1@c.us"}"#,
        r#"{"chatId":"1@c.us","messageIds":[],"participant":null}"#,
    ] {
        let response = send(&sandbox, post("/v2/send/seen", body)).await;
        assert_eq!(response.status, 201);
        assert!(
            response.json()["ids"][0]
                .as_str()
                .unwrap()
                .starts_with("false_1@c.us_")
        );
    }
    let response = send(
        &sandbox,
        get("/v2/send/seen?instance_id=1&access_token=t&chatId=1"),
    )
    .await;
    assert_eq!(
        (response.status.as_u16(), response.header("allow")),
        (405, "POST")
    );
}

#[tokio::test]
async fn one_malformed_id_fails_the_whole_list_in_wahas_shape() {
    let sandbox = Sandbox::new(Settings::default());
    let response = send(&sandbox, seen(&[ID, "AAA", ID])).await;
    assert_eq!(response.status, 500);
    let json = response.json();
    assert_eq!(json["statusCode"], 500);
    assert!(json["timestamp"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(
        json["exception"]["message"]
            .as_str()
            .unwrap()
            .contains("\"AAA\"")
    );
    assert!(json.get("code").is_none());
    let calls = sandbox.calls();
    assert_eq!((calls[0].ids.len(), calls[0].status), (3, 500));
}

#[tokio::test]
async fn get_and_post_send_messages_and_each_one_counts() {
    let sandbox = Sandbox::new(Settings::default());
    let first = send(
        &sandbox,
        get("/v2/send/text?instance_id=1&access_token=t&chatId=1@c.us&message=hi"),
    )
    .await;
    let second = send(
        &sandbox,
        post(
            "/v2/send/image",
            r#"{"chatId":"1@c.us","file":{"data":"AA"}}"#,
        ),
    )
    .await;
    assert_eq!(
        (
            first.status.as_u16(),
            second.status.as_u16(),
            sandbox.messages()
        ),
        (201, 201, 2)
    );
    assert_eq!(first.json()["body"], "hi");
    assert_ne!(
        first.json()["id"]["_serialized"],
        second.json()["id"]["_serialized"]
    );
    let head = Request::head("/v2/send/text?instance_id=1&access_token=t&chatId=1")
        .body(Full::default())
        .unwrap();
    assert_eq!(send(&sandbox, head).await.status, 405);
    assert_eq!(sandbox.messages(), 2);
}

#[tokio::test]
async fn an_instance_is_created_with_a_token_alone() {
    let sandbox = Sandbox::new(Settings::default());
    let create = || {
        typed(
            "application/json",
            "/v2/session/create",
            r#"{"access_token":"t"}"#,
        )
    };
    let (one, two) = (
        send(&sandbox, create()).await,
        send(&sandbox, create()).await,
    );
    assert_eq!(one.status, 201);
    assert_eq!(one.json()["instance_id"].as_str().unwrap().len(), 12);
    assert_ne!(one.json()["instance_id"], two.json()["instance_id"]);
}

#[tokio::test]
async fn every_endpoint_responds_and_no_success_looks_like_a_failure() {
    let sandbox = Sandbox::new(Settings::default());
    for (path, methods) in endpoints::listed() {
        let path = path.replace('*', "1@g.us");
        for method in methods.split(' ') {
            let target = format!("/v2/{path}?instance_id=123&access_token=t&chatId=1@c.us");
            let request = Request::builder()
                .method(method)
                .uri(&target)
                .body(Full::default())
                .unwrap();
            let response = send(&sandbox, request).await;
            assert!(
                response.status.is_success(),
                "{method} {target}: {}",
                response.status
            );
            let json = response.json();
            let looks_failed =
                json.get("error").is_some() || json.get("code").and(json.get("message")).is_some();
            assert!(!looks_failed, "{method} {target}: {json}");
        }
    }
}

#[tokio::test]
async fn other_paths_are_a_page_of_the_front_proxy() {
    let sandbox = Sandbox::new(Settings::default());
    let response = send(&sandbox, get("/")).await;
    assert_eq!(
        (response.status.as_u16(), response.header("content-type")),
        (404, "text/html; charset=utf-8")
    );
    assert_eq!(sandbox.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_takes_the_latency_and_a_request_counts_even_if_its_client_leaves() {
    let sandbox = Sandbox::new(Settings {
        latency: Duration::from_secs(60),
        ..Settings::default()
    });
    let start = tokio::time::Instant::now();
    let response = send(&sandbox, seen(&[ID])).await;
    assert_eq!(
        (response.status.as_u16(), start.elapsed()),
        (201, Duration::from_secs(60))
    );
    let send = try_send(&sandbox, post("/v2/send/text", r#"{"chatId":"1"}"#));
    tokio::time::timeout(Duration::from_secs(1), send)
        .await
        .err()
        .unwrap();
    assert_eq!((sandbox.messages(), sandbox.calls()[1].status), (1, 0));
}
