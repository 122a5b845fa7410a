//! `dashboards/evenkeel.json` shows what brokers and gateways really export.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;

fn from_root(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboard() -> Value {
    serde_json::from_str(&from_root("dashboards/evenkeel.json")).unwrap()
}

/// All panels but rows, with the title of the row that each stands under.
fn panels(dashboard: &Value) -> Vec<(String, &Value)> {
    let mut row = String::new();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        if panel["type"] == "row" {
            row = panel["title"].as_str().unwrap().to_owned();
        } else {
            found.push((row.clone(), panel));
        }
    }
    assert!(!found.is_empty());
    found
}

fn expressions(panel: &Value) -> Vec<&str> {
    panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap()).collect()
}

#[test]
fn every_panel_has_title_unit_description_and_a_query() {
    let dashboard = dashboard();
    let mut ids = std::collections::BTreeSet::new();
    for (_, panel) in panels(&dashboard) {
        let texts = [&panel["title"], &panel["description"], &panel["fieldConfig"]["defaults"]["unit"]];
        for text in texts {
            assert!(text.as_str().is_some_and(|text| !text.trim().is_empty()), "{panel:#}");
        }
        let queries = expressions(panel);
        assert!(!queries.is_empty() && queries.iter().all(|query| !query.trim().is_empty()), "{panel:#}");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel:#}");
    }
}

#[test]
fn the_raft_row_asks_what_operators_know_from_zeebe() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let known = [
        (
            "Non replicated records",
            "sum(atomix_non_replicated_entries{partition=~\"$partition\", follower=~\"$follower\"}) by (partition, \
             follower)",
        ),
        ("Leader append data rate", "sum(rate(atomix_append_entries_data_rate_total[1m]))"),
    ];
    for (title, query) in known {
        let (_, panel) = panels.iter().find(|(row, panel)| row == "Raft" && panel["title"] == title).unwrap();
        assert_eq!(expressions(panel), [query]);
    }
}

#[test]
fn every_metric_asked_for_is_exported_by_a_broker_or_a_gateway() {
    let exported = ["broker", "gateway"]
        .map(|part| from_root(&format!("crates/{part}/src/metric_definitions.rs")))
        .concat();
    let dashboard = dashboard();
    let mut asked = 0;
    for (_, panel) in panels(&dashboard) {
        for query in expressions(panel) {
            let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let ours = |word: &&str| ["atomix_", "zeebe_", "evenkeel_"].iter().any(|p| word.starts_with(p));
            for metric in words.filter(ours) {
                // What the exporter makes of a histogram.
                let name = metric.strip_suffix("_bucket").unwrap_or(metric);
                assert!(exported.contains(&format!("\"{name}\"")), "{metric} in {query}");
                asked += 1;
            }
        }
    }
    assert!(asked > 0);
}

#[test]
fn every_variable_in_a_query_is_one_of_the_dashboards() {
    let dashboard = dashboard();
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    for (_, panel) in panels(&dashboard) {
        for query in expressions(panel) {
            for after in query.split('$').skip(1) {
                let end =
                    after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                assert!(variables.contains(&&after[..end]), "{query}");
            }
        }
    }
}
