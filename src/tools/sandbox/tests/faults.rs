//! Failures on demand.

use http::header::RETRY_AFTER;
use tokio::net::TcpStream;

use super::*;

const GET: &str = "GET /sandbox/status/200 HTTP/1.1\r\nhost: a\r\n\r\n";

fn sandbox(fault: Fault) -> Sandbox {
    Sandbox::new(Settings {
        faults: vec![fault],
        ..Settings::default()
    })
}

#[tokio::test]
async fn a_status_fault_strikes_the_requests_that_it_matches() {
    let id = "false_1@c.us_BAD";
    let fault = Fault::status(429)
        .header(RETRY_AFTER, "7".parse().unwrap())
        .body("slow down");
    let sandbox = sandbox(fault.path("/v2/send/seen").instance("123").id(id).times(2));
    assert_eq!(
        send(&sandbox, seen(&["false_1@c.us_GOOD"])).await.status,
        201
    );
    for _ in 0..2 {
        let response = send(&sandbox, seen(&["false_1@c.us_GOOD", id])).await;
        assert_eq!(
            (
                response.status.as_u16(),
                response.header("retry-after"),
                response.text()
            ),
            (429, "7", "slow down")
        );
    }
    assert_eq!(send(&sandbox, seen(&[id])).await.status, 201);
    let statuses: Vec<_> = sandbox
        .calls()
        .iter()
        .map(|call| (call.status, call.ids.len()))
        .collect();
    assert_eq!(statuses, [(201, 1), (429, 2), (429, 2), (201, 1)]);
}

#[tokio::test]
async fn a_scripted_header_replaces_the_default() {
    let sandbox =
        sandbox(Fault::status(302).header(http::header::CONTENT_TYPE, "text/x".parse().unwrap()));
    let response = send(&sandbox, get("/anything")).await;
    assert_eq!(
        (response.status.as_u16(), response.header("content-type")),
        (302, "text/x")
    );
    assert_eq!(response.headers.get_all("content-type").iter().count(), 1);
}

#[tokio::test]
async fn a_reset_before_the_head_sends_nothing() {
    let sandbox = sandbox(Fault::new(FaultKind::ResetBeforeHead));
    assert_eq!(raw(&sandbox, GET).await, b"");
    assert_eq!(sandbox.calls()[0].status, 0);
    assert_eq!(send(&sandbox, get("/sandbox/status/200")).await.status, 200);
}

#[tokio::test]
async fn outside_v2_a_fault_strikes_before_the_body() {
    let sandbox = sandbox(Fault::new(FaultKind::ResetBeforeHead).path("/sandbox/sink"));
    let upload = "PUT /sandbox/sink HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    assert_eq!(raw(&sandbox, upload).await, b"");
    assert!(!sandbox.calls()[0].body_complete);
}

#[tokio::test]
async fn a_reset_in_the_head_sends_part_of_it() {
    let sandbox = sandbox(Fault::new(FaultKind::ResetMidHead));
    assert_eq!(raw(&sandbox, GET).await, b"HTTP/1.1 200 OK\r\nco");
}

#[tokio::test]
async fn a_cut_body_is_shorter_than_promised() {
    let sandbox = sandbox(
        Fault::new(FaultKind::CutBody {
            promised: 10,
            sent: Bytes::from_static(b"half"),
        })
        .times(2),
    );
    let response = String::from_utf8(raw(&sandbox, GET).await).unwrap();
    assert!(
        response.contains("content-length: 10\r\n") && response.ends_with("\r\n\r\nhalf"),
        "{response}"
    );
    let error = try_send(&sandbox, get("/")).await.err().unwrap();
    assert!(format!("{error:?}").contains("IncompleteBody"), "{error:?}");
}

#[tokio::test]
async fn faults_strike_http2_too() {
    let sandbox = sandbox(Fault::status(503));
    assert_eq!(send_h2(&sandbox, seen(&[])).await.unwrap().status, 503);
    for kind in [
        FaultKind::ResetBeforeHead,
        FaultKind::ResetMidHead,
        FaultKind::CutBody {
            promised: 10,
            sent: Bytes::from_static(b"half"),
        },
    ] {
        sandbox.script(Fault::new(kind.clone()));
        assert!(send_h2(&sandbox, seen(&[])).await.is_err(), "{kind:?}");
    }
    assert_eq!(send_h2(&sandbox, seen(&[])).await.unwrap().status, 201);
}

#[tokio::test(start_paused = true)]
async fn a_late_response_and_none_at_all_differ_in_virtual_time() {
    let hour = Duration::from_secs(3_600);
    let sandbox = sandbox(Fault::new(FaultKind::NeverAnswer));
    tokio::time::timeout(hour, try_send(&sandbox, seen(&[])))
        .await
        .err()
        .unwrap();
    sandbox.script(Fault::new(FaultKind::Delay(hour)));
    let start = tokio::time::Instant::now();
    assert_eq!(send(&sandbox, seen(&[])).await.status, 201);
    assert_eq!(start.elapsed(), hour);
}

/// Real sockets, because in-memory streams have no reset; nothing here waits for time.
#[tokio::test]
async fn over_tcp_a_reset_is_a_reset_and_a_cut_body_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let sandbox = sandbox(Fault::new(FaultKind::ResetBeforeHead));
    sandbox.script(Fault::new(FaultKind::ResetMidHead));
    sandbox.script(Fault::new(FaultKind::CutBody {
        promised: 10,
        sent: Bytes::from_static(b"half"),
    }));
    tokio::spawn(sandbox.serve(listener, std::future::pending()));
    for reset in [true, true, false] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        let ended = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(
            ended.err().map(|error| error.kind()),
            reset.then_some(io::ErrorKind::ConnectionReset)
        );
    }
}
