//! The documents stay true to each other: links lead somewhere, rules that comments cite exist, and the README stays
//! short.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a directory with this extension, also those further down if `deep`.
fn files(directory: &Path, extension: &str, deep: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if deep && path.is_dir() {
            found.extend(files(&path, extension, deep));
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found
}

/// The anchors that a forge gives to the headings of a document.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings.map(anchor).collect()
}

fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().replace(' ', "-")
}

/// The targets of links: what stands between `](` and `)`.
fn links(document: &str) -> impl Iterator<Item = &str> {
    document
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .filter(|target| !target.contains("://"))
}

#[test]
fn every_link_between_documents_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    let documents = [
        "",
        ".github",
        ".packages",
        "benches",
        "grafana",
        "src",
        "src/config",
        "tests",
    ];
    for path in documents
        .iter()
        .flat_map(|name| files(&root(name), "md", false))
    {
        let name = path.display();
        let document = text(&path);
        for link in links(&document) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let is_there = target.exists()
                && (heading.is_empty() || anchors(&text(&target)).contains(heading));
            if !is_there {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_rule_that_a_comment_cites_is_a_heading_of_the_rules() {
    let document = text(&root("src/README.md"));
    let headings = document
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let rules: BTreeSet<&str> = headings.collect();
    let mut unknown = Vec::new();
    for path in ["src", "tests", "benches"]
        .iter()
        .flat_map(|name| files(&root(name), "rs", true))
        .filter(|path| !path.ends_with("tests/documents.rs"))
    {
        unknown.extend(unknown_rules(&path, &rules));
    }
    assert!(unknown.is_empty(), "no such rule: {unknown:#?}");
}

/// The rules that a file cites, as `(rule: pauses)` or `(rules: pauses, egress)`, and that do not exist.
fn unknown_rules(path: &Path, rules: &BTreeSet<&str>) -> Vec<String> {
    // A citation may be broken over two lines of a comment.
    let source = text(path).replace("\n", " ");
    let source = source
        .replace("//!", " ")
        .replace("//", " ")
        .replace('/', " ");
    let words: Vec<&str> = source.split_whitespace().collect();
    let source = words.join(" ");
    let cited = ["(rule: ", "(rules: "].into_iter().flat_map(|start| {
        let after = source.split(start).skip(1);
        after.filter_map(|rest| rest.split_once(')'))
    });
    let names = cited.flat_map(|(names, _)| names.split([',', ';']).map(str::trim));
    names
        .filter(|name| !rules.contains(name))
        .map(|name| format!("{}: {name}", path.display()))
        .collect()
}

#[test]
fn the_readme_is_short_enough_to_be_read() {
    let lines = text(&root("README.md")).lines().count();
    assert!(lines <= 200, "{lines} lines");
}
