//! Re-reading the settings while requests are served (rule: reload).
//!
//! Invariants: no file is read on a worker's thread, because a disk may hang; one
//! read at a time; settings are applied as a whole or not at all.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::systemd;
use crate::config::{self, Config, Effective, Mistakes, Overrides};
use crate::gateway::{Files, Gateway};

/// Reads the settings: file, environment and flags.
pub type Reload = Arc<dyn Fn() -> Result<Effective, Mistakes> + Send + Sync>;

/// Needs a restart only where clients do not use TLS yet.
const CERTIFICATE: &str = "server.tls.";

type Read = Result<(Effective, Files), Mistakes>;

/// Reloads; at most one is under way.
pub(super) struct Reloads {
    read: Reload,
    /// The read under way, on a blocking thread. A drain does not wait for it.
    reading: Option<JoinHandle<Read>>,
    /// Another reload was requested meanwhile: the settings being read may be old.
    again: bool,
}

/// Reads the settings, and the files that they name as a start would.
///
/// # Errors
/// Everything with which a start with this file and these variables would
/// fail, sockets apart.
pub fn check(
    file: Option<&Path>,
    env: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Effective, Mistakes> {
    let files = |config: &Config| Files::read(config).err().unwrap_or_default();
    config::load_with(file, env, &Overrides::default(), files)
}

impl Reloads {
    pub(super) fn new(read: Reload) -> Self {
        Self {
            read,
            reading: None,
            again: false,
        }
    }

    /// Starts a read, or another one after the one under way.
    pub(super) fn request(&mut self) {
        if self.reading.is_some() {
            self.again = true;
            return tracing::warn!(
                "the settings are still being read; they will be read again after that"
            );
        }
        self.start();
    }

    /// Waits for the end of the read under way; for ever where there is none. Is
    /// cancel safe.
    pub(super) async fn read(&mut self) -> Option<(Effective, Files)> {
        let Some(reading) = &mut self.reading else {
            return std::future::pending().await;
        };
        let read = reading.await;
        self.reading = None;
        match read {
            Ok(Ok(read)) => return Some(read),
            Ok(Err(mistakes)) => {
                // One event is one line.
                let mistakes = mistakes.to_string().replace('\n', "; ");
                tracing::error!(%mistakes, "settings not reloaded: nothing has changed");
            }
            // The payload may quote the file; the panic hook has logged the location.
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
        let read = Arc::clone(&self.read);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let effective = read()?;
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
        let keys = in_force.waiting().join(", ");
        if !keys.is_empty() {
            tracing::warn!(keys, "settings that were changed and need a restart");
        }
        gateway.show_settings(in_force);
    }
    tracing::info!("settings reloaded");
}
