//! Failures on demand.
//!
//! Owns which calls fail and how often; how a failure looks on the wire is the service's and the line's business.
//! Invariant: one call meets at most one fault, and a fault strikes exactly `times` calls.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// A failure for the next calls that match.
///
/// Under `/v2` it strikes when the call is complete, so that the call's ids are known and recorded. Elsewhere it
/// strikes at the head, before the body is read. Credentials and quotas are looked at only by calls it lets live.
///
/// ```
/// # use wawp_gateway::sandbox::Fault;
/// let twice_busy = Fault::status(503).path("/v2/send/seen").instance("123").times(2);
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    /// The calls that may be struck.
    pub matches: Match,
    /// How many calls are struck; then the fault is used up.
    pub times: usize,
    /// What happens to them.
    pub kind: FaultKind,
}

/// The calls a fault is meant for: those that meet every criterion given.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// What the path begins with.
    pub path: Option<String>,
    /// The instance, wherever the call names it.
    pub instance: Option<String>,
    /// A message id that a receipt carries, byte for byte.
    pub id: Option<String>,
}

/// What a fault does.
#[derive(Clone)]
pub enum FaultKind {
    /// Answers with a status, headers and body of the test's choice.
    Status {
        /// The status.
        code: StatusCode,
        /// Headers beside those HTTP itself needs.
        headers: HeaderMap,
        /// The whole body.
        body: Bytes,
    },
    /// Breaks the connection without a byte of answer. Over TCP this is a reset.
    ResetBeforeHead,
    /// Breaks the connection in the middle of the answer's head.
    ResetMidHead,
    /// Promises a body, sends less of it, and closes.
    CutBody {
        /// The `Content-Length` of the answer.
        promised: u64,
        /// What is sent of it.
        sent: Bytes,
    },
    /// Takes the call and says nothing for as long as the connection lasts.
    NeverAnswer,
    /// Waits, and then lets the call go on as if nothing had been.
    Delay(Duration),
}

/// A call as faults see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) path: &'a str,
    pub(super) instance: Option<&'a str>,
    pub(super) ids: &'a [String],
}

/// The faults not used up yet, in order.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

// === impl Fault ===

impl Fault {
    /// Makes a fault that strikes the next call, whichever it is.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            matches: Match::default(),
            times: 1,
            kind,
        }
    }

    /// Makes a fault that answers with a status and an empty body.
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

    /// Adds a header line to the answer of a [`FaultKind::Status`]; other kinds have no use for it.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let FaultKind::Status { headers, .. } = &mut self.kind {
            headers.append(name, value);
        }
        self
    }

    /// Sets the body of a [`FaultKind::Status`]; other kinds have no use for it.
    pub fn body(mut self, text: impl Into<Bytes>) -> Self {
        if let FaultKind::Status { body, .. } = &mut self.kind {
            *body = text.into();
        }
        self
    }

    /// Strikes only calls whose path begins with `prefix`.
    pub fn path(mut self, prefix: impl Into<String>) -> Self {
        self.matches.path = Some(prefix.into());
        self
    }

    /// Strikes only calls of one instance.
    pub fn instance(mut self, instance: impl Into<String>) -> Self {
        self.matches.instance = Some(instance.into());
        self
    }

    /// Strikes only receipts that carry one message id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.matches.id = Some(id.into());
        self
    }

    /// Strikes that many calls; `usize::MAX` is for ever.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

// === impl Match ===

impl Match {
    fn covers(&self, subject: Subject<'_>) -> bool {
        self.path
            .as_deref()
            .is_none_or(|prefix| subject.path.starts_with(prefix))
            && self
                .instance
                .as_deref()
                .is_none_or(|instance| subject.instance == Some(instance))
            && self.id.as_ref().is_none_or(|id| subject.ids.contains(id))
    }
}

// === impl FaultKind ===

impl fmt::Debug for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
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

// === impl Faults ===

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(Mutex::new(faults))
    }

    pub(super) fn push(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Takes one strike of the first fault that matches.
    pub(super) fn take(&self, subject: Subject<'_>) -> Option<FaultKind> {
        let mut faults = self.lock();
        let at = faults
            .iter()
            .position(|fault| fault.times > 0 && fault.matches.covers(subject))?;
        let kind = faults[at].kind.clone();
        match faults[at].times {
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
        let subject = Subject {
            path: "/v2/send/seen",
            instance: Some("1"),
            ids: &ids,
        };
        for other in [
            Subject {
                path: "/v2/chats",
                ..subject
            },
            Subject {
                instance: Some("2"),
                ..subject
            },
            Subject {
                instance: None,
                ..subject
            },
            Subject {
                ids: &ids[..1],
                ..subject
            },
        ] {
            assert!(faults.take(other).is_none(), "{other:?}");
        }
        assert!(faults.take(subject).is_some());
        assert!(faults.take(subject).is_some());
        assert!(faults.take(subject).is_none());
    }

    #[test]
    fn the_fault_queued_first_strikes_first() {
        let faults = Faults::new(vec![Fault::status(500)]);
        faults.push(Fault::new(FaultKind::NeverAnswer).times(usize::MAX));
        let subject = Subject {
            path: "/",
            instance: None,
            ids: &[],
        };
        assert!(matches!(
            faults.take(subject),
            Some(FaultKind::Status { .. })
        ));
        for _ in 0..3 {
            assert!(matches!(faults.take(subject), Some(FaultKind::NeverAnswer)));
        }
    }
}
