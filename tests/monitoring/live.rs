//! A real Prometheus scrapes a cluster that works, loses a broker and is rebalanced: every query of the dashboard and of
//! the rules answers with data, and the text that is scraped is as Prometheus wants it.

use std::collections::BTreeMap;
use std::path::Path;

use evenkeel_protocol::v1::PutRequest;
use http::Method;
use serde_json::Value;

use crate::dashboard::{COUNTER_FUNCTIONS, queries};
use crate::harness::{Cluster, Load, READER, Scrape, Secured, Spec, http, reserve_ports, wait_until};
use crate::prometheus::{Prometheus, installed, promtool};
use crate::promql::selectors;
use crate::rules::EXPORTED_WITH_TLS;

/// What Grafana would put in for its variables.
const VARIABLES: [(&str, &str); 7] = [
    ("$__rate_interval", "1m"),
    ("$__range", "1h"),
    ("$cluster", ".*"),
    ("$namespace", ".*"),
    ("$pod", ".*"),
    ("$partition", ".*"),
    ("$follower", ".*"),
];
/// More than what logs keep after a snapshot, and than what is purged at once, in each of three partitions.
const WRITES_MISSED: u64 = 2_400;
const WRITES_AT_ONCE: u64 = 400;

/// promtool's complaints about what Zeebe's own dashboard reads, whose names are not ours to choose.
const NAMES_FIXED_BY_ZEEBE: [&str; 6] = [
    "atomix_append_entries_latency",
    "atomix_heartbeat_time_in_s",
    "atomix_election_latency_in_ms",
    "atomix_snapshot_replication_count",
    "atomix_snapshot_replication_duration_milliseconds",
    "zeebe_leader_transition_latency",
];
/// Zeebe's label on every metric of a partition; ours carry it too, so that they can be joined.
const LABEL_FIXED_BY_ZEEBE: &str = "partitionGroupName";
const LABEL_COMPLAINT: &str = "label names should be written in 'snake_case' not 'camelCase'";

async fn write_without_broker(cluster: &Cluster) {
    let client = cluster.client();
    for first in (0..WRITES_MISSED).step_by(WRITES_AT_ONCE as usize) {
        let writes = (first..first + WRITES_AT_ONCE).map(|i| client.put(format!("missed-{i}"), "v", None));
        futures::future::try_join_all(writes).await.unwrap();
    }
}

/// Makes everything happen that a panel shows: load, a refused request, a failover, a snapshot, a rebalance.
async fn live_through_everything(cluster: &mut Cluster, prometheus: &Prometheus) {
    cluster.wait_until_balanced().await;
    verdict(prometheus, |verdict| verdict < 5.0, "a whole cluster").await;
    let load = Load::with_retries(&cluster.client(), 4);
    load.progress(100).await;
    let refused = cluster.records().put(PutRequest::default()).await;
    assert!(refused.is_err(), "a write without a key is refused: {refused:?}");

    cluster.kill(1);
    cluster.wait_until_abandoned(1).await;
    write_without_broker(cluster).await;
    verdict(prometheus, |verdict| verdict >= 5.0, "the loss of one replica of three").await;
    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    assert_eq!(cluster.rebalance().await.header("rebalance-status"), Some("started"));
    cluster.wait_until_balanced().await;
    load.progress(100).await;
    load.stop().await.assert_no_failures();

    paused(cluster, prometheus, true).await;
    verdict(prometheus, |verdict| verdict == 1.0, "maintenance").await;
    paused(cluster, prometheus, false).await;
    drained(cluster, prometheus, Method::PUT).await;
    drained(cluster, prometheus, Method::DELETE).await;
    // What the drained broker led went elsewhere, and nothing moves back by itself.
    verdict(prometheus, |verdict| verdict == 2.0, "leaders off their primaries").await;
    assert_eq!(cluster.rebalance().await.header("rebalance-status"), Some("started"));
    verdict(prometheus, |verdict| verdict == 0.0, "a healthy and balanced cluster").await;
}

async fn verdict(prometheus: &Prometheus, holds: impl Fn(f64) -> bool, what: &str) {
    wait_until(&format!("the verdict on {what}"), async || {
        let shown = prometheus.query("cluster:evenkeel_verdict:max").await?;
        match shown[..] {
            [(_, verdict)] if holds(verdict) => Ok(()),
            _ => Err(format!("{shown:?}")),
        }
    })
    .await;
}

async fn paused(cluster: &Cluster, prometheus: &Prometheus, paused: bool) {
    let path = if paused { "pause" } else { "resume" };
    let url = cluster.api(&format!("/ESCManager/internal/ownership/{path}"));
    let answer = http(Method::PUT, &url).await.unwrap();
    assert!(answer.status.is_success(), "{}", answer.text());
    shown(prometheus, "evenkeel_ownership_paused", paused).await;
}

