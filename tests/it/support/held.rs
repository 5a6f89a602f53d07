//! An upstream that responds when the test says so, not before.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::message::{Kind, Message};

/// An upstream that holds every request until the test releases it.
pub(crate) struct HeldUpstream {
    pub(crate) address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    requests: Vec<Message>,
    released: bool,
}

impl HeldUpstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let shared = Arc::clone(&state);
        // These threads end with the process; they hold nothing but their connection.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// The requests that have arrived.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.state.0.lock().unwrap().requests.clone()
    }

    /// Answers what is held, and all that comes from now on.
    pub(crate) fn responses(&self) {
        self.state.0.lock().unwrap().released = true;
        self.state.1.notify_all();
    }
}

fn serve(mut stream: TcpStream, state: &(Mutex<State>, Condvar)) {
    let mut heard = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let (request, length) = loop {
            if let Some(whole) = Message::parse(&heard, Kind::Request, false) {
                break whole;
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(length) => heard.extend_from_slice(&piece[..length]),
            }
        };
        heard.drain(..length);
        let mut held = state.0.lock().unwrap();
        held.requests.push(request);
        while !held.released {
            held = state.1.wait(held).unwrap();
        }
        drop(held);
        if stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .is_err()
        {
            return;
        }
    }
}
