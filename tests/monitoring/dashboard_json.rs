//! Makes Grafana's JSON from `dashboards/evenkeel.toml`, which leaves out all that panels have in common.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{at_root, read};

const SOURCE: &str = "dashboards/evenkeel.toml";
const COMMITTED: &str = "dashboards/evenkeel.json";
const GRID_COLUMNS: u64 = 24;

/// What a query may say for the matchers of the dashboard's variables, up to the one named.
const MATCHERS: [(&str, &str); 3] = [
    ("@cluster", r#"cluster=~"$cluster", namespace=~"$namespace""#),
    ("@pod", r#"cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod""#),
    (
        "@partition",
        r#"cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod", partitionGroupName="raft-partition", partition=~"$partition""#,
    ),
];

/// Name, label, and where its values come from; each offers what the ones before leave.
const VARIABLES: [(&str, &str, &str); 5] = [
    ("cluster", "Cluster", "label_values(evenkeel_build_info, cluster)"),
    ("namespace", "Namespace", r#"label_values(evenkeel_build_info{cluster=~"$cluster"}, namespace)"#),
    ("pod", "Pod", r#"label_values(evenkeel_build_info{cluster=~"$cluster", namespace=~"$namespace"}, pod)"#),
    (
        "partition",
        "Partition",
        r#"label_values(evenkeel_partition_balanced{cluster=~"$cluster", namespace=~"$namespace"}, partition)"#,
    ),
    (
        "follower",
        "Follower",
        r#"label_values(atomix_non_replicated_entries{cluster=~"$cluster", namespace=~"$namespace"}, follower)"#,
    ),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    title: String,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    description: String,
    unit: String,
    /// Width and height.
    size: [u64; 2],
    #[serde(default)]
    kind: Kind,
    /// Each a query and the legend of what it answers.
    queries: Vec<[String; 2]>,
    /// A number, the words for it, and their colour.
    #[serde(default)]
    words: Vec<(i64, String, String)>,
    /// A colour, and the value from which on it is shown.
    #[serde(default)]
    thresholds: Vec<(String, f64)>,
    /// Draw steps: the value holds until the next one.
    #[serde(default)]
    steps: bool,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    TimeSeries,
    Stat,
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn dashboard(source: &Source) -> Value {
    json!({
        "uid": "evenkeel",
        "title": "Evenkeel",
        "tags": ["evenkeel"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": { "from": "now-30m", "to": "now" },
        "timezone": "browser",
        "annotations": { "list": [] },
        "templating": { "list": variables() },
        "panels": panels(source),
    })
}

fn variables() -> Vec<Value> {
    let source = json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}
    });
    let variable = |(name, label, query): &(&str, &str, &str)| {
        json!({
            "name": name,
            "label": label,
            "type": "query",
            "datasource": datasource(),
            "query": { "query": query, "refId": name },
            "refresh": 2,
            "sort": 3,
            "multi": true,
            "includeAll": true,
            // Matches series without the label as well.
            "allValue": ".*",
            "current": { "text": "All", "value": "$__all" },
        })
    };
    std::iter::once(source).chain(VARIABLES.iter().map(variable)).collect()
}

/// Places panels beside each other until a row of the grid is full.
fn panels(source: &Source) -> Vec<Value> {
    let mut made = Vec::new();
    let (mut y, mut id) = (0, 0);
    let mut next_id = || {
        id += 1;
        id
    };
    for row in &source.rows {
        made.push(json!({
            "id": next_id(), "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": GRID_COLUMNS, "h": 1 },
        }));
        y += 1;
        let (mut x, mut tallest) = (0, 0);
        for source in &row.panels {
            let [w, h] = source.size;
            if x + w > GRID_COLUMNS {
                (x, y, tallest) = (0, y + tallest, 0);
            }
            let mut panel = panel(source);
            panel["id"] = next_id().into();
            panel["gridPos"] = json!({ "x": x, "y": y, "w": w, "h": h });
            made.push(panel);
            x += w;
            tallest = tallest.max(h);
        }
        y += tallest;
    }
    made
}

fn panel(source: &Panel) -> Value {
    let is_stat = source.kind == Kind::Stat;
    let target = |(at, [query, legend]): (usize, &[String; 2])| {
        let mut expression = query.trim().replace('\n', " ");
        for (short, matchers) in MATCHERS {
            expression = expression.replace(&format!("{{{short}"), &format!("{{{matchers}"));
        }
        json!({
            "refId": char::from(b'A' + u8::try_from(at).unwrap()).to_string(),
            "datasource": datasource(),
            "expr": expression,
            "legendFormat": legend,
            "range": !is_stat,
            "instant": is_stat,
        })
    };
    let targets: Vec<Value> = source.queries.iter().enumerate().map(target).collect();
    json!({
        "type": if is_stat { "stat" } else { "timeseries" },
        "title": source.title,
        "description": source.description,
        "datasource": datasource(),
        "targets": targets,
        "fieldConfig": { "defaults": if is_stat { stat_field(source) } else { series_field(source) }, "overrides": [] },
        "options": if is_stat { stat_options(source) } else { series_options() },
    })
}

fn stat_field(source: &Panel) -> Value {
    let step = |(at, (color, from)): (usize, &(String, f64))| {
        // Grafana wants the lowest step without a bound.
        json!({ "color": color, "value": if at == 0 { Value::Null } else { (*from).into() } })
    };
    let steps: Vec<Value> = source.thresholds.iter().enumerate().map(step).collect();
    let plain = json!([{ "color": "text", "value": null }]);
    let words = |(value, text, color): &(i64, String, String)| {
        (value.to_string(), json!({ "text": text, "color": color, "index": value }))
    };
    let options: serde_json::Map<String, Value> = source.words.iter().map(words).collect();
    let mappings =
        if options.is_empty() { json!([]) } else { json!([{ "type": "value", "options": options }]) };
    json!({
        "unit": source.unit,
        "mappings": mappings,
        "noValue": "no data",
        "color": { "mode": "thresholds" },
        "thresholds": { "mode": "absolute", "steps": if steps.is_empty() { plain } else { steps.into() } },
    })
}

fn stat_options(source: &Panel) -> Value {
    json!({
        "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        "colorMode": if source.words.is_empty() { "value" } else { "background" },
        "textMode": if source.queries.len() > 1 { "value_and_name" } else { "value" },
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "wideLayout": true,
    })
}

fn series_field(source: &Panel) -> Value {
    let mut field = json!({
        "unit": source.unit,
        "min": 0,
        "color": { "mode": "palette-classic" },
        "custom": {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 0,
            "showPoints": "never",
            "stacking": { "mode": "none", "group": "A" },
            "lineInterpolation": if source.steps { "stepAfter" } else { "linear" },
        },
    });
    if source.steps {
        field["decimals"] = 0.into();
    }
    field
}

fn series_options() -> Value {
    json!({
        "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
        "tooltip": { "mode": "multi", "sort": "desc" },
    })
}

#[test]
fn the_committed_dashboard_is_what_the_source_makes() {
    let source: Source = toml::from_str(&read(SOURCE)).unwrap_or_else(|error| panic!("{SOURCE}: {error}"));
    let made = dashboard(&source);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(at_root(COMMITTED), format!("{made:#}\n")).unwrap();
    }
    let committed: Value = serde_json::from_str(&read(COMMITTED)).unwrap();
    assert!(
        committed == made,
        "{COMMITTED} is not what {SOURCE} makes: run this test with UPDATE_GOLDEN=1 and review the difference"
    );
}
