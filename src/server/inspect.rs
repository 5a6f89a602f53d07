//! Reads one request as a connection would, and inspects it.
//!
//! Invariant: the request is read by the code that serves connections, on the fast path or
//! by hyper; nothing is sent.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Cursor;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{Server, hyper as by_hyper};
use crate::body::ClientBody;
use crate::conn::escaped_io::NotedHeads;
use crate::conn::state::{ConnCtx, ConnState};
use crate::http::h1::{FastRequest, RequestRead, frame_request, read_request};
use crate::observe::metrics::Unreadable;
use crate::proxy::error::Error;
use crate::proxy::inspect::Inspected;

impl Server {
    /// Inspects the request that these bytes are.
    ///
    /// # Errors
    /// They are no request, and the connection would end.
    pub(crate) async fn inspect(
        &self,
        request: Bytes,
    ) -> Result<Result<Inspected, Error>, Unreadable> {
        let settings = &self.shared.settings;
        match read_request(request, settings.max_headers) {
            RequestRead::Complete(FastRequest { head, body }, _) => {
                let body = ClientBody::complete(body, settings.body_timeout, Instant::now());
                Ok(self.proxy.inspect(head, body).await)
            }
            RequestRead::Incomplete(bytes) | RequestRead::ForHyper(bytes) => {
                self.inspect_by_hyper(bytes).await
            }
        }
    }

    async fn inspect_by_hyper(&self, bytes: Bytes) -> Result<Result<Inspected, Error>, Unreadable> {
        let settings = &self.shared.settings;
        let state = Arc::new(ConnState::new(settings));
        let conn = ConnCtx { peer: None, state };
        let noted = Arc::new(NotedHeads::default());
        // hyper would send the names in their case, which it keeps to itself.
        let frame = frame_request(&bytes, settings.max_headers).ok().flatten();
        let case = frame.map(|frame| frame.case);
        let io = tokio::io::join(Cursor::new(bytes), tokio::io::sink());
        let io = TokioIo::new(by_hyper::noting(io, &noted, settings));
        let inspected = Arc::new(Mutex::new(None));
        let result = Arc::clone(&inspected);
        let (proxy, body_timeout) = (self.proxy.clone(), settings.body_timeout);
        let service = service_fn(move |request: Request<Incoming>| {
            let (mut head, body) = by_hyper::read(request, Some(&noted), &conn, body_timeout);
            if let Some(case) = &case {
                head.set_header_case(case.clone());
            }
            let (proxy, result) = (proxy.clone(), Arc::clone(&result));
            async move {
                let inspected = proxy.inspect(head, body).await;
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(inspected);
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut connection = pin!(self.shared.http1.serve_connection(io, service));
        let taken = || {
            inspected
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            match (taken(), ended) {
                // The body may still be unread, so hyper would not end.
                (Some(inspected), _) => Poll::Ready(Ok(inspected)),
                (None, Poll::Ready(Err(error))) if error.is_parse_too_large() => {
                    Poll::Ready(Err(Unreadable::TooLong))
                }
                (None, Poll::Ready(_)) => Poll::Ready(Err(Unreadable::Http)),
                (None, Poll::Pending) => Poll::Pending,
            }
        })
        .await
    }
}
