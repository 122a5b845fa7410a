//! Replication of one partition to one follower: a stream of requests, many under way at once.
//!
//! openraft makes a request of whatever is new when it is asked for one: entries, or nothing but a higher commit index. Two
//! things hang on when it is asked.
//!
//! *The lease.* openraft keeps the time at which it made each request. When an answer names an entry, it takes all requests
//! up to that entry as answered, those without entries behind it included, and counts the lease and ReadIndex from the
//! newest of them. But one that was made while the answer was on its way says nothing of the follower: it may be lost, and the
//! follower may follow somebody else since. So no request without entries is asked for while an answer is awaited, and should
//! one come nevertheless, earlier answers are kept back for the one that it gets.
//!
//! *The cost.* A commit index by itself costs both brokers about as much as an entry. Nobody waits for it, and under load the next
//! entries carry it. So it waits for them, [`COMMIT_GATHER_MS`] at most.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_raft_storage::TypeConfig;
use futures::{Stream, StreamExt};
use openraft::RPCTypes;
use openraft::errors::{NetworkError, RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::{Client, OUTSTANDING_MAX};
use crate::peer::AppendStream;
use crate::wire;

type C = TypeConfig;

/// A peer that answers nothing for this long, with requests outstanding, is given up on: without a deadline one
/// lost answer would stop replication for good.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a follower may not know that what it has is committed, when no more entries come.
const COMMIT_GATHER_MS: u64 = 10;

/// What was asked and not yet answered.
struct Outstanding {
    sent_at: Instant,
    entries: u64,
    bytes: u64,
}

/// A commit index that waits for entries to go with.
struct Held {
    request: AppendEntriesRequest<C>,
    send_at: Instant,
}

/// Sends requests as openraft produces them and yields the answers in order, both at once.
pub struct Pipeline<'s, S> {
    client: &'s mut Client,
    /// `None` once openraft has no more to send.
    input: Option<S>,
    stream: AppendStream,
    /// Index of the newest entry that this broker appended.
    appended: watch::Receiver<u64>,
    /// Index of the last entry that was asked for.
    asked: u64,
    outstanding: VecDeque<Outstanding>,
    /// How many of the oldest outstanding answers are kept back for the one after them.
    kept_back: usize,
    held: Option<Held>,
    /// Goes off when the held request is due or the oldest answer overdue, or earlier.
    alarm: Pin<Box<Sleep>>,
    /// The first request was taken.
    begun: bool,
    /// The peer knows of the stream.
    sent: bool,
    over: bool,
}

impl<'s, S> Pipeline<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<C>> + Unpin,
{
    pub fn new(client: &'s mut Client, input: S, stream: AppendStream) -> Self {
        Self {
            appended: client.log.appended(),
            client,
            input: Some(input),
            stream,
            asked: 0,
            outstanding: VecDeque::new(),
            kept_back: 0,
            held: None,
            alarm: Box::pin(tokio::time::sleep(ANSWER_TIMEOUT)),
            begun: false,
            sent: false,
            over: false,
        }
    }

    /// The next answer; `None` when openraft has no more to send and everything is answered.
    pub async fn next(&mut self) -> Option<Result<StreamAppendResult<C>, RPCError<C>>> {
        if self.over {
            return None;
        }
        loop {
            if self.input.is_none() && self.outstanding.is_empty() && self.held.is_none() {
                self.over = true;
                return None;
            }
            let idle = self.outstanding.is_empty() && self.held.is_none();
            let news = *self.appended.borrow_and_update() > self.asked;
            let wanted = self.input.is_some() && self.outstanding.len() < OUTSTANDING_MAX;
            let due = self.due();
            if due.is_some_and(|due| due < self.alarm.deadline()) {
                self.set_alarm();
            }
            tokio::select! {
                biased;
                result = self.stream.results.recv() => {
                    if let Some(item) = self.answered(result) {
                        self.over = !matches!(item, Ok(Ok(_)));
                        return Some(item);
                    }
                }
                request = next_request(&mut self.input), if wanted && (idle || news) => match request {
                    Some(request) => match self.take(request).await {
                        Ok(None) => {}
                        Ok(Some(answer)) => return Some(Ok(answer)),
                        Err(error) => {
                            self.over = true;
                            return Some(Err(error));
                        }
                    },
                    None => {
                        self.input = None;
                        if let Some(held) = self.held.take()
                            && let Err(error) = self.send(held.request).await
                        {
                            self.over = true;
                            return Some(Err(error));
                        }
                    }
                },
                Ok(()) = self.appended.changed(), if wanted && !(idle || news) => {}
                () = &mut self.alarm, if due.is_some() => if let Err(error) = self.alarmed().await {
                    self.over = true;
                    return Some(Err(error));
                },
            }
        }
    }

    /// When something has to be done though nothing comes.
    fn due(&self) -> Option<Instant> {
        let overdue = self.outstanding.front().map(|asked| asked.sent_at + ANSWER_TIMEOUT);
        let held = self.held.as_ref().map(|held| held.send_at);
        overdue.into_iter().chain(held).min()
    }

