//! The end: everything accepted is answered, and the exit code says whether that was so.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    Framing, HeldUpstream, Message, Program, RunningSandbox, Stage, World, connect, eventually,
    get, receipt, receipt_of, text,
};

/// A window that no test waits for.
const ENDLESS: &[(&str, &str)] = &[
    ("BATCH__WINDOW", "100s"),
    ("LIMIT__MAX_WAIT", "200s"),
    ("LIMIT__RATE", "0"),
    ("LIMIT__BURST", "0"),
];

fn asking(gateway: &Program, request: &str) -> TcpStream {
    let mut stream = connect(gateway.address);
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Reads what comes up to the end of the connection.
fn heard(mut stream: TcpStream) -> Message {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    Message::response(&heard, "POST")
}

#[test]
fn sigterm_under_load_answers_everything_that_was_accepted() {
    for signal in ["TERM", "INT"] {
        let upstream = HeldUpstream::start();
        let gateway = Program::serve(upstream.address, ENDLESS);
        assert_eq!(gateway.page("/readyz").status(), 200);
        let sends: Vec<_> = (0..20)
            .map(|n| asking(&gateway, &text(&n.to_string())))
            .collect();
        let receipts: Vec<_> = (0..60)
            .map(|n| {
                asking(
                    &gateway,
                    &receipt_of(
                        &format!("inst{}", n % 6),
                        "t",
                        "1@c.us",
                        &crate::support::ids([n]),
                    ),
                )
            })
            .collect();
        eventually("all calls are accepted", || {
            gateway.counted("wawp_gateway_in_flight_requests", &[]) == 80.0
        });
        eventually("the sends have arrived", || upstream.requests().len() == 20);
        assert_eq!(gateway.counted("wawp_gateway_batches_open", &[]), 6.0);

        gateway.signal(signal);
        eventually("the windows are flushed", || {
            upstream.requests().len() == 26
        });
        assert_eq!(gateway.page("/readyz").status(), 503);
        assert_eq!(gateway.page("/livez").status(), 200);
        eventually("no new connections are taken", || {
            TcpStream::connect(gateway.address).is_err()
        });

        upstream.responses();
        for stream in sends.into_iter().chain(receipts) {
            let response = heard(stream);
            assert_eq!(response.start, "HTTP/1.1 200 OK");
            assert_eq!(response.text(), "ok");
            assert_eq!(response.framing, Framing::Length);
        }
        let (code, _, stderr) = gateway.ends();
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("drained"), "{stderr}");
        assert_eq!(upstream.requests().len(), 26, "nothing was sent twice");
    }
}

#[test]
fn new_connections_are_served_during_the_drain_delay() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let delay = [
        ("SERVER__DRAIN_DELAY", "100s"),
        ("SERVER__DRAIN_TIMEOUT", "200s"),
    ];
    let gateway = Program::serve(upstream.address, &delay);
    gateway.signal("TERM");
    eventually("/readyz responds 503", || {
        gateway.page("/readyz").status() == 503
    });
    let mut client = asking(&gateway, &get("/v2/chats"));
    let mut head = [0; 12];
    client.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");

    // A second signal ends the delay, too.
    gateway.signal("TERM");
    assert_eq!(gateway.ends().0, 1);
}

#[test]
fn after_the_drain_delay_the_listener_is_closed() {
    let upstream = HeldUpstream::start();
    let gateway = Program::serve(upstream.address, &[("SERVER__DRAIN_DELAY", "200ms")]);
    let address = gateway.address;
    gateway.signal("TERM");
    eventually("no new connections are taken", || {
        TcpStream::connect(address).is_err()
    });
    assert_eq!(gateway.ends().0, 0);
}

