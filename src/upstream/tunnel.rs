//! A connection to the upstream through a proxy: `CONNECT` (RFC 9110 §9.3.6).
//!
//! Invariants: no byte behind the head of the proxy's response is read, because it
//! is the upstream's; the credentials of the proxy are in no error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::dial::Io;
use super::error::ProxyError;
use crate::config::{ProxyUrl, Secret};

/// The longest head of a response of the proxy.
const MAX_HEAD: usize = 8 * 1024;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Has the proxy at the other end of `stream` connect it to `authority` (host and
/// port). Returns the status of a response that refuses it, for the log.
pub(super) async fn open(
    stream: &mut Box<dyn Io>,
    authority: &str,
    proxy: &ProxyUrl,
) -> Result<(), (ProxyError, Option<u16>)> {
    let failed = |error: std::io::Error| (ProxyError::from(error), None);
    let request = request(authority, proxy.credentials.as_ref());
    stream.write_all(&request).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let status = loop {
        let status = read_status(stream).await.map_err(|error| (error, None))?;
        // Interim responses precede the final one.
        if !(100..200).contains(&status) {
            break status;
        }
    };
    match status {
        200..300 => Ok(()),
        403 => Err((ProxyError::Forbidden, None)),
        407 => Err((ProxyError::Credentials, None)),
        other => Err((ProxyError::Failed, Some(other))),
    }
}

fn request(authority: &str, credentials: Option<&Secret>) -> Vec<u8> {
    let authorization = credentials.map_or_else(String::new, |credentials| {
        let encoded = BASE64.encode(credentials.expose());
        format!("Proxy-Authorization: Basic {encoded}\r\n")
    });
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{authorization}\r\n").into_bytes()
}

/// Reads the head of a response.
async fn read_status(stream: &mut Box<dyn Io>) -> Result<u16, ProxyError> {
    let mut head = Vec::new();
    while !head.ends_with(HEAD_END) {
        // As many bytes as the head needs at least, and none of what follows it.
        let ended = (0..HEAD_END.len()).rev();
        let mut ended = ended.filter(|length| head.ends_with(&HEAD_END[..*length]));
        let missing = HEAD_END.len() - ended.next().unwrap_or_default();
        let mut piece = [0; HEAD_END.len()];
        let length = stream.read(&mut piece[..missing]).await?;
        head.extend_from_slice(&piece[..length]);
        if length == 0 {
            return Err(ProxyError::Closed);
        }
        // Not at the end only: something else may have no empty line.
        let begins_as_http = head.iter().zip(b"HTTP/1.").all(|(a, b)| a == b);
        if !begins_as_http || head.len() > MAX_HEAD {
            return Err(ProxyError::Malformed);
        }
    }
    // `HTTP/1.x 200 …`
    let status = head
        .get(9..12)
        .and_then(|code| std::str::from_utf8(code).ok());
    let status = status.and_then(|code| code.parse().ok());
    status
        .filter(|code| *code >= 100)
        .ok_or(ProxyError::Malformed)
}
