//! Every crate we depend on may be used under terms we accept.

use std::process::Command;

use serde_json::Value;

/// Licences that ask for no more than a notice.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // The root certificates' data.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Whether an SPDX expression can be met with accepted licences alone.
fn accepts(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let tokens = expression.replace('(', " ( ").replace(')', " ) ");
    let mut tokens = tokens.split_whitespace().peekable();
    let met = any(&mut tokens);
    met && tokens.next().is_none()
}

type Tokens<'t> = std::iter::Peekable<std::str::SplitWhitespace<'t>>;

fn any(tokens: &mut Tokens<'_>) -> bool {
    let mut met = all(tokens);
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all(tokens);
    }
    met
}

fn all(tokens: &mut Tokens<'_>) -> bool {
    let mut met = one(tokens);
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens);
    }
    met
}

fn one(tokens: &mut Tokens<'_>) -> bool {
    match tokens.next() {
        Some("(") => {
            let met = any(tokens);
            tokens.next() == Some(")") && met
        }
        Some(licence) => {
            // An exception only ever grants more.
            if tokens.next_if_eq(&"WITH").is_some() {
                tokens.next();
            }
            ACCEPTED.contains(&licence)
        }
        None => false,
    }
}

#[test]
fn expressions_are_understood() {
    assert!(accepts("MIT OR Apache-2.0"));
    assert!(accepts("MIT/Apache-2.0"));
    assert!(accepts("(MIT OR GPL-3.0) AND ISC"));
    assert!(accepts("Apache-2.0 WITH LLVM-exception"));
    assert!(!accepts("MIT AND GPL-3.0"));
    assert!(!accepts("GPL-3.0"));
    assert!(!accepts("(MIT"));
    assert!(!accepts(""));
}

#[test]
fn every_dependency_is_under_accepted_terms() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    assert!(packages.len() > 50, "the whole tree is looked at");
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !accepts(package["license"].as_str().unwrap_or("")))
        .map(|package| {
            format!(
                "{} {}: {}",
                package["name"], package["version"], package["license"]
            )
        })
        .collect();
    assert!(refused.is_empty(), "licences not accepted: {refused:#?}");
}
