//! The client library: how it logs in, and what its replies and errors mean.
//!
//! Invariant: no text of an error is kept, because it may repeat what was sent.

use redis::{RedisConnectionInfo, RedisError, Value};

use super::failure::Failure;
use crate::config::ClusterCredentials;

/// The bytes of a text.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// With which user and password a connection begins; without any, nothing is sent.
pub(super) fn login(credentials: Option<&ClusterCredentials>) -> RedisConnectionInfo {
    // Otherwise the library sends `CLIENT SETINFO`, which
    // servers before Redis 7.2 do not know.
    let login = RedisConnectionInfo::default().set_skip_set_lib_name();
    let Some(credentials) = credentials else {
        return login;
    };
    let login = match &credentials.user {
        Some(user) => login.set_username(user.expose()),
        None => login,
    };
    login.set_password(credentials.password.expose())
}

/// What an error of the client library means. Its text is not kept.
pub(super) fn failure(error: &RedisError) -> Failure {
    use redis::{ErrorKind, ServerErrorKind as Kind};
    if error.is_io_error() {
        return match error.is_timeout() {
            true => Failure::Timeout,
            false => Failure::Reset,
        };
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => Failure::Auth,
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Failure::WrongReply,
        ErrorKind::Server(Kind::NoPerm) => Failure::Permission,
        ErrorKind::Server(kind) if kind != Kind::ResponseError => {
            by_code(error.code().unwrap_or_default())
        }
        _ => match (error.code(), error.detail().unwrap_or_default()) {
            (Some("ERR"), detail) => response_error(detail),
            (Some(code), _) => by_code(code),
            (None, _) => Failure::Server,
        },
    }
}

/// An error without a code of its own.
fn response_error(detail: &str) -> Failure {
    // Before Redis 7, the error of a command in a script is inside the text of another.
    let inner = detail
        .split_once("@user_script")
        .and_then(|(_, rest)| rest.split_once(" -"))
        .map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
    match inner {
        Some(code) => by_code(code),
        None if detail.starts_with("unknown command") => Failure::NoScripts,
        None => Failure::Server,
    }
}

fn by_code(code: &str) -> Failure {
    match code {
        "NOAUTH" | "WRONGPASS" => Failure::Auth,
        "NOPERM" => Failure::Permission,
        "READONLY" => Failure::ReadOnly,
        "MASTERDOWN" => Failure::Demoted,
        "LOADING" => Failure::Loading,
        "BUSY" => Failure::Busy,
        "NOSCRIPT" => Failure::NoScript,
        "OOM" => Failure::OutOfMemory,
        "MISCONF" | "NOREPLICAS" => Failure::NotSaved,
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN" => Failure::Sharded,
        _ => Failure::Server,
    }
}
