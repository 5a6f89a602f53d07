//! `wawp-gateway explain`: what the gateway would do with requests, and whether they merge.
//!
//! Invariants: each request is read, identified and merged by the code that serves it; nothing
//! is sent; no secret gets into the output or into an error.
//!
//! - `input`: raw requests out of files;
//! - `merging`: which of them share a call; `difference`: in what their keys differ;
//! - `single`, `together`: what is said about each request, and about several; `report`: both;
//! - `mask`: what is shown; `writer`, `page`: how; `reasons`: what a reason means.

mod difference;
mod input;
mod mask;
mod merging;
mod page;
mod reasons;
mod report;
mod single;
mod together;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::config::Config;
use crate::gateway::{BuildError, Gateway};
use crate::observe::metrics::Unreadable;
use crate::proxy::error::Error as ProxyError;
use crate::proxy::inspect::{Inspected, Inspection};
use crate::receipt::Receipt;
use crate::upstream::Dial;
use input::RawRequest;

/// What was found out about the requests; displays as text of at most 80 columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report(String);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An input cannot be read.
    #[error("{name}: {error}")]
    Io {
        /// The file, or the standard input.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// An input is no sequence of requests.
    #[error("{name}, line {line}: {problem}")]
    Request {
        /// The file, or the standard input.
        name: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// All inputs together are too long.
    #[error("the requests are too long: at most {0} MiB together")]
    TooLong(u64),
    /// There are too many requests.
    #[error("too many requests: at most {0} together")]
    TooMany(usize),
    /// The gateway could not be built from the settings.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// There is no runtime.
    #[error(transparent)]
    Runtime(#[from] io::Error),
}

/// A request, and what became of it.
struct Explained {
    origin: String,
    outcome: Outcome,
}

enum Outcome {
    Inspected(Box<Inspected>),
    /// The gateway itself responds.
    Refused(ProxyError),
    /// It is no request to the gateway.
    Unreadable(Unreadable),
}

impl Explained {
    fn inspected(&self) -> Option<&Inspected> {
        match &self.outcome {
            Outcome::Inspected(inspected) => Some(inspected),
            _ => None,
        }
    }

    /// The receipt that may join a batch.
    fn receipt(&self) -> Option<&Receipt> {
        let inspected = self.inspected()?;
        match &inspected.request {
            Inspection::Receipt(receipt) if inspected.lane.is_ok() => Some(receipt),
            _ => None,
        }
    }
}

/// Explains the requests in these files; `-` is the standard input, and so is no file.
///
/// # Errors
/// [`Error`] says why there is no report.
pub async fn run(config: &Config, files: &[PathBuf]) -> Result<Report, Error> {
    explain(config, input::read(files)?).await
}

async fn explain(config: &Config, requests: Vec<RawRequest>) -> Result<Report, Error> {
    let mut config = config.clone();
    // No connection is made, so files that only the gateway's machine has are not needed.
    config.server.tls = None;
    config.upstream.ca = None;
    let gateway = Gateway::new(&config, Dial::Tcp)?;
    let upstream = &gateway.server().proxy.upstream;
    let mut explained = Vec::new();
    for RawRequest { origin, bytes } in requests {
        let outcome = match gateway.server().inspect(bytes).await {
            Ok(Ok(mut inspected)) => {
                if let Inspection::Other { request, .. } = &mut inspected.request {
                    upstream.prepare(request);
                }
                Outcome::Inspected(Box::new(inspected))
            }
            Ok(Err(error)) => Outcome::Refused(error),
            Err(unreadable) => Outcome::Unreadable(unreadable),
        };
        explained.push(Explained { origin, outcome });
    }
    Ok(Report(report::write(&config, upstream, &explained)))
}
