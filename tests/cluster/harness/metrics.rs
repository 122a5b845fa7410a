//! Reads the Prometheus text format as a scraper would.

use std::collections::BTreeMap;

/// Leaves out the system group, which brokers host beside their partitions.
pub const PARTITIONS: [(&str, &str); 1] = [("partitionGroupName", "raft-partition")];

/// One scrape of one process.
#[derive(Clone, Debug)]
pub struct Scrape {
    series: Vec<Series>,
    types: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Scrape {
    pub fn parse(text: &str) -> Self {
        let mut types = BTreeMap::new();
        let mut series = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_whitespace();
                if words.next() == Some("TYPE") {
                    types.insert(words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
                }
                continue;
            }
            series.push(parse_line(line).unwrap_or_else(|| panic!("not a series: {line}")));
        }
        Self { series, types }
    }

    /// `counter`, `gauge`, `histogram`.
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// All values of a metric whose labels include these.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let has = |series: &Series| {
            labels.iter().all(|(name, value)| series.labels.get(*name).is_some_and(|found| found == value))
        };
        self.series.iter().filter(|s| s.name == name && has(s)).map(|s| s.value).collect()
    }

    /// As PromQL's `sum`; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(name, labels).iter().sum()
    }

    /// The one value there is.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.values(name, labels)[..] {
            [value] => Some(value),
            _ => None,
        }
    }
}

fn parse_line(line: &str) -> Option<Series> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = head.split_once('{') else {
        return Some(Series { name: head.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut parsed = BTreeMap::new();
    let mut rest = labels.strip_suffix('}')?;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let end = after.find('"')?;
        parsed.insert(label.to_owned(), after[..end].to_owned());
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(Series { name: name.to_owned(), labels: parsed, value })
}

#[test]
fn series_are_found_by_name_and_labels() {
    let scrape = Scrape::parse(
        "# HELP a What it is.\n# TYPE a gauge\na{x=\"1\",y=\"2\"} 3\na{x=\"2\",y=\"2\"} 4.5\n\nb 1e3\n",
    );
    assert_eq!(scrape.value("a", &[("x", "1")]), Some(3.0));
    assert_eq!(scrape.sum("a", &[("y", "2")]), 7.5);
    assert_eq!(scrape.value("b", &[]), Some(1000.0));
    assert_eq!(scrape.value("a", &[]), None, "ambiguous");
    assert_eq!(scrape.kind("a"), Some("gauge"));
}
