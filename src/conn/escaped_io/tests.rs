//! Every head is found, in whatever pieces it arrives, and nothing else changes.

use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{EscapedIo, NotedHeads};

/// A request with a usual target, what hyper gets of it, and its raw target.
type Case = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

fn request() -> impl Strategy<Value = Case> {
    let target = prop::sample::select(vec![
        (&b"/v2/x?a=%23"[..], &b"/v2/x?a=%23"[..]),
        (b"/a?b={c}|d", b"/a?b={c}|d"),
        (b"*", b"*"),
        (b"/a#b?c=#d", b"/a%23b?c=%23d"),
        (b"/?m=\"\xff[1]\"&x=1", b"/?m=%22%FF%5B1%5D%22&x=1"),
        (b"/#", b"/%23"),
    ]);
    let rest = prop::sample::select(vec![
        "\r\nHost: h\r\n\r\n",
        "\nHost: h\n\n",
        "\r\nContent-Length: 9\r\n\r\nGET /#\r\n\r",
        "\r\nContent-Length: 0\r\n\r\n",
        "\r\nTransfer-Encoding: chunked\r\n\r\n9;x=\"y\"\r\nGET /#\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
        "\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\nx\r\n0\r\nX-End: 1\r\n\r\n",
    ]);
    let start = prop::sample::select(vec!["GET ", "POST ", "\r\nHEAD "]);
    (start, target, rest).prop_map(|(start, (raw, escaped), rest)| {
        let text =
            |target: &[u8]| [start.as_bytes(), target, b" HTTP/1.1", rest.as_bytes()].concat();
        (
            text(raw),
            text(escaped),
            (raw != escaped).then(|| raw.to_vec()),
        )
    })
}

/// What hyper reads of these bytes, with reads of this size.
async fn read_through(
    bytes: Vec<u8>,
    narrow: usize,
    size: usize,
    noted: &Arc<NotedHeads>,
) -> Vec<u8> {
    let (mut near, far) = tokio::io::duplex(narrow);
    let mut io = EscapedIo::new(far, noted, 100, 16 * 1024);
    let writes = async move { near.write_all(&bytes).await.unwrap() };
    let reads = async {
        let (mut all, mut piece) = (Vec::new(), vec![0; size]);
        loop {
            match io.read(&mut piece).await.unwrap() {
                0 => return all,
                length => all.extend_from_slice(&piece[..length]),
            }
        }
    };
    tokio::join!(writes, reads).1
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn hyper_gets_every_target_percent_encoded(
        requests in prop::collection::vec(request(), 1..6),
        narrow in 1..200_usize,
        size in 1..200_usize,
    ) {
        let sent = requests.iter().flat_map(|(raw, ..)| raw.clone()).collect();
        let expected: Vec<u8> = requests.iter().flat_map(|(_, escaped, _)| escaped.clone()).collect();
        let noted = Arc::new(NotedHeads::default());
        let read = block_on(read_through(sent, narrow, size, &noted));
        prop_assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(&expected));
        for (sent, _, raw) in requests {
            let sent = String::from_utf8_lossy(&sent);
            let has_conflict = sent.contains("chunked\r\nContent-Length");
            let notes = noted.take_next().map(|notes| *notes).unwrap_or_default();
            let target = notes.target.map(|(target, _)| target.bytes().to_vec());
            prop_assert_eq!(target, raw);
            prop_assert_eq!(notes.conflict.is_some(), has_conflict);
        }
    }

    #[test]
    fn what_is_no_request_passes_unchanged(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        narrow in 1..50_usize,
    ) {
        // No text that looks like a head.
        let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\n').collect();
        let noted = Arc::new(NotedHeads::default());
        let read = block_on(read_through(bytes.clone(), narrow, 64, &noted));
        prop_assert_eq!(read, bytes);
    }
}

#[test]
fn a_body_whose_end_is_not_found_breaks_off() {
    let (mut near, far) = tokio::io::duplex(1024);
    let mut io = EscapedIo::new(far, &Arc::default(), 100, 1024);
    block_on(async {
        let text =
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nGET /# HTTP/1.1\r\n\r\n";
        near.write_all(text).await.unwrap();
        drop(near);
        let read = io.read_to_end(&mut Vec::new()).await;
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    });
}
