//! The scripts that the server runs, and how they are called.
//!
//! Invariant: a script is named by the hash of its text, so gateways of two versions can use one
//! server at the same time.

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
    /// Lends tokens of the egress, and of the rates of tenants.
    Lease,
}

/// One call of a script.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) script: Script,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) arguments: Vec<i64>,
}

/// The integers that a script returns.
pub(crate) type Reply = Vec<i64>;

impl Script {
    /// All scripts.
    pub(crate) const ALL: [Self; 5] = [
        Self::Reserve,
        Self::Throttled,
        Self::Probe,
        Self::Settled,
        Self::Lease,
    ];

    /// The text in Lua 5.1: what several scripts have in common, and what it does.
    pub(crate) fn text(self) -> &'static str {
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
            Self::Lease => concat!(
                include_str!("scripts/strictest.lua"),
                include_str!("scripts/lease.lua")
            ),
        }
    }

    /// How many numbers the script returns. The last seven are the state of the bucket; `lease`
    /// returns five more for each tenant.
    pub(crate) fn values(self) -> usize {
        match self {
            Self::Reserve => 12,
            Self::Probe => 9,
            Self::Throttled | Self::Settled => 7,
            Self::Lease => 5,
        }
    }

    /// The name in metrics and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Throttled => "throttled",
            Self::Probe => "probe",
            Self::Settled => "settled",
            Self::Lease => "lease",
        }
    }
}
