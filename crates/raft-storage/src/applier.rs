//! Commits what partitions apply, all partitions together, on a thread of its own.
//!
//! Reads and commits in fjall may wait: for the journal's lock, for a table being added (three syncs under a lock),
//! for fjall's own back-pressure. On a thread of its own an apply holds up nobody but those who wait for it. While one
//! commit runs, the applies of all partitions gather, and the next commit takes them at once: under load one journal
//! write serves many partitions.

use std::io;
use std::thread::JoinHandle;

use fjall::{Database, Keyspace, UserKey, UserValue};
use tokio::sync::mpsc;

use crate::journal_syncer::JournalSyncer;
use crate::metric_definitions::{APPLY_BATCH_PARTITIONS, APPLY_SECONDS};
use crate::state_layout::io_error;

/// Applies that may wait; each partition has at most one.
const QUEUE_MAX: usize = 4_096;
/// Applies that one commit takes at most…
const APPLIES_MAX: usize = 256;
/// …and bytes, so that the first of them does not wait for megabytes.
const BYTES_MAX: usize = 1 << 20;

/// Rows to write (`Some`) or to remove (`None`), in order.
#[derive(Default)]
pub(crate) struct Rows(Vec<(UserKey, Option<UserValue>)>);

impl Rows {
    pub(crate) fn insert(&mut self, key: impl Into<UserKey>, value: impl Into<UserValue>) {
        self.0.push((key.into(), Some(value.into())));
    }

    pub(crate) fn remove(&mut self, key: impl Into<UserKey>) {
        self.0.push((key.into(), None));
    }
}

/// One partition's batch.
pub(crate) trait Apply: Send {
    /// Computes outcomes and adds the rows to write; about so many bytes.
    fn stage(&mut self, rows: &mut Rows) -> io::Result<usize>;
    /// The rows are committed, or will never be.
    fn finish(self: Box<Self>, result: io::Result<()>);
}

/// The thread and the way to it.
pub(crate) struct Applier {
    queue: Option<mpsc::Sender<Box<dyn Apply>>>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    pub(crate) fn start(database: Database, state: Keyspace, syncer: JournalSyncer) -> io::Result<Self> {
        let (queue, applies) = mpsc::channel(QUEUE_MAX);
        let run = move || run(&database, &state, &syncer, applies);
        let thread = std::thread::Builder::new().name("state-applier".into()).spawn(run)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands a batch over; `false` when the applier has stopped.
    pub(crate) async fn send(&self, apply: Box<dyn Apply>) -> bool {
        match &self.queue {
            Some(queue) => queue.send(apply).await.is_ok(),
            None => false,
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.queue = None;
        // The store's last owner can be a batch that nobody waits for any more: then this is the thread itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

fn run(
    database: &Database,
    state: &Keyspace,
    syncer: &JournalSyncer,
    mut applies: mpsc::Receiver<Box<dyn Apply>>,
) {
    let seconds = metrics::histogram!(APPLY_SECONDS);
    let partitions = metrics::histogram!(APPLY_BATCH_PARTITIONS);
    let mut staged = Vec::with_capacity(APPLIES_MAX);
    while let Some(first) = applies.blocking_recv() {
        let began = std::time::Instant::now();
        let mut rows = Rows::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(mut apply) = next.take() {
            let before = rows.0.len();
            match apply.stage(&mut rows) {
                Ok(more) => {
                    bytes += more;
                    staged.push(apply);
                }
                Err(error) => {
                    rows.0.truncate(before);
                    apply.finish(Err(error));
                }
            }
            if staged.len() < APPLIES_MAX && bytes < BYTES_MAX {
                next = applies.try_recv().ok();
            }
        }
        let mut write = database.batch();
        for (key, value) in rows.0 {
            match value {
                Some(value) => write.insert(state, key, value),
                None => write.remove(state, key),
            }
        }
        let committed = write.commit().map_err(io_error);
        syncer.wrote(bytes);
        seconds.record(began.elapsed().as_secs_f64());
        partitions.record(staged.len() as f64);
        for apply in staged.drain(..) {
            // `io::Error` cannot be cloned; who waits needs its kind and text.
            apply.finish(match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}
