//! The limit on open files: raised, reported, and never used up by clients.

use std::io::Write as _;

use crate::support::{HeldUpstream, Program, call, connect, eventually, get};

/// More clients than open files.
const CLIENTS: usize = 400;
const LIMIT: u32 = 300;

#[test]
fn the_soft_limit_is_raised_and_a_hard_limit_that_is_too_low_is_reported() {
    let upstream = HeldUpstream::start();
    for (max_connections, is_too_low) in [("100", false), ("400", true)] {
        let settings = [("SERVER__MAX_CONNECTIONS", max_connections)];
        let limits = (LIMIT - 40, LIMIT);
        let gateway = Program::serve_with_open_files(limits, upstream.address, &settings);
        eventually("the limit is raised", || {
            let limits = gateway.open_files();
            let mut columns = limits.split_whitespace().skip(3);
            columns.next() == Some("300") && columns.next() == Some("300")
        });
        // It is written before the first connection is accepted.
        assert_eq!(gateway.page("/readyz").status(), 200);
        let warning = "server.max_connections cannot be reached";
        assert_eq!(gateway.said().contains(warning), is_too_low);
        gateway.signal("TERM");
        assert_eq!(gateway.ends().0, 0);
    }
}

#[test]
fn the_admin_pages_answer_while_clients_use_all_other_open_files() {
    let upstream = HeldUpstream::start();
    let settings = [("LIMIT__RATE", "0"), ("LIMIT__BURST", "0")];
    let limits = (LIMIT, LIMIT);
    let gateway = Program::serve_with_open_files(limits, upstream.address, &settings);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(gateway.address)).collect();
    eventually("no more connections are accepted", || {
        gateway
            .said()
            .contains("open files are close to their limit")
    });
    assert_eq!(gateway.page("/readyz").status(), 200);

    // Each request needs a connection to the upstream.
    for client in clients.iter_mut().take(100) {
        client.write_all(get("/v2/chats").as_bytes()).unwrap();
    }
    eventually("some requests are refused for lack of a connection", || {
        gateway.counted("wawp_gateway_requests_total", &["code=\"502\""]) > 0.0
    });
    assert_eq!(gateway.page("/readyz").status(), 200);
    assert!(!upstream.requests().is_empty(), "none was sent");

    drop(clients);
    upstream.responses();
    let request = get("/v2/chats").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    eventually("clients are accepted again", || {
        call(gateway.address, &request).starts_with(b"HTTP/1.1 200 ")
    });
    gateway.signal("TERM");
    assert_eq!(gateway.ends().0, 0);
}
