//! A proxy that knows `CONNECT`: over TCP before one upstream, or on a stream in memory.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, DuplexStream};

/// A proxy on a port of its own.
pub(crate) struct ConnectProxy {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl ConnectProxy {
    /// Connects every client to `upstream`, whatever host it names.
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&heads);
        // These threads end with the process, or with their connections.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let heads = Arc::clone(&taken);
                std::thread::spawn(move || connect(client, upstream, &heads));
            }
        });
        Self { address, heads }
    }

    /// The heads of the requests that have arrived.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn connect(mut client: TcpStream, upstream: SocketAddr, heads: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_exact(&mut byte).is_err() {
            return;
        }
        head.extend_from_slice(&byte);
    }
    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
    let upstream = TcpStream::connect(upstream).unwrap();
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .ok();
    let (mut up, mut down) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
    let copies = std::thread::spawn(move || {
        io::copy(&mut up, &mut { down.try_clone().unwrap() }).ok();
        down.shutdown(std::net::Shutdown::Write).ok();
        down.flush().ok();
    });
    io::copy(&mut { upstream }, &mut client).ok();
    client.shutdown(std::net::Shutdown::Both).ok();
    copies.join().ok();
}

/// Reads the head of a request from a stream in memory, and nothing behind it.
pub(crate) async fn read_head(io: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).unwrap()
}
