//! Pass-through: what was said is what is heard, `Host` and the fields of the hop apart.
//!
//! Each dialogue runs through a gateway between a client and an upstream that are both played by the test, and both
//! ends are compared with what the other end wrote.

use std::time::Duration;

use crate::support::{Message, Stage, get, post};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Plays a request and its response through a gateway and compares both with what arrives. Once the request comes at
/// once, which may make it a plain one, and once its first bytes come long before the rest.
async fn passes(request: impl AsRef<[u8]>, response: impl AsRef<[u8]>) {
    let (request, response) = (request.as_ref(), response.as_ref());
    passes_in(&[request], response).await;
    let (begin, rest) = request.split_at(3);
    passes_in(&[begin, rest], response).await;
}

async fn passes_in(pieces: &[&[u8]], response: &[u8]) {
    let request = &*pieces.concat();
    // Responses to receipts would have one field more.
    let mut stage = Stage::new("server.timing_header = false");
    let mut client = stage.client();
    let method = Message::request(request).start;
    let method = method.split(' ').next().unwrap();
    let says = async {
        for piece in pieces {
            client.says(piece).await;
            // Longer than is waited for a plain request.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (_, (heard, mut line)) = tokio::join!(says, async {
        let mut line = stage.upstream.accepts().await;
        (line.request().await, line)
    });
    assert_eq!(heard.field("host"), Some("upstream.test"));
    assert_eq!(
        heard.end_to_end(),
        Message::request(request).end_to_end(),
        "the request"
    );
    let (_, heard) = tokio::join!(line.says(response), client.response_to(method));
    assert_eq!(
        heard.end_to_end(),
        Message::response(response, method).end_to_end(),
        "the response"
    );
    client.hears_nothing().await;
    line.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn get_that_sends_a_message() {
    let target =
        "/v2/send/text?instance_id=123&access_token=t&chatId=1@c.us&message=hello+w%C3%B6rld%21";
    passes(
        get(target),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"id\":\"true_1\"}",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn targets_byte_for_byte() {
    let long = format!("/v2/send/text?text={}", "ab%20c".repeat(1167));
    assert!(long.len() > 7_000);
    let targets = [
        "/v2/groups/1234567890@g.us/participants",
        "/v2/groups/1234567890%40g.us/participants",
        "//v2//send/text",
        "/v2/send/text/",
        "//",
        "/",
        "/?",
        "/v2/chats?",
        "/v2/chats??a=b?&&=&c",
        "/v2/./send/../text",
        "/%2e%2E/%2F%5c%00%zz",
        "/v2/chats?ids=[false_1@c.us_A]&x={y}|`\\^",
        "/v2/{a}\"b\"|[c]",
        "/v2/send/text?a=1&a=2&instance_id=%31",
        "/;p=1/:8080/@/~/$,+*!'()",
        &long,
    ];
    for target in targets {
        passes(get(target), PLAIN).await;
    }
}

#[tokio::test(start_paused = true)]
async fn methods_with_and_without_bodies() {
    for method in [
        "POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "PROPFIND",
    ] {
        let head = format!("{method} /v2/chats/delete HTTP/1.1\r\nHost: h\r\n");
        passes(format!("{head}\r\n"), PLAIN).await;
        passes(format!("{head}Content-Length: 0\r\n\r\n"), PLAIN).await;
        passes(format!("{head}Content-Length: 3\r\n\r\na=b"), PLAIN).await;
        passes(
            format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n"),
            PLAIN,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_without_framing_gets_none() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("POST /v2/send/text?instance_id=1 HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears(
        "POST /v2/send/text?instance_id=1 HTTP/1.1\r\nHost: upstream.test\r\nAccept: */*\r\n\r\n",
    )
    .await;
    line.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_chunked_body_leaves_with_its_length() {
    for method in ["POST", "GET", "DELETE"] {
        for target in [
            "/v2/chats?instance_id=1&access_token=t",
            "/v2/send/seen",
            "/v2/x#a",
        ] {
            // The end of the body comes with the head, or later.
            for pause in [None, Some(Duration::from_millis(10))] {
                let mut stage = Stage::new("");
                let mut client = stage.client();
                let head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n");
                let head = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
                match pause {
                    None => client.says(format!("{head}0\r\n\r\n")).await,
                    Some(pause) => {
                        client.says(head).await;
                        tokio::time::sleep(pause).await;
                        client.says("0\r\n\r\n").await;
                    }
                }
                let mut line = stage.upstream.accepts().await;
                let request = line.request().await;
                assert_eq!(request.start, format!("{method} {target} HTTP/1.1"));
                assert_eq!(request.field("content-length"), Some("0"));
                assert_eq!(request.field("transfer-encoding"), None);
                line.hears_nothing().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_call_is_the_same_bytes_but_for_the_host() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    let fields = "User-AGENT: x/1\r\naccept: */*\r\nX-Two: 1\r\nX-TWO: 2\r\nContent-Type: text/plain\r\ncontent-length: 4";
    client
        .says(format!(
            "POST /v2/x?a=%41 HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\nbody"
        ))
        .await;
    let mut line = stage.upstream.accepts().await;
    line.hears(format!(
        "POST /v2/x?a=%41 HTTP/1.1\r\nHost: upstream.test\r\n{fields}\r\n\r\nbody"
    ))
    .await;
    let response = "HTTP/1.1 207 Quite all right\r\nserver: S\r\nX-ODD-case: 1\r\nSet-Cookie: a\r\nset-cookie: b\r\n\
                  Content-Length: 2\r\n\r\nok";
    line.says(response).await;
    client.hears(response).await;
    client.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn fields_that_repeat_keep_their_order_and_their_case() {
    let request = "GET /v2/chats HTTP/1.1\r\nHost: h\r\nX-a: 3\r\nx-B: \r\nX-A: 1\r\nx-a: 2\r\nCookie: a\r\nCookie: b\r\n\
                   X-Latin: caf\u{e9}\r\nVia: 1.1 before\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    // As Latin-1, which is how it stands on the wire.
    let request: Vec<u8> = request.chars().map(|c| c as u8).collect();
    let response = "HTTP/1.1 200 OK\r\nSet-Cookie: b=1\r\nX-z: 1\r\nSET-cookie: a=1\r\nset-cookie: b=2\r\nServer: Apache\r\n\
                  Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n";
    passes(request, response).await;
}

#[tokio::test(start_paused = true)]
async fn bodies_of_every_media_type() {
    let boundary = "------------------------d74496d66958873e";
    let multipart = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"chatId\"\r\n\r\n1@c.us\r\n--{boundary}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\nContent-Type: application/octet-stream\r\n\r\n\
         {}\r\n--{boundary}\r\nContent-Disposition: form-data; name=\"instance_id\"\r\n\r\n123\r\n--{boundary}--\r\n",
        "\u{0}\u{1}\r\n-".repeat(50_000)
    );
    let bodies = [
        (
            "application/json; charset=utf-8",
            "{\"instance_id\":\"1\",\n \"text\":\"\u{1f600} \\ud83d\"}".to_owned(),
        ),
        (
            "application/json",
            "{\"instance_id\":\"1\", broken".to_owned(),
        ),
        (
            "application/x-www-form-urlencoded",
            "instance_id=1&access_token=%74&file%5Burl%5D=https%3A%2F%2Fx".to_owned(),
        ),
        (
            &*format!("multipart/form-data; boundary={boundary}"),
            multipart.clone(),
        ),
        ("multipart/form-data; boundary=another", multipart.clone()),
        ("multipart/form-data", multipart),
        ("application/xml", "<a/>".repeat(40_000)),
        (
            "",
            "{\"file\":\"".to_owned() + &"x".repeat(200_000) + "\",\"instance_id\":\"1\"}",
        ),
    ];
    for (media, body) in bodies {
        let head = format!("POST /v2/send/image HTTP/1.1\r\nHost: h\r\nContent-Type: {media}\r\n");
        let length = body.len();
        passes(
            format!("{head}Content-Length: {length}\r\n\r\n{body}"),
            PLAIN,
        )
        .await;
        passes(
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
            PLAIN,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn json_with_twenty_megabytes_of_base64() {
    let body = format!(
        r#"{{"chatId":"1@c.us","file":{{"mimetype":"video/mp4","data":"{}"}},"instance_id":"123","access_token":"t"}}"#,
        "QUJD".repeat(5 << 20)
    );
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    passes(post("/v2/send/video", &body), response).await;
}

#[tokio::test(start_paused = true)]
async fn compressed_bodies_stay_compressed() {
    // Not even looked at: these are no gzip at all.
    let bytes = [0x1f, 0x8b, 8, 0, 255, 254, 0, 13, 10, 13, 10, 128];
    for path in ["/v2/send/text", "/v2/send/seen"] {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\
             Accept-Encoding: gzip, deflate, br\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        )
        .into_bytes();
        request.extend(bytes);
        let mut response = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nVary: Accept-Encoding\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        )
        .into_bytes();
        response.extend(bytes);
        passes(request, response).await;
    }
}

#[tokio::test(start_paused = true)]
async fn answers_without_bodies() {
    let head = "HEAD /v2/media/1 HTTP/1.1\r\nHost: h\r\n\r\n";
    passes(
        head,
        "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: \"a\"\r\n\r\n",
    )
    .await;
    passes(
        head,
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\n",
    )
    .await;
    passes(head, "HTTP/1.1 200 OK\r\nETag: \"a\"\r\n\r\n").await;
    let plain = get("/v2/chats");
    passes(&plain, "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n").await;
    passes(
        &plain,
        "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nVary: Accept\r\n\r\n",
    )
    .await;
    passes(&plain, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    passes(
        &plain,
        "HTTP/1.1 302 Found\r\nLocation: https://api.wawp.net/x?y=%20\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn errors_in_html_xml_and_text_with_their_own_reasons() {
    let bodies = [
        (
            "401 Unauthorized",
            "application/json",
            r#"{"code":"invalid_access_token","message":"m"}"#,
        ),
        (
            "502 Bad Gateway",
            "text/html; charset=iso-8859-1",
            "<html><h1>502 Proxy Error</h1></html>",
        ),
        (
            "400 Bad Request",
            "application/xml",
            "<?xml version=\"1.0\"?><error/>",
        ),
        ("429 Slow Down Please", "text/plain", "slow down"),
        ("500 ", "text/html", "<p>"),
        ("599 Own Thing", "text/plain", ""),
        (
            "422 Unprocessable",
            "application/json",
            r#"{"statusCode":422}"#,
        ),
    ];
    for (status, media, body) in bodies {
        let response = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        passes(get("/v2/chats"), response).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fields_of_the_hop_stay_on_the_hop() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client
        .says("GET /v2/chats HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: timeout=5\r\nX-Mine: 1\r\n\
               Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-Yours: 2\r\n\r\n")
        .await;
    let mut line = stage.upstream.accepts().await;
    let mut heard = line.request().await.fields;
    heard.sort();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(heard, [pair("Host", "upstream.test"), pair("X-Yours", "2")]);
    line.says("HTTP/1.1 200 OK\r\nConnection: close, X-Theirs\r\nX-Theirs: 1\r\nKeep-Alive: max=1\r\nContent-Length: 2\r\n\r\nok")
        .await;
    client
        .hears("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    // The upstream's wish to close was not meant for the client.
    client.says(get("/v2/chats")).await;
    let mut other = stage.upstream.accepts().await;
    other.request().await;
}
