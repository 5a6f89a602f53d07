//! Requests on a connection of the fast path.

use http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::body::RequestBody;

fn connection(narrow: usize) -> (FastConnection, DuplexStream) {
    let (near, far) = tokio::io::duplex(narrow);
    (FastConnection::new(Box::new(near)), far)
}

fn request(body: &str) -> UpstreamRequest {
    let head = Request::post("/x").header("host", "h").body(()).unwrap();
    UpstreamRequest {
        head: Box::new(head.into_parts().0.into()),
        body: RequestBody::whole(Bytes::from(body.to_owned())),
    }
}

async fn rest(
    connection: &mut FastConnection,
    response: &mut FinalResponse,
) -> Result<Vec<u8>, ()> {
    let mut body = Vec::new();
    while let Some(frame) = poll_fn(|cx| connection.poll_body(&mut response.decoder, cx)).await {
        body.extend_from_slice(&frame?.into_data().map_err(drop)?);
    }
    Ok(body)
}

async fn is_usable(connection: &mut FastConnection) -> bool {
    poll_fn(|cx| Poll::Ready(connection.is_usable(cx))).await
}

#[tokio::test]
async fn a_response_may_begin_while_the_request_is_being_read() {
    let (mut connection, mut far) = connection(100);
    let body = "x".repeat(9000);
    let echoes = async {
        let mut head = [0; 30];
        far.read_exact(&mut head).await.unwrap();
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
            .await
            .unwrap();
        let mut read = head.to_vec();
        while !read.ends_with(body.as_bytes()) {
            read.push(far.read_u8().await.unwrap());
        }
        far.write_all(body.as_bytes()).await.unwrap();
        far
    };
    let calls = async {
        let mut response = connection.send(&request(&body)).await.unwrap();
        rest(&mut connection, &mut response).await.unwrap()
    };
    let (far, heard) = tokio::join!(echoes, calls);
    assert_eq!(heard, body.as_bytes());
    assert!(is_usable(&mut connection).await);
    drop(far);
}

#[tokio::test]
async fn a_connection_is_not_used_again_before_its_request_is_written() {
    let (mut connection, mut far) = connection(100);
    let declines = async {
        far.read_u8().await.unwrap();
        far.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
    };
    let request = request(&"x".repeat(9000));
    let (response, ()) = tokio::join!(connection.send(&request), declines);
    assert!(response.unwrap().keeps_alive);
    assert!(!is_usable(&mut connection).await);
}

#[tokio::test]
async fn a_connection_with_bytes_after_the_response_is_not_reused() {
    for (said, is_fine) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!", false),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        ("HTTP/1.1 204 No Content\r\n\r\nok", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            false,
        ),
    ] {
        let (mut connection, mut far) = connection(1000);
        let says = async {
            far.read_u8().await.unwrap();
            far.write_all(said.as_bytes()).await.unwrap();
        };
        let request = request("");
        let (response, ()) = tokio::join!(connection.send(&request), says);
        rest(&mut connection, &mut response.unwrap()).await.unwrap();
        assert_eq!(is_usable(&mut connection).await, is_fine, "{said:?}");
    }
}

#[tokio::test]
async fn on_a_dead_connection_nothing_is_written() {
    let (mut connection, far) = connection(1000);
    drop(far);
    assert_eq!(
        connection.send(&request("")).await.unwrap_err(),
        SendError::Unprocessed
    );
    let (mut connection, mut far) = self::connection(1000);
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(
        connection.send(&request("")).await.unwrap_err(),
        SendError::Unprocessed
    );
    drop(connection);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty());
}

#[tokio::test]
async fn a_response_of_a_few_kilobytes_is_read_at_once() {
    let (mut connection, mut far) = connection(1 << 20);
    let fields = format!("X-Fields: {}\r\n", "x".repeat(1000));
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5000\r\n\r\n");
    let says = async {
        far.read_u8().await.unwrap();
        far.write_all((head + &"x".repeat(5000)).as_bytes())
            .await
            .unwrap();
    };
    let request = request("");
    let (response, ()) = tokio::join!(connection.send(&request), says);
    let mut decoder = response.unwrap().decoder;
    let first = poll_fn(|cx| connection.poll_body(&mut decoder, cx)).await;
    let first = first.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.len(), 5000);
    assert!(decoder.has_ended());
}

#[tokio::test]
async fn long_bodies_are_read_in_larger_pieces() {
    let (mut connection, mut far) = connection(1 << 20);
    let length = 900_000;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    let says = async {
        far.read_u8().await.unwrap();
        far.write_all(head.as_bytes()).await.unwrap();
        far.write_all(&vec![b'x'; length]).await.unwrap();
    };
    let request = request("");
    let (response, ()) = tokio::join!(connection.send(&request), says);
    let mut decoder = response.unwrap().decoder;
    let (mut whole, mut longest) = (0, 0);
    while let Some(frame) = poll_fn(|cx| connection.poll_body(&mut decoder, cx)).await {
        let piece = frame.unwrap().into_data().unwrap().len();
        whole += piece;
        longest = longest.max(piece);
    }
    assert_eq!((whole, longest), (length, MAX_LONG_READ));
}
