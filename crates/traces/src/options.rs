//! What an operator can set.

use http::Uri;
use serde::{Deserialize, Serialize};

/// Where traces go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesOptions {
    /// `http://HOST:PORT` of a collector's OTLP port for gRPC; empty for no traces.
    pub endpoint: String,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {problem}; {remedy}")]
pub struct OptionsError {
    /// Dotted path of the setting.
    pub key: &'static str,
    /// What it was set to.
    pub value: String,
    /// Why that cannot work.
    pub problem: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Refuses what no collector can be at.
///
/// # Errors
/// When it is no `http://HOST:PORT`, or this build has no traces.
pub fn check_endpoint(options: &TracesOptions) -> Result<(), OptionsError> {
    if options.endpoint.is_empty() {
        return Ok(());
    }
    let refuse = |problem, remedy| {
        Err(OptionsError {
            key: "traces.endpoint",
            value: format!("{:?}", options.endpoint),
            problem,
            remedy,
        })
    };
    if !cfg!(feature = "otlp") {
        return refuse(
            "this program was built without traces",
            "leave it empty, or build with `cargo build --release --features traces`",
        );
    }
    match options.endpoint.parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.port().is_some() && uri.path() == "/" => Ok(()),
        Ok(uri) if uri.scheme_str() == Some("https") => refuse(
            "traces are sent without TLS",
            "run a collector on this machine, give http://127.0.0.1:4317 and let it pass them on",
        ),
        _ => refuse(
            "is no collector's address",
            "write http://HOST:PORT of its OTLP port for gRPC, usually 4317",
        ),
    }
}

/// Refuses what is no share.
///
/// # Errors
/// When it is not between 0 and 1.
pub fn check_ratio(ratio: f64) -> Result<(), OptionsError> {
    if (0.0..=1.0).contains(&ratio) {
        return Ok(());
    }
    Err(OptionsError {
        key: "traces.sample_ratio",
        value: ratio.to_string(),
        problem: "is no share of the requests",
        remedy: "set 0 to 1; 0.01 is the default, one of a hundred",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_collector_is_refused_with_the_remedy() {
        let check = |endpoint: &str| check_endpoint(&TracesOptions { endpoint: endpoint.into() });
        assert_eq!(check(""), Ok(()));
        for endpoint in
            ["collector", "http://collector", "https://collector:4317", "http://a:1/v1/traces", "://"]
        {
            let error = check(endpoint).unwrap_err().to_string();
            assert!(error.starts_with(&format!("traces.endpoint = {endpoint:?}: ")), "{error}");
        }
        let taken = check("http://127.0.0.1:4317");
        assert_eq!(taken.is_ok(), cfg!(feature = "otlp"), "{taken:?}");
        assert!([0.0, 0.5, 1.0].map(check_ratio).iter().all(Result::is_ok));
        assert!([-0.1, 1.1, f64::NAN].map(check_ratio).iter().all(Result::is_err));
    }
}
