//! Traces: one request's way through gateway, leader and followers, as OpenTelemetry sees it.
//!
//! A request that is sampled has a [`TraceContext`], W3C's `traceparent`. Between processes it travels in headers
//! ([`TraceLayer`] takes it, [`current`] tells it) and, for writes, at the end of the command itself ([`command`]), which goes to the leader
//! and from there to the followers as part of the log. So neither frames nor logs of requests that are not sampled grow.
//!
//! Without the feature `otlp` there are no spans, and the calls below are empty. With it, and without a collector in the
//! settings, they look at one pointer.

pub mod command;
mod context;
mod current;
mod layer;
mod options;
#[cfg(feature = "otlp")]
#[path = "otlp.rs"]
mod spans;
#[cfg(not(feature = "otlp"))]
#[path = "no_spans.rs"]
mod spans;

pub use context::{TRACEPARENT, TraceContext};
pub use current::{current, event, note, within};
pub use layer::{TraceLayer, Traced};
pub use options::{OptionsError, TracesOptions, check_endpoint, check_ratio};
pub use spans::{Kind, Span, begin, finish, is_on, start};

/// Who sends the spans, as collectors show it.
#[derive(Clone, Debug)]
pub struct Service {
    /// `service.name`.
    pub name: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// `service.instance.id`.
    pub instance: String,
}

/// Traces cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("traces.endpoint = {endpoint:?}: {problem}")]
pub struct StartError {
    /// As set.
    pub endpoint: String,
    /// Why not.
    pub problem: String,
}
