//! A gateway whose access log can be read.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use wawp_gateway::sandbox::Settings;

use super::world::{World, at_rest};

/// Where the log is written.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A world whose access log can be read.
pub(crate) struct Logged {
    pub(crate) world: World,
    sink: Sink,
}

impl Logged {
    pub(crate) fn new(settings: &str) -> Self {
        Self::with_sandbox(settings, Settings::default())
    }

    pub(crate) fn with_sandbox(settings: &str, sandbox: Settings) -> Self {
        let world = World::with_sandbox(settings, sandbox);
        let sink = Sink::default();
        world.gateway.log_access_to(Box::new(sink.clone())).unwrap();
        Self { world, sink }
    }

    pub(crate) async fn text(&self) -> String {
        at_rest().await;
        self.world.gateway.flush_access_log();
        String::from_utf8(self.sink.0.lock().unwrap().clone()).unwrap()
    }

    pub(crate) async fn lines(&self) -> Vec<Value> {
        let text = self.text().await;
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}
