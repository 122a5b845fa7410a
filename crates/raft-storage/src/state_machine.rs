//! openraft's state machine of one partition, kept in the shared [`StateStore`](crate::StateStore).
//!
//! See there for what is durable when, and for what an apply batch costs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use evenkeel_protocol::internal::v1 as internal;
use evenkeel_protocol::internal::v1::{Outcome, outcome};
use evenkeel_protocol::v1::WatchEvent;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{oneshot, watch};

use crate::applier::Apply;
use crate::exported;
use crate::partition_reader::{PartitionReader, PartitionShared, encode_changes};
use crate::records::{Rejection, StagedRecords, Written};
use crate::request_ids::{CLIENTS_MAX, RequestIds, Seen};
use crate::snapshot::{Snapshot, SnapshotView};
use crate::snapshot_receiver::ReceivedGeneration;
use crate::state_database::{Rows, StateView};
use crate::state_layout::{
    Kind, Numbers, PartitionRow, Scope, decode_log_id, encode_log_id, encode_membership, encode_record,
    membership_key, number_of_key, record_head, row_key,
};
use crate::state_store::StoreInner;
use crate::types::{GroupId, TypeConfig, raft};

/// Entries in one batch.
const BATCH_ENTRIES_MAX: usize = 256;
/// Bytes of commands in one batch; the last command may go beyond.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Changes are trimmed a 512th of the limit at a time: most batches need not look for the oldest, and none looks long.
const TRIM_SHARE: u64 = 512;

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Snapshot>;

/// A row of `changes` that is not yet written.
struct StagedChange {
    position: u64,
    events: u64,
    row: Vec<u8>,
}

/// What was staged since the last commit, beside the state that it already changed.
#[derive(Default)]
struct Batch {
    bytes: usize,
    records: StagedRecords,
    changes: VecDeque<StagedChange>,
    membership: Option<Vec<u8>>,
}

/// Applies the log of one partition.
pub struct PartitionStateMachine {
    /// `None` while the applier has it; for good when it stopped meanwhile.
    state: Option<Box<PartitionState>>,
    store: Arc<StoreInner>,
}

/// What a partition's next entry is applied to.
struct PartitionState {
    store: Arc<StoreInner>,
    partition: GroupId,
    shared: Arc<PartitionShared>,
    row: PartitionRow,
    applied: Option<raft::LogId>,
    membership: raft::StoredMembership,
    requests: RequestIds,
    /// False while memory is ahead of the database; stays false when a commit failed or was cut off.
    usable: bool,
    /// Says that this partition's state machine is in use.
    _in_use: Arc<()>,
}

impl PartitionStateMachine {
    pub(crate) fn load(
        store: Arc<StoreInner>,
        partition: GroupId,
        in_use: Arc<()>,
    ) -> io::Result<(Self, PartitionReader)> {
        let (state, reader) = PartitionState::load(Arc::clone(&store), partition, in_use)?;
        Ok((Self { state: Some(Box::new(state)), store }, reader))
    }

    /// The state, unless an earlier write failed or was cut off.
    fn usable(&mut self) -> io::Result<&mut PartitionState> {
        let state = self.state.as_deref_mut().ok_or_else(stopped)?;
        state.check_usable()?;
        Ok(state)
    }

    /// Applies all entries, a batch at a time, and calls `answer` for each that has a responder once it is committed.
    pub(crate) async fn apply_all<A, F>(
        &mut self,
        mut entries: impl Stream<Item = io::Result<(raft::Entry, Option<A>)>> + Unpin,
        answer: F,
    ) -> io::Result<()>
    where
        A: Send + 'static,
        F: Fn(A, Outcome) + Clone + Send + 'static,
    {
        let mut ended = Ok(false);
        while let Ok(false) = ended {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
                match entries.next().await {
                    Some(Ok((entry, responder))) => {
                        if let EntryPayload::Normal(command) = &entry.payload {
                            bytes += command.0.len();
                        }
                        batch.push((entry, responder));
                        continue;
                    }
                    None => ended = Ok(true),
                    Some(Err(error)) => ended = Err(error),
                }
                break;
            }
            self.apply_batch(batch, answer.clone()).await?;
        }
        ended.map(|_| ())
    }

    /// Lends the state to the applier, which stages and commits the entries and answers them.
    async fn apply_batch<A, F>(&mut self, entries: Vec<(raft::Entry, Option<A>)>, answer: F) -> io::Result<()>
    where
        A: Send + 'static,
        F: Fn(A, Outcome) + Send + 'static,
    {
        self.usable()?;
        if entries.is_empty() {
            return Ok(());
        }
        let state = self.state.take().ok_or_else(stopped)?;
        let (done, committed) = oneshot::channel();
        let answers = Vec::with_capacity(entries.len());
        let apply = ApplyBatch { state, entries, answers, answer, done };
        if !self.store.applier.send(Box::new(apply)).await {
            return Err(stopped());
        }
        let (state, result) = committed.await.map_err(|_| stopped())?;
        self.state = Some(state);
        result
    }
}

