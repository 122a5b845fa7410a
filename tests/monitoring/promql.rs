//! Looks into PromQL as far as these tests need it: which series a query asks for, and what it does with them.

/// Prefixes of every metric that the processes export.
const PREFIXES: [&str; 4] = ["atomix_", "zeebe_", "evenkeel_", "process_"];

/// One vector selector of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    /// With its braces; empty without any.
    pub matchers: String,
    /// What stands in the brackets after it.
    pub range: Option<String>,
    /// The function or keyword right before it.
    pub function: Option<String>,
}

impl Selector {
    /// As an instant query.
    pub fn query(&self) -> String {
        format!("{}{}", self.metric, self.matchers)
    }

    /// Whether it names a recorded series.
    pub fn is_recorded(&self) -> bool {
        self.metric.contains(':')
    }
}

/// Every selector of our own metrics and recorded series, in order.
pub fn selectors(query: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((start, name)) = next_name(query, at) {
        at = start + name.len();
        let ours = PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.contains(':');
        if !ours {
            continue;
        }
        let mut rest = query[at..].trim_start();
        let mut matchers = String::new();
        if rest.starts_with('{') {
            let end = closing(rest);
            matchers = rest[..end].to_owned();
            rest = &rest[end..];
        }
        let range = rest.strip_prefix('[').and_then(|rest| rest.split(']').next()).map(str::to_owned);
        let function = query[..start]
            .trim_end()
            .strip_suffix('(')
            .map(|before| {
                let name = before.rsplit(|c: char| !is_name(c)).next();
                name.unwrap_or_default().to_owned()
            })
            .filter(|name| !name.is_empty());
        at = query.len() - rest.len();
        found.push(Selector { metric: name.to_owned(), matchers, range, function });
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The next name at or after `from`, outside of strings.
fn next_name(query: &str, from: usize) -> Option<(usize, &str)> {
    let mut quoted = false;
    let mut start = None;
    for (at, c) in query[from..].char_indices().map(|(at, c)| (from + at, c)) {
        if c == '"' {
            quoted = !quoted;
        }
        match (start, is_name(c) && !quoted) {
            (None, true) => start = Some(at),
            (Some(began), false) => return Some((began, &query[began..at])),
            _ => {}
        }
    }
    start.map(|began| (began, &query[began..]))
}

/// After the brace that closes the one at the beginning; those in strings do not count.
fn closing(text: &str) -> usize {
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted => return at + 1,
            _ => {}
        }
    }
    panic!("no closing brace in {text}");
}

#[test]
fn selectors_are_found_with_their_matchers_ranges_and_functions() {
    let query = r#"histogram_quantile(0.9, sum by (le, evenkeel) (rate(evenkeel_a_bucket{x=~"[}]$y", z="atomix_b"}[$__rate_interval])))
        / a:evenkeel_c:sum > bool max(zeebe_d) and process_e"#;
    let made = |metric: &str, matchers: &str, range: Option<&str>, function: Option<&str>| Selector {
        metric: metric.to_owned(),
        matchers: matchers.to_owned(),
        range: range.map(str::to_owned),
        function: function.map(str::to_owned),
    };
    let expected = [
        made("evenkeel_a_bucket", r#"{x=~"[}]$y", z="atomix_b"}"#, Some("$__rate_interval"), Some("rate")),
        made("a:evenkeel_c:sum", "", None, None),
        made("zeebe_d", "", None, Some("max")),
        made("process_e", "", None, None),
    ];
    assert_eq!(selectors(query), expected);
}
