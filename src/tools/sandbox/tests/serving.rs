//! Listening, versions of HTTP, and stopping.

use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_and_recorded_as_such() {
    let sandbox = Sandbox::new(Settings::default());
    let mut request = seen(&["false_1@c.us_AAA"]);
    *request.uri_mut() = format!("http://a{}", request.uri()).parse().unwrap();
    let response = send_h2(&sandbox, request).await.unwrap();
    assert_eq!((response.status.as_u16(), response.text()), (201, ""));
    let call = sandbox.calls().remove(0);
    assert_eq!(
        (call.version, call.body_complete),
        (http::Version::HTTP_2, true)
    );
    assert_eq!(
        call.target,
        "/v2/send/seen?instance_id=123&access_token=s3cret"
    );
}

#[tokio::test]
async fn a_persistent_connection_serves_one_request_after_the_other() {
    let sandbox = Sandbox::new(Settings::default());
    let one = "POST /v2/send/text HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
    let last = "GET /sandbox/status/200 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let response = String::from_utf8(raw(&sandbox, &format!("{one}{one}{last}")).await).unwrap();
    assert_eq!(
        (
            response.matches("HTTP/1.1 401 ").count(),
            response.matches("HTTP/1.1 200 ").count()
        ),
        (2, 1)
    );
}

#[tokio::test]
async fn the_body_is_continued_when_the_client_waits_for_it() {
    let sandbox = Sandbox::new(Settings::default());
    let mut stream = connect(&sandbox);
    let head = "POST /sandbox/sink HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 25];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
}

#[tokio::test]
async fn a_body_too_big_is_refused_as_the_front_proxy_does() {
    let sandbox = Sandbox::new(Settings::default());
    let file = "A".repeat(33 << 20);
    let part = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let target = "/v2/send/image?instance_id=1&access_token=t&chatId=1";
    for request in [
        post(
            "/v2/send/image",
            &format!("{{\"chatId\":\"1\",\"data\":\"{file}\"}}"),
        ),
        typed(
            "multipart/form-data; boundary=x",
            target,
            &format!("{part}{file}\r\n--x--"),
        ),
    ] {
        let response = send(&sandbox, request).await;
        let content_type = response.header("content-type");
        assert_eq!(
            (response.status.as_u16(), content_type),
            (502, "text/html; charset=utf-8")
        );
    }
    assert_eq!(sandbox.messages(), 0);
}

/// Real sockets: only the one second of grace passes.
#[tokio::test]
async fn stopping_ends_idle_connections_and_cuts_what_never_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sandbox = Sandbox::new(Settings::default());
    sandbox.script(Fault::new(FaultKind::NeverAnswer));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(
        sandbox
            .clone()
            .serve(listener, async move { drop(stopped.await) }),
    );
    let idle = TcpStream::connect(address).await.unwrap();
    let mut stuck = TcpStream::connect(address).await.unwrap();
    stuck
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    while sandbox.received() == 0 {
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    server.await.unwrap();
    for mut stream in [idle, stuck] {
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
    }
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = run(address, Settings::default(), std::future::pending())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(
        error
            .to_string()
            .contains(&format!("{address}: the port is in use")),
        "{error}"
    );
}

#[test]
fn nothing_printed_of_the_settings_shows_the_token() {
    let sandbox = Sandbox::new(Settings {
        token: Some("s3cret".to_owned()),
        ..Settings::default()
    });
    let shown = format!("{sandbox:?}");
    assert!(
        !shown.contains("s3cret") && shown.contains("token: Some"),
        "{shown}"
    );
}
