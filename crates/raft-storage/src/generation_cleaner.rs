//! Drops generations that are not live, in the background and a few keys at a time.
//!
//! A generation gets a `g` row before its first key is written, loses it when it goes live, and gets it again when the
//! next one goes live. So whatever has a `g` row when the store opens was abandoned, and is dropped then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use fjall::{Database, Keyspace};

use crate::state_layout::{Kind, Scope, io_error};

/// Generations waiting to be dropped; beyond, they wait for the next start.
const QUEUE_MAX: usize = 4096;
/// Keys in one deleting batch: short, so that apply batches do not wait for it.
const BATCH_KEYS_MAX: usize = 512;

pub(crate) struct GenerationCleaner {
    queue: Option<SyncSender<Scope>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl GenerationCleaner {
    pub(crate) fn start(database: Database, state: Keyspace) -> io::Result<Self> {
        let (queue, scopes) = sync_channel(QUEUE_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("state-cleaner".into()).spawn({
            let stop = Arc::clone(&stop);
            move || run(&database, &state, &scopes, &stop)
        })?;
        Ok(Self { queue: Some(queue), stop, thread: Some(thread) })
    }

    /// Queues a generation that has its `g` row.
    pub(crate) fn drop_later(&self, scope: Scope) {
        if let Some(queue) = &self.queue
            && queue.try_send(scope).is_err()
        {
            tracing::warn!(
                ?scope,
                "too many generations wait to be dropped; this one is dropped at the next start"
            );
        }
    }
}

impl Drop for GenerationCleaner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook; what is left is dropped at the next start.
            let _ = thread.join();
        }
    }
}

fn run(database: &Database, state: &Keyspace, scopes: &Receiver<Scope>, stop: &AtomicBool) {
    while let Ok(scope) = scopes.recv() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = drop_generation(database, state, scope, stop) {
            tracing::warn!(?scope, %error, "could not drop a generation; tried again at the next start");
        }
    }
}

fn drop_generation(database: &Database, state: &Keyspace, scope: Scope, stop: &AtomicBool) -> io::Result<()> {
    for kind in [Kind::Record, Kind::Request, Kind::Change] {
        // Goes on after the last key instead of from the start, so as not to pass over the fresh tombstones again.
        let mut from = scope.prefix(kind).to_vec();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut batch = database.batch();
            let mut last = None;
            for item in state.range(from.as_slice()..scope.end(kind).as_slice()).take(BATCH_KEYS_MAX) {
                let key = item.key().map_err(io_error)?;
                last = Some(key.to_vec());
                batch.remove(state, key);
            }
            batch.commit().map_err(io_error)?;
            let Some(mut last) = last else { break };
            last.push(0);
            from = last;
        }
    }
    state.remove(scope.prefix(Kind::Garbage)).map_err(io_error)
}
