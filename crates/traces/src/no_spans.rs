//! Without the feature: nothing.

use crate::context::TraceContext;
use crate::{Service, StartError, TracesOptions};

/// What a span is of.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A request that somebody else sent.
    Server,
    /// Work within this process.
    Internal,
}

/// No span.
#[derive(Debug)]
pub struct Span;

/// Whether requests are traced: never.
#[must_use]
pub fn is_on() -> bool {
    false
}

/// Refuses to send traces.
///
/// # Errors
/// When there is somebody to send them to.
pub fn start(options: &TracesOptions, _sample_ratio: f64, _service: Service) -> Result<(), StartError> {
    if options.endpoint.is_empty() {
        return Ok(());
    }
    Err(StartError {
        endpoint: options.endpoint.clone(),
        problem: "this program was built without traces; leave it empty, or build with --features traces"
            .into(),
    })
}

/// Nothing is left to be sent.
pub fn finish() {}

/// No span.
pub fn begin(_name: impl FnOnce() -> String, _kind: Kind, _parent: Option<TraceContext>) -> Span {
    Span
}

impl Span {
    /// It has no place in a trace.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        None
    }

    /// Nothing is told.
    pub fn set(&mut self, _key: &'static str, _value: impl Into<i64>) {}

    /// Nothing is told.
    pub fn event(&mut self, _name: &'static str, _detail: &'static str) {}

    /// Nothing is told.
    pub fn fail(&mut self, _why: impl FnOnce() -> String) {}
}
