//! Failures on demand.
//!
//! Owns which requests fail and how often; `conn` applies a fault to the response.
//! Invariant: at most one fault strikes a request, and a fault strikes exactly `times` requests.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// A failure for the next requests that match.
///
/// Under `/v2` it strikes when the request is complete, so that its ids are known and recorded. Elsewhere it strikes
/// at the head, before the body is read. Credentials and quotas are checked after it.
///
/// ```
/// # use wawp_gateway::sandbox::Fault;
/// let twice_busy = Fault::status(503).path("/v2/send/seen").instance("123").times(2);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    /// The requests that it may strike.
    pub matches: Match,
    /// How many requests it strikes before it is used up.
    pub times: usize,
    /// What happens to these requests.
    pub kind: FaultKind,
}

/// The requests that a fault applies to: they meet every criterion that is given.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// A prefix of the path.
    pub path: Option<String>,
    /// The instance, wherever the request names it.
    pub instance: Option<String>,
    /// A message id of a receipt, byte for byte.
    pub id: Option<String>,
}

/// What a fault does.
#[derive(Clone)]
pub enum FaultKind {
    /// Responds with this status, these headers and this body.
    Status {
        /// The status.
        code: StatusCode,
        /// Headers in addition to those that HTTP needs.
        headers: HeaderMap,
        /// The whole body.
        body: Bytes,
    },
    /// Breaks the connection before the response. Over TCP this is a reset.
    ResetBeforeHead,
    /// Breaks the connection in the middle of the response head.
    ResetMidHead,
    /// Announces a body, sends less than that, and closes.
    CutBody {
        /// The `Content-Length` of the response.
        promised: u64,
        /// The part of the body that is sent.
        sent: Bytes,
    },
    /// Reads the request and never responds.
    NeverAnswer,
    /// Waits, then processes the request as usual.
    Delay(Duration),
}

/// The parts of a request that faults are matched against.
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultTarget<'a> {
    pub(super) path: &'a str,
    pub(super) instance: Option<&'a str>,
    pub(super) ids: &'a [String],
}

/// The faults that are not used up, in order.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

impl Fault {
    /// Makes a fault that strikes the next request.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            matches: Match::default(),
            times: 1,
            kind,
        }
    }

    /// Makes a fault that responds with a status and an empty body.
    ///
    /// # Panics
    ///
    /// The code is not within 100 to 999.
    pub fn status(code: u16) -> Self {
        let code = match StatusCode::from_u16(code) {
            Ok(code) => code,
            Err(error) => panic!("{code}: {error}"),
        };
        Self::new(FaultKind::Status {
            code,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        })
    }

    /// Adds a header line to the response of a [`FaultKind::Status`]; ignored by other kinds.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let FaultKind::Status { headers, .. } = &mut self.kind {
            headers.append(name, value);
        }
        self
    }

    /// Sets the body of a [`FaultKind::Status`]; ignored by other kinds.
    pub fn body(mut self, text: impl Into<Bytes>) -> Self {
        if let FaultKind::Status { body, .. } = &mut self.kind {
            *body = text.into();
        }
        self
    }

    /// Strikes only requests whose path begins with `prefix`.
    pub fn path(mut self, prefix: impl Into<String>) -> Self {
        self.matches.path = Some(prefix.into());
        self
    }

    /// Strikes only requests of one instance.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.matches.instance = Some(instance.into());
        self
    }

    /// Strikes only receipts with this message id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.matches.id = Some(id.into());
        self
    }

    /// Strikes that many requests; with `usize::MAX` all of them.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

impl Match {
    /// Whether a request meets every criterion.
    fn covers(&self, target: FaultTarget<'_>) -> bool {
        self.path
            .as_deref()
            .is_none_or(|prefix| target.path.starts_with(prefix))
            && self
                .instance
                .as_deref()
                .is_none_or(|instance| target.instance == Some(instance))
            // One id of a merged receipt is enough.
            && self.id.as_ref().is_none_or(|id| target.ids.contains(id))
    }
}

impl fmt::Debug for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The length only: a body of a test can be megabytes long.
            Self::Status { code, body, .. } => write!(f, "Status({code}, {} bytes)", body.len()),
            Self::ResetBeforeHead => f.write_str("ResetBeforeHead"),
            Self::ResetMidHead => f.write_str("ResetMidHead"),
            Self::CutBody { promised, sent } => {
                write!(f, "CutBody({} of {promised} bytes)", sent.len())
            }
            Self::NeverAnswer => f.write_str("NeverAnswer"),
            Self::Delay(time) => write!(f, "Delay({time:?})"),
        }
    }
}

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(Mutex::new(faults))
    }

    /// Adds a fault after all others.
    pub(super) fn push(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Uses up one strike of the first fault that matches.
    pub(super) fn take(&self, target: FaultTarget<'_>) -> Option<FaultKind> {
        let mut faults = self.lock();
        let at = faults
            .iter()
            // The first match in order, so that a script of several faults runs in sequence.
            .position(|fault| fault.times > 0 && fault.matches.covers(target))?;
        let kind = faults[at].kind.clone();
        match faults[at].times {
            // This number means every request, so it is not counted down.
            usize::MAX => {}
            1 => drop(faults.remove(at)),
            _ => faults[at].times -= 1,
        }
        Some(kind)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_only_what_it_covers_and_only_so_often() {
        let faults = Faults::default();
        faults.push(
            Fault::status(503)
                .path("/v2/send/")
                .instance("1")
                .id("x")
                .times(2),
        );
        faults.push(Fault::status(500).times(0));
        let ids = ["w".to_owned(), "x".to_owned()];
        let target = FaultTarget {
            path: "/v2/send/seen",
            instance: Some("1"),
            ids: &ids,
        };
        for other in [
            FaultTarget {
                path: "/v2/chats",
                ..target
            },
            FaultTarget {
                instance: Some("2"),
                ..target
            },
            FaultTarget {
                instance: None,
                ..target
            },
            FaultTarget {
                ids: &ids[..1],
                ..target
            },
        ] {
            assert!(faults.take(other).is_none(), "{other:?}");
        }
        assert!(faults.take(target).is_some());
        assert!(faults.take(target).is_some());
        assert!(faults.take(target).is_none());
    }

    #[test]
    fn the_fault_queued_first_strikes_first() {
        let faults = Faults::new(vec![Fault::status(500)]);
        faults.push(Fault::new(FaultKind::NeverAnswer).times(usize::MAX));
        let target = FaultTarget {
            path: "/",
            instance: None,
            ids: &[],
        };
        assert!(matches!(
            faults.take(target),
            Some(FaultKind::Status { .. })
        ));
        for _ in 0..3 {
            assert!(matches!(faults.take(target), Some(FaultKind::NeverAnswer)));
        }
    }
}
