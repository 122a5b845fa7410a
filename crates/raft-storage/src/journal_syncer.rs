//! Syncs fjall's journal a little at a time, in the background.
//!
//! Nothing needs it for durability. But before fjall writes a table it syncs its journal, and until that is done every
//! apply and every read of every partition waits; with only the last few megabytes left to sync, that is short.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes written between two syncs.
const UNSYNCED_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(crate) struct JournalSyncer {
    unsynced_bytes: AtomicUsize,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl JournalSyncer {
    pub(crate) fn start(directory: PathBuf) -> io::Result<Self> {
        // One waiting wake-up is enough for everything written before it.
        let (wake, woken) = sync_channel(1);
        let thread =
            std::thread::Builder::new().name("state-syncer".into()).spawn(move || run(&directory, &woken))?;
        Ok(Self { unsynced_bytes: AtomicUsize::new(0), wake: Some(wake), thread: Some(thread) })
    }

    /// Notes that about so many bytes went into the journal.
    pub(crate) fn wrote(&self, bytes: usize) {
        let unsynced = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsynced >= UNSYNCED_BYTES_MAX
            && let Some(wake) = &self.wake
        {
            self.unsynced_bytes.store(0, Ordering::Relaxed);
            // Full: a wake-up waits already.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for JournalSyncer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(directory: &Path, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        // fjall meets the same error when it syncs, and stops the store.
        if let Err(error) = sync_newest_journal(directory) {
            tracing::warn!(%error, directory = %directory.display(), "could not sync the journal ahead");
        }
    }
}

/// Syncs the journal that fjall writes to through a handle of our own, without holding fjall's lock.
pub(crate) fn sync_newest_journal(directory: &Path) -> io::Result<()> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(highest, _)| number > *highest)
        {
            newest = Some((number, path));
        }
    }
    match newest {
        Some((_, journal)) => std::fs::File::open(journal)?.sync_data(),
        None => Ok(()),
    }
}
