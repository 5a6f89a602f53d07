//! The limit on open files: each connection of a client or to the upstream takes
//! one descriptor.
//!
//! Invariant: the last [`RESERVED`] descriptors below the limit are not given to
//! clients, so the admin listener works and files can be read when all others
//! are in use. The kernel assigns the lowest free number: a descriptor with a
//! number in the reserve means that all lower numbers are in use.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Descriptors for the admin listener, DNS queries, and files that are read.
/// Each worker may take one of them for a last connection before it pauses.
const RESERVED: u64 = 64;
/// Those of them that upstream connections leave free too: an upstream connection serves a request
/// that was already accepted, so it may use more of the reserve than a client.
const RESERVED_FROM_UPSTREAM: u64 = 32;

/// How many descriptors `connections` and the requests on them need at most: one
/// for each client, one to the upstream for each request in flight.
pub(crate) fn needed(connections: usize, in_flight: usize) -> u64 {
    (connections + in_flight.min(connections)) as u64 + RESERVED
}

/// Whether an accepted connection took a reserved descriptor: the next one must
/// wait for [`has_free`].
pub(crate) fn is_reserved(accepted: impl AsFd) -> bool {
    is_above(accepted, RESERVED)
}

/// Whether a descriptor is free that is not reserved. `any` is an open one.
pub(crate) fn has_free(any: impl AsFd) -> bool {
    // A copy gets the number that the next connection would get.
    let copy = any.as_fd().try_clone_to_owned();
    copy.is_ok_and(|copy| !is_reserved(copy))
}

/// Checks that a new connection to the upstream leaves descriptors free.
///
/// # Errors
/// Too few are left. The error is that of the system when no descriptor is left (`EMFILE`).
pub(crate) fn check_upstream(connected: impl AsFd) -> io::Result<()> {
    match is_above(connected, RESERVED_FROM_UPSTREAM) {
        #[cfg(target_os = "linux")]
        true => Err(rustix::io::Errno::MFILE.into()),
        _ => Ok(()),
    }
}

/// Whether a descriptor has one of the last `reserved` numbers below the limit.
fn is_above(descriptor: impl AsFd, reserved: u64) -> bool {
    let number = descriptor.as_fd().as_raw_fd();
    // Under a tiny limit, a reserve would leave nothing for clients.
    let limit = limit().filter(|limit| *limit >= 4 * RESERVED);
    limit.is_some_and(|limit| u64::try_from(number).is_ok_and(|number| number >= limit - reserved))
}

/// The limit in force; `None` if there is none, or where it is not known.
fn limit() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Raises the limit to the most that this process may have, and returns it;
/// `None` if there is none, or where it is not known.
///
/// Shells and service managers set a low soft limit (1,024) for the sake of
/// programs that use `select`, and expect all others to raise it.
///
/// # Errors
/// The system refused.
pub(crate) fn raise_limit() -> io::Result<Option<u64>> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};

        let mut limit = getrlimit(Resource::Nofile);
        // A process may raise its soft limit up to the hard limit without privileges.
        if limit.current != limit.maximum {
            limit.current = limit.maximum;
            setrlimit(Resource::Nofile, limit)?;
        }
        Ok(limit.current)
    }
    #[cfg(not(target_os = "linux"))]
    Ok(None)
}