#[test]
fn sigterm_in_the_middle_of_traffic_loses_nothing() {
    let sandbox = RunningSandbox::start(wawp_gateway::sandbox::Settings {
        latency: Duration::from_millis(20),
        ..Default::default()
    });
    let gateway = Program::serve(
        sandbox.address,
        &[("LIMIT__RATE", "0"), ("LIMIT__BURST", "0")],
    );
    let address = gateway.address;
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                let (mut asked, mut answered) = (0, 0);
                'connections: while let Ok(mut stream) = TcpStream::connect(address) {
                    stream
                        .set_read_timeout(Some(Duration::from_secs(30)))
                        .unwrap();
                    let mut heard = Vec::new();
                    loop {
                        let request = match (client + asked) % 3 {
                            0 => text(&format!("{client}-{asked}")),
                            _ => receipt([asked]),
                        };
                        if stream.write_all(request.as_bytes()).is_err() {
                            continue 'connections;
                        }
                        asked += 1;
                        let mut piece = [0; 4096];
                        while !heard.ends_with(b"\r\n\r\n") && !heard.ends_with(b"}") {
                            match stream.read(&mut piece) {
                                Ok(0) | Err(_) => {
                                    // Told to close before, or a connection that was idle when it ended: not accepted.
                                    assert!(heard.is_empty(), "a response broke off");
                                    asked -= 1;
                                    continue 'connections;
                                }
                                Ok(length) => heard.extend_from_slice(&piece[..length]),
                            }
                        }
                        let response = Message::response(&heard, "POST");
                        assert_eq!(response.status(), 201);
                        answered += 1;
                        heard.clear();
                        if response.field("connection") == Some("close") {
                            continue 'connections;
                        }
                    }
                }
                assert_eq!(asked, answered);
                answered
            })
        })
        .collect();
    eventually("traffic flows", || sandbox.sandbox.messages() > 50);
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 0, "{stderr}");
    let mut answered = 0;
    for client in clients {
        answered += client.join().unwrap();
    }
    assert!(answered > 50);
    let calls = sandbox.sandbox.calls();
    assert!(
        calls
            .iter()
            .all(|call| call.status == 201 && call.body_complete)
    );
}

#[test]
fn a_call_whose_client_resets_its_connection_is_sent_and_waited_for() {
    let upstream = HeldUpstream::start();
    upstream.responses();
    let settings = [
        ("LIMIT__RATE", "0.5"),
        ("LIMIT__BURST", "1"),
        ("LIMIT__MAX_WAIT", "100s"),
    ];
    let gateway = Program::serve(upstream.address, &settings);
    let first = asking(&gateway, &text("spends the token"));
    eventually("the first has arrived", || upstream.requests().len() == 1);
    let second = asking(&gateway, &text("queued"));
    eventually("the second waits", || {
        gateway.counted("wawp_gateway_limit_queued", &[]) == 1.0
    });
    // Without linger a close is a reset (RST), not an end (FIN).
    let linger = Some(Duration::ZERO);
    socket2::SockRef::from(&second).set_linger(linger).unwrap();
    drop(second);
    eventually("its connection is gone", || {
        gateway.counted("wawp_gateway_connections", &[]) == 1.0
    });
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(upstream.requests().len(), 2);
    drop(first);
}

#[test]
fn a_second_signal_ends_at_once() {
    let upstream = HeldUpstream::start();
    let gateway = Program::serve(upstream.address, ENDLESS);
    let _held = asking(&gateway, &text("never answered"));
    eventually("it has arrived", || upstream.requests().len() == 1);
    gateway.signal("TERM");
    eventually("it drains", || gateway.page("/readyz").status() == 503);
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("calls=1"),
        "how much was cut is logged: {stderr}"
    );
}

#[test]
fn a_drain_that_takes_too_long_is_cut() {
    let upstream = HeldUpstream::start();
    let gateway = Program::serve(upstream.address, &[("SERVER__DRAIN_TIMEOUT", "300ms")]);
    let _held = asking(&gateway, &text("never answered"));
    eventually("it has arrived", || upstream.requests().len() == 1);
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("calls=1"), "{stderr}");
}

#[test]
fn calls_that_are_cut_are_in_the_access_log() {
    let upstream = HeldUpstream::start();
    let settings = [
        ("SERVER__DRAIN_TIMEOUT", "300ms"),
        ("LOG__FORMAT", "json"),
        ("LIMIT__RATE", "0"),
        ("LIMIT__BURST", "0"),
    ];
    let gateway = Program::serve(upstream.address, &settings);
    // Enough that every worker has some.
    let held: Vec<_> = (0..40)
        .map(|n| asking(&gateway, &text(&n.to_string())))
        .collect();
    eventually("they have arrived", || {
        upstream.requests().len() == held.len()
    });
    gateway.signal("TERM");
    let (code, stdout, stderr) = gateway.ends();
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stdout.lines().count(), held.len(), "{stdout}");
    for line in stdout.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["aborted"], &line["path"]),
            (&true.into(), &"/v2/send/text".into()),
            "{line}"
        );
    }
}

