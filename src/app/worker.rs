//! The workers: one thread with its own runtime per core.
//!
//! Invariant: a worker runs until [`Workers::stop`], also after its listener is
//! closed, because connections and batches are tasks on its runtime.

use std::io;
use std::net::TcpListener as StdListener;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::gateway::Gateway;
use crate::server;

/// All workers of the process.
pub(super) struct Workers {
    /// Cancelled when no more connections are to be accepted.
    pub(super) stop_accepting: CancellationToken,
    ended: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers. The first one runs on the caller's runtime.
    ///
    /// # Errors
    /// A thread cannot be started, or the socket cannot be duplicated.
    pub(super) fn start(
        count: usize,
        gateway: &Gateway,
        listener: &StdListener,
        is_inherited: bool,
    ) -> io::Result<Self> {
        let mut workers = Self {
            stop_accepting: CancellationToken::new(),
            ended: CancellationToken::new(),
            threads: Vec::new(),
        };
        for index in 1..count {
            let gateway = gateway.for_another_worker();
            let worker = workers.new_worker(gateway, listener, is_inherited)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            workers.threads.push(thread.spawn(move || {
                runtime.block_on(worker.run());
                // Does not wait for blocking threads: a DNS query may hang for long.
                runtime.shutdown_background();
            })?);
        }
        // It keeps the upstream connections of `gateway`; the others have theirs.
        let first = workers.new_worker(gateway.clone(), listener, is_inherited)?;
        tokio::spawn(first.run());
        Ok(workers)
    }

    fn new_worker(
        &self,
        gateway: Gateway,
        listener: &StdListener,
        is_inherited: bool,
    ) -> io::Result<Worker> {
        Ok(Worker {
            gateway,
            // One socket with one backlog for all: with `SO_REUSEPORT` a worker that stops
            // would lose the connections in its own backlog.
            listener: listener.try_clone()?,
            is_inherited,
            stop_accepting: self.stop_accepting.clone(),
            ended: self.ended.clone(),
        })
    }

    /// Ends the workers, and cuts what they still serve.
    pub(super) fn stop(self) {
        self.ended.cancel();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }
}

/// One worker: accepts connections and serves them.
struct Worker {
    gateway: Gateway,
    listener: StdListener,
    is_inherited: bool,
    stop_accepting: CancellationToken,
    ended: CancellationToken,
}

impl Worker {
    async fn run(self) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                return tracing::error!(%error, "a worker cannot use the listening socket");
            }
        };
        let server = self.gateway.server();
        let upstream = server.proxy.upstream.clone();
        // All three run on this thread; connections are tasks beside them.
        tokio::select! {
            _ = upstream.reap_idle() => {}
            () = self.ended.cancelled() => {}
            () = async {
                server::accept(server, listener, self.is_inherited, &self.stop_accepting).await;
                // The listener is closed. To return would drop the runtime, and with it all
                // connections.
                std::future::pending().await
            } => {}
        }
    }
}
