//! A simulation: apps, the gateway and a misbehaving upstream in one thread
//! and in virtual time; thousands of runs, each checked by the same laws. A second test has
//! several gateways that crash, and a server that they share and that fails, too.
//!
//! A seed decides the settings, the requests and their times, which clients leave,
//! and how the upstream fails ([`plan`]); [`laws`] checks what happened. The seed
//! does not decide the jitter of retries and of the ages of connections, nor the order of
//! tasks that wake at the same time, so a rare failure may need several runs of its seed to
//! come back.
//!
//! Plans that once broke a law always run as well ([`known`]).
//!
//! - `WAWP_SIM_SEEDS=12345 cargo test --test sim` runs these seeds (separated
//!   by commas);
//! - `WAWP_SIM_RUNS=5000 cargo test --test sim` runs so many seeds, from 0;
//! - `WAWP_SIM_SHOW=1` with `-- --nocapture` prints what happened in each run.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod client;
mod gateways;
mod known;
mod laws;
mod plan;
mod rng;
mod run;
mod upstream;
mod wire;
mod writing;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use plan::Plan;

/// Real time that a run may take; runs take milliseconds. A longer one is a loop in
/// which virtual time stands still, which would otherwise never be reported.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// The default number of runs: about half a minute of an unoptimised build.
const RUNS: u64 = 400;

/// The same for several gateways, whose runs take longer.
const RUNS_OF_CLUSTERS: u64 = 100;

#[test]
fn every_law_holds_in_every_run() {
    let known = known::plans().into_iter();
    let known = known.map(|(name, plan)| (format!("the plan \"{name}\""), 0, plan));
    run_all(known, RUNS, Plan::new);
}

#[test]
fn every_law_holds_among_gateways() {
    let chances = run_all(std::iter::empty(), RUNS_OF_CLUSTERS, Plan::of_cluster);
    let is_default =
        ["WAWP_SIM_SEEDS", "WAWP_SIM_RUNS"].map(|name| std::env::var_os(name).is_none());
    for law in laws::AMONG_GATEWAYS {
        let count = chances.get(law).copied().unwrap_or_default();
        println!("{law}: {count} chances to break it");
        assert!(
            is_default.contains(&false) || count > 0,
            "{law}: no run can break it"
        );
    }
}

/// Runs these plans, and those of the seeds. Returns how often each law among gateways could have
/// been broken.
fn run_all(
    known: impl Iterator<Item = (String, u64, Plan)>,
    default: u64,
    drawn: impl Fn(u64) -> Plan,
) -> BTreeMap<&'static str, usize> {
    let number = |text: &str| text.trim().parse().expect("a seed is a number");
    let seeds: Vec<u64> = match (
        std::env::var("WAWP_SIM_SEEDS"),
        std::env::var("WAWP_SIM_RUNS"),
    ) {
        (Ok(seeds), _) => seeds.split(',').map(number).collect(),
        (_, Ok(runs)) => (0..number(&runs)).collect(),
        _ => (0..default).collect(),
    };
    run::note_panics();
    let watch = watch();
    let mut failed = Vec::new();
    let mut calls = (0, 0);
    let mut chances: BTreeMap<_, usize> = BTreeMap::new();
    let of_seeds = seeds.iter().map(|&seed| {
        let name = format!("seed {seed} (WAWP_SIM_SEEDS={seed} cargo test --test sim)");
        (name, seed, drawn(seed))
    });
    let mut runs = 0;
    for (name, seed, plan) in known.chain(of_seeds) {
        runs += 1;
        watch.send(name.clone()).unwrap();
        if std::env::var_os("WAWP_SIM_SHOW").is_some() {
            println!("{plan:#?}");
        }
        let facts = laws::Facts::of(&plan);
        let seen = run::run(seed, plan);
        calls = (
            calls.0 + seen.outcomes.len(),
            calls.1 + seen.upstream.arrivals.len(),
        );
        if std::env::var_os("WAWP_SIM_SHOW").is_some() {
            show(&seen);
        }
        let verdict = laws::judge(facts, seen);
        for (law, count) in verdict.chances {
            *chances.entry(law).or_default() += count;
        }
        if !verdict.broken.is_empty() {
            eprintln!("{name}:");
            for law in &verdict.broken {
                eprintln!("  {law}");
            }
            failed.push(name);
        }
    }
    println!(
        "{runs} runs, {} requests of apps, {} upstream calls",
        calls.0, calls.1
    );
    assert!(
        failed.is_empty(),
        "{} of {runs} runs broke a law: {failed:#?}",
        failed.len()
    );
    chances
}

/// Aborts the process when a run does not end, naming it.
fn watch() -> mpsc::Sender<String> {
    let (begins, begun) = mpsc::channel();
    std::thread::spawn(move || {
        let mut run = String::new();
        loop {
            match begun.recv_timeout(LONGEST_RUN) {
                Ok(next) => run = next,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("this run does not end: {run}");
                    std::process::abort();
                }
            }
        }
    });
    begins
}

/// Prints what happened in a run.
fn show(seen: &run::Seen) {
    for outcome in &seen.outcomes {
        println!("{outcome:?}");
    }
    for (number, arrival) in seen.upstream.arrivals.iter().enumerate() {
        println!("call {number} {arrival:?}");
    }
    for (number, connection) in seen.upstream.connections.iter().enumerate() {
        println!("connection {number} {connection:?}");
    }
    for refusal in &seen.upstream.refusals {
        println!("{refusal:?}");
    }
    for attempt in &seen.upstream.attempts {
        println!("{attempt:?}");
    }
    println!("kills {:?}, drain {:?}", seen.upstream.kills, seen.drain);
    println!("crashes {:?}", seen.crashes);
}
