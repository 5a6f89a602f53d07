//! The access log: one line a call, with what operators ask of it and nothing that a client smuggles in.

use std::time::Duration;

use serde_json::Value;
use wawp_gateway::sandbox::{Fault, Settings};

use crate::support::{Logged, get, post, receipt};

const JSON: &str = "[log]\nformat = \"json\"\n";

#[tokio::test(start_paused = true)]
async fn a_receipt_tells_whom_it_was_merged_with() {
    let logged = Logged::new(JSON);
    let one = logged.world.calling(receipt([1, 2]));
    let two = logged.world.calling(receipt([2, 3]));
    let length = receipt([1, 2]).split("\r\n\r\n").nth(1).unwrap().len();
    one.await.unwrap();
    let response = two.await.unwrap();
    let lines = logged.lines().await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert_eq!(
            (
                &line["method"],
                &line["path"],
                &line["route"],
                &line["status"]
            ),
            (
                &"POST".into(),
                &"/v2/send/seen".into(),
                &"seen".into(),
                &201.into()
            ),
            "{line}"
        );
        assert_eq!(
            (&line["batch_callers"], &line["batch_ids"]),
            (&2.into(), &3.into())
        );
        assert_eq!(
            (&line["ids"], &line["tenant"], &line["client"]),
            (&2.into(), &Value::Null, &Value::Null)
        );
        assert_eq!(line["instance"], "123", "{line}");
        assert_eq!(line["merge_key"], lines[0]["merge_key"]);
        assert_eq!(line["merge_key"].as_str().unwrap().len(), 16);
        let wait = line["batch_wait"].as_f64().unwrap();
        assert!((0.04..0.06).contains(&wait), "{line}");
        assert!(line["duration"].as_f64().unwrap() >= wait, "{line}");
        assert_eq!(line["bytes"], response.body.len(), "{line}");
        assert_eq!(line["request_bytes"], length, "{line}");
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok());
        for absent in ["sampled", "aborted", "error"] {
            assert_eq!(line.get(absent), None, "{line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_call_tells_its_sizes_and_id_and_whose_it_was() {
    let tenant = "[[tenant]]\nname = \"acme\"\ninstances = [\"123\"]\n";
    let logged = Logged::new(&format!("{JSON}{tenant}"));
    let request = post(
        "/v2/send/text?instance_id=123&access_token=t",
        r#"{"chatId":"1@c.us","message":"m"}"#,
    )
    .replacen("\r\n", "\r\nX-Request-Id: abc-1\r\n", 1);
    let length = request.split("\r\n\r\n").nth(1).unwrap().len();
    let mut client = logged.world.client_from("192.0.2.7");
    let response = client.asks(request).await;
    let lines = logged.lines().await;
    let line = &lines[0];
    assert_eq!(line["request_bytes"], length, "{line}");
    assert_eq!(line["bytes"], response.body.len(), "{line}");
    assert_eq!(line["status"], response.status(), "{line}");
    assert_eq!(
        (
            &line["request_id"],
            &line["client"],
            &line["tenant"],
            &line["route"]
        ),
        (
            &"abc-1".into(),
            &"192.0.2.7".into(),
            &"acme".into(),
            &"other".into()
        )
    );
    assert_eq!(
        (line.get("ids"), line.get("merge_key")),
        (None, None),
        "{line}"
    );
}

#[tokio::test(start_paused = true)]
async fn text_is_a_line_for_people() {
    let logged = Logged::new("");
    logged
        .world
        .call(get("/v2/chats?instance_id=123&access_token=t"))
        .await;
    let text = logged.text().await;
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in [
        " GET /v2/chats 2",
        " instance=123 ",
        " route=other ",
        " request_id=",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_client_writes_a_line_of_its_own() {
    for format in ["text", "json"] {
        let logged = Logged::new(&format!("[log]\nformat = \"{format}\"\n"));
        let forged = "2026-01-01T00:00:00Z%20GET%20/forged";
        for request in [
            get(&format!(
                "/v2/chats?instance_id=1%0A{forged}%1b[2J%00%22&access_token=t"
            )),
            get(&format!("/v2/a%0A{forged}?instance_id=1%E2%80%A8%C2%85")),
            get("/v2/chats?instance_id=%22%20status=200%20x=%22"),
            get("/v2/chats").replacen("\r\n", "\r\nX-Request-Id: a\tb\" status=1\r\n", 1),
        ] {
            logged.world.call(request).await;
        }
        let text = logged.text().await;
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            !text
                .trim_end_matches('\n')
                .contains(|letter: char| letter.is_control() && letter != '\n'),
            "{text:?}"
        );
        if format == "text" {
            assert!(
                !text.contains(" status=200 x=\"") || text.contains("\\\""),
                "{text}"
            );
        } else {
            for line in text.lines() {
                serde_json::from_str::<Value>(line).unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_and_our_refusals_are_written_whatever_the_sample() {
    let faults = vec![Fault::status(500).path("/v2/fails").times(usize::MAX)];
    let settings = Settings {
        faults,
        ..Settings::default()
    };
    let logged = Logged::with_sandbox(
        &format!(
            "{JSON}access_sample = 1000000\n[limit]\nrate = 1\nburst = 25\nmax_wait = \"1s\"\n"
        ),
        settings,
    );
    for _ in 0..10 {
        logged
            .world
            .call(get("/v2/chats?instance_id=1&access_token=t"))
            .await;
        logged
            .world
            .call(get("/v2/fails?instance_id=1&access_token=t"))
            .await;
    }
    let calling: Vec<_> = (0..20)
        .map(|_| {
            logged
                .world
                .calling(get("/v2/chats?instance_id=1&access_token=t"))
        })
        .collect();
    let mut refused = 0;
    for call in calling {
        refused += usize::from(call.await.unwrap().status() == 429);
    }
    assert!(refused > 5);
    let lines = logged.lines().await;
    let with = |status: u16| lines.iter().filter(|line| line["status"] == status).count();
    assert_eq!((with(500), with(429), with(200)), (10, refused, 0));
    assert!(lines.iter().all(|line| line.get("sampled").is_none()));
    let ours = lines.iter().find(|line| line["status"] == 429).unwrap();
    assert_eq!(ours["error"], "rate_limited");
}

#[tokio::test(start_paused = true)]
async fn one_call_in_n_is_written_and_says_so() {
    let logged = Logged::new(&format!(
        "{JSON}access_sample = 2\n[limit]\nrate = 0\nburst = 0\n"
    ));
    for _ in 0..200 {
        logged
            .world
            .call(get("/v2/chats?instance_id=1&access_token=t"))
            .await;
    }
    let lines = logged.lines().await;
    // Ten deviations to each side.
    assert!((30..170).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|line| line["sampled"] == 2));
}

#[tokio::test(start_paused = true)]
async fn it_is_switched_off_and_on_by_a_reload() {
    let logged = Logged::new(&format!("{JSON}access = \"off\"\n"));
    let call = || {
        logged
            .world
            .call(get("/v2/chats?instance_id=1&access_token=t"))
    };
    call().await;
    assert_eq!(logged.lines().await.len(), 0);
    logged.world.reload(JSON);
    call().await;
    assert_eq!(logged.lines().await.len(), 1);
    logged.world.reload(&format!("{JSON}access = \"off\"\n"));
    call().await;
    assert_eq!(logged.lines().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_cut_says_so() {
    let cut = wawp_gateway::sandbox::FaultKind::CutBody {
        promised: 10,
        sent: "half".into(),
    };
    let faults = vec![Fault::new(cut).path("/v2/cut").times(usize::MAX)];
    let logged = Logged::with_sandbox(
        JSON,
        Settings {
            faults,
            ..Settings::default()
        },
    );
    let mut client = logged.world.client();
    client
        .says(get("/v2/cut?instance_id=1&access_token=t"))
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lines = logged.lines().await;
    assert_eq!(
        (&lines[0]["aborted"], &lines[0]["bytes"]),
        (&true.into(), &4.into()),
        "{lines:?}"
    );
}
