//! Spans by OpenTelemetry's own crates, sent as OTLP over gRPC.
//!
//! Spans are begun and ended by hand, with their parent named: a write passes queues, frames and other tasks' polls on its way,
//! where "the current span" of a thread would be somebody else's. What is ended waits in a bounded queue for the exporter's own
//! thread; while it is full, spans are dropped and requests are not held up.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};

use crate::context::TraceContext;
use crate::{Service, StartError, TracesOptions};

/// Spans that wait to be sent; more are dropped.
const QUEUE_SPANS_MAX: usize = 8_192;
/// How long a span waits for company.
const SEND_AFTER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a process that stops waits for the last batch.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

static TRACER: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();

/// What a span is of.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A request that somebody else sent.
    Server,
    /// Work within this process.
    Internal,
}

/// A piece of a request's way, which ends when this is dropped. Nothing when the request is not sampled.
#[derive(Debug)]
pub struct Span(Option<Box<SdkSpan>>);

/// Whether requests are traced.
#[must_use]
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// From now on spans go to the collector, if the options name one: of requests whose caller sampled them, and of this share of
/// those that come without a trace. Within a Tokio runtime; the first call counts.
///
/// # Errors
/// When the endpoint cannot be one.
pub fn start(options: &TracesOptions, sample_ratio: f64, service: Service) -> Result<(), StartError> {
    if options.endpoint.is_empty() {
        return Ok(());
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&options.endpoint)
        .with_timeout(SEND_TIMEOUT)
        .build()
        .map_err(|error| StartError { endpoint: options.endpoint.clone(), problem: error.to_string() })?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_SPANS_MAX)
        .with_scheduled_delay(SEND_AFTER)
        .build();
    let resource = Resource::builder_empty()
        .with_service_name(service.name)
        .with_attribute(KeyValue::new("service.version", service.version))
        .with_attribute(KeyValue::new("service.instance.id", service.instance))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("evenkeel");
    let _ = TRACER.set((provider, tracer));
    Ok(())
}

/// Sends what waits, for a process that ends. Blocks, for two seconds at most.
pub fn finish() {
    if let Some((provider, _)) = TRACER.get() {
        // A collector that is away loses what it would have got; there is nobody left to tell.
        let _ = provider.shutdown_with_timeout(FINISH_TIMEOUT);
    }
}

/// Begins a span below `parent`, or a trace if chance wants one.
pub fn begin(name: impl FnOnce() -> String, kind: Kind, parent: Option<TraceContext>) -> Span {
    let Some((_, tracer)) = TRACER.get() else { return Span(None) };
    if parent.is_some_and(|parent| !parent.sampled) {
        return Span(None);
    }
    let above = parent.map_or_else(Context::new, |parent| {
        Context::new().with_remote_span_context(SpanContext::new(
            TraceId::from_bytes(parent.trace_id),
            SpanId::from_bytes(parent.span_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        ))
    });
    let kind = match kind {
        Kind::Server => SpanKind::Server,
        Kind::Internal => SpanKind::Internal,
    };
    let span = tracer.span_builder(name()).with_kind(kind).start_with_context(tracer, &above);
    Span(span.is_recording().then(|| Box::new(span)))
}

impl Span {
    /// Its place in the trace.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        let context = self.0.as_ref()?.span_context();
        Some(TraceContext {
            trace_id: context.trace_id().to_bytes(),
            span_id: context.span_id().to_bytes(),
            sampled: true,
        })
    }

    /// Tells something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<i64>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value.into()));
        }
    }

    /// Tells that something happened now.
    pub fn event(&mut self, name: &'static str, detail: &'static str) {
        if let Some(span) = &mut self.0 {
            span.add_event(name, vec![KeyValue::new("detail", detail)]);
        }
    }

    /// Tells that it did not end well.
    pub fn fail(&mut self, why: impl FnOnce() -> String) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(why()));
        }
    }
}
