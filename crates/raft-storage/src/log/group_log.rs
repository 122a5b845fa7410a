//! One group's view of the shared log: openraft's log storage and log reader.

use std::fmt::{self, Debug};
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::{oneshot, watch};

use super::entry_codec::{self, EncodedEntry};
use super::entry_source::{EntrySource, read_all};
use super::log_core::Waiter;
use super::log_error::{LogFailure, LogRefusal};
use super::shared_log::{CommitterDriver, LogHandle, LogShared};
use crate::types::raft::{Entry, LogId, Vote};
use crate::types::{GroupId, TypeConfig};

/// The log of one group. Cheap to clone; clones see the same log.
#[derive(Clone)]
pub struct GroupLog {
    group: GroupId,
    handle: Arc<LogHandle>,
    /// Index of the last entry that this handle or a clone of it appended.
    appended: Arc<watch::Sender<u64>>,
}

impl Debug for GroupLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupLog({})", self.group)
    }
}

impl GroupLog {
    pub(super) fn new(group: GroupId, handle: Arc<LogHandle>) -> Self {
        let last = handle.log.core.lock().groups.get(&group).and_then(|group| group.last_log_id());
        let appended = Arc::new(watch::Sender::new(last.map_or(0, |last| last.index)));
        Self { group, handle, appended }
    }

    /// Number of the group.
    pub fn group_id(&self) -> GroupId {
        self.group
    }

    /// Payload bytes of the entries with an index above `index`, of all when `None`: what a follower that has
    /// everything up to `index` lacks. Constant time.
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        self.log().core.lock().groups.get(&self.group).map_or(0, |group| group.bytes_after(index))
    }

    /// Last purged and last appended log id.
    pub fn state(&self) -> LogState<TypeConfig> {
        let core = self.log().core.lock();
        core.groups.get(&self.group).map_or_else(LogState::default, |group| LogState {
            last_purged_log_id: group.purged,
            last_log_id: group.last_log_id(),
        })
    }

    /// The log id of the entry with this index, when the log holds it.
    pub fn log_id(&self, index: u64) -> Option<LogId> {
        let core = self.log().core.lock();
        let slot = core.groups.get(&self.group)?.slot(index)?;
        Some(LogId::new(slot.leader, index))
    }

    /// Returns once everything that any group queued before is durable.
    pub async fn flush(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut core = self.log().core.lock();
            core.check_usable()?;
            core.wait(Waiter::Caller(sender));
        }
        self.log().wake_committer();
        durable(receiver).await
    }

    /// Index of the last entry that was appended through this handle or its clones, durable or not, or of the last that the
    /// log held when the handle was made. A truncation does not lower it.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// The last entry that is durable, or the last purged one.
    pub fn durable(&self) -> Option<LogId> {
        let core = self.log().core.lock();
        core.groups.get(&self.group).and_then(|group| group.durable(core.durable_until))
    }

    /// The last vote saved.
    pub fn vote(&self) -> Option<Vote> {
        self.log().core.lock().groups.get(&self.group).and_then(|group| group.vote)
    }

    /// The last committed log id saved.
    pub fn committed(&self) -> Option<LogId> {
        self.log().core.lock().groups.get(&self.group).and_then(|group| group.committed)
    }

    fn log(&self) -> &LogShared {
        &self.handle.log
    }

    fn prepare(&self, entries: impl IntoIterator<Item = Entry>) -> io::Result<Vec<EncodedEntry>> {
        let salt = self.log().salt;
        let encoded = entries.into_iter().map(|entry| entry_codec::encode(self.group, entry, 0, salt));
        encoded.collect::<Result<_, _>>().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    fn queue_append(&self, entries: Vec<EncodedEntry>, callback: IOFlushed<TypeConfig>) -> io::Result<()> {
        let last = entries.last().map(|encoded| encoded.entry.log_id.index);
        let mut core = self.log().core.lock();
        let refused = match core.check_usable() {
            Err(refusal) => Some((Waiter::Raft(callback), refusal.into())),
            Ok(()) => {
                (core.append(self.group, entries, Waiter::Raft(callback)).err()).map(|(waiter, misfit)| {
                    let message = format!("group {}: append: {misfit}", self.group);
                    (waiter, io::Error::new(io::ErrorKind::InvalidInput, message))
                })
            }
        };
        drop(core);
        match refused {
            None => {
                self.log().wake_committer();
                if let Some(last) = last {
                    self.appended.send_replace(last);
                }
                Ok(())
            }
            Some((Waiter::Raft(callback), error)) => {
                callback.io_completed(Err(io::Error::new(error.kind(), error.to_string())));
                Err(error)
            }
            Some((Waiter::Caller(_), error)) => Err(error),
        }
    }

    /// The entries in `range` that the log holds, but no more than `bytes_max` payload bytes, and at least one.
    async fn read(&self, range: Range<u64>, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let (sources, any_stored) = self.sources(range, bytes_max)?;
        let (group, salt) = (self.group, self.log().salt);
        if !any_stored || self.log().options.driver == CommitterDriver::Task {
            return read_all(sources, group, salt);
        }
        let read = tokio::task::spawn_blocking(move || read_all(sources, group, salt));
        read.await.map_err(io::Error::other)?
    }

    fn sources(&self, range: Range<u64>, bytes_max: u64) -> io::Result<(Vec<EntrySource>, bool)> {
        let core = self.log().core.lock();
        let mut sources = Vec::new();
        let mut any_stored = false;
        let group = core.groups.get(&self.group);
        let Some((group, (first, last))) = group.and_then(|group| Some((group, group.range()?))) else {
            return Ok((sources, any_stored));
        };
        let mut bytes = 0;
        for index in range.start.max(first)..range.end.min(last + 1) {
            let Some(slot) = group.slot(index) else { break };
            bytes += slot.location.payload_bytes();
            if bytes > bytes_max && !sources.is_empty() {
                break;
            }
            let source = EntrySource::of(&core, index, slot);
            let source = source.ok_or_else(|| {
                io::Error::other(format!("group {}, entry {index}: neither cached nor stored", self.group))
            })?;
            any_stored |= matches!(source, EntrySource::Stored { .. });
            sources.push(source);
        }
        Ok((sources, any_stored))
    }
}

