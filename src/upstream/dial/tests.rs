//! How a socket is configured, and why none is there.

use super::*;
use crate::address_race::ATTEMPT_DELAY;

#[test]
fn without_an_address_the_error_is_name_resolution() {
    assert_eq!(unreachable(None), Unreachable::Resolve);
    let refused = io::ErrorKind::ConnectionRefused.into();
    assert_eq!(unreachable(Some(refused)), Unreachable::Refused);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_socket_detects_an_upstream_that_drops_packets() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stream = tcp(&AddressRace::new(ATTEMPT_DELAY), &[address])
        .await
        .unwrap();
    let socket = socket2::SockRef::from(&stream);
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive::TIME);
}
