//! The span of the request that is being carried out, for whoever sends it on.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::context::TraceContext;
use crate::spans::{Span, is_on};

struct Current {
    context: TraceContext,
    span: Mutex<Span>,
}

tokio::task_local! {
    static CURRENT: Arc<Current>;
}

/// Carries out `work` as part of `span`, which ends with it. `told` sees the outcome before.
pub async fn within<T>(mut span: Span, work: impl Future<Output = T>, told: impl FnOnce(&T, &mut Span)) -> T {
    let Some(context) = span.context() else {
        let outcome = work.await;
        told(&outcome, &mut span);
        return outcome;
    };
    let current = Arc::new(Current { context, span: Mutex::new(span) });
    let outcome = CURRENT.scope(Arc::clone(&current), work).await;
    told(&outcome, &mut current.span.lock());
    outcome
}

/// Where the request at hand is in its trace; `None` when it is not sampled.
#[must_use]
pub fn current() -> Option<TraceContext> {
    if !is_on() {
        return None;
    }
    CURRENT.try_with(|current| current.context).ok()
}

/// Tells something about the request at hand.
pub fn note(key: &'static str, value: impl Into<i64>) {
    if is_on() {
        let _ = CURRENT.try_with(|current| current.span.lock().set(key, value));
    }
}

/// Tells that something happened to the request at hand.
pub fn event(name: &'static str, detail: &'static str) {
    if is_on() {
        let _ = CURRENT.try_with(|current| current.span.lock().event(name, detail));
    }
}
