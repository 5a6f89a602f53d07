//! Ports for programs that cannot be asked which one they took.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The system takes the ports of outgoing connections from 32768 on: there, a port that is free now may
/// be in use before the program listens on it.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of 127.0.0.1 that nothing uses; each is returned once.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Tests of other processes begin elsewhere.
    let first = std::process::id() as u16 % 100 * 100;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (first + number) % (PORTS.end - PORTS.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
