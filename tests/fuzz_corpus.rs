//! Runs every input of the fuzz targets' corpus, and every finding that was
//! kept, through the laws of `testing::fuzz`. How to fuzz on from here is
//! in `tests/README.md`.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::panic::catch_unwind;
use std::path::Path;

use wawp_gateway::testing::fuzz;

/// Runs all inputs of a target; names those that break a law.
fn walk(target: &str, law: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut inputs = 0;
    let mut broken = Vec::new();
    for kept in ["corpus", "findings"] {
        let Ok(files) = fuzz.join(kept).join(target).read_dir() else {
            assert_eq!(kept, "findings", "{target} has no corpus");
            continue;
        };
        for file in files {
            let path = file.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            inputs += 1;
            if catch_unwind(|| law(&input)).is_err() {
                broken.push(path);
            }
        }
    }
    assert!(inputs > 10, "{target} has only {inputs} inputs");
    assert!(broken.is_empty(), "{target}: {broken:#?}");
}

#[test]
fn identity() {
    walk("identity", fuzz::identity);
}

#[test]
fn receipt() {
    walk("receipt", fuzz::receipt);
}

#[test]
fn merged() {
    walk("merged", fuzz::merged);
}

#[test]
fn settings() {
    walk("settings", fuzz::settings);
}
