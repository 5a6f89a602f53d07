//! What the log says of an upstream that cannot be reached: why, seldom, and nothing of a call.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::subscriber::DefaultGuard;

use crate::support::{World, receipt, text};

/// What this thread's gateway says.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Listens until the guard goes.
    pub(crate) fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines on the upstream since the last time.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines_with("the upstream")
    }

    /// The lines with these words since the last time.
    pub(crate) fn lines_with(&self, words: &str) -> Vec<String> {
        let said = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let ours = said.lines().filter(|line| line.contains(words));
        ours.map(|line| line.trim().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_cause_is_told_once_in_a_while_and_so_is_the_end() {
    let (log, _guard) = Log::listen();
    let world = World::new("limit.rate = 0\nlimit.burst = 0");
    let none: [&str; 0] = [];
    world.call(text("well")).await;
    assert_eq!(log.lines(), none);
    // Connections of before are gone, as they are when an upstream dies.
    tokio::time::sleep(Duration::from_secs(40)).await;

    world.fails(Some(io::ErrorKind::ConnectionRefused));
    let refused = "WARN the upstream cannot be reached calls=1 reason=connection refused";
    for expected in [&[refused][..], &[], &[]] {
        assert_eq!(world.call(text("lost")).await.status(), 502);
        assert_eq!(log.lines(), expected);
    }
    world.fails(Some(io::ErrorKind::NetworkUnreachable));
    world.call(text("lost")).await;
    let other =
        "WARN the upstream cannot be reached calls=3 reason=network error (network unreachable)";
    assert_eq!(log.lines(), [other]);
    world.call(text("lost")).await;
    assert_eq!(log.lines(), none);
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.call(text("lost")).await;
    assert_eq!(log.lines(), [other.replace('3', "2")]);

    world.call(text("lost")).await;
    world.fails(None);
    assert_eq!(world.call(text("well")).await.status(), 201);
    assert_eq!(log.lines(), ["INFO the upstream is reached again calls=1"]);
    world.call(text("well")).await;
    assert_eq!(log.lines(), none);
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_call_is_told() {
    let (log, _guard) = Log::listen();
    let world = World::new("");
    world.fails(Some(io::ErrorKind::ConnectionRefused));
    world.call(text("lost")).await;
    world.call(receipt([1])).await;
    let said = log.lines().join("\n");
    assert!(said.contains("cannot be reached"), "{said}");
    for word in ["access_token", "instance", "/v2", "lost", "c.us"] {
        assert!(!said.contains(word), "{said}");
    }
}
