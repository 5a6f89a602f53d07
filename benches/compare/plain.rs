//! The plain hyper proxy: what hyper costs when it does nothing but pass on.
//!
//! One current-thread runtime, `hyper::server` in front and
//! `hyper::client::conn` behind with a stack of idle connections. No limits,
//! no metrics, no time-outs, no hop-by-hop care: a floor, not a product.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

use crate::Result;

type Idle = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// Serves until it is killed.
pub(crate) fn run(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(listen).await?;
        let idle = Idle::default();
        let host = HeaderValue::from_str(&upstream.to_string())?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (idle, host) = (Rc::clone(&idle), host.clone());
            let service = service_fn(move |request| {
                let (idle, host) = (Rc::clone(&idle), host.clone());
                forward(request, upstream, host, idle)
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client may leave whenever it likes.
            spawn_local(async move { drop(served.await) });
        }
    })
}

async fn forward(
    mut request: Request<Incoming>,
    upstream: SocketAddr,
    host: HeaderValue,
    idle: Idle,
) -> Result<Response<Incoming>> {
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(target);
    }
    request.headers_mut().insert(HOST, host);
    let pooled = {
        let mut idle = idle.borrow_mut();
        idle.retain(|sender| !sender.is_closed());
        // One whose last response is still being read is not ready.
        let ready = idle.iter().rposition(SendRequest::is_ready);
        ready.map(|at| idle.swap_remove(at))
    };
    let mut sender = match pooled {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(upstream).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            spawn_local(async move { drop(connection.await) });
            sender
        }
    };
    let response = sender.send_request(request).await?;
    idle.borrow_mut().push(sender);
    Ok(response)
}