impl PartitionState {
    fn load(
        store: Arc<StoreInner>,
        partition: GroupId,
        in_use: Arc<()>,
    ) -> io::Result<(Self, PartitionReader)> {
        let row = store.read_row(partition)?;
        let row = row.unwrap_or_else(|| PartitionRow { changes_first: 1, ..PartitionRow::default() });
        let applied = row.applied.as_ref().map(decode_log_id);
        let (applied_sender, _) = watch::channel(applied.map_or(0, |id| id.index));
        let shared = Arc::new(PartitionShared {
            partition,
            generation: AtomicU32::new(row.generation),
            changes_first: AtomicU64::new(row.changes_first),
            records_count: AtomicU64::new(row.records_count),
            exported: Mutex::new(row.exported.clone()),
            applied: applied_sender,
        });
        let requests = load_requests(&store, Scope { partition, generation: row.generation })?;
        let membership = store.read_membership(partition)?;
        let reader = PartitionReader::new(Arc::clone(&store), Arc::clone(&shared));
        let machine = Self {
            store,
            partition,
            shared,
            row,
            applied,
            membership,
            requests,
            usable: true,
            _in_use: in_use,
        };
        Ok((machine, reader))
    }

    fn scope(&self) -> Scope {
        Scope { partition: self.partition, generation: self.row.generation }
    }

    fn check_usable(&self) -> io::Result<()> {
        if self.usable {
            return Ok(());
        }
        let partition = self.partition;
        Err(io::Error::other(format!(
            "state of partition {partition}: an earlier write failed; restart the broker"
        )))
    }