    fn set_alarm(&mut self) {
        if let Some(due) = self.due() {
            self.alarm.as_mut().reset(due);
        }
    }

    async fn alarmed(&mut self) -> Result<(), RPCError<C>> {
        let now = Instant::now();
        if self.outstanding.front().is_some_and(|asked| asked.sent_at + ANSWER_TIMEOUT <= now) {
            return Err(self.client.timeout(RPCTypes::AppendEntries, ANSWER_TIMEOUT).into());
        }
        if let Some(held) = self.held.take_if(|held| held.send_at <= now) {
            self.send(held.request).await?;
        }
        self.set_alarm();
        Ok(())
    }

    /// Sends what openraft asks for, holds it, or answers it from what the follower's vote said.
    async fn take(
        &mut self,
        request: AppendEntriesRequest<C>,
    ) -> Result<Option<StreamAppendResult<C>>, RPCError<C>> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first && let Some(matching) = self.client.answered_by_vote(&request) {
            return Ok(Some(Ok(Some(matching))));
        }
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        self.asked = last.map_or(0, |last| last.index);
        if request.entries.is_empty() && !first {
            if self.outstanding.is_empty() {
                // One that is held already is the older one, and due earlier.
                let send_at = self.held.as_ref().map(|held| held.send_at);
                let send_at =
                    send_at.unwrap_or_else(|| Instant::now() + Duration::from_millis(COMMIT_GATHER_MS));
                self.held = Some(Held { request, send_at });
                return Ok(None);
            }
            self.kept_back = self.outstanding.len();
        }
        self.held = None;
        self.send(request).await?;
        Ok(None)
    }

    async fn send(&mut self, request: AppendEntriesRequest<C>) -> Result<(), RPCError<C>> {
        let client = &*self.client;
        let wire = wire::append_to_wire(client.group, self.stream.id, client.heartbeat, request)
            .map_err(|e| NetworkError::new(&e))?;
        let (entries, bytes) = (wire.entries.len() as u64, wire::payload_bytes(&wire.entries));
        client.metrics.append_sent();
        self.sent = true;
        if !self.stream.send(wire, client.awaited.any()).await {
            return Err(self.lost().into());
        }
        self.outstanding.push_back(Outstanding { sent_at: Instant::now(), entries, bytes });
        Ok(())
    }

    /// What openraft is told of an answer; `None` when it is kept back.
    fn answered(
        &mut self,
        result: Option<pb::AppendResult>,
    ) -> Option<Result<StreamAppendResult<C>, RPCError<C>>> {
        let read = |result: pb::AppendResult| {
            wire::append_result_from_wire(result.result).map_err(Unreachable::from_string)
        };
        let answer = match result.ok_or_else(|| self.lost()).and_then(read) {
            Ok(answer) => answer,
            Err(error) => return Some(Err(error.into())),
        };
        if let (Some(asked), Ok(_)) = (self.outstanding.pop_front(), &answer) {
            self.client.metrics.appended(asked.entries, asked.bytes, asked.sent_at.elapsed());
        }
        self.client.learn(&answer);
        let kept_back = self.kept_back > 0 && answer.is_ok();
        self.kept_back = self.kept_back.saturating_sub(1);
        (!kept_back).then_some(Ok(answer))
    }

    fn lost(&self) -> Unreachable<C> {
        Unreachable::from_string(format!("lost the connection to broker {}", self.client.target))
    }
}

impl<S> Drop for Pipeline<'_, S> {
    fn drop(&mut self) {
        if self.sent && !self.client.heartbeat {
            self.stream.close(self.client.group);
        }
    }
}

