//! The layers of `src/README.md`, held by the imports of the code.
//!
//! Two laws: a file imports only from its own module or from a lower layer, and
//! the files of one module directory import each other without a cycle. The file
//! that opens a module (`limit.rs` for `limit/`) only gathers it and is left out
//! of the second law. Test code is left out of both.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the lowest layer to the highest. Modules of one line are one
/// layer and do not import each other.
const LAYERS: &[&[&str]] = &[
    &[
        "address_race",
        "config",
        "descriptors",
        "grouped",
        "keepalive",
        "sharded",
        "yield_now",
    ],
    &["http", "redact"],
    &["observe::metrics"],
    &["cluster"],
    &["conn"],
    &["body"],
    &["identity"],
    &["receipt"],
    &["tokens"],
    &["queue"],
    &["limit", "tenant", "upstream"],
    &["batch"],
    &["observe::access_log"],
    &["proxy"],
    &["server"],
    &["gateway"],
    &["observe::admin"],
    &["app"],
    &["cli", "tools"],
];

/// A source file without its tests.
struct Source {
    /// `["limit", "bucket"]` for `src/limit/bucket.rs`.
    path: Vec<String>,
    /// The code, without comments and test modules.
    code: String,
}

#[test]
fn no_file_imports_from_a_higher_layer() {
    let wrong = upward_imports(&sources());
    assert!(
        wrong.is_empty(),
        "imports against the layers:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_files_of_a_directory_import_each_other_without_a_cycle() {
    let wrong = cycles(&sources());
    assert!(
        wrong.is_empty(),
        "cycles inside modules:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn each_of_the_six_imports_that_once_made_a_cycle_is_found() {
    for (file, import) in [
        ("body/client_response", "use crate::server::Server;"),
        (
            "body/client_response",
            "use crate::upstream::UpstreamResponse;",
        ),
        ("body/client", "use crate::observe::access_log::AccessLog;"),
        ("proxy/error", "use crate::server::{Server, ServerShared};"),
        ("http/hop_by_hop", "use crate::identity::Identity;"),
        ("observe/metrics", "use crate::tenant::Tenants;"),
    ] {
        let source = source(file, import);
        assert!(!upward_imports(&[source]).is_empty(), "{file}: {import}");
    }
}

#[test]
fn a_cycle_between_three_files_is_found() {
    let files = [
        source("limit/queue", "use super::bucket::Bucket;"),
        source("limit/bucket", "use crate::limit::{egress, gcra};"),
        source("limit/egress", "use super::queue::WaitQueue;"),
        source("limit/gcra", "use crate::config;"),
    ];
    assert_eq!(cycles(&files).len(), 1);
    assert!(cycles(&files[1..]).is_empty());
}

/// The imports that lead to the same or a higher layer in another module.
fn upward_imports(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let Some((own, rank)) = layer(&source.path) else {
            continue;
        };
        for import in imports(source) {
            match layer(&import) {
                Some((module, _)) if module == own => {}
                Some((_, to)) if to < rank => {}
                Some((module, _)) => wrong.push(format!("{} -> {module}", source.path.join("::"))),
                None => wrong.push(format!(
                    "{}: no layer for {import:?}",
                    source.path.join("::")
                )),
            }
        }
    }
    wrong
}

/// The cycles between the files below each directory, one line for each.
fn cycles(sources: &[Source]) -> Vec<String> {
    // directory -> child -> children it imports
    let mut graphs: BTreeMap<Vec<String>, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for source in sources {
        for import in imports(source) {
            let common = source
                .path
                .iter()
                .zip(&import)
                .take_while(|(a, b)| a == b)
                .count();
            if common == 0 || common >= source.path.len() || common >= import.len() {
                continue;
            }
            let (from, to) = (source.path[common].clone(), import[common].clone());
            let graph = graphs.entry(source.path[..common].to_vec()).or_default();
            graph.entry(from).or_default().insert(to);
        }
    }
    let mut wrong = Vec::new();
    for (directory, mut graph) in graphs {
        // Takes away every file that imports nothing left: what remains is in a cycle or behind one.
        loop {
            let left: BTreeSet<_> = graph.keys().cloned().collect();
            for imported in graph.values_mut() {
                imported.retain(|file| left.contains(file));
            }
            let before = graph.len();
            graph.retain(|_, imported| !imported.is_empty());
            if graph.len() == before {
                break;
            }
        }
        if !graph.is_empty() {
            wrong.push(format!("{}: {graph:?}", directory.join("::")));
        }
    }
    wrong
}

/// The module that a path belongs to, and its layer.
fn layer(path: &[String]) -> Option<(&'static str, usize)> {
    LAYERS.iter().enumerate().find_map(|(rank, modules)| {
        let belongs = |module: &&&str| {
            let names: Vec<_> = module.split("::").collect();
            path.len() >= names.len() && names.iter().zip(path).all(|(name, part)| name == part)
        };
        modules.iter().find(belongs).map(|module| (*module, rank))
    })
}

/// The absolute paths that a file names, by `crate::`, `super::` or `self::`.
fn imports(source: &Source) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (start, prefix) in ["crate::", "super::"]
        .iter()
        .flat_map(|prefix| source.code.match_indices(prefix))
    {
        let before = source.code[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let base = match prefix {
            "crate::" => Vec::new(),
            _ => source.path[..source.path.len() - 1].to_vec(),
        };
        expand(&base, &source.code[start + prefix.len()..], &mut found);
    }
    // What the module's own root gives stays inside the module.
    found.retain(|path| !path.is_empty());
    found
}

/// Reads `a::b::{c, d::e}` behind a prefix; braces may be nested.
fn expand(base: &[String], text: &str, found: &mut BTreeSet<Vec<String>>) {
    let mut path = base.to_vec();
    let mut rest = text;
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = 0;
            for (at, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth > 0 => depth -= 1,
                    ',' | '}' => {
                        let part = group[start..at].trim();
                        if depth == 0 && !part.is_empty() {
                            expand(&path, part, found);
                        }
                        if depth == 0 {
                            start = at + 1;
                        }
                        if c == '}' {
                            return;
                        }
                    }
                    _ => {}
                }
            }
            return;
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        match name {
            "super" => {
                path.pop();
            }
            // An item ends the path; so does a lower-case function.
            "" | "self" => break,
            name => path.push(name.to_owned()),
        }
        match after.strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    found.insert(path);
}

/// All files of `src` that are part of the gateway: no tests, no binary.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .iter()
        .filter_map(|file| {
            let name = file.strip_prefix(&root).unwrap().with_extension("");
            let name = name.to_str().unwrap();
            let is_test = name.split('/').any(|part| part == "tests");
            let is_root = ["lib", "main", "allocator"].contains(&name);
            (!is_test && !is_root).then(|| source(name, &fs::read_to_string(file).unwrap()))
        })
        .collect()
}

fn source(name: &str, text: &str) -> Source {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code: Vec<_> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    Source {
        path: name.split('/').map(str::to_owned).collect(),
        code: code.join("\n"),
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
