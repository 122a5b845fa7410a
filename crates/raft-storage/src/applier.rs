//! Commits what partitions apply, all partitions together, on a thread of its own.
//!
//! A commit to fjall may wait: for the journal's lock, for a table being added, for fjall's own back-pressure. On its
//! own thread it holds up nobody but those who wait for it. While one commit runs, the applies of all partitions
//! gather, and the next commit takes them at once: under load one journal write serves many partitions.

use std::io;
use std::thread::JoinHandle;

use fjall::{Database, Keyspace, UserKey, UserValue};
use tokio::sync::{mpsc, oneshot};

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

struct Apply {
    rows: Rows,
    bytes: usize,
    done: oneshot::Sender<io::Result<()>>,
}

/// The thread and the way to it.
pub(crate) struct Applier {
    queue: Option<mpsc::Sender<Apply>>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    pub(crate) fn start(database: Database, state: Keyspace, syncer: JournalSyncer) -> io::Result<Self> {
        let (queue, applies) = mpsc::channel(QUEUE_MAX);
        let run = move || run(&database, &state, &syncer, applies);
        let thread = std::thread::Builder::new().name("state-applier".into()).spawn(run)?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Commits rows of about so many bytes atomically, not synced. Other partitions' rows may go with them.
    pub(crate) async fn commit(&self, rows: Rows, bytes: usize) -> io::Result<()> {
        let stopped = || io::Error::other("the state store has stopped; restart the broker");
        let (done, committed) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(Apply { rows, bytes, done }).await.map_err(|_| stopped())?;
        committed.await.map_err(|_| stopped())?
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(database: &Database, state: &Keyspace, syncer: &JournalSyncer, mut applies: mpsc::Receiver<Apply>) {
    let seconds = metrics::histogram!(APPLY_SECONDS);
    let partitions = metrics::histogram!(APPLY_BATCH_PARTITIONS);
    let mut waiting = Vec::with_capacity(APPLIES_MAX);
    while let Some(first) = applies.blocking_recv() {
        let began = std::time::Instant::now();
        let mut write = database.batch();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Apply { rows, bytes: more, done }) = next.take() {
            bytes += more;
            for (key, value) in rows.0 {
                match value {
                    Some(value) => write.insert(state, key, value),
                    None => write.remove(state, key),
                }
            }
            waiting.push(done);
            if waiting.len() < APPLIES_MAX && bytes < BYTES_MAX {
                next = applies.try_recv().ok();
            }
        }
        let committed = write.commit().map_err(io_error);
        syncer.wrote(bytes);
        seconds.record(began.elapsed().as_secs_f64());
        partitions.record(waiting.len() as f64);
        for done in waiting.drain(..) {
            // `io::Error` cannot be cloned; who waits needs its kind and text.
            let result = committed.as_ref().map(|()| ()).map_err(|e| io::Error::new(e.kind(), e.to_string()));
            let _ = done.send(result);
        }
    }
}