    /// Takes one entry into the batch.
    fn stage(&mut self, batch: &mut Batch, entry: raft::Entry) -> io::Result<Outcome> {
        let position = entry.log_id.index;
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::default(),
            EntryPayload::Normal(command) => {
                batch.bytes += command.0.len();
                self.stage_command(batch, position, command.0)?
            }
            EntryPayload::Membership(membership) => {
                self.membership = raft::StoredMembership::new(Some(entry.log_id), membership);
                batch.membership = Some(encode_membership(&self.membership)?);
                Outcome::default()
            }
        };
        self.applied = Some(entry.log_id);
        Ok(outcome)
    }

    fn stage_command(&mut self, batch: &mut Batch, position: u64, command: Bytes) -> io::Result<Outcome> {
        let command = match internal::Command::decode(command) {
            Ok(command) => command,
            Err(_) => return Ok(malformed("the command is not a Command message")),
        };
        #[cfg(feature = "known-bugs")]
        let known = !crate::known_bugs::KnownBug::SkipRequestIds.is_awake();
        #[cfg(not(feature = "known-bugs"))]
        let known = true;
        if let Some(id) = command.request_id.as_ref().filter(|_| known) {
            match self.requests.check(id)? {
                Seen::New => {}
                Seen::Duplicate(outcome) => return Ok(outcome),
                Seen::Superseded { last_sequence } => {
                    let superseded = outcome::Superseded { last_sequence };
                    return Ok(Outcome { outcome: Some(outcome::Outcome::Superseded(superseded)) });
                }
            }
        }
        if !command.exported.is_empty()
            && let Err(reason) = exported::reach(&mut self.row.exported, command.exported)
        {
            return Ok(malformed(reason));
        }
        let (scope, database) = (self.scope(), &self.store.database);
        let executed = batch.records.execute(self.partition, position, command.operations, |key| {
            let stored = database.get(&scope.key(Kind::Record, key))?;
            stored.map_or(Ok(0), |stored| record_head(&stored).map(|(version, _)| version))
        })?;
        let outcome = match executed {
            Ok(Written { results, events, records_added }) => {
                self.row.records_count = self.row.records_count.saturating_add_signed(records_added);
                self.stage_changes(batch, position, &events);
                outcome::Outcome::Applied(outcome::Applied { position, results })
            }
            Err(Rejection::PreconditionFailed(failed)) => outcome::Outcome::PreconditionFailed(failed),
            Err(Rejection::Malformed(malformed)) => outcome::Outcome::Malformed(malformed),
        };
        let outcome = Outcome { outcome: Some(outcome) };
        if let Some(id) = &command.request_id {
            self.requests.remember(id, position, &outcome);
        }
        Ok(outcome)
    }

    fn stage_changes(&mut self, batch: &mut Batch, position: u64, events: &[WatchEvent]) {
        if events.is_empty() {
            return;
        }
        let row = encode_changes(events);
        self.row.changes_count += events.len() as u64;
        self.row.changes_bytes += row.len() as u64;
        batch.changes.push_back(StagedChange { position, events: events.len() as u64, row });
    }

    /// Removes the oldest changes when there are too many, from the database and then from the batch.
    fn trim_changes(&mut self, batch: &mut Batch, write: &mut Rows) -> io::Result<()> {
        let options = &self.store.options;
        let (count_max, bytes_max) = (options.changes_retained_max, options.changes_retained_bytes_max);
        if self.row.changes_count <= count_max && self.row.changes_bytes <= bytes_max {
            return Ok(());
        }
        let (count_goal, bytes_goal) =
            (count_max - count_max / TRIM_SHARE, bytes_max - bytes_max / TRIM_SHARE);
        let too_much = |row: &PartitionRow| row.changes_count > count_goal || row.changes_bytes > bytes_goal;
        let trimmed = |row: &mut PartitionRow, position: u64, events: u64, bytes: usize| {
            row.changes_count = row.changes_count.saturating_sub(events);
            row.changes_bytes = row.changes_bytes.saturating_sub(bytes as u64);
            row.changes_first = position + 1;
        };
        let scope = self.scope();
        let mut trim_from = |view: Box<dyn StateView>, row: &mut PartitionRow| -> io::Result<()> {
            let from = scope.number_key(Kind::Change, row.changes_first);
            for item in view.range(&from, &scope.end(Kind::Change)) {
                if !too_much(row) {
                    break;
                }
                let (key, change) = item?;
                let events = Numbers(&change).u32_le()?;
                trimmed(row, number_of_key(&key)?, u64::from(events), change.len());
                write.remove(key);
            }
            Ok(())
        };
        // The oldest were written long ago, unless very few are kept.
        trim_from(self.store.database.earlier_view()?, &mut self.row)?;
        if too_much(&self.row) {
            trim_from(self.store.database.view()?, &mut self.row)?;
        }
        while too_much(&self.row)
            && let Some(change) = batch.changes.pop_front()
        {
            trimmed(&mut self.row, change.position, change.events, change.row.len());
        }
        // Readers must not take a trimmed change for one that never was.
        self.shared.changes_first.store(self.row.changes_first, Ordering::Release);
        Ok(())
    }

    /// The rows of what is staged.
    fn write_rows(&mut self, mut batch: Batch, write: &mut Rows) -> io::Result<()> {
        let scope = self.scope();
        self.trim_changes(&mut batch, write)?;
        for (key, record) in batch.records.drain() {
            let key = scope.key(Kind::Record, &key);
            match record {
                Some(record) => {
                    write.insert(key, encode_record(record.version, record.position, &record.value));
                }
                None => write.remove(key),
            }
        }
        for change in batch.changes {
            write.insert(scope.number_key(Kind::Change, change.position), change.row);
        }
        for (client, row) in self.requests.take_rows() {
            let key = scope.number_key(Kind::Request, client);
            match row {
                Some(row) => write.insert(key, row),
                None => write.remove(key),
            }
        }
        if let Some(membership) = batch.membership {
            write.insert(membership_key(self.partition), membership);
        }
        self.row.applied = self.applied.as_ref().map(encode_log_id);
        write.insert(row_key(self.partition), self.row.encode_to_vec());
        Ok(())
    }

    /// Shows readers what was committed.
    fn publish(&self) {
        self.shared.records_count.store(self.row.records_count, Ordering::Release);
        self.shared.exported.lock().clone_from(&self.row.exported);
        self.shared.applied.send_replace(self.applied.map_or(0, |id| id.index));
    }

    /// This partition's state as it is now; meanwhile nothing is applied to it.
    async fn raft_snapshot(&self) -> io::Result<RaftSnapshot> {
        let meta = raft::SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let store = Arc::clone(&self.store);
        let view = self.store.blocking(move || store.database.view()).await?;
        let snapshot = Snapshot::from_view(SnapshotView {
            store: Arc::clone(&self.store),
            view,
            partition: self.partition,
            row: self.row.clone(),
        });
        Ok(RaftSnapshot { meta, snapshot })
    }

    /// Makes a received generation the live one, durably.
    async fn go_live(&mut self, meta: &raft::SnapshotMeta, received: ReceivedGeneration) -> io::Result<()> {
        let scope = received.scope();
        if scope.partition != self.partition || received.applied() != meta.last_log_id {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("snapshot is of another partition or position than its description {meta}"),
            ));
        }
        let position = meta.last_log_id.map_or(0, |id| id.index);
        let row = PartitionRow {
            generation: scope.generation,
            applied: meta.last_log_id.as_ref().map(encode_log_id),
            records_count: received.records_count(),
            changes_first: position + 1,
            changes_count: 0,
            changes_bytes: 0,
            exported: received.exported().to_vec(),
        };
        let membership = encode_membership(&meta.last_membership)?;
        let old = self.scope();
        let store = Arc::clone(&self.store);
        self.usable = false;
        let install = move || {
            let requests = load_requests(&store, scope)?;
            store.database.sync_ahead()?;
            let mut rows = Rows::default();
            rows.insert(row_key(scope.partition), row.encode_to_vec());
            rows.insert(membership_key(scope.partition), membership);
            rows.remove(scope.prefix(Kind::Garbage));
            rows.insert(old.prefix(Kind::Garbage), []);
            store.database.commit(rows, true)?;
            Ok((row, requests))
        };
        let (row, requests) = self.store.blocking(install).await?;
        received.keep();
        self.row = row;
        self.requests = requests;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.shared.changes_first.store(self.row.changes_first, Ordering::Release);
        self.shared.generation.store(self.row.generation, Ordering::Release);
        self.usable = true;
        self.publish();
        self.store.cleaner.drop_later(old);
        Ok(())
    }
}

