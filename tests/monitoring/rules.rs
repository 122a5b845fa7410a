//! Recording rules and alerts: what promtool says of them, and what it does not look at.

use std::collections::BTreeSet;

use crate::dashboard::{COUNTER_FUNCTIONS, is_exported};
use crate::prometheus::{installed, promtool, write_installed_configuration};
use crate::promql::selectors;
use crate::{at_root, read};

const ALERTS: &str = "dashboards/rules/alerts.yml";
const RECORDING: &str = "dashboards/rules/recording.yml";
const ALERT_TESTS: &str = "dashboards/rules/tests/alerts.test.yml";
const RECORDING_TESTS: &str = "dashboards/rules/tests/recording.test.yml";

/// A metric that only processes with certificates export. The page of its alert says so, and tests/cluster looks at it.
pub const EXPORTED_WITH_TLS: [&str; 1] = ["evenkeel_certificate_expiry_timestamp_seconds"];

/// One alert, by the lines of its file.
pub struct Alert {
    pub name: String,
    text: String,
}

impl Alert {
    /// The rest of the line after `key:`.
    pub fn line(&self, key: &str) -> Option<&str> {
        let line = self.text.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}:")))?;
        Some(line.trim())
    }
}

pub fn alerts() -> Vec<Alert> {
    let text = read(ALERTS);
    let alert = |part: &str| {
        let (name, text) = part.split_once('\n').unwrap();
        Alert { name: name.trim().to_owned(), text: text.to_owned() }
    };
    let alerts: Vec<Alert> = text.split("- alert:").skip(1).map(alert).collect();
    assert!(!alerts.is_empty());
    alerts
}

fn succeeds(args: &[&str]) {
    let output = promtool(args, "");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}\n{text}");
}

#[test]
fn promtool_accepts_rules_and_configuration() {
    if !installed("promtool") {
        return;
    }
    for rules in [RECORDING, ALERTS] {
        succeeds(&["check", "rules", "--lint=all", "--lint-fatal", at_root(rules).to_str().unwrap()]);
    }
    // Reads the rules through the configuration.
    let folder = tempfile::tempdir().unwrap();
    succeeds(&["check", "config", write_installed_configuration(folder.path()).to_str().unwrap()]);
}

#[test]
fn alerts_fire_when_they_should_and_are_silent_when_not() {
    if !installed("promtool") {
        return;
    }
    for tests in [ALERT_TESTS, RECORDING_TESTS] {
        succeeds(&["test", "rules", at_root(tests).to_str().unwrap()]);
    }
}

#[test]
fn every_alert_says_what_is_wrong_and_where_to_read_on() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = &alert.name;
        assert!(names.insert(name.clone()), "{name} is there twice");
        let camel = name.starts_with("Evenkeel") && name.chars().all(|c| c.is_ascii_alphanumeric());
        assert!(camel, "{name}");
        for key in ["expr", "severity", "summary", "description"] {
            assert!(alert.line(key).is_some_and(|text| !text.is_empty()), "{name} has no {key}");
        }
        assert!(["critical", "warning"].contains(&alert.line("severity").unwrap()), "{name}");
        let url = alert.line("runbook_url").unwrap_or_default();
        assert_eq!(url, format!("https://evenkeel.example.net/runbooks/{name}.md"));
    }
}

#[test]
fn every_alert_is_tested_firing_and_silent() {
    let tests = read(ALERT_TESTS);
    for alert in alerts() {
        let mentions: Vec<&str> = tests.split(&format!("alertname: {}\n", alert.name)).skip(1).collect();
        let silent = mentions.iter().filter(|rest| rest.trim_start().starts_with("exp_alerts: []")).count();
        assert!(silent > 0, "{} is never expected to be silent", alert.name);
        assert!(mentions.len() > silent, "{} is never expected to fire", alert.name);
    }
}

#[test]
fn every_recording_rule_is_named_for_its_level_metric_and_operation_and_tested() {
    let tests = read(RECORDING_TESTS);
    let text = read(RECORDING);
    let records: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- record:")).map(str::trim).collect();
    assert!(!records.is_empty());
    for record in records {
        let parts: Vec<&str> = record.split(':').collect();
        assert!(parts.len() == 3 && parts.iter().all(|part| !part.is_empty()), "{record}");
        assert!(["cluster", "broker", "partition", "instance"].contains(&parts[0]), "{record}");
        assert!(!parts[1].ends_with("_total"), "{record}: a rate is no total");
        assert!(tests.contains(record), "{record} is not tested");
    }
}

#[test]
fn every_metric_that_rules_ask_for_is_exported_or_recorded_and_rates_are_of_counters() {
    let recording = read(RECORDING);
    let alerts = read(ALERTS);
    let queries = [&recording, &alerts].into_iter().flat_map(|rules| rules.split("expr:").skip(1));
    let mut asked = 0;
    for query in queries {
        // Up to the next key; what follows has no selectors.
        let query = query.split("\n        for:").next().unwrap().split("\n        labels:").next().unwrap();
        let query = query.split("\n\n").next().unwrap();
        for selector in selectors(query).iter().filter(|s| !s.is_recorded()) {
            let known =
                is_exported(&selector.metric) || EXPORTED_WITH_TLS.contains(&selector.metric.as_str());
            assert!(known, "{} in {query}", selector.metric);
            let of_counter =
                selector.function.as_deref().is_some_and(|name| COUNTER_FUNCTIONS.contains(&name));
            let grows = ["_total", "_bucket"].iter().any(|suffix| selector.metric.ends_with(suffix));
            assert_eq!(of_counter, grows, "{} in {query}", selector.metric);
            asked += 1;
        }
        for selector in selectors(query).iter().filter(|s| s.is_recorded()) {
            let recorded = recording.contains(&format!("record: {}\n", selector.metric));
            assert!(recorded, "{} in {query}", selector.metric);
        }
    }
    assert!(asked > 0);
}
