//! A simulation: apps, the gateway and a misbehaving upstream in one thread
//! and in virtual time, thousands of runs, each judged by the same laws.
//!
//! A seed decides the settings, who calls what and when, who goes away, and
//! how the upstream fails ([`plan`]); [`laws`] says what must hold afterwards.
//! Not decided by the seed are the jitter of repeats and the order in which
//! tasks that wake at the same moment run, so a rare failure may take several
//! runs of its seed to come back.
//!
//! - `WAWP_SIM_SEEDS=12345 cargo test --test sim` runs these seeds (separated
//!   by commas);
//! - `WAWP_SIM_RUNS=5000 cargo test --test sim` runs so many, from seed 0;
//! - `WAWP_SIM_SHOW=1` with `-- --nocapture` prints what each run saw.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod client;
mod dice;
mod laws;
mod plan;
mod run;
mod upstream;
mod wire;

use std::sync::mpsc;
use std::time::Duration;

use plan::Plan;

/// Real time that a run may take; they take milliseconds. Longer is a loop in
/// which virtual time stands still, and would otherwise never be told of.
const LONGEST: Duration = Duration::from_secs(60);

/// Runs without being asked for more: some twenty seconds of an unoptimised build.
const RUNS: u64 = 400;

#[test]
fn every_law_holds_in_every_run() {
    let number = |text: &str| text.trim().parse().expect("a seed is a number");
    let seeds: Vec<u64> = match (
        std::env::var("WAWP_SIM_SEEDS"),
        std::env::var("WAWP_SIM_RUNS"),
    ) {
        (Ok(seeds), _) => seeds.split(',').map(number).collect(),
        (_, Ok(runs)) => (0..number(&runs)).collect(),
        _ => (0..RUNS).collect(),
    };
    run::note_panics();
    let watch = watch();
    let mut failed = Vec::new();
    let mut calls = (0, 0);
    for &seed in &seeds {
        watch.send(seed).unwrap();
        let plan = Plan::new(seed);
        if std::env::var_os("WAWP_SIM_SHOW").is_some() {
            println!("{plan:#?}");
        }
        let facts = laws::Facts::of(&plan);
        let seen = run::run(seed, plan);
        calls = (calls.0 + seen.outcomes.len(), calls.1 + seen.arrivals.len());
        if std::env::var_os("WAWP_SIM_SHOW").is_some() {
            show(&seen);
        }
        let broken = laws::judge(facts, seen);
        if !broken.is_empty() {
            eprintln!("seed {seed}: repeat with WAWP_SIM_SEEDS={seed} cargo test --test sim");
            for law in &broken {
                eprintln!("  {law}");
            }
            failed.push(seed);
        }
    }
    let runs = seeds.len();
    println!(
        "{runs} runs, {} calls of apps, {} upstream",
        calls.0, calls.1
    );
    assert!(
        failed.is_empty(),
        "{} of {runs} runs broke a law: {failed:?}",
        failed.len()
    );
}

/// Ends the process when a run does not end, naming its seed.
fn watch() -> mpsc::Sender<u64> {
    let (begins, begun) = mpsc::channel();
    std::thread::spawn(move || {
        let mut seed = None;
        loop {
            match begun.recv_timeout(LONGEST) {
                Ok(next) => seed = Some(next),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("the run of seed {seed:?} does not end");
                    std::process::abort();
                }
            }
        }
    });
    begins
}

/// Prints what a run saw.
fn show(seen: &run::Seen) {
    for outcome in &seen.outcomes {
        println!("{outcome:?}");
    }
    for (number, arrival) in seen.arrivals.iter().enumerate() {
        println!("call {number} {arrival:?}");
    }
    println!("kills {:?}, drain {:?}", seen.kills, seen.drain);
}
