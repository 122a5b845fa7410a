//! Holds `dashboards/evenkeel.json` to the rules that make a dashboard readable and true.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::promql::{Selector, selectors};
use crate::read;
use crate::rules::EXPORTED_WITH_TLS;

const DASHBOARD: &str = "dashboards/evenkeel.json";
const ROWS: [&str; 7] = ["Cluster", "Raft", "Rebalancing", "Gateway", "Storage", "Exporters", "Process"];
/// First the data source, then from the whole to its parts.
const VARIABLES: [&str; 6] = ["datasource", "cluster", "namespace", "pod", "partition", "follower"];
/// Grafana's own.
const BUILT_IN: [&str; 2] = ["__rate_interval", "__range"];
/// Their text is fixed: operators know it from Zeebe's documentation, and paste it.
const FIXED_BY_ZEEBE: [(&str, &str); 2] = [
    (
        "Non replicated records",
        "sum(atomix_non_replicated_entries{partition=~\"$partition\", follower=~\"$follower\"}) by (partition, \
         follower)",
    ),
    ("Leader append data rate", "sum(rate(atomix_append_entries_data_rate_total[1m]))"),
];
/// Units of Grafana that stand for what our metrics are in.
const UNITS: [&str; 8] = ["none", "short", "percentunit", "bytes", "Bps", "s", "cps", "reqps"];
/// Functions that only make sense on what grows.
pub const COUNTER_FUNCTIONS: [&str; 3] = ["rate", "irate", "increase"];
/// Where metrics are defined.
const DEFINITIONS: [&str; 4] = [
    "crates/broker/src/metric_definitions.rs",
    "crates/gateway/src/metric_definitions.rs",
    "crates/raft-storage/src/metric_definitions.rs",
    "crates/process-metrics/src/lib.rs",
];

/// One panel of the dashboard.
pub struct Panel {
    pub row: String,
    pub title: String,
    pub queries: Vec<String>,
    json: Value,
}

impl Panel {
    fn is_fixed(&self) -> bool {
        FIXED_BY_ZEEBE.iter().any(|(title, query)| self.title == *title && self.queries == [*query])
    }

    fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

/// All panels but rows.
pub fn panels() -> Vec<Panel> {
    let mut row = String::new();
    let mut found = Vec::new();
    for panel in dashboard()["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap().to_owned();
        if panel["type"] == "row" {
            row = title;
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        let queries = targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
        found.push(Panel { row: row.clone(), title, queries, json: panel.clone() });
    }
    assert!(!found.is_empty());
    found
}

/// Every query of every panel, with the panel's title.
pub fn queries() -> Vec<(String, String)> {
    let of_panel = |panel: Panel| {
        let title = format!("{} / {}", panel.row, panel.title);
        panel.queries.into_iter().map(move |query| (title.clone(), query))
    };
    panels().into_iter().flat_map(of_panel).collect()
}

/// What is defined as a metric: its name in quotation marks in one of the files of definitions.
pub fn is_exported(metric: &str) -> bool {
    let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
    let defined = |name: &str| DEFINITIONS.iter().any(|file| read(file).contains(&format!("\"{name}\"")));
    defined(metric) || base.is_some_and(defined)
}

#[test]
fn rows_and_variables_are_where_operators_look_for_them() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "evenkeel", "links and provisioning rely on it");
    let panels = dashboard["panels"].as_array().unwrap();
    let rows: Vec<&str> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    assert_eq!(rows, ROWS);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, VARIABLES);
    assert_eq!(variables[0]["type"], "datasource");
    for variable in &variables[1..] {
        let values = variable["query"]["query"].as_str().unwrap();
        let asked = selectors(values);
        assert!(asked.len() == 1 && is_exported(&asked[0].metric), "{values}");
        assert_eq!(variable["datasource"]["uid"], "${datasource}");
    }
}

#[test]
fn every_panel_has_title_unit_description_and_a_query() {
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels() {
        let title = &panel.title;
        assert!(titles.insert(title.clone()), "two panels are called {title}");
        assert!(ids.insert(panel.json["id"].as_u64().unwrap()), "{title}");
        assert!(title.starts_with(char::is_uppercase), "{title}");
        let description = panel.text("/description");
        assert!(
            description.len() > 20 && description.ends_with('.'),
            "{title}: {description:?} explains nothing"
        );
        let unit = panel.text("/fieldConfig/defaults/unit");
        assert!(UNITS.contains(&unit), "{title}: {unit:?}");
        assert_eq!(panel.text("/datasource/uid"), "${datasource}", "{title}");
        assert!(!panel.queries.is_empty(), "{title}");
        for target in panel.json["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert!(target["legendFormat"].as_str().is_some_and(|legend| !legend.is_empty()), "{title}");
        }
    }
}

