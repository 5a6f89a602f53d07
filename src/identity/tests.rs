//! Instance and credential are found in every spelling, however the body is cut.

mod bodies;
mod heads;
mod laws;

use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::*;
use crate::body::{ClientBody, SCAN_LIMIT};
use crate::config::Config;
use crate::conn::state::ConnState;

type Headers<'h> = &'h [(&'h str, &'h str)];

fn of_head(target: &str, headers: Headers<'_>) -> Identity {
    let mut request = Request::post(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    Findings::of_head(&head).identity()
}

/// The identity of a request with this instance and these credentials.
fn identity_of(instance: Option<&str>, credentials: &[(CredentialSource, &str)]) -> Identity {
    let (head, ()) = Request::new(()).into_parts();
    let mut findings = Findings::of_head(&head);
    findings.add_instance(instance.unwrap_or_default());
    for (source, credential) in credentials {
        findings.add_credential(*source, credential.as_bytes());
    }
    findings.identity()
}

/// Sends a request over HTTP/1.1, each piece as a separate chunk, and returns
/// the identity found. The body must be forwarded unchanged.
async fn scan(target: &str, headers: Headers<'_>, pieces: &[&[u8]]) -> Identity {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (found, mut findings) = mpsc::channel(1);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let found = found.clone();
        async move {
            let (head, incoming) = request.into_parts();
            let state = Arc::new(ConnState::new(&Config::default().server));
            let timeout = std::time::Duration::from_secs(60);
            let mut body = ClientBody::new(incoming, &head, timeout, &state);
            let mut findings = Findings::of_head(&head);
            let extent = scan::scan_body(&mut findings, &head.headers, &mut body).await;
            if extent == Ok(scan::Extent::Part) {
                findings.set_partial();
            }
            let rest = body.collect().await.map(|body| body.to_bytes());
            let result = extent.and(rest).map(|body| (findings.identity(), body));
            found.send(result).await.unwrap();
            Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
        }
    });
    let server =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
    let server = tokio::spawn(server);
    let mut request = format!("POST {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "transfer-encoding: chunked\r\n\r\n";
    let mut request = request.into_bytes();
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        request.extend_from_slice(piece);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let (mut reader, mut writer) = tokio::io::split(near);
    let writing = tokio::spawn(async move { writer.write_all(&request).await });
    let (identity, body) = findings.recv().await.unwrap().unwrap();
    assert_eq!(body, pieces.concat(), "the body has changed on its way");
    reader.read_to_end(&mut Vec::new()).await.unwrap();
    writing.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
    identity
}
