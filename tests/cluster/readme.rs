//! What README, ARCHITECTURE and the pages in docs name exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use evenkeel_settings::Settings;

use crate::harness::evenkeel;

/// A page, and its path from the root of the repository.
struct Page {
    path: PathBuf,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A page by its path from the root of the repository.
pub fn page_text(path: &str) -> String {
    page(path).text
}

fn page(path: impl Into<PathBuf>) -> Page {
    let path = path.into();
    let text = std::fs::read_to_string(root().join(&path)).unwrap();
    Page { path, text }
}

fn pages_in(folder: &str) -> Vec<Page> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let paths = entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
    paths.filter(|path| path.extension().is_some_and(|ending| ending == "md")).map(page).collect()
}

/// The runbooks are no part of these: tests/monitoring looks after them.
fn documents() -> Vec<Page> {
    let mut documents = pages_in("docs");
    assert!(documents.len() > 1, "docs has no pages");
    documents.extend([page("README.md"), page("ARCHITECTURE.md")]);
    documents
}

/// A page's prose, and its code blocks with their language in the first line, in turn.
pub fn parts(text: &str) -> impl Iterator<Item = (bool, &str)> {
    text.split("```").enumerate().map(|(i, part)| (i % 2 == 1, part))
}

/// Every command that a page shows, from its name on: `$ evenkeel put KEY` gives `put`, `KEY`.
fn shown_commands<'a>(text: &'a str) -> BTreeSet<Vec<&'a str>> {
    let mut shown: Vec<&'a str> = Vec::new();
    for (is_code, part) in parts(text) {
        if !is_code {
            shown.extend(in_code(part).filter_map(|code| code.strip_prefix("evenkeel ")));
            continue;
        }
        let (language, block) = part.split_once('\n').unwrap_or_default();
        let prompt = match language {
            "console" => "$ ",
            "sh" => "",
            _ => continue,
        };
        shown.extend(block.lines().filter_map(|line| {
            let line = line.trim().strip_prefix(prompt)?;
            line.strip_prefix("evenkeel ").or_else(|| line.strip_prefix("cargo run --release -- "))
        }));
    }
    let first = |line: &'a str| line.split(['#', '&', ';', '|']).next().unwrap_or_default();
    let commands = shown.into_iter().map(|line| first(line).split_whitespace().collect::<Vec<_>>());
    commands.filter(|words| !words.is_empty()).collect()
}

/// What stands between backticks.
fn in_code(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_and_flag_that_the_documents_show_is_in_the_help() {
    let readme = page("README.md");
    let names: BTreeSet<&str> = shown_commands(&readme.text).iter().map(|words| words[0]).collect();
    for expected in ["dev", "demo", "status", "rebalance", "put", "get"] {
        assert!(names.contains(expected), "the README does not show `evenkeel {expected}`");
    }
    let top = help(&["--help"]).await;
    for Page { path, text } in documents() {
        for words in shown_commands(&text) {
            let command = format!("{}: evenkeel {}", path.display(), words.join(" "));
            assert!(lists(&top, words[0]), "{command}: not a command:\n{top}");
            let mut told = help(&[words[0], "--help"]).await;
            if let Some(part) = words.get(1)
                && lists(&told, part)
            {
                told = help(&[words[0], part, "--help"]).await;
            }
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                assert!(told.split_whitespace().any(|word| word == flag), "{command}: no {flag}:\n{told}");
            }
        }
    }
}

async fn help(args: &[&str]) -> String {
    let output = evenkeel(args.iter().copied()).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a help text has this command.
fn lists(help: &str, command: &str) -> bool {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let mut listed = listed.take_while(|line| !line.is_empty());
    // What goes on from the line above is indented further.
    listed.any(|line| line.strip_prefix("  ").and_then(|line| line.split(' ').next()) == Some(command))
}

#[test]
fn the_configuration_page_has_every_setting_with_its_default_and_its_help() {
    let Page { text, .. } = page("docs/configuration.md");
    let (broker, gateway) = text.split_once("\n## Gateway\n").unwrap();
    assert_eq!(described(broker), settings::<evenkeel_broker::Options>());
    assert_eq!(described(gateway), settings::<evenkeel_gateway::Options>());
}

/// The rows of the page's tables that are about keys.
fn described(text: &str) -> BTreeSet<String> {
    let tables = text.split("\n\n").filter(|part| part.trim_start().starts_with("| key |"));
    tables.flat_map(str::lines).filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
}

/// The rows that there should be.
fn settings<T: Settings>() -> BTreeSet<String> {
    let defaults = toml::Value::try_from(T::default()).unwrap();
    let row = |(key, help): &(&str, &str)| {
        let default = key.split('.').fold(&defaults, |table, name| &table[name]);
        format!("| `{key}` | `{default}` | {help}. |")
    };
    T::DOCS.iter().map(row).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let folders = ["docs/runbooks", "deploy", "dashboards"];
    for Page { path, text } in documents().into_iter().chain(folders.into_iter().flat_map(pages_in)) {
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(root().join(&target).exists(), "{}: no {link}", path.display());
            if !anchor.is_empty() {
                let headings = page(target).text;
                let mut headings = headings.lines().filter_map(|line| line.strip_prefix('#'));
                assert!(
                    headings.any(|heading| anchor_of(heading) == anchor),
                    "{}: no {link}",
                    path.display()
                );
            }
        }
    }
}

/// As forges name headings.
fn anchor_of(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_file_and_folder_that_the_documents_name_exists() {
    let mut paths = Vec::new();
    for folder in ["crates", "proto", "tests", "deploy", "dashboards", "docs", "fuzz", ".ci"] {
        collect(&root().join(folder), Path::new(folder), &mut paths);
    }
    let is_path = |text: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        text.chars().all(plain) && (text.ends_with('/') || text.ends_with(".rs") || text.ends_with(".proto"))
    };
    for Page { path, text } in documents() {
        let prose = parts(&text).filter(|(is_code, _)| !is_code).map(|(_, prose)| prose);
        // Relative to the part of the tree that the text is about, and without `src`.
        let missing: Vec<&str> = prose
            .flat_map(in_code)
            .filter(is_path)
            .filter(|name| {
                let parts: Vec<&str> = name.trim_end_matches('/').split('/').collect();
                !["log/", "state/"].contains(name) && !paths.iter().any(|path| ends_like(path, &parts))
            })
            .collect();
        assert!(missing.is_empty(), "{}: {missing:?}", path.display());
    }
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