async fn next_request<S>(input: &mut Option<S>) -> Option<AppendEntriesRequest<C>>
where
    S: Stream<Item = AppendEntriesRequest<C>> + Unpin,
{
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::NodeId;
    use evenkeel_raft_storage::types::raft::{CommittedLeaderId, Entry, LogId, Payload, Vote};
    use evenkeel_raft_storage::{LogOptions, SharedLog};
    use futures::channel::mpsc as input;
    use openraft::storage::RaftLogStorage;
    use openraft::vote::RaftLeaderId;
    use tokio::sync::mpsc;

    use super::super::Network;
    use super::*;
    use crate::peer::Peers;

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    /// A request of the entry `index`, or of none, and of everything before it as committed.
    fn request(index: u64, entry: bool) -> AppendEntriesRequest<C> {
        let prev = if entry { index - 1 } else { index };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(prev)),
            entries: entry
                .then(|| Entry { log_id: log_id(index), payload: Payload::Blank })
                .into_iter()
                .collect(),
            leader_commit: Some(log_id(prev)),
        }
    }

    struct Bench {
        _folder: tempfile::TempDir,
        client: Client,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let log = SharedLog::open_on_disk(LogOptions::new(folder.path())).unwrap().group(1);
            let network = Network {
                group: 1,
                me: NodeId(1),
                peers: Peers::default(),
                awaited: Default::default(),
                log,
                voter_logs: Default::default(),
            };
            Self { _folder: folder, client: network.client(2, false) }
        }

        /// The pipeline, where its requests come from, where they go, and where answers come from.
        fn pipeline(&mut self) -> (Pipeline<'_, input::UnboundedReceiver<AppendEntriesRequest<C>>>, Ends) {
            let (asked, requests) = input::unbounded();
            let (stream, sent, answers) = AppendStream::to_nobody();
            (Pipeline::new(&mut self.client, requests, stream), Ends { asked, sent, answers })
        }
    }

    struct Ends {
        asked: input::UnboundedSender<AppendEntriesRequest<C>>,
        sent: mpsc::Receiver<pb::AppendRequest>,
        answers: mpsc::Sender<pb::AppendResult>,
    }

    impl Ends {
        fn answer(&self, index: u64) {
            let result = Some(wire::append_result_to_wire(&Ok(Some(log_id(index)))));
            self.answers.try_send(pb::AppendResult { group: 1, result, ..Default::default() }).unwrap();
        }
    }

    /// Runs the pipeline until it has an answer or nothing happens for a tenth of a second.
    async fn next<S>(pipeline: &mut Pipeline<'_, S>) -> Option<u64>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Unpin,
    {
        let next = tokio::time::timeout(Duration::from_millis(100), pipeline.next()).await.ok()?;
        Some(next.unwrap().unwrap().unwrap().unwrap().index)
    }

    async fn append(log: &mut evenkeel_raft_storage::GroupLog, index: u64) {
        let entry = Entry { log_id: log_id(index), payload: Payload::Blank };
        log.append([entry], openraft::storage::IOFlushed::noop()).await.unwrap();
    }

    /// Sends the first entry, which is not answered yet.
    async fn begin<S>(pipeline: &mut Pipeline<'_, S>, ends: &mut Ends)
    where
        S: Stream<Item = AppendEntriesRequest<C>> + Unpin,
    {
        append(&mut pipeline.client.log, 1).await;
        ends.asked.unbounded_send(request(1, true)).unwrap();
        assert_eq!(next(pipeline).await, None);
        assert_eq!(ends.sent.try_recv().unwrap().entries.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_index_waits_for_entries_and_goes_with_them() {
        let mut bench = Bench::new();
        let mut log = bench.client.log.clone();
        let (mut pipeline, mut ends) = bench.pipeline();
        begin(&mut pipeline, &mut ends).await;
        ends.answer(1);
        assert_eq!(next(&mut pipeline).await, Some(1));

        ends.asked.unbounded_send(request(1, false)).unwrap();
        let moment = Duration::from_millis(COMMIT_GATHER_MS / 2);
        assert!(tokio::time::timeout(moment, pipeline.next()).await.is_err());
        append(&mut log, 2).await;
        ends.asked.unbounded_send(request(2, true)).unwrap();
        assert_eq!(next(&mut pipeline).await, None);
        let sent = ends.sent.try_recv().unwrap();
        assert_eq!((sent.entries.len(), sent.leader_commit.unwrap().index), (1, 1));
        assert!(ends.sent.try_recv().is_err(), "the commit index went by itself too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_index_that_no_entries_follow_goes_after_a_moment() {
        let mut bench = Bench::new();
        let (mut pipeline, mut ends) = bench.pipeline();
        begin(&mut pipeline, &mut ends).await;
        ends.answer(1);
        assert_eq!(next(&mut pipeline).await, Some(1));

        ends.asked.unbounded_send(request(1, false)).unwrap();
        let began = Instant::now();
        let waited = tokio::select! {
            sent = ends.sent.recv() => sent.map(|request| (request.entries.len(), began.elapsed())),
            answer = pipeline.next() => panic!("{answer:?} without an answer"),
        };
        assert_eq!(waited, Some((0, Duration::from_millis(COMMIT_GATHER_MS))));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_without_entries_is_asked_for_while_an_answer_is_awaited() {
        let mut bench = Bench::new();
        let (mut pipeline, mut ends) = bench.pipeline();
        begin(&mut pipeline, &mut ends).await;
        ends.asked.unbounded_send(request(1, false)).unwrap();
        assert_eq!(next(&mut pipeline).await, None);
        assert!(ends.sent.try_recv().is_err());
        assert_eq!(ends.asked.len(), 1, "openraft's time of it would begin before the answer");
        ends.answer(1);
        assert_eq!(next(&mut pipeline).await, Some(1));
        assert_eq!(next(&mut pipeline).await, None);
        assert!(ends.sent.try_recv().unwrap().entries.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_on_its_way_does_not_vouch_for_a_request_made_since() {
        let mut bench = Bench::new();
        let mut log = bench.client.log.clone();
        let (mut pipeline, mut ends) = bench.pipeline();
        begin(&mut pipeline, &mut ends).await;
        // The log has more, so openraft is asked; but it has not taken notice of that yet.
        append(&mut log, 2).await;
        ends.asked.unbounded_send(request(1, false)).unwrap();
        assert_eq!(next(&mut pipeline).await, None);
        assert_eq!(ends.sent.len(), 1);
        ends.answer(1);
        assert_eq!(next(&mut pipeline).await, None, "a lease would begin at the time of the second request");
        ends.answer(1);
        assert_eq!(next(&mut pipeline).await, Some(1));
    }
}
