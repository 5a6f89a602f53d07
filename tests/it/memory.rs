//! Bodies are passed on, not held: what 200 MB cost in memory.

use std::io::{Read as _, Write as _};

use crate::support::{Message, Program, RunningSandbox, connect};

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
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = Message::answer(&answer, "POST");
    assert_eq!(answer.json()["bytes"], SIZE);

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
