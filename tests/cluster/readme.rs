//! What README and ARCHITECTURE name exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::harness::evenkeel;

const README: &str = include_str!("../../README.md");
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// Every command that the README shows, from its name on: `$ evenkeel put KEY` gives `put`, `KEY`.
fn shown_commands() -> Vec<Vec<&'static str>> {
    let starts = ["$ evenkeel ", "$ cargo run --release -- ", "cargo run --release -- "];
    let command = |line: &'static str| starts.iter().find_map(|start| line.trim().strip_prefix(start));
    let without_comment = |command: &'static str| command.split('#').next().unwrap();
    let commands = README.lines().filter_map(command).map(without_comment);
    commands.map(|command| command.split_whitespace().collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_and_flag_that_the_readme_shows_is_in_the_help() {
    let commands = shown_commands();
    let names: BTreeSet<&str> = commands.iter().map(|words| words[0]).collect();
    for expected in ["dev", "demo", "status", "rebalance", "put", "get"] {
        assert!(names.contains(expected), "the README does not show `evenkeel {expected}`");
    }
    let top = help(&["--help"]).await;
    for words in &commands {
        let listed = top.lines().any(|line| line.split_whitespace().next() == Some(words[0]));
        assert!(listed, "{} is not a command:\n{top}", words[0]);
        let text = help(&[words[0], "--help"]).await;
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap();
            assert!(text.contains(flag), "{flag} is not an option of {}:\n{text}", words[0]);
        }
    }
}

async fn help(args: &[&str]) -> String {
    let output = evenkeel(args.iter().copied()).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_file_and_folder_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths = Vec::new();
    for folder in ["crates", "proto", "tests", "deploy", "dashboards", "docs", ".ci"] {
        collect(&root.join(folder), Path::new(folder), &mut paths);
    }
    let in_code = |text: &'static str| text.split('`').skip(1).step_by(2);
    let named = in_code(README).chain(in_code(ARCHITECTURE)).filter(|text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        text.chars().all(plain) && (text.ends_with('/') || text.ends_with(".rs") || text.ends_with(".proto"))
    });
    // Relative to the part of the tree that the text is about, and without `src`.
    let missing: Vec<&str> = named
        .filter(|name| {
            let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
            !["log/", "state/"].contains(name) && !paths.iter().any(|path| ends_like(path, &parts))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whether the path ends with the last part, and has the others before it in their order.
fn ends_like(path: &Path, parts: &[&str]) -> bool {
    let mut components = path.iter().rev().filter_map(|component| component.to_str());
    let (last, before) = parts.split_last().unwrap();
    components.next() == Some(last) && before.iter().rev().all(|part| components.any(|found| found == *part))
}

fn collect(folder: &Path, name: &Path, into: &mut Vec<PathBuf>) {
    into.push(name.to_owned());
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = name.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => collect(&entry.path(), &path, into),
            false => into.push(path),
        }
    }
}
