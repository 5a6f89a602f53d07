//! A shortened demo, played over real sockets in real time.

mod estimated;

use std::future::pending;

use super::figures::Figures;
use super::*;

/// Long enough for every scene, except for the instance beyond its limit.
fn short() -> Plan {
    Plan {
        length: Duration::from_millis(1_500),
        latency: Duration::from_millis(20),
        ..Plan::default()
    }
}

#[tokio::test]
async fn a_demo_passes_its_checks_and_saves_calls() {
    let mut text = Vec::new();
    let screen = Screen::new(&mut text, false, false);
    let report = run(&short(), screen, None, false, pending()).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(report.is_good(), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 60),
        "{text}"
    );

    let planned = short().scenes();
    let planned: usize = planned.iter().map(|scene| scene.requests.len()).sum();
    let Figures {
        receipts, others, ..
    } = report.figures;
    assert_eq!(report.figures.all().by_apps, planned as u64, "{text}");
    assert_eq!(others.by_apps, others.upstream, "{text}");
    // Nearer to a half, but how near depends on how busy the machine is.
    assert!(receipts.upstream * 4 < receipts.by_apps * 3, "{text}");
    assert_eq!(
        receipts.by_apps - receipts.upstream,
        report.figures.saved,
        "{text}"
    );
}

#[tokio::test]
async fn a_demo_that_is_stopped_reports_what_it_sent() {
    let mut text = Vec::new();
    let screen = Screen::new(&mut text, true, true);
    let stop = tokio::time::sleep(Duration::from_millis(400));
    let began = Instant::now();
    let report = run(&Plan::default(), screen, None, false, stop)
        .await
        .unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(began.elapsed() < Duration::from_secs(6), "{text}");
    assert!(report.is_good(), "{text}");
    assert!(report.figures.all().by_apps > 0, "{text}");
}

#[tokio::test]
async fn a_demo_that_is_kept_serves_after_its_report() {
    let mut text = Vec::new();
    let screen = Screen::new(&mut text, false, false);
    let plan = short();
    let stop = tokio::time::sleep(plan.length + Duration::from_secs(4));
    let began = Instant::now();
    let report = run(&plan, screen, None, true, stop).await.unwrap();
    assert!(began.elapsed() >= plan.length + Duration::from_secs(4));
    let text = String::from_utf8(text).unwrap();
    assert!(report.is_good(), "{text}");
    let last = text.lines().next_back().unwrap();
    assert!(
        last.starts_with("Still serving; Ctrl-C ends it. http://127.0.0.1:"),
        "{text}"
    );
}
