//! The connection of a cluster alone, for tests with a real server.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::cluster::{Call, Cluster, Event, Script};
use crate::config::Config;
use crate::observe::metrics::Metrics;

/// One gateway's connection to the server. It is kept until the runtime ends.
#[derive(Debug)]
pub struct Peer {
    cluster: Arc<Cluster>,
    metrics: Metrics,
    events: broadcast::Receiver<Event>,
}

impl Peer {
    /// Joins the cluster of the settings. Panics if there is none, or if its CA cannot be used.
    #[must_use]
    pub fn join(config: &Config) -> Self {
        let metrics = Metrics::new(1);
        let settings = config.cluster.as_ref().expect("there is [cluster]");
        let cluster = Cluster::new(settings, &metrics).expect("cluster.ca can be used");
        let events = cluster.subscribe();
        tokio::spawn(Arc::clone(&cluster).run());
        Self {
            cluster,
            metrics,
            events,
        }
    }

    /// Reserves a slot of a bucket of one token per second. Whether the server replied in time.
    pub async fn reserve(&self, bucket: &str) -> bool {
        let bucket = self.cluster.key(&["bucket", bucket]);
        let call = Call {
            script: Script::Reserve,
            keys: vec![bucket, self.cluster.birth(), self.cluster.channel()],
            arguments: vec![1_000_000, 0, 0, 0, 0, 0, 0, 0, 1000, 60_000_000],
            texts: Vec::new(),
            generation: None,
        };
        self.cluster.call(call).await.is_ok()
    }

    /// Reports a credential of an instance. Whether the server replied in time.
    pub async fn verify(&self, instance: &str) -> bool {
        let key = self.cluster.key(&["verified", instance]);
        let call = Call {
            script: Script::Credentials,
            keys: vec![key, self.cluster.channel()],
            arguments: vec![1],
            // As long as that of an instance with 12 characters.
            texts: vec![vec![b'x'; 64]],
            generation: None,
        };
        self.cluster.call(call).await.is_ok()
    }

    /// Whether the server is used.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.cluster.is_shared()
    }

    /// The state, and the reason of the last failure.
    #[must_use]
    pub fn state(&self) -> (&'static str, Option<&'static str>) {
        let snapshot = self.cluster.snapshot();
        let failure = snapshot.last_failure.map(|failure| failure.name());
        (snapshot.phase.name(), failure)
    }

    /// Connections made so far, and data sets that have replaced another one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.cluster.generation()
    }

    /// Gateways seen lately.
    #[must_use]
    pub fn live(&self) -> u32 {
        self.cluster.live().get()
    }

    /// The keyed hash of a text.
    #[must_use]
    pub fn digest(&self, text: &str) -> Option<String> {
        self.cluster.digest(&[text])
    }

    /// Waits for the next line that is announced, and returns it.
    pub async fn announced(&mut self) -> String {
        loop {
            match self.events.recv().await {
                Ok(Event::Announced(line)) => return String::from_utf8_lossy(&line).into_owned(),
                Ok(_) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Deregisters.
    pub async fn leave(&self) {
        self.cluster.leave().await;
    }

    /// All metrics.
    #[must_use]
    pub fn exposition(&self) -> String {
        self.cluster.report();
        self.metrics.exposition()
    }
}
