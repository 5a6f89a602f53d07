//! The head of a request.

use std::ops::{Deref, DerefMut};

use http::Request;
use http::request::Parts;

use super::header_case::HeaderCase;
use super::raw_target::RawTarget;

/// Method, target and headers of a request, with the case of its header names.
#[derive(Clone, Debug)]
pub(crate) struct RequestHead {
    parts: Parts,
    case: Option<HeaderCase>,
    announces_body: bool,
}

impl RequestHead {
    /// The case of the header names. It is known of a request that was read on
    /// the fast path or has a raw target, and only such a request may leave on the
    /// fast path. (hyper keeps the case of what it reads to itself.)
    pub(crate) fn header_case(&self) -> Option<&HeaderCase> {
        self.case.as_ref()
    }

    /// Only for a request that was read on the fast path, or is not sent.
    pub(crate) fn set_header_case(&mut self, case: HeaderCase) {
        self.case = Some(case);
    }

    /// Sets the target of a request that hyper read percent-encoded, and the case
    /// of its header names: only the fast path can send such a target.
    pub(crate) fn set_raw_target(&mut self, target: RawTarget, case: HeaderCase) {
        self.parts.extensions.insert(target);
        self.case = Some(case);
    }

    /// Whether a body was announced by its framing, which is hop-by-hop. The body may
    /// turn out to be empty.
    pub(crate) fn announces_body(&self) -> bool {
        self.announces_body
    }

    /// Keeps that a body was announced.
    pub(crate) fn set_announces_body(&mut self, announces_body: bool) {
        self.announces_body = announces_body;
    }

    /// Takes the parts, and leaves the case of the header names.
    pub(crate) fn take_parts(&mut self) -> Parts {
        std::mem::replace(&mut self.parts, Request::new(()).into_parts().0)
    }
}

/// A head that hyper read.
impl From<Parts> for RequestHead {
    fn from(parts: Parts) -> Self {
        Self {
            parts,
            case: None,
            announces_body: false,
        }
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self::from(Request::new(()).into_parts().0)
    }
}

impl Deref for RequestHead {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl DerefMut for RequestHead {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }
}