#[test]
fn units_fit_what_is_asked() {
    for panel in panels() {
        let unit = panel.text("/fieldConfig/defaults/unit").to_owned();
        let rates = ["Bps", "cps", "reqps"].contains(&unit.as_str());
        for query in &panel.queries {
            let quantile_or_rate = |name: &str| selectors(query).iter().any(|s| s.metric.contains(name));
            if query.starts_with("histogram_quantile") {
                assert_eq!(unit, "s", "{}: {query}", panel.title);
                assert!(quantile_or_rate("_bucket"), "{}: {query}", panel.title);
            }
            if rates {
                assert!(query.contains("rate("), "{}: {query} is no rate", panel.title);
            }
            if unit == "Bps" {
                assert!(
                    quantile_or_rate("bytes") || quantile_or_rate("data_rate"),
                    "{}: {query}",
                    panel.title
                );
            }
        }
    }
}

#[test]
fn panels_stand_beside_each_other_and_not_on_each_other() {
    let mut taken = BTreeSet::new();
    for panel in dashboard()["panels"].as_array().unwrap() {
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} stands on another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn the_raft_row_asks_what_operators_know_from_zeebe() {
    for (title, query) in FIXED_BY_ZEEBE {
        let known = panels().into_iter().find(|panel| panel.row == "Raft" && panel.title == title);
        assert_eq!(known.unwrap_or_else(|| panic!("no panel {title}")).queries, [query]);
    }
}

#[test]
fn rates_are_taken_of_counters_and_over_an_interval_that_fits_the_scrapes() {
    for panel in panels() {
        let is_stat = panel.json["type"] == "stat";
        for query in &panel.queries {
            for Selector { metric, range, function, .. } in selectors(query) {
                let of_counter = function.as_deref().is_some_and(|name| COUNTER_FUNCTIONS.contains(&name));
                let grows =
                    ["_total", "_bucket", "_sum", "_count"].iter().any(|suffix| metric.ends_with(suffix));
                // Zeebe calls a gauge so.
                let grows = grows && metric != "atomix_snapshot_replication_count";
                assert_eq!(of_counter, grows, "{}: {metric} in {query}", panel.title);
                assert_eq!(of_counter, range.is_some(), "{}: {query}", panel.title);
                match range.as_deref() {
                    None | Some("$__rate_interval") => {}
                    // The whole time shown, as one figure.
                    Some("$__range") if is_stat => {}
                    Some(_) => assert!(panel.is_fixed(), "{}: {query}", panel.title),
                }
            }
        }
    }
}

#[test]
fn every_query_follows_the_choice_of_cluster_and_namespace() {
    for panel in panels().iter().filter(|panel| !panel.is_fixed()) {
        for query in &panel.queries {
            for selector in selectors(query) {
                let chosen = r#"cluster=~"$cluster", namespace=~"$namespace""#;
                assert!(
                    selector.matchers.contains(chosen),
                    "{}: {} in {query}",
                    panel.title,
                    selector.metric
                );
            }
        }
    }
}

#[test]
fn every_variable_in_a_query_or_legend_exists() {
    for panel in panels() {
        for query in &panel.queries {
            for after in query.split('$').skip(1) {
                let end =
                    after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                let name = &after[..end];
                assert!(VARIABLES.contains(&name) || BUILT_IN.contains(&name), "${name} in {query}");
            }
        }
        assert!(!panel.queries.concat().contains('@'), "{}: a placeholder is left", panel.title);
    }
}

#[test]
fn every_metric_asked_for_is_exported_or_recorded() {
    let recorded = read("dashboards/rules/recording.yml");
    for (title, query) in queries() {
        let asked = selectors(&query);
        assert!(!asked.is_empty(), "{title}: {query} asks for none of our metrics");
        for selector in asked {
            let exists = if selector.is_recorded() {
                recorded.contains(&format!("record: {}\n", selector.metric))
            } else {
                is_exported(&selector.metric) || EXPORTED_WITH_TLS.contains(&selector.metric.as_str())
            };
            assert!(exists, "{title}: {} is neither exported nor recorded", selector.metric);
        }
    }
}

#[test]
fn provisioning_finds_the_dashboard_and_the_data_source() {
    let dashboards = read("dashboards/provisioning/dashboards/evenkeel.yml");
    assert!(dashboards.contains("path: /var/lib/grafana/dashboards/evenkeel"), "{dashboards}");
    let source = read("dashboards/provisioning/datasources/prometheus.yml");
    assert!(source.contains("type: prometheus") && source.contains("url: "), "{source}");
    let told = read("dashboards/README.md");
    assert!(told.contains("/var/lib/grafana/dashboards/evenkeel"), "the same folder is named in the README");
}
