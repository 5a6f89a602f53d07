//! What is held, and given back: bodies are passed on, and connections that
//! lie idle keep next to nothing of their calls.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use wawp_gateway::sandbox::Settings;

use crate::support::{Message, Program, RunningSandbox, connect, eventually};

const SIZE: usize = 200 << 20;

/// What the gateway may ever hold, in kB.
const PEAK: u64 = 50 * 1024;

#[test]
fn two_hundred_megabytes_pass_both_ways_in_little_memory() {
    let sandbox = RunningSandbox::start(Default::default());
    let gateway = Program::serve(sandbox.address, &[]);

    let mut stream = connect(gateway.address);
    let head = format!(
        "POST /sandbox/sink HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let piece = vec![b'{'; 1 << 20];
    for _ in 0..SIZE >> 20 {
        stream.write_all(&piece).unwrap();
    }
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    let response = Message::response(&response, "POST");
    assert_eq!(response.json()["bytes"], SIZE);

    let mut stream = connect(gateway.address);
    let head =
        format!("GET /sandbox/bytes/{SIZE} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            read => length += read,
        }
    }
    assert!((SIZE..SIZE + 1000).contains(&length), "{length}");

    let peak = gateway.peak_memory();
    assert!(peak < PEAK, "{peak} kB");
}

/// Connections that each made a call and are kept.
const CONNECTIONS: u64 = 300;

/// What one of them may hold afterwards, in kB.
const IDLE: u64 = 4;

#[test]
fn memory_of_a_burst_is_given_back() {
    let sandbox = RunningSandbox::start(Default::default());
    let gateway = Program::serve(sandbox.address, &[("LIMIT__RATE", "0")]);
    // The allocator reads it when the program is loaded; what comes of it
    // shows here only where many connections come to rest at one moment.
    let environment = gateway.environment();
    for wait in ["MIMALLOC_PURGE_DELAY=1", "MIMALLOC_PURGE_EXTEND_DELAY=0"] {
        assert!(environment.iter().any(|it| it == wait), "{wait}");
    }
    let call = |mut stream: &TcpStream| {
        let request = b"POST /v2/send/text?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(request).unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    };
    // What the first calls make for all is no connection's.
    let warm: Vec<_> = (0..20).map(|_| connect(gateway.address)).collect();
    warm.iter().for_each(call);
    let before = gateway.memory();
    let idle: Vec<_> = (0..CONNECTIONS).map(|_| connect(gateway.address)).collect();
    idle.iter().for_each(call);
    eventually("memory is given back", || {
        gateway.memory() <= before + CONNECTIONS * IDLE
    });
}

/// Receipts that wait at the same time.
const RECEIPTS: usize = 100;

/// The size of each, in kB.
const RECEIPT: u64 = 64;

/// What the buffers of its two connections may hold, in kB: hyper's read buffer towards the client,
/// and both buffers towards the upstream of a receipt that is sent alone.
const BUFFERS: u64 = 48;

#[test]
fn a_waiting_receipt_takes_at_most_half_more_than_its_size() {
    let latency = Duration::from_secs(4);
    let sandbox = RunningSandbox::start(Settings {
        latency,
        ..Settings::default()
    });
    // A long chat; as many ids as a batch takes; more than that.
    let body = |chat: usize, ids: usize| {
        let rest = (RECEIPT as usize) * 1024 - 60;
        let ids: Vec<_> = (0..ids)
            .map(|id| format!("\"false_1_{id:0width$}\"", width = rest / ids - 11))
            .collect();
        let long = "x".repeat(if ids.is_empty() { rest } else { 0 });
        format!(
            r#"{{"chatId":"{chat}{long}","messageIds":[{}]}}"#,
            ids.join(",")
        )
    };
    for ids in [0, 100, 140, 3000] {
        // In the window, or on the way to the upstream.
        let settings = [("BATCH__WINDOW", "3900ms"), ("LIMIT__RATE", "0")];
        let gateway = Program::serve(sandbox.address, &settings);
        let send = |chat: usize, mut stream: &TcpStream| {
            let body = body(chat, ids);
            let head = format!(
                "POST /v2/send/seen?instance_id=1&access_token=t HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
        };
        // What the first requests make for all belongs to no receipt.
        let warm: Vec<_> = (0..10).map(|_| connect(gateway.address)).collect();
        for (chat, stream) in warm.iter().enumerate() {
            send(RECEIPTS + chat, stream);
        }
        std::thread::sleep(Duration::from_millis(200));
        let before = gateway.memory();
        let waiting: Vec<_> = (0..RECEIPTS).map(|_| connect(gateway.address)).collect();
        for (chat, stream) in waiting.iter().enumerate() {
            send(chat, stream);
        }
        std::thread::sleep(Duration::from_millis(500));
        let each = (gateway.memory() - before) / RECEIPTS as u64;
        let most = RECEIPT * 3 / 2 + BUFFERS;
        assert!(each <= most, "{each} kB for {ids} ids");
    }
}

/// Clients that send a body in single bytes.
const SLOW: usize = 20;

#[test]
fn bodies_that_arrive_in_single_bytes_are_held_in_little_memory() {
    let sandbox = RunningSandbox::start(Default::default());
    let gateway = Program::serve(sandbox.address, &[]);
    // Held while the instance is searched, until `server.header_timeout`.
    let head = "POST /v2/send/text HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut clients: Vec<_> = (0..SLOW).map(|_| connect(gateway.address)).collect();
    for client in &mut clients {
        client.set_nodelay(true).unwrap();
        client.write_all(head.as_bytes()).unwrap();
    }
    let before = gateway.memory();
    // With pauses, so that the gateway reads most bytes one by one.
    for _ in 0..600 {
        for client in &mut clients {
            client.write_all(b"1\r\n \r\n").unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(200));
    let each = gateway.memory().saturating_sub(before) / SLOW as u64;
    // 600 buffers of 8 KiB would take 2,400 kB, one page of each.
    assert!(each <= 600, "{each} kB");
}
