//! Reading the settings again while calls go on.
//!
//! Owns when files are read and what of them is put in force. Invariants:
//! nothing is read on a worker's thread, since a disk may never answer; one
//! reading at a time; what was read comes into force whole or not at all.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::{self, Config, Effective, Mistakes, Overrides};
use crate::gateway::{Files, Gateway};
use crate::systemd;

/// Where settings come from when they are read again.
pub type Reload = Arc<dyn Fn() -> Result<Effective, Mistakes> + Send + Sync>;

/// Needs a restart only where clients do not use TLS yet.
const CERTIFICATE: &str = "server.tls.";

type Read = Result<(Effective, Files), Mistakes>;

/// Reloads, of which at most one is under way.
pub(super) struct Reloads {
    read: Reload,
    /// What goes on in a thread of its own. Nobody waits for that at the end.
    reading: Option<JoinHandle<Read>>,
    /// Somebody asked meanwhile: what is being read may be old.
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

    /// Begins to read, or has it done once more after what goes on.
    pub(super) fn ask(&mut self) {
        if self.reading.is_some() {
            self.again = true;
            return tracing::warn!("the settings are still being read: they will be once more");
        }
        self.begin();
    }

    /// Waits until something has been read, if need be for ever. May be
    /// dropped at any time.
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
            // What it says of itself may quote the file; where it stands, the
            // panic hook has said.
            Err(_panicked) => {
                tracing::error!("settings not reloaded: nothing has changed");
            }
        }
        None
    }

    /// Puts in force what was read, and reads again if that was asked for.
    pub(super) fn finish(&mut self, read: Option<(Effective, Files)>, gateway: &Gateway) {
        if let Some((effective, files)) = read {
            put_in_force(gateway, &effective, files);
        }
        if std::mem::take(&mut self.again) {
            self.begin();
        } else {
            systemd::ready();
        }
    }

    fn begin(&mut self) {
        // Each time: `notify-reload` waits for one that is no older than its signal.
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

fn put_in_force(gateway: &Gateway, effective: &Effective, files: Files) {
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
