//! Whatever is said, however it is cut and with whatever pauses: each request has its own response, in order.

use std::time::Duration;

use proptest::prelude::*;

use super::{HIDDEN, a_while, client_through};
use crate::support::{World, get, post, receipt};

/// One request, and what is said before it that means nothing.
#[derive(Clone, Debug)]
enum Asks {
    Get { lines: &'static str },
    Head,
    Post { body: String },
    Chunked { chunks: Vec<String>, trailers: bool },
    Receipt,
}

impl Asks {
    fn request(&self, n: usize) -> String {
        let target = format!("/sandbox/echo?n={n}");
        match self {
            Self::Get { lines } => format!("{lines}{}", get(&target)),
            Self::Head => format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"),
            Self::Post { body } => post(&target, body),
            Self::Chunked { chunks, trailers } => {
                let chunks: String = chunks
                    .iter()
                    .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()))
                    .collect();
                let end = if *trailers { "X-End: 1\r\n" } else { "" };
                format!(
                    "POST {target} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n{end}\r\n"
                )
            }
            Self::Receipt => receipt([n]),
        }
    }

    fn body(&self) -> String {
        match self {
            Self::Post { body } => body.clone(),
            Self::Chunked { chunks, .. } => chunks.concat(),
            _ => String::new(),
        }
    }
}

fn asks() -> impl Strategy<Value = Asks> {
    let body = prop_oneof!["[a-z]{0,20}", Just(HIDDEN.to_owned())];
    let chunk = prop_oneof!["[a-z]{1,20}", Just(HIDDEN.to_owned())];
    prop_oneof![
        prop_oneof![Just(""), Just("\r\n"), Just("\n\r\n")].prop_map(|lines| Asks::Get { lines }),
        Just(Asks::Head),
        body.prop_map(|body| Asks::Post { body }),
        (proptest::collection::vec(chunk, 0..4), any::<bool>())
            .prop_map(|(chunks, trailers)| Asks::Chunked { chunks, trailers }),
        Just(Asks::Receipt),
    ]
}

/// Where the stream is cut, and how long nothing is said there: for less than a rest is away, for more, and for
/// exactly that.
fn cuts() -> impl Strategy<Value = Vec<(prop::sample::Index, u64)>> {
    let pause = prop_oneof![
        Just(0_u64),
        Just(10),
        900..1100_u64,
        Just(1000),
        Just(1001),
        2000..9000_u64
    ];
    proptest::collection::vec((any::<prop::sample::Index>(), pause), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// However a client's bytes are cut and whatever pauses lie between them, its requests are answered, each with its
    /// own response, in order.
    #[test]
    fn answers_are_the_requests_in_order(
        asked in proptest::collection::vec(asks(), 1..8),
        cuts in cuts(),
        between in any::<bool>(),
        buffer in prop_oneof![Just(16_usize), Just(64 * 1024)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let patient = "limit.rate = 0\nlimit.burst = 0\nserver.header_timeout = \"1000s\"\n\
                           server.idle_timeout = \"1000s\"\nserver.body_timeout = \"1000s\"\n";
            let world = World::new(patient);
            let (mut line, held) = client_through(&world.gateway, buffer);
            let requests: Vec<_> = asked.iter().enumerate().map(|(n, asks)| asks.request(n)).collect();
            let said = requests.concat();
            let mut pauses: Vec<_> = cuts.iter().map(|(at, pause)| (at.index(said.len()), *pause)).collect();
            if between {
                let ends = requests.iter().scan(0, |end, request| { *end += request.len(); Some(*end) });
                pauses.extend(ends.map(|end| (end, 1200)));
            }
            pauses.sort_unstable();
            let mut from = 0;
            for (at, pause) in pauses {
                line.says(&said[from..at]).await;
                tokio::time::sleep(Duration::from_millis(pause)).await;
                from = at;
            }
            line.says(&said[from..]).await;
            let mut responses = Vec::new();
            for asks in &asked {
                let method = if matches!(asks, Asks::Head) { "HEAD" } else { "GET" };
                responses.push(line.response_to(method).await);
            }
            for (n, (asks, response)) in asked.iter().zip(responses).enumerate() {
                if let Asks::Receipt = asks {
                    prop_assert_eq!(response.status(), 201);
                    continue;
                }
                let target = format!("/sandbox/echo?n={n}");
                prop_assert_eq!(response.field("x-echo-target"), Some(&*target), "{:?}", response);
                prop_assert_eq!(response.text(), asks.body());
            }
            a_while().await;
            prop_assert!(held.rests().await);
            line.says_no_more().await;
            line.hears_end().await;
            let receipts = asked.iter().filter(|asks| matches!(asks, Asks::Receipt)).count();
            prop_assert!(world.sandbox.calls().len() <= asked.len());
            let sent = world.sandbox.calls().iter().map(|call| call.ids.len()).sum::<usize>();
            prop_assert_eq!(sent, receipts);
            Ok(())
        })?;
    }
}
