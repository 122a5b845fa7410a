//! The README's commands exist.

use std::collections::BTreeSet;

use crate::harness::evenkeel;

const README: &str = include_str!("../../README.md");

/// Every command that the README shows, from its name on: `$ evenkeel put KEY` gives `put`, `KEY`.
fn shown_commands() -> Vec<Vec<&'static str>> {
    let starts = ["$ evenkeel ", "cargo run --release -- "];
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
