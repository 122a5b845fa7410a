//! Commits what partitions apply, all partitions together, on a thread of its own.
//!
//! Reads in fjall may wait for a table being added (three syncs under a lock), and commits for a flush that is behind
//! ([`write_behind`](crate::write_behind)). On a thread of its own an apply holds up nobody but those who wait for it.
//! While one commit runs, the applies of all partitions gather, and the next commit takes them at once.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::metric_definitions::{APPLY_BATCH_PARTITIONS, APPLY_SECONDS};
use crate::offload::Offload;
use crate::state_database::{Rows, StateDatabase};

/// Applies that may wait; each partition has at most one.
const QUEUE_MAX: usize = 4_096;
/// Applies that one commit takes at most…
const APPLIES_MAX: usize = 256;
/// …and bytes, so that the first of them does not wait for megabytes.
const BYTES_MAX: usize = 1 << 20;

/// One partition's batch.
pub(crate) trait Apply: Send {
    /// Computes outcomes and adds the rows to write; about so many bytes.
    fn stage(&mut self, rows: &mut Rows) -> io::Result<usize>;
    /// The rows are committed, or will never be.
    fn finish(self: Box<Self>, result: io::Result<()>);
}

/// The thread, or in a simulation the task, and the way to it.
pub(crate) struct Applier {
    queue: Option<mpsc::Sender<Box<dyn Apply>>>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    pub(crate) fn start(database: Arc<dyn StateDatabase>, offload: Offload) -> io::Result<Self> {
        let (queue, mut applies) = mpsc::channel(QUEUE_MAX);
        let mut committer = Committer::new(database);
        let thread = match offload {
            Offload::Threads => {
                let run = move || {
                    while let Some(first) = applies.blocking_recv() {
                        committer.commit(first, &mut applies);
                    }
                };
                Some(std::thread::Builder::new().name("state-applier".into()).spawn(run)?)
            }
            Offload::InPlace => {
                tokio::spawn(async move {
                    while let Some(first) = applies.recv().await {
                        committer.commit(first, &mut applies);
                    }
                });
                None
            }
        };
        Ok(Self { queue: Some(queue), thread })
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

/// What is kept from one commit to the next.
struct Committer {
    database: Arc<dyn StateDatabase>,
    seconds: metrics::Histogram,
    partitions: metrics::Histogram,
    staged: Vec<Box<dyn Apply>>,
}

impl Committer {
    fn new(database: Arc<dyn StateDatabase>) -> Self {
        Self {
            database,
            seconds: metrics::histogram!(APPLY_SECONDS),
            partitions: metrics::histogram!(APPLY_BATCH_PARTITIONS),
            staged: Vec::with_capacity(APPLIES_MAX),
        }
    }

    /// Commits `first` and what else waits, at once.
    fn commit(&mut self, first: Box<dyn Apply>, applies: &mut mpsc::Receiver<Box<dyn Apply>>) {
        let began = std::time::Instant::now();
        let mut rows = Rows::default();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(mut apply) = next.take() {
            let before = rows.0.len();
            match apply.stage(&mut rows) {
                Ok(more) => {
                    bytes += more;
                    self.staged.push(apply);
                }
                Err(error) => {
                    rows.0.truncate(before);
                    apply.finish(Err(error));
                }
            }
            if self.staged.len() < APPLIES_MAX && bytes < BYTES_MAX {
                next = applies.try_recv().ok();
            }
        }
        let committed = self.database.commit(rows, false);
        self.seconds.record(began.elapsed().as_secs_f64());
        self.partitions.record(self.staged.len() as f64);
        for apply in self.staged.drain(..) {
            // `io::Error` cannot be cloned; who waits needs its kind and text.
            apply.finish(match &committed {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}