#[test]
fn a_client_that_leaves_its_answer_unread_is_cut_and_counted() {
    let upstream = RunningSandbox::start(wawp_gateway::sandbox::Settings::default());
    let gateway = Program::serve(upstream.address, &[("SERVER__BODY_TIMEOUT", "5s")]);
    let mut client = asking(&gateway, &get("/sandbox/bytes/100000000"));
    client.read_exact(&mut [0; 12]).unwrap();
    gateway.signal("TERM");
    let (code, _, stderr) = gateway.ends();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("connections=1"), "{stderr}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_still_leaving_is_waited_for() {
    for (is_plain, reads) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut stage = Stage::new("server.body_timeout = \"30s\"");
        let (mut client, body) = stage.answering(is_plain).await;
        stage.gateway.drain();
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(25)).await;
        if reads {
            assert_eq!(client.response().await.text(), body);
        }
        stage.gateway.drained().await;
        let took = began.elapsed().as_secs();
        assert!((25..=35).contains(&took), "{took} s");
        assert_eq!(stage.gateway.unfinished(), (0, usize::from(!reads)));
    }
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let upstream = HeldUpstream::start();
    let gateway = Program::serve(upstream.address, &[]);
    gateway.signal("TERM");
    let (code, stdout, stderr) = gateway.ends();
    assert_eq!((code, &*stdout), (0, ""), "{stderr}");
}

#[tokio::test(start_paused = true)]
async fn open_windows_are_flushed_at_once() {
    let world = World::new("batch.window = \"3s\"");
    let callers = [world.calling(receipt([1])), world.calling(receipt([2]))];
    tokio::time::sleep(Duration::from_millis(5)).await;
    let began = Instant::now();
    world.gateway.drain();
    for caller in callers {
        let response = caller.await.unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.field("connection"), Some("close"));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    world.gateway.drained().await;
    assert_eq!(world.gateway.unfinished(), (0, 0));
    assert_eq!(world.sandbox.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn queued_calls_are_accepted_calls() {
    let world = World::new("limit.rate = 1\nlimit.burst = 1");
    world.call(text("0")).await;
    let callers = [
        world.calling(text("1")),
        world.calling(text("2")),
        world.calling(receipt([3])),
    ];
    tokio::time::sleep(Duration::from_millis(5)).await;
    world.gateway.drain();
    let began = Instant::now();
    for caller in callers {
        assert_eq!(caller.await.unwrap().status(), 201);
    }
    assert!(began.elapsed() < Duration::from_secs(4));
    world.gateway.drained().await;
    assert_eq!(world.sandbox.messages(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_during_the_drain_is_answered() {
    let world = World::new("");
    let mut idle = world.client();
    assert_eq!(idle.asks(get("/sandbox/echo")).await.status(), 200);
    let mut fresh = world.client();
    tokio::time::sleep(Duration::from_millis(5)).await;
    world.gateway.drain();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for client in [&mut idle, &mut fresh] {
        let response = client.asks(receipt([1])).await;
        assert_eq!(response.status(), 201);
        assert_eq!(response.field("connection"), Some("close"));
        client.hears_end().await;
    }
    let began = Instant::now();
    world.gateway.drained().await;
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_client_has_left_is_waited_for() {
    let mut stage = Stage::new("");
    let mut client = stage.client();
    client.says(text("a")).await;
    let mut line = stage.upstream.accepts().await;
    line.request().await;
    client.hangs_up();
    tokio::time::sleep(Duration::from_millis(5)).await;
    stage.gateway.drain();
    let drained = stage.gateway.drained();
    let soon = Duration::from_secs(20);
    assert!(tokio::time::timeout(soon, drained).await.is_err());
    line.says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        .await;
    stage.gateway.drained().await;
}