/// One batch of one partition, on its way through the applier.
struct ApplyBatch<A, F> {
    state: Box<PartitionState>,
    entries: Vec<(raft::Entry, Option<A>)>,
    answers: Vec<(A, Outcome)>,
    answer: F,
    done: oneshot::Sender<(Box<PartitionState>, io::Result<()>)>,
}

impl<A: Send, F: Fn(A, Outcome) + Send> Apply for ApplyBatch<A, F> {
    fn stage(&mut self, rows: &mut Rows) -> io::Result<usize> {
        self.state.usable = false;
        let mut batch = Batch::default();
        for (entry, responder) in self.entries.drain(..) {
            let outcome = self.state.stage(&mut batch, entry)?;
            self.answers.extend(responder.map(|responder| (responder, outcome)));
        }
        // Record and change have the value each.
        let bytes = 2 * batch.bytes;
        self.state.write_rows(batch, rows)?;
        Ok(bytes)
    }

    fn finish(mut self: Box<Self>, result: io::Result<()>) {
        if result.is_ok() {
            self.state.usable = true;
            self.state.publish();
            for (responder, outcome) in self.answers {
                (self.answer)(responder, outcome);
            }
        }
        // Nobody waits any more when openraft was shut down meanwhile.
        let _ = self.done.send((self.state, result));
    }
}

fn stopped() -> io::Error {
    io::Error::other("the state store has stopped; restart the broker")
}

impl RaftStateMachine<TypeConfig> for PartitionStateMachine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<raft::LogId>, raft::StoredMembership), io::Error> {
        let state = self.usable()?;
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.apply_all(entries, |responder: ApplyResponder<TypeConfig>, outcome| responder.send(outcome))
            .await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let snapshot = match self.usable() {
            Ok(state) => state.raft_snapshot().await,
            Err(error) => Err(error),
        };
        SnapshotBuilder { store: Arc::clone(&self.store), snapshot: Some(snapshot) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &raft::SnapshotMeta,
        snapshot: Snapshot,
    ) -> Result<(), io::Error> {
        let store = Arc::clone(&self.store);
        let state = self.usable()?;
        let received = snapshot.into_received(&store, state.partition).await?;
        state.go_live(meta, received).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        let state = self.usable()?;
        if state.applied.is_none() {
            return Ok(None);
        }
        state.raft_snapshot().await.map(Some)
    }
}

/// Makes a view of the state durable, so that the log up to it may go.
pub struct SnapshotBuilder {
    store: Arc<StoreInner>,
    /// Taken once.
    snapshot: Option<io::Result<RaftSnapshot>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let snapshot = self.snapshot.take();
        let snapshot =
            snapshot.ok_or_else(|| io::Error::other("a snapshot builder builds one snapshot"))??;
        let store = Arc::clone(&self.store);
        self.store.blocking(move || store.database.persist()).await?;
        Ok(snapshot)
    }
}

fn load_requests(store: &StoreInner, scope: Scope) -> io::Result<RequestIds> {
    let mut requests = RequestIds::new(CLIENTS_MAX);
    for item in store.database.view()?.range(&scope.prefix(Kind::Request), &scope.end(Kind::Request)) {
        let (key, row) = item?;
        requests.load_row(number_of_key(&key)?, &row)?;
    }
    Ok(requests)
}

fn malformed(reason: &str) -> Outcome {
    let malformed = outcome::Malformed { reason: reason.into() };
    Outcome { outcome: Some(outcome::Outcome::Malformed(malformed)) }
}
