//! Why the server cannot be used.
//!
//! Invariant: no message holds text of the server, which could repeat what was sent to it.

/// Why an operation on the server failed; displays what an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The name has no address.
    #[error("the name of the server has no address")]
    Resolve,
    /// Nothing listens at the address, or the socket does not exist.
    #[error("the connection is refused: no server listens there")]
    Refused,
    /// There is no way to the address.
    #[error("the server cannot be reached: no way to its address, or no permission for its socket")]
    Unreachable,
    /// The connection ended.
    #[error("the server has closed the connection")]
    Reset,
    /// No reply in time.
    #[error("the server does not respond in time")]
    Timeout,
    /// TLS could not be agreed upon.
    #[error(
        "TLS failed: no trusted authority has signed the server's certificate (see cluster.ca), or \
         the port does not use TLS"
    )]
    Tls,
    /// User or password are wrong, or required.
    #[error("the server requires another user or password in cluster.url")]
    Auth,
    /// The user may not do this.
    #[error(
        "the user in cluster.url may not run scripts, or not on these keys and this channel (ACL)"
    )]
    Permission,
    /// A replica.
    #[error("the server is a read-only replica")]
    ReadOnly,
    /// `ROLE` names another role than that of a primary.
    #[error("the server is not a primary")]
    Demoted,
    /// No sentinel could name the primary.
    #[error("no sentinel names a primary of this name")]
    NoPrimary,
    /// The server reads its data set.
    #[error("the server is loading its data set")]
    Loading,
    /// A script of another client runs for too long.
    #[error("the server is busy with a script")]
    Busy,
    /// The server does not know the script, although it was sent.
    #[error("the server does not keep scripts")]
    NoScript,
    /// The server has no scripts.
    #[error("the server does not permit Lua scripts (EVAL), which the gateway needs")]
    NoScripts,
    /// The limit on memory is reached.
    #[error("the server has reached its limit on memory (maxmemory)")]
    OutOfMemory,
    /// The server refuses writes because it cannot save them, or has too few replicas.
    #[error("the server refuses writes: it cannot save them, or has too few replicas")]
    NotSaved,
    /// Keys are spread over several servers.
    #[error(
        "the server is part of a Redis Cluster and does not hold the keys; use a single server"
    )]
    Sharded,
    /// A reply of another form.
    #[error(
        "the server replies in an unexpected form: it is no Redis or Valkey server of version 6.2 or later"
    )]
    WrongReply,
    /// Any other error of the server.
    #[error("the server reports an error")]
    Server,
}

impl Failure {
    pub(crate) const ALL: [Self; 20] = [
        Self::Resolve,
        Self::Refused,
        Self::Unreachable,
        Self::Reset,
        Self::Timeout,
        Self::Tls,
        Self::Auth,
        Self::Permission,
        Self::ReadOnly,
        Self::Demoted,
        Self::NoPrimary,
        Self::Loading,
        Self::Busy,
        Self::NoScript,
        Self::NoScripts,
        Self::OutOfMemory,
        Self::NotSaved,
        Self::Sharded,
        Self::WrongReply,
        Self::Server,
    ];

    /// The name in metrics and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::ReadOnly => "read_only",
            Self::Demoted => "demoted",
            Self::NoPrimary => "no_primary",
            Self::Loading => "loading",
            Self::Busy => "busy",
            Self::NoScript => "no_script",
            Self::NoScripts => "no_scripts",
            Self::OutOfMemory => "out_of_memory",
            Self::NotSaved => "not_saved",
            Self::Sharded => "sharded",
            Self::WrongReply => "wrong_reply",
            Self::Server => "server",
        }
    }

    /// Whether another connection may help where this one does not: perhaps to another server.
    pub(super) fn ends_connection(self) -> bool {
        !matches!(
            self,
            Self::Timeout
                | Self::Busy
                | Self::NoScript
                | Self::OutOfMemory
                | Self::NotSaved
                | Self::WrongReply
                | Self::Server
        )
    }
}
