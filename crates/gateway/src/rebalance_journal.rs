//! What the owner of a run writes about it, and its signs of life: one writer, so that writes keep their order.
//!
//! Every write also changes the record of the active run, at the version that this gateway wrote last. So a gateway
//! that was taken for dead and replaced cannot write any more: it notices, and stops. What comes together is written
//! together.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::rebalance_record::{ActiveRun, RunHead, Transition};
use crate::rebalance_store::{ACTIVE_RUN_KEY, RunStore, head_key, journal_key};
use crate::system_store::{Batch, Expect, SystemStoreError, Versioned};

/// How often an owner shows that it lives.
pub(crate) const BEAT_INTERVAL: Duration = Duration::from_millis(200);
/// Entries that may wait to be written; also the most that one write holds.
const WAITING_MAX: usize = 256;
/// Before a write that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A journal that cannot be written for so long gives up: another gateway, or this one later, carries the run on.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

enum Entry {
    Transition(Transition, Option<oneshot::Sender<()>>),
    /// The run has ended like this.
    Finish(Box<RunHead>, oneshot::Sender<()>),
    /// Somebody else shall carry the run on.
    Release(oneshot::Sender<()>),
}

/// The way to a run's journal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    entries: mpsc::Sender<Entry>,
    /// Cancelled once the run is to stop.
    pub(crate) cancelled: CancellationToken,
    /// Cancelled once this gateway does not own the run any more.
    pub(crate) lost: CancellationToken,
}

/// This gateway owns the run no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another gateway has taken the run over")]
pub(crate) struct Lost;

impl Journal {
    /// Starts to write the journal of a run that this gateway owns, from its `next` entry on.
    pub(crate) fn start(store: RunStore, active: Versioned<ActiveRun>, next: u64) -> Self {
        let (entries, waiting) = mpsc::channel(WAITING_MAX);
        let journal = Self { entries, cancelled: CancellationToken::new(), lost: CancellationToken::new() };
        if active.value.cancel_requested {
            journal.cancelled.cancel();
        }
        let (cancelled, lost) = (journal.cancelled.clone(), journal.lost.clone());
        let writer = Writer { store, active: active.value, version: active.version, next, cancelled, lost };
        tokio::spawn(writer.run(waiting));
        journal
    }

    /// Returns once it is durable that the partition is begun.
    pub(crate) async fn begun(&self, transition: Transition) -> Result<(), Lost> {
        self.written(|done| Entry::Transition(transition, Some(done))).await
    }

    /// Durable soon, and before whatever is written later.
    pub(crate) async fn ended(&self, transition: Transition) -> Result<(), Lost> {
        self.entries.send(Entry::Transition(transition, None)).await.map_err(|_| Lost)
    }

    /// Ends the run, durably.
    pub(crate) async fn finish(&self, head: RunHead) -> Result<(), Lost> {
        self.written(|done| Entry::Finish(Box::new(head), done)).await
    }

    /// Leaves the run to another gateway.
    pub(crate) async fn release(&self) -> Result<(), Lost> {
        self.written(Entry::Release).await
    }

    async fn written(&self, entry: impl FnOnce(oneshot::Sender<()>) -> Entry) -> Result<(), Lost> {
        let (done, is_done) = oneshot::channel();
        self.entries.send(entry(done)).await.map_err(|_| Lost)?;
        is_done.await.map_err(|_| Lost)
    }
}

struct Writer {
    store: RunStore,
    active: ActiveRun,
    version: u64,
    /// Number of the journal's next record.
    next: u64,
    cancelled: CancellationToken,
    lost: CancellationToken,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Entry>) {
        // Whoever waits for a write that never comes sees its sender dropped.
        let _lost_at_the_end = self.lost.clone().drop_guard();
        let mut beat = interval(BEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut entries = Vec::new();
        loop {
            tokio::select! {
                biased;
                received = waiting.recv_many(&mut entries, WAITING_MAX) => if received == 0 { return },
                _ = beat.tick() => {}
            }
            match self.write(std::mem::take(&mut entries)).await {
                Ok(true) => beat.reset(),
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(run = self.active.id, "this gateway leaves the rebalance: {error}");
                    return;
                }
            }
        }
    }

    /// Whether the run goes on here.
    async fn write(&mut self, entries: Vec<Entry>) -> Result<bool, WriteError> {
        let mut transitions = Vec::new();
        let mut waiting = Vec::new();
        let mut finish = None;
        let mut release = false;
        for entry in entries {
            match entry {
                Entry::Transition(transition, done) => {
                    transitions.push(transition);
                    waiting.extend(done);
                }
                Entry::Finish(head, done) => {
                    finish = Some(head);
                    waiting.push(done);
                }
                Entry::Release(done) => {
                    release = true;
                    waiting.push(done);
                }
            }
        }
        let next = ActiveRun {
            beat: self.active.beat + 1,
            owner: if release { String::new() } else { self.active.owner.clone() },
            ..self.active.clone()
        };
        let ends = finish.is_some() || release;
        self.until_written(next, &transitions, finish.as_deref()).await?;
        if !transitions.is_empty() {
            self.next += 1;
        }
        for done in waiting {
            // Whoever waited may have gone.
            let _ = done.send(());
        }
        Ok(!ends)
    }

    async fn until_written(
        &mut self,
        mut next: ActiveRun,
        transitions: &[Transition],
        finish: Option<&RunHead>,
    ) -> Result<(), WriteError> {
        let since = Instant::now();
        loop {
            let mut batch = Batch::default();
            let expect = Expect::Version(self.version);
            match finish {
                None => batch.put(ACTIVE_RUN_KEY, &next, expect)?,
                Some(_) => batch.delete(ACTIVE_RUN_KEY, expect),
            }
            if !transitions.is_empty() {
                batch.put(&journal_key(next.id, self.next), &transitions, Expect::Anything)?;
            }
            if let Some(head) = finish {
                let head = RunHead { cancel_requested: self.cancelled.is_cancelled(), ..head.clone() };
                batch.put(&head_key(next.id), &head, Expect::Anything)?;
            }
            match self.store.store.commit(batch).await {
                Ok(versions) => {
                    self.version = versions.first().copied().unwrap_or_default();
                    self.active = next;
                    return Ok(());
                }
                Err(SystemStoreError::Conflict { .. }) => {}
                Err(error) if since.elapsed() >= GIVE_UP_AFTER => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(run = next.id, "journal of the rebalance: {error}");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
            if self.look_again(&mut next, finish.is_some()).await? {
                return Ok(());
            }
        }
    }

    /// After a conflict: whether the write had taken effect all the same. Somebody may have asked to cancel the run.
    async fn look_again(&mut self, next: &mut ActiveRun, finishing: bool) -> Result<bool, WriteError> {
        let stored = self.store.active().await?;
        match stored {
            Some(stored) if stored.value.id == next.id && stored.value.owner == self.active.owner => {
                if stored.value.cancel_requested {
                    self.cancelled.cancel();
                    self.active.cancel_requested = true;
                    next.cancel_requested = true;
                }
                self.version = stored.version;
                let done = !finishing && stored.value.beat == next.beat;
                if done {
                    self.active = stored.value;
                }
                Ok(done)
            }
            Some(stored)
                if stored.value.id == next.id && next.owner.is_empty() && stored.value.owner.is_empty() =>
            {
                Ok(true)
            }
            stored if finishing && stored.as_ref().is_none_or(|stored| stored.value.id != next.id) => {
                Ok(true)
            }
            _ => Err(WriteError::Lost(Lost)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Lost(#[from] Lost),
    #[error(transparent)]
    Store(#[from] SystemStoreError),
}
