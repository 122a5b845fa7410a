//! Drops generations that are not live, in the background and a few keys at a time.
//!
//! A generation gets a `g` row before its first key is written, loses it when it goes live, and gets it again when the
//! next one goes live. So whatever has a `g` row when the store opens was abandoned, and is dropped then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::offload::Offload;
use crate::state_database::{Rows, StateDatabase};
use crate::state_layout::{Kind, Scope};

/// Generations waiting to be dropped; beyond, they wait for the next start.
const QUEUE_MAX: usize = 4096;
/// Keys in one deleting batch: short, so that apply batches do not wait for it.
const BATCH_KEYS_MAX: usize = 512;

pub(crate) struct GenerationCleaner {
    queue: Option<SyncSender<Scope>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// In a simulation, where generations are small: dropped at once.
    in_place: Option<Arc<dyn StateDatabase>>,
}

impl GenerationCleaner {
    pub(crate) fn start(database: Arc<dyn StateDatabase>, offload: Offload) -> io::Result<Self> {
        let (queue, scopes) = sync_channel(QUEUE_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        if offload == Offload::InPlace {
            return Ok(Self { queue: None, stop, thread: None, in_place: Some(database) });
        }
        let thread = std::thread::Builder::new().name("state-cleaner".into()).spawn({
            let stop = Arc::clone(&stop);
            move || run(&*database, &scopes, &stop)
        })?;
        Ok(Self { queue: Some(queue), stop, thread: Some(thread), in_place: None })
    }

    /// Queues a generation that has its `g` row.
    pub(crate) fn drop_later(&self, scope: Scope) {
        if let Some(database) = &self.in_place {
            try_drop(&**database, scope, &self.stop);
        }
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

fn run(database: &dyn StateDatabase, scopes: &Receiver<Scope>, stop: &AtomicBool) {
    while let Ok(scope) = scopes.recv() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        try_drop(database, scope, stop);
    }
}

fn try_drop(database: &dyn StateDatabase, scope: Scope, stop: &AtomicBool) {
    if let Err(error) = drop_generation(database, scope, stop) {
        tracing::warn!(?scope, %error, "could not drop a generation; tried again at the next start");
    }
}

fn drop_generation(database: &dyn StateDatabase, scope: Scope, stop: &AtomicBool) -> io::Result<()> {
    for kind in [Kind::Record, Kind::Request, Kind::Change] {
        // Goes on after the last key instead of from the start, so as not to pass over the fresh tombstones again.
        let mut from = scope.prefix(kind).to_vec();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut rows = Rows::default();
            let mut last = None;
            for item in database.view()?.range(&from, &scope.end(kind)).take(BATCH_KEYS_MAX) {
                let (key, _) = item?;
                last = Some(key.to_vec());
                rows.remove(key);
            }
            let Some(mut last) = last else { break };
            database.commit(rows, false)?;
            last.push(0);
            from = last;
        }
    }
    let mut rows = Rows::default();
    rows.remove(scope.prefix(Kind::Garbage));
    database.commit(rows, false)
}
