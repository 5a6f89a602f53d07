//! A shortened demo, played over real sockets in real time.

mod estimated;

use std::future::pending;

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
    let screen = Screen::new(&mut text, false);
    let report = run(&short(), screen, None, pending()).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(report.is_good(), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
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
    let screen = Screen::new(&mut text, true);
    let stop = tokio::time::sleep(Duration::from_millis(400));
    let began = Instant::now();
    let report = run(&Plan::default(), screen, None, stop).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(began.elapsed() < Duration::from_secs(6), "{text}");
    assert!(report.is_good(), "{text}");
    assert!(report.figures.all().by_apps > 0, "{text}");
}
