//! Reads the settings again while requests are served (rule: reload).
//!
//! Invariants: no file is read on a worker's thread, because a disk may hang; there is one
//! read at a time; settings are applied as a whole or not at all.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::systemd;
use crate::cluster;
use crate::config::{self, Config, Effective, Mistakes, Overrides};
use crate::gateway::{Files, Gateway};

/// Reads the settings: file, environment and flags.
pub type LoadSettings = Arc<dyn Fn() -> Result<Effective, Mistakes> + Send + Sync>;

/// Settings below this path change on reload if clients use TLS already. To turn TLS on or
/// off needs a restart.
const CERTIFICATE: &str = "server.tls.";

type Read = Result<(Effective, Files), Mistakes>;

/// The reloads of a running gateway.
pub(super) struct Reloads {
    load: LoadSettings,
    /// The read that is running, on a blocking thread. A drain does not wait for it.
    reading: Option<JoinHandle<Read>>,
    /// Another reload was requested during the read, which may have read the old file.
    again: bool,
}

/// Reads the settings, and the files that they name as a start would.
///
/// # Errors
/// Everything that would fail a start with this file, these variables and flags, except the
/// sockets.
pub fn check(
    file: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
    flags: &Overrides,
) -> Result<Effective, Mistakes> {
    let files = |config: &Config| Files::read(config).err().unwrap_or_default();
    config::load_with(file, env, flags, files)
}

/// Asks the server of the cluster, and returns lines for an operator; none without `[cluster]`. The
/// server is no reason to fail: a gateway serves without it.
pub async fn check_cluster(config: &Config) -> Vec<String> {
    match &config.cluster {
        Some(settings) => cluster::check(settings).await,
        None => Vec::new(),
    }
}

impl Reloads {
    pub(super) fn new(load: LoadSettings) -> Self {
        Self {
            load,
            reading: None,
            again: false,
        }
    }

    /// Starts a read. During a read it notes that another one must follow.
    pub(super) fn request(&mut self) {
        if self.reading.is_some() {
            self.again = true;
            return tracing::warn!(
                "the settings are still being read; they will be read again after that"
            );
        }
        self.start();
    }

    /// Waits for the end of the running read; never returns if there is none. Cancel safe.
    pub(super) async fn read(&mut self) -> Option<(Effective, Files)> {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(Ok(read)) => return Some(read),
            Ok(Err(mistakes)) => {
                // A log event must be one line.
                let mistakes = mistakes.to_string().replace('\n', "; ");
                tracing::error!(%mistakes, "settings not reloaded: nothing has changed");
            }
            // The panic's payload may quote the file. The panic hook has logged the location.
            Err(_panicked) => {
                tracing::error!("settings not reloaded: nothing has changed");
            }
        }
        None
    }

    /// Applies what was read, and starts the next read if one was requested.
    pub(super) fn finish(&mut self, read: Option<(Effective, Files)>, gateway: &Gateway) {
        match read {
            Some((effective, files)) => apply(gateway, &effective, files),
            None => gateway.metrics().reload_failures.inc(),
        }
        if std::mem::take(&mut self.again) {
            self.start();
        } else {
            systemd::ready();
        }
    }

    fn start(&mut self) {
        // Sent for each read: `Type=notify-reload` waits for a notification that is
        // not older than its signal.
        systemd::reloading();
        let load = Arc::clone(&self.load);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let effective = load()?;
            // Certificates, too: a reload must not succeed where a restart would fail.
            let files = Files::read(&effective.config);
            let files = files.map_err(|problems| effective.mistakes(problems))?;
            Ok((effective, files))
        }));
    }
}

fn apply(gateway: &Gateway, effective: &Effective, files: Files) {
    let stays_tls = gateway.has_tls() && effective.config.server.tls.is_some();
    gateway.reload_with(&effective.config, files);
    if let Some(running) = gateway.shown_settings() {
        let changes_now = |path: &str| stays_tls && path.starts_with(CERTIFICATE);
        let in_force = running.reloaded(effective, changes_now);
        let keys = in_force.pending_restart().join(", ");
        if !keys.is_empty() {
            tracing::warn!(keys, "settings that were changed and need a restart");
        }
        gateway.show_settings(in_force);
    }
    tracing::info!("settings reloaded");
}