async fn drained(cluster: &Cluster, prometheus: &Prometheus, method: Method) {
    let drained = method == Method::PUT;
    let answer = http(method, &cluster.api("/cluster/v2/brokers/2/drain")).await.unwrap();
    assert!(answer.status.is_success(), "{}", answer.text());
    shown(prometheus, r#"evenkeel_broker_drained{broker="2"}"#, drained).await;
    shown(prometheus, r#"evenkeel_broker_drained{broker="0"}"#, false).await;
}

async fn shown(prometheus: &Prometheus, query: &str, expected: bool) {
    wait_until(&format!("{query} to be {expected}"), async || {
        let shown = prometheus.query(query).await?;
        match shown[..] {
            [(_, value)] if value == f64::from(u8::from(expected)) => Ok(()),
            _ => Err(format!("{shown:?}")),
        }
    })
    .await;
}

/// Every query that must answer, with where it stands.
async fn everything_asked(prometheus: &Prometheus) -> Vec<(String, String)> {
    let without_tls = |query: &String| !EXPORTED_WITH_TLS.iter().any(|metric| query.contains(metric));
    let mut asked: Vec<(String, String)> =
        queries().into_iter().filter(|(_, query)| without_tls(query)).collect();
    for (_, query) in &mut asked {
        for (variable, value) in VARIABLES {
            *query = query.replace(variable, value);
        }
    }
    for rule in prometheus.rules().await.unwrap() {
        let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        let (name, query) = (text("name"), text("query"));
        if rule["type"] == "recording" {
            asked.push((name.clone(), name.clone()));
            asked.push((name, query));
            continue;
        }
        // An alert's query answers only when something is wrong; what it looks at must be there at all times.
        let watched = selectors(&query);
        assert!(!watched.is_empty(), "{name}: {query}");
        let exported = watched.iter().filter(|s| !EXPORTED_WITH_TLS.contains(&s.metric.as_str()));
        asked.extend(exported.map(|selector| (name.clone(), selector.query())));
    }
    asked
}

async fn every_query_answers(prometheus: &Prometheus) {
    let asked = everything_asked(prometheus).await;
    assert!(asked.len() > 100, "only {} queries were found", asked.len());
    wait_until("every query to answer with data", async || {
        let mut silent = Vec::new();
        for (place, query) in &asked {
            let samples = prometheus.query(query).await?;
            if !samples.iter().any(|(_, value)| !value.is_nan()) {
                silent.push(format!("{place}: {query}"));
            }
        }
        if silent.is_empty() { Ok(()) } else { Err(format!("no data from\n{}", silent.join("\n"))) }
    })
    .await;
}

async fn every_rule_is_evaluated(prometheus: &Prometheus) {
    wait_until("every rule to be evaluated", async || {
        let rules = prometheus.rules().await?;
        let failing: Vec<&Value> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        if failing.is_empty() && !rules.is_empty() { Ok(()) } else { Err(format!("{failing:?}")) }
    })
    .await;
}

/// That what rates are taken of is of a kind that grows, as the processes themselves say.
fn rates_are_of_counters(scrapes: &[Scrape]) {
    for (place, query) in queries() {
        for selector in selectors(&query) {
            let growing = selector.function.as_deref().is_some_and(|name| COUNTER_FUNCTIONS.contains(&name));
            let metric = selector.metric.as_str();
            let histogram =
                ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
            let kind = |name: &str| scrapes.iter().find_map(|scrape| scrape.kind(name));
            let kind = kind(metric).or_else(|| histogram.and_then(kind));
            let expected: &[&str] = if growing { &["counter", "histogram"] } else { &["gauge"] };
            let right = selector.is_recorded()
                || EXPORTED_WITH_TLS.contains(&metric)
                || kind.is_some_and(|kind| expected.contains(&kind));
            assert!(right, "{place}: {metric} is a {kind:?}: {query}");
        }
    }
}

/// What promtool says of scraped text, without what is Zeebe's to answer for.
fn complaints(text: &str) -> Vec<String> {
    let output = promtool(&["check", "metrics"], text);
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    // 3: the text can be read, and something could be better.
    assert!(matches!(output.status.code(), Some(0 | 3)), "promtool cannot read the metrics: {said}");
    let ours = |line: &&str| {
        let (name, complaint) = line.split_once(' ').unwrap_or((line, ""));
        let series = |line: &&str| {
            let rest = line.strip_prefix(name).map(|rest| {
                ["_bucket", "_sum", "_count"].iter().find_map(|s| rest.strip_prefix(s)).unwrap_or(rest)
            });
            rest.is_some_and(|rest| rest.starts_with('{'))
        };
        let only_zeebes_label = text.lines().filter(series).all(|line| {
            let labels = line.replace(LABEL_FIXED_BY_ZEEBE, "");
            let labels =
                labels.split('{').nth(1).unwrap_or_default().split('}').next().unwrap_or_default().to_owned();
            labels
                .split(',')
                .all(|label| !label.split('=').next().unwrap_or_default().contains(char::is_uppercase))
        });
        let labelled = complaint == LABEL_COMPLAINT && only_zeebes_label;
        !labelled && !NAMES_FIXED_BY_ZEEBE.contains(&name)
    };
    said.lines().filter(|line| !line.trim().is_empty()).filter(ours).map(str::to_owned).collect()
}

async fn scraped_text_is_as_prometheus_wants_it(cluster: &Cluster) {
    let brokers = cluster.ports.brokers.iter();
    let pages = brokers.map(|(_, port)| format!("http://127.0.0.1:{port}/actuator/prometheus"));
    let pages: Vec<String> = pages.chain([cluster.monitoring("/actuator/prometheus")]).collect();
    let mut wrong = BTreeMap::new();
    for url in pages {
        let text = http(Method::GET, &url).await.unwrap().text();
        let said = complaints(&text);
        if !said.is_empty() {
            wrong.insert(url, said);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn exporter_to(folder: &Path) -> toml::Value {
    let directory = folder.join("exported");
    let text = format!("name = \"files\"\nkind = \"json-lines\"\ndirectory = \"{}\"", directory.display());
    toml::from_str(&text).unwrap()
}

/// Certificates, callers and exporters have metrics that other clusters do not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_scraped_of_a_secured_cluster_that_exports_is_as_prometheus_wants_it() {
    if !installed("promtool") {
        return;
    }
    let secured = Secured::new().await;
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec::new(1, 1).broker("exporters", vec![exporter_to(folder.path())]);
    let cluster = Cluster::start(spec.secured(&secured)).await;
    cluster.wait_until_balanced().await;
    let broker = format!("https://127.0.0.1:{}/actuator/prometheus", cluster.ports.brokers[0].1);
    let pages = [
        (broker, vec![EXPORTED_WITH_TLS[0], "evenkeel_exporter_lag_entries"]),
        (cluster.monitoring("/actuator/prometheus"), vec![EXPORTED_WITH_TLS[0]]),
    ];
    for (url, metrics) in pages {
        let text = wait_until(&format!("{metrics:?} at {url}"), async || {
            let text = secured.http_as(READER, Method::GET, &url).await?.text();
            if metrics.iter().all(|metric| text.contains(&format!("\n{metric}"))) {
                Ok(text)
            } else {
                Err(text)
            }
        })
        .await;
        assert_eq!(complaints(&text), Vec::<String>::new(), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboard_and_the_rules_answers_with_data() {
    if !installed("prometheus") || !installed("promtool") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Busy all the time by this measure, so automatic rebalancing looks and leaves everything alone.
    let spec = Spec::new(3, 3)
        .broker("raft.snapshot_after_entries", 20)
        .broker("raft.log_entries_kept", 5)
        .broker("exporters", vec![exporter_to(folder.path())])
        .gateway("rebalance.automatic", "when-idle")
        .gateway("rebalance.interval", "1s")
        .gateway("rebalance.idle_bytes_per_s", 1);
    let mut cluster = Cluster::start(spec).await;
    let [port] = reserve_ports();
    let prometheus = Prometheus::start(folder.path(), port, &cluster.ports).await;

    live_through_everything(&mut cluster, &prometheus).await;

    every_rule_is_evaluated(&prometheus).await;
    every_query_answers(&prometheus).await;
    let scrapes = [
        cluster.scrape_broker(0).await.unwrap(),
        cluster.scrape_broker(1).await.unwrap(),
        cluster.scrape_gateway(0).await.unwrap(),
    ];
    rates_are_of_counters(&scrapes);
    scraped_text_is_as_prometheus_wants_it(&cluster).await;
}

#[test]
fn complaints_of_promtool_are_seen_unless_they_are_zeebes() {
    if !installed("promtool") {
        return;
    }
    let text = |name: &str, label: &str| {
        format!("# HELP {name} What it is.\n# TYPE {name} gauge\n{name}{{{label}=\"a\"}} 1\n")
    };
    let fine = [
        text("evenkeel_a", "b"),
        text("evenkeel_a", "partitionGroupName"),
        text("atomix_election_latency_in_ms", "b"),
    ];
    for text in fine {
        assert_eq!(complaints(&text), Vec::<String>::new(), "{text}");
    }
    let wrong = [
        text("evenkeel_a", "camelCase"),
        text("evenkeel_a", "partitionGroupName").replace("} 1", ",alsoCamel=\"b\"} 1"),
        text("evenkeel_a_milliseconds", "b"),
        text("evenkeel_a_total", "b"),
        text("evenkeel_a", "b").replace("# HELP evenkeel_a What it is.\n", ""),
    ];
    for text in wrong {
        assert!(!complaints(&text).is_empty(), "{text}");
    }
}
