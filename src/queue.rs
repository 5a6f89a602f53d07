//! Requests that wait for tokens, and which of them is next.
//!
//! Invariant: one queue discipline. Serving and forecasts run the same code, so that a request is
//! admitted if and only if it would be served by its deadline. Nothing here knows accounts or
//! credentials: that is `limit/`, one layer above.
//!
//! - [`request`]: what waits, and what it gets;
//! - [`wait_queue`]: what is next at one bucket; [`bucket`]: its tokens
//!   ([`tokens`](crate::tokens)) and its wait queue;
//! - [`flow`]: the share of a tenant in a budget; [`shared_queue`]: what is next where buckets share
//!   one; [`egress`]: the task that serves them;
//! - [`forecast`]: when a newcomer would be served, and whether it is admitted.

pub(crate) mod bucket;
pub(crate) mod egress;
pub(crate) mod flow;
pub(crate) mod forecast;
pub(crate) mod request;
pub(crate) mod shared_queue;
pub(crate) mod wait_queue;
