//! The way of one gateway to the server, which can become a black hole.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::sync::watch;

/// Passes on what arrives at its socket, unless it is closed: then nothing passes, and no connection
/// ends.
pub(super) struct Relay {
    path: PathBuf,
    is_open: watch::Sender<bool>,
}

impl Relay {
    pub(super) fn start(path: PathBuf, server: &Path) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        let server = server.to_owned();
        let (is_open, open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, open) = (server.clone(), open.clone());
                tokio::spawn(async move { relay(client, &server, open).await.ok() });
            }
        });
        Self { path, is_open }
    }

    pub(super) fn url(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    pub(super) fn set_open(&self, is_open: bool) {
        self.is_open.send(is_open).unwrap();
    }
}

async fn relay(
    client: UnixStream,
    server: &Path,
    mut open: watch::Receiver<bool>,
) -> io::Result<()> {
    open.wait_for(|is_open| *is_open).await.ok();
    let server = UnixStream::connect(server).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(
        pass(from_client, to_server, open.clone()),
        pass(from_server, to_client, open),
    )?;
    Ok(())
}

async fn pass(
    mut from: unix::OwnedReadHalf,
    mut to: unix::OwnedWriteHalf,
    mut open: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut part = [0; 4096];
    loop {
        let length = from.read(&mut part).await?;
        open.wait_for(|is_open| *is_open).await.ok();
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&part[..length]).await?;
    }
}
