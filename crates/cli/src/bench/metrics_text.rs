//! Reads Prometheus' text format, as far as our own processes write it.

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Every sample of the metric with exactly this name.
pub fn samples(text: &str, name: &str) -> Vec<Sample> {
    text.lines().filter_map(|line| sample(line.strip_prefix(name)?)).collect()
}

/// What follows the name: `{a="b",c="d"} 1.5`, or ` 1.5`. `None` when the name goes on.
fn sample(rest: &str) -> Option<Sample> {
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest.strip_prefix(' ')?),
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Sample { labels, value })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &quoted[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_are_found_with_their_labels() {
        let text = "# HELP lag what\n# TYPE lag gauge\nlag{partition=\"1\",follower=\"2\"} 17\nlag_total 3\nlag 4.5\n\
                    lag{partition=\"a\\\"},b\"} 1e3 1700000000\n";
        let found = samples(text, "lag");
        assert_eq!(found.iter().map(|sample| sample.value).collect::<Vec<_>>(), [17.0, 4.5, 1000.0]);
        assert_eq!(found[0].label("follower"), Some("2"));
        assert_eq!(found[1].label("follower"), None);
        assert_eq!(found[2].label("partition"), Some("a\"},b"));
    }
}
