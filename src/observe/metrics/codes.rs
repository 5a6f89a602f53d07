//! Counters by status code, each looked up once.
//!
//! Invariant: counting a response takes no lock and no allocation, except for the
//! first one with its code.

use std::sync::OnceLock;

use http::StatusCode;
use prometheus::{IntCounter, IntCounterVec};

use super::Route;

/// Three-digit codes: 100 to 999 (RFC 9110 §15 gives meaning up to 599).
const FIRST: u16 = 100;
const COUNT: usize = 900;

/// Codes that are exposed at zero from the start, so that a rate does not miss the
/// first response: those that the upstream documents, and the gateway's own.
const USUAL: [u16; 14] = [
    200, 201, 400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504,
];

/// Counters of one route by status code.
pub(crate) struct Codes {
    vec: IntCounterVec,
    route: Route,
    by_code: Box<[OnceLock<IntCounter>]>,
    error: IntCounter,
}

impl Codes {
    pub(super) fn new(vec: IntCounterVec, route: Route) -> Self {
        let codes = Self {
            by_code: (0..COUNT).map(|_| OnceLock::new()).collect(),
            error: vec.with_label_values(&[route.as_str(), "error"]),
            vec,
            route,
        };
        // Prometheus sees an increase only between two samples; a series that begins at 1 has no
        // first one.
        for code in USUAL {
            codes.number(code, &code.to_string());
        }
        codes
    }

    /// The counter of this code.
    pub(crate) fn code(&self, code: StatusCode) -> &IntCounter {
        self.number(code.as_u16(), code.as_str())
    }

    /// The counter of a code; `text` is its label.
    fn number(&self, number: u16, text: &str) -> &IntCounter {
        // `with_label_values` locks and hashes, so its result is kept. `StatusCode` allows only 100
        // to 999.
        self.by_code[usize::from(number - FIRST)]
            .get_or_init(|| self.vec.with_label_values(&[self.route.as_str(), text]))
    }

    /// The total of all codes.
    pub(crate) fn total(&self) -> u64 {
        let counters = self.by_code.iter().filter_map(OnceLock::get);
        counters.map(IntCounter::get).sum::<u64>() + self.error.get()
    }

    /// The total of the codes from 500 to 599.
    pub(crate) fn server_errors(&self) -> u64 {
        let range = usize::from(500 - FIRST)..usize::from(600 - FIRST);
        let counters = self.by_code[range].iter().filter_map(OnceLock::get);
        counters.map(IntCounter::get).sum()
    }

    /// The counter of calls without a response.
    pub(crate) fn error(&self) -> &IntCounter {
        &self.error
    }
}
