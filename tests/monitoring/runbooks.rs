//! `docs/runbooks` has a page for each alert, and what the pages tell people to do exists.

use std::collections::BTreeSet;

use crate::dashboard::{is_exported, panels};
use crate::harness::evenkeel;
use crate::promql::selectors;
use crate::rules::{EXPORTED_WITH_TLS, alerts};
use crate::{at_root, read};

const SECTIONS: [&str; 4] = ["## What it means", "## Impact", "## How to see it", "## What to do"];

fn pages() -> Vec<(String, String)> {
    let folder = at_root("docs/runbooks");
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("docs/runbooks/{name}"));
        pages.push((name, text));
    }
    pages
}

/// Lines of the page's code blocks in this language.
fn code<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let blocks = page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty()).collect()
}

#[test]
fn every_alert_has_a_page_and_every_page_an_alert() {
    let pages: BTreeSet<String> =
        pages().into_iter().map(|(name, _)| name).filter(|n| n != "README.md").collect();
    let wanted: BTreeSet<String> = alerts().iter().map(|alert| format!("{}.md", alert.name)).collect();
    assert_eq!(pages, wanted);
}

#[test]
fn every_page_tells_what_it_means_what_it_costs_how_to_see_it_and_what_to_do() {
    let index = read("docs/runbooks/README.md");
    for (name, text) in pages().iter().filter(|(name, _)| name != "README.md") {
        let alert = name.strip_suffix(".md").unwrap();
        assert!(text.starts_with(&format!("# {alert}\n")), "{name}");
        let mut after = text.as_str();
        for section in SECTIONS {
            let Some((_, rest)) = after.split_once(&format!("\n{section}\n")) else {
                panic!("{name}: no section {section:?} in its place");
            };
            after = rest;
        }
        assert!(!code(text, "sh").is_empty(), "{name} names no command");
        assert!(!code(text, "promql").is_empty(), "{name} has no query");
        assert!(index.contains(&format!("({name})")), "the index does not name {name}");
    }
}

#[test]
fn what_pages_ask_prometheus_for_exists() {
    for (name, text) in pages() {
        for query in code(&text, "promql") {
            let asked = selectors(query);
            assert!(!asked.is_empty(), "{name}: {query}");
            for metric in asked.iter().filter(|s| !s.is_recorded()).map(|s| s.metric.as_str()) {
                assert!(is_exported(metric) || EXPORTED_WITH_TLS.contains(&metric), "{name}: {metric}");
            }
        }
    }
}

#[test]
fn panels_that_pages_name_exist() {
    let titles: Vec<String> = panels().into_iter().map(|panel| panel.title).collect();
    let mut named = 0;
    for (name, text) in pages() {
        for after in text.split("panel *").skip(1) {
            let title = after.split('*').next().unwrap();
            assert!(titles.iter().any(|known| known == title), "{name}: no panel {title:?}");
            named += 1;
        }
    }
    assert!(named > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_pages_name_exist() {
    let mut commands = BTreeSet::new();
    for (name, text) in pages() {
        for line in code(&text, "sh") {
            let line = line.split('#').next().unwrap();
            if let Some(command) = line.trim().strip_prefix("evenkeel ") {
                commands.insert((name.clone(), command.trim().to_owned()));
            }
        }
    }
    assert!(!commands.is_empty());
    for (name, command) in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        let output = evenkeel([words[0], "--help"]).await;
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{name}: evenkeel {command}: {output:?}");
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(
                help.contains(flag.split('=').next().unwrap()),
                "{name}: {flag} is no option of {}",
                words[0]
            );
        }
    }
}
