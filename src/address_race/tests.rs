//! Which address is tried when.

use super::*;

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    let parse = |text: &&str| format!("{text}:80").parse().unwrap();
    texts.iter().map(parse).collect()
}

/// Connects where the addresses named `dead` never respond and those named
/// `refused` refuse. Returns the address and the time it took.
async fn connects(
    race: &AddressRace,
    texts: &[&str],
    dead: &'static [&str],
    refused: &'static [&str],
) -> (Result<String, Option<io::ErrorKind>>, Duration) {
    let started = Instant::now();
    let connect = |address: SocketAddr| async move {
        let name = address.to_string().replace(":80", "");
        if dead.contains(&&*name) {
            std::future::pending::<()>().await;
        }
        match refused.contains(&&*name) {
            true => Err(io::ErrorKind::ConnectionRefused.into()),
            false => Ok(name),
        }
    };
    let connected = race.connect(&addresses(texts), connect).await;
    let connected = connected.map_err(|error| error.map(|error| error.kind()));
    (connected, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_dead_address_delays_one_connection_by_a_quarter_of_a_second() {
    let race = AddressRace::new(ATTEMPT_DELAY);
    let texts = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let dead = &["192.0.2.1"];
    let alive = Ok("192.0.2.2".to_owned());
    let connected = connects(&race, &texts, dead, &[]).await;
    assert_eq!(connected, (alive.clone(), ATTEMPT_DELAY));
    let connected = connects(&race, &texts, dead, &[]).await;
    assert_eq!(connected, (alive, Duration::ZERO));
    // Later it is tried again like the others.
    tokio::time::sleep(FAILURE_MEMORY).await;
    let connected = connects(&race, &texts, &[], &[]).await;
    assert_eq!(connected, (Ok("192.0.2.1".to_owned()), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_refuses_delays_nothing() {
    let race = AddressRace::new(ATTEMPT_DELAY);
    let texts = ["192.0.2.1", "192.0.2.2"];
    let connected = connects(&race, &texts, &[], &["192.0.2.1"]).await;
    assert_eq!(connected, (Ok("192.0.2.2".to_owned()), Duration::ZERO));
    let connected = connects(&race, &texts, &[], &["192.0.2.1", "192.0.2.2"]).await;
    assert_eq!(
        connected,
        (Err(Some(io::ErrorKind::ConnectionRefused)), Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_that_responds_again_is_no_longer_tried_last() {
    let race = AddressRace::new(ATTEMPT_DELAY);
    let (dead, alive) = (&["192.0.2.1"], "192.0.2.2");
    let texts = [dead[0], alive];
    let outage = connects(&race, &texts, dead, &["192.0.2.2"]);
    let outage = tokio::time::timeout(Duration::from_secs(5), outage).await;
    assert!(outage.is_err());
    for delay in [ATTEMPT_DELAY, Duration::ZERO] {
        let connected = connects(&race, &texts, dead, &[]).await;
        assert_eq!(connected, (Ok(alive.to_owned()), delay));
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_address_there_is_no_attempt() {
    let race = AddressRace::new(ATTEMPT_DELAY);
    let connected = connects(&race, &[], &[], &[]).await;
    assert_eq!(connected, (Err(None), Duration::ZERO));
}

#[test]
fn families_alternate_beginning_with_the_one_that_the_resolver_prefers() {
    let race = AddressRace::new(ATTEMPT_DELAY);
    let texts = [
        "[2001:db8::1]",
        "[2001:db8::2]",
        "[2001:db8::3]",
        "192.0.2.1",
    ];
    let ordered = race.ordered(&addresses(&texts));
    let expected = [
        "[2001:db8::1]",
        "192.0.2.1",
        "[2001:db8::2]",
        "[2001:db8::3]",
    ];
    assert_eq!(ordered, addresses(&expected));
}
