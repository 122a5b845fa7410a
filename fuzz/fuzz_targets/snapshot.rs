//! Bytes as a snapshot that a peer sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

use evenkeel_raft_storage::{StateStore, StoreOptions, bad_input};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

static STORE: LazyLock<(TempDir, StateStore, Runtime)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let store = StateStore::open(folder.path(), StoreOptions::default()).expect("a store");
    (folder, store, Builder::new_current_thread().build().expect("a runtime"))
});

fuzz_target!(|bytes: &[u8]| {
    let (_, store, runtime) = &*STORE;
    let _ = runtime.block_on(bad_input::snapshot(store, 1, bytes));
});
