//! The scripts that the server runs, and how they are called.
//!
//! Invariant: a script is named by the hash of its text, so gateways of two versions can use one
//! server at the same time.

use std::time::Duration;

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Script {
    /// Reserves the next slots of a bucket.
    Reserve,
    /// Records an upstream 429 at a bucket.
    Throttled,
    /// Asks for the right to send the request that ends a pause.
    Probe,
    /// Records any other response to a request of a bucket that recovers from a pause.
    Settled,
    /// Joins the open batch of a merge key, or opens it.
    Join,
    /// Adds the ids of a batch to that of another gateway.
    Follow,
    /// Closes a batch, and returns the batches that follow it.
    Close,
    /// Stores the verdict of a batch.
    Conclude,
    /// Asks for the verdict of a batch.
    Verdict,
    /// Asks which credentials of an instance are verified, and changes one.
    Credentials,
    /// Lends tokens of the egress, and of the rates of tenants.
    Lease,
}

/// One call of a script.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) script: Script,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) arguments: Vec<i64>,
    /// The arguments after those.
    pub(crate) texts: Vec<Vec<u8>>,
    /// The generation for which it was made, if it must not be sent in another one: it does not
    /// assert what was granted before.
    pub(crate) generation: Option<u64>,
}

/// What a script returns: its numbers and its texts, each in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) numbers: Vec<i64>,
    pub(crate) texts: Vec<Vec<u8>>,
}

/// Whole microseconds, rounded up: a Lua number holds them exactly.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX)
}

impl From<Vec<i64>> for Reply {
    fn from(numbers: Vec<i64>) -> Self {
        let texts = Vec::new();
        Self { numbers, texts }
    }
}

impl Script {
    /// All scripts.
    pub(crate) const ALL: [Self; 11] = [
        Self::Reserve,
        Self::Throttled,
        Self::Probe,
        Self::Settled,
        Self::Join,
        Self::Follow,
        Self::Close,
        Self::Conclude,
        Self::Verdict,
        Self::Credentials,
        Self::Lease,
    ];

    /// The text in Lua 5.1: what several scripts have in common, and what it does.
    pub(crate) fn text(self) -> &'static str {
        // Texts are joined, because a script on the server cannot load another one.
        macro_rules! of_bucket {
            ($file:literal) => {
                concat!(
                    include_str!("scripts/strictest.lua"),
                    include_str!("scripts/bucket.lua"),
                    include_str!(concat!("scripts/", $file))
                )
            };
        }
        match self {
            Self::Reserve => of_bucket!("reserve.lua"),
            Self::Throttled => of_bucket!("throttled.lua"),
            Self::Probe => of_bucket!("probe.lua"),
            Self::Settled => of_bucket!("settled.lua"),
            Self::Join => include_str!("scripts/join.lua"),
            Self::Follow => include_str!("scripts/follow.lua"),
            Self::Close => include_str!("scripts/close.lua"),
            Self::Conclude => include_str!("scripts/conclude.lua"),
            Self::Verdict => include_str!("scripts/verdict.lua"),
            Self::Credentials => include_str!("scripts/credentials.lua"),
            Self::Lease => concat!(
                include_str!("scripts/strictest.lua"),
                include_str!("scripts/lease.lua")
            ),
        }
    }

    /// How many numbers the script returns, called with so many keys. Of a script on a bucket, the last
    /// seven are the state of the bucket.
    pub(crate) fn numbers(self, keys: usize) -> usize {
        match self {
            Self::Reserve => 12,
            Self::Probe => 9,
            Self::Throttled | Self::Settled => 7,
            Self::Join | Self::Follow | Self::Close | Self::Verdict => 1,
            Self::Conclude | Self::Credentials => 0,
            // Five of the egress, and of each tenant: all keys but two are tenants.
            Self::Lease => 5 * keys.saturating_sub(1),
        }
    }

    /// The name in metrics and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Throttled => "throttled",
            Self::Probe => "probe",
            Self::Settled => "settled",
            Self::Join => "join",
            Self::Follow => "follow",
            Self::Close => "close",
            Self::Conclude => "conclude",
            Self::Verdict => "verdict",
            Self::Credentials => "credentials",
            Self::Lease => "lease",
        }
    }
}
