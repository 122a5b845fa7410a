//! Spans of sampled writes: on the leader from the proposal to the outcome, on a follower from the append's arrival until
//! the entry is durable. Which writes those are their commands tell, see `evenkeel-traces`.

use std::collections::VecDeque;
use std::sync::Arc;

use evenkeel_raft_storage::{Command, TypeConfig};
use evenkeel_traces::command::{trace_of, with_span};
use evenkeel_traces::{Kind, Span, begin, is_on};
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;

use crate::replica::Answer;

/// The leader's spans of commands that are proposed together; empty when none is sampled.
pub struct LeaderSpans(Vec<(usize, Span)>);

impl LeaderSpans {
    /// Begins them, and has the commands name them, so that followers' spans are below.
    pub fn begin(partition: u32, commands: &mut [Command]) -> Self {
        let mut spans = Vec::new();
        if !is_on() {
            return Self(spans);
        }
        for (i, Command(bytes)) in commands.iter_mut().enumerate() {
            let Some(above) = trace_of(bytes) else { continue };
            let mut span = begin(|| "lead".to_owned(), Kind::Server, Some(above));
            if let Some(here) = span.context() {
                span.set("evenkeel.partition", partition);
                *bytes = with_span(bytes, here).into();
                spans.push((i, span));
            }
        }
        Self(spans)
    }

    /// Ends the span of the command at `i`.
    pub fn answered(&mut self, i: usize, answer: &Answer) {
        let Some(at) = self.0.iter().position(|(of, _)| *of == i) else { return };
        let (_, mut span) = self.0.swap_remove(at);
        match answer {
            Answer::Outcome(_) => {}
            Answer::NotLeader(_) => span.fail(|| "does not lead".to_owned()),
            Answer::Refused(refused) => span.fail(|| refused.detail.clone()),
        }
    }
}

/// A follower's spans of entries of one replication stream that are not durable yet, by index.
#[derive(Clone, Default)]
pub struct FollowerSpans(Arc<Mutex<VecDeque<(u64, Span)>>>);

impl FollowerSpans {
    /// Begins those of a request's sampled entries. A stream has so many entries under way as requests allow.
    pub fn arrived(&self, partition: u32, request: &AppendEntriesRequest<TypeConfig>) {
        if !is_on() {
            return;
        }
        for entry in &request.entries {
            let EntryPayload::Normal(Command(bytes)) = &entry.payload else { continue };
            let Some(above) = trace_of(bytes) else { continue };
            let mut span = begin(|| "follow".to_owned(), Kind::Server, Some(above));
            span.set("evenkeel.partition", partition);
            self.0.lock().push_back((entry.log_id.index, span));
        }
    }

    /// Ends those up to the last entry that is durable; all of them when the stream goes no further.
    pub fn durable(&self, up_to: Option<u64>) {
        if !is_on() {
            return;
        }
        let mut spans = self.0.lock();
        while spans.front().is_some_and(|(index, _)| up_to.is_none_or(|up_to| *index <= up_to)) {
            spans.pop_front();
        }
    }
}