/// `start..end` of any range of indexes.
fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

async fn durable(receiver: oneshot::Receiver<Result<(), Arc<LogFailure>>>) -> io::Result<()> {
    match receiver.await {
        Ok(outcome) => outcome.map_err(|failure| LogRefusal::Failed(failure).into()),
        Err(_) => Err(LogRefusal::Closed.into()),
    }
}

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(half_open(&range), u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, self.log().options.read_bytes_max).await
    }

    /// Reads piece by piece, so that a long range is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let pieces =
            futures::stream::try_unfold((self.clone(), half_open(&range)), |(log, rest)| async move {
                let entries = log.read(rest.clone(), log.log().options.read_bytes_max).await?;
                let Some(last) = entries.last() else { return Ok::<_, io::Error>(None) };
                let rest = last.log_id.index + 1..rest.end;
                Ok(Some((futures::stream::iter(entries.into_iter().map(Ok)), (log, rest))))
            });
        futures::TryStreamExt::try_flatten(pieces)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        Ok(self.state())
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut core = self.log().core.lock();
            core.check_usable()?;
            core.save_vote(self.group, *vote, Waiter::Caller(sender));
        }
        self.log().wake_committer();
        durable(receiver).await
    }

    /// Does not wait and does not cause a write: the position goes with the next batch. A crash before loses no
    /// record, the group only learns again what was committed.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut core = self.log().core.lock();
        core.check_usable()?;
        core.save_committed(self.group, committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = match self.prepare(entries) {
            Ok(entries) => entries,
            Err(error) => {
                callback.io_completed(Err(io::Error::new(error.kind(), error.to_string())));
                return Err(error);
            }
        };
        self.log().wait_for_room().await;
        self.queue_append(entries, callback)
    }

    /// Waits until the truncation is durable: a snapshot that is installed next must not meet the old tail again
    /// after a crash.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        let removed = {
            let mut core = self.log().core.lock();
            core.check_usable()?;
            core.truncate_after(self.group, last_log_id.as_ref(), Waiter::Caller(sender))
        };
        drop(removed);
        self.log().wake_committer();
        durable(receiver).await
    }

    /// Does not wait: the purge goes with the next batch, and only then can segments be deleted.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let removed = {
            let mut core = self.log().core.lock();
            core.check_usable()?;
            core.purge(self.group, log_id)
        };
        drop(removed);
        Ok(())
    }
}
