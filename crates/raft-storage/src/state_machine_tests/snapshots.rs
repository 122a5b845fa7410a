//! Snapshots out, in, and given up on the way.

use std::time::Duration;

use evenkeel_protocol::Position;
use futures::StreamExt;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

use super::*;
use crate::SimulatedState;
use crate::{CHUNK_BYTES_MAX, ChangesError, SnapshotReceiver};

/// The chunks of a partition's current snapshot, and its description.
pub(super) async fn sent(partition: &mut Partition) -> (raft::SnapshotMeta, Vec<Bytes>) {
    let snapshot = partition.machine.get_current_snapshot().await.unwrap().unwrap();
    let chunks = snapshot.snapshot.stream().map(Result::unwrap).collect().await;
    (snapshot.meta, chunks)
}

/// Moves the partition's state by a snapshot into another store, over whatever the partition is there.
pub(super) async fn moved(from: &mut Partition, there: &StateStore, id: GroupId) -> Partition {
    let mut target = Partition::open(there, id);
    if let Some(snapshot) = from.machine.get_current_snapshot().await.unwrap() {
        target.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        assert_eq!(
            target.machine.applied_state().await.unwrap(),
            from.machine.applied_state().await.unwrap()
        );
    }
    target.next = from.next;
    target
}

async fn receive(receiver: SnapshotReceiver, chunks: &[Bytes]) -> std::io::Result<crate::Snapshot> {
    let mut receiver = receiver;
    for chunk in chunks {
        receiver.push(chunk.clone()).await?;
    }
    receiver.finish().await
}

/// Waits until abandoned generations are gone from disk.
async fn cleaned(store: &StateStore) {
    let cleaned = async {
        while store.unfinished_generations().unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cleaned).await.unwrap();
}

fn stored_keys(store: &StateStore) -> usize {
    store.keys_count().unwrap()
}

#[tokio::test]
async fn a_snapshot_carries_records_and_request_ids_to_another_broker() {
    let (_a, here) = open_store(small());
    let (_b, there) = open_store(small());
    let mut leader = Partition::open(&here, 1);
    leader.apply_entries(vec![membership(1)]).await;
    leader.apply(&["#1.5 put a x", "put b y", "put b z", "del a", "#2.1 put c x absent"]).await;
    let mut follower = Partition::open(&there, 1);
    follower.apply_entries(vec![membership(1)]).await;
    follower.apply(&["put stale x", "#9.9 put b x"]).await;

    let (meta, chunks) = sent(&mut leader).await;
    let snapshot = receive(there.snapshot_receiver(1).unwrap(), &chunks).await.unwrap();
    assert_eq!(follower.keys(), "b=x@3v1 stale=x@2v1", "still serves the old state");
    let mut applied = follower.reader.applied();
    applied.mark_unchanged();
    follower.machine.install_snapshot(&meta, snapshot).await.unwrap();

    assert!(applied.has_changed().unwrap());
    assert_eq!(*applied.borrow(), 6);
    assert_eq!(follower.keys(), leader.keys());
    assert_eq!(
        follower.machine.applied_state().await.unwrap(),
        leader.machine.applied_state().await.unwrap()
    );
    assert_eq!(follower.reader.first_available_position(), Position(7));
    assert!(matches!(follower.reader.changes(Position(5), b"", 9, 9), Err(ChangesError::OutOfRange { .. })));
    assert_eq!(follower.reader.changes(Position(6), b"", 9, 9).unwrap().up_to, Position(6));
    cleaned(&there).await;
    assert_eq!(stored_keys(&there), 4, "two records and two request ids");

    drop(follower);
    let mut follower = Partition::open(&there, 1);
    let commands = ["#1.5 put a x", "#1.4 put a x", "#2.1 put c x absent", "#9.9 put b w", "put b v v3"];
    let answers = ["@2 v1", "superseded by 5", "@6 v1", "@10 v3+", "@11 v4+"];
    assert_eq!(follower.apply(&commands).await, answers);
    leader.apply(&commands).await;
    assert_eq!(follower.keys(), leader.keys());
}

#[tokio::test]
async fn a_large_snapshot_comes_in_bounded_chunks_that_may_be_cut_anywhere() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    let big = "x".repeat(600_000);
    partition.apply(&[&format!("put big {big}"), "put last x"]).await;
    for n in 0..40 {
        let commands =
            (0..50).map(|m| format!("#{n}.{m} put k{n}-{m} {}", "v".repeat(300))).collect::<Vec<_>>();
        partition.apply(&commands.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let (meta, chunks) = sent(&mut partition).await;
    assert!(chunks.len() > 4 && chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
    let bytes = chunks.concat();
    let recut = bytes.chunks(70_001).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let before = partition.keys();
    let snapshot = receive(store.snapshot_receiver(1).unwrap(), &recut).await.unwrap();
    partition.machine.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(partition.keys(), before);
}

#[tokio::test]
async fn a_snapshot_is_of_the_moment_it_was_taken() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply(&["put a 1", "put b 1"]).await;
    let mut builder = partition.machine.get_snapshot_builder().await;
    let current = partition.machine.get_current_snapshot().await.unwrap().unwrap();
    partition.apply(&["put a 2", "del b", "put c 1"]).await;
    let built = builder.build_snapshot().await.unwrap();
    assert_eq!(built.meta, current.meta);
    assert_eq!(built.meta.last_log_id, Some(log_id(2)));
    let chunks =
        |snapshot: crate::Snapshot| snapshot.chunks().unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let chunks = (chunks(built.snapshot), chunks(current.snapshot));
    assert_eq!(chunks.0, chunks.1);
    let (_other, there) = open_store(small());
    let snapshot = receive(there.snapshot_receiver(1).unwrap(), &chunks.0).await.unwrap();
    let mut follower = Partition::open(&there, 1);
    follower.machine.install_snapshot(&built.meta, snapshot).await.unwrap();
    assert_eq!(follower.keys(), "a=1@1v1 b=1@2v1");
}

#[tokio::test]
async fn a_partition_that_applied_nothing_has_no_snapshot() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    assert!(partition.machine.get_current_snapshot().await.unwrap().is_none());
}

#[tokio::test]
async fn a_damaged_or_cut_snapshot_is_refused_and_leaves_nothing() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply(&["put a 1", "#1.1 put b 1"]).await;
    let keys = stored_keys(&store);
    let (meta, chunks) = sent(&mut partition).await;
    let bytes = chunks.concat();
    for cut in 0..bytes.len() {
        let received =
            receive(store.snapshot_receiver(1).unwrap(), &[Bytes::copy_from_slice(&bytes[..cut])]).await;
        assert!(received.is_err(), "cut at {cut}");
    }
    for flipped in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[flipped] ^= 1;
        let received = receive(store.snapshot_receiver(1).unwrap(), &[bytes.into()]).await;
        assert!(received.is_err(), "flipped at {flipped}");
    }
    let wrong_partition = receive(store.snapshot_receiver(2).unwrap(), &chunks).await.unwrap_err();
    assert_eq!(wrong_partition.to_string(), "received snapshot: of partition 1, not 2");
    let mut other_meta = meta;
    other_meta.last_log_id = Some(log_id(3));
    let received = receive(store.snapshot_receiver(1).unwrap(), &chunks).await.unwrap();
    assert!(partition.machine.install_snapshot(&other_meta, received).await.is_err());
    cleaned(&store).await;
    assert_eq!(stored_keys(&store), keys);
    assert_eq!(partition.apply(&["put a 2"]).await, ["@3 v2+"]);
}

#[tokio::test]
async fn what_an_abandoned_receiver_took_in_is_dropped() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    let commands = (0..2_000).map(|n| format!("put k{n} x")).collect::<Vec<_>>();
    partition.apply(&commands.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let keys = stored_keys(&store);
    let (_, chunks) = sent(&mut partition).await;
    let mut receiver = store.snapshot_receiver(1).unwrap();
    for chunk in &chunks {
        receiver.push(chunk.clone()).await.unwrap();
    }
    assert_eq!(stored_keys(&store), keys + 2_000);
    drop(receiver);
    cleaned(&store).await;
    assert_eq!(stored_keys(&store), keys);
    drop(receive(store.snapshot_receiver(1).unwrap(), &chunks).await.unwrap());
    cleaned(&store).await;
    assert_eq!(stored_keys(&store), keys);
}

#[tokio::test]
async fn what_was_being_received_at_a_crash_is_dropped_at_the_next_start() {
    let (folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply(&["put a 1", "put b 1"]).await;
    let (meta, chunks) = sent(&mut partition).await;
    let mut receiver = store.snapshot_receiver(1).unwrap();
    for chunk in &chunks {
        receiver.push(chunk.clone()).await.unwrap();
    }
    let keys = stored_keys(&store);
    let crashed = copy_of(folder.path());
    assert_eq!(store.unfinished_generations().unwrap(), 1);

    let store = StateStore::open(crashed.path(), small()).unwrap();
    cleaned(&store).await;
    assert_eq!(stored_keys(&store), keys - 2);
    let mut partition = Partition::open(&store, 1);
    assert_eq!(partition.keys(), "a=1@1v1 b=1@2v1");
    let snapshot = receive(store.snapshot_receiver(1).unwrap(), &chunks).await.unwrap();
    partition.machine.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(partition.keys(), "a=1@1v1 b=1@2v1");
}

#[tokio::test]
async fn readers_see_the_old_or_the_new_state_while_snapshots_are_installed() {
    let (_folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    let commands = (0..300).map(|n| format!("put k{n} x")).collect::<Vec<_>>();
    partition.apply(&commands.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let reader = partition.reader.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let reading = std::thread::spawn(move || {
        let mut reads = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            assert_eq!(reader.list(b"k", b"", 1_000, usize::MAX).unwrap().0.len(), 300);
            assert!(reader.get(b"k299").unwrap().is_some());
            reads += 1;
        }
        reads
    });
    for _ in 0..20 {
        let (meta, chunks) = sent(&mut partition).await;
        let snapshot = receive(store.snapshot_receiver(1).unwrap(), &chunks).await.unwrap();
        partition.machine.install_snapshot(&meta, snapshot).await.unwrap();
    }
    drop(stop);
    assert!(reading.join().unwrap() > 0);
}

#[tokio::test]
async fn an_installed_snapshot_and_a_built_one_survive_a_crash() {
    let (folder, store) = open_store(small());
    let mut partition = Partition::open(&store, 1);
    partition.apply_entries(vec![membership(1)]).await;
    partition.apply(&["put a 1", "#1.1 put b 1"]).await;
    let built = partition.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let crashed = copy_of(folder.path());
    {
        let store = StateStore::open(crashed.path(), small()).unwrap();
        let mut partition = Partition::open(&store, 1);
        assert!(partition.machine.applied_state().await.unwrap().0 >= built.meta.last_log_id);
    }
    let (meta, chunks) = sent(&mut partition).await;
    let snapshot = receive(store.snapshot_receiver(1).unwrap(), &chunks).await.unwrap();
    partition.machine.install_snapshot(&meta, snapshot).await.unwrap();
    let crashed = copy_of(folder.path());
    let store = StateStore::open(crashed.path(), small()).unwrap();
    let mut partition = Partition::open(&store, 1);
    assert_eq!(partition.keys(), "a=1@2v1 b=1@3v1");
    let (applied, stored_membership) = partition.machine.applied_state().await.unwrap();
    assert_eq!((applied, stored_membership), (meta.last_log_id, meta.last_membership));
    assert_eq!(partition.apply(&["#1.1 put b 1"]).await, ["@3 v1"]);
}

/// What a killed process would leave: the folder as it is while the store is open.
fn copy_of(folder: &std::path::Path) -> TempDir {
    fn copy(from: &std::path::Path, to: &std::path::Path) {
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            let target = to.join(file.file_name());
            if file.file_type().unwrap().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&file.path(), &target);
            } else {
                std::fs::copy(file.path(), target).unwrap();
            }
        }
    }
    let copied = tempfile::tempdir().unwrap();
    copy(folder, copied.path());
    copied
}

#[tokio::test]
async fn a_crash_of_the_simulated_state_leaves_what_was_synced_and_some_of_the_commits_after_it() {
    for kept in 0..=3 {
        let disk = SimulatedState::new();
        let store = StateStore::open_simulated(&disk, small()).unwrap();
        let mut partition = Partition::open(&store, 1);
        partition.apply(&["put a 1"]).await;
        partition.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        for command in ["put b 1", "put b 2", "put c 1"] {
            partition.apply(&[command]).await;
            // A list reads the database, which by then has every commit.
            partition.keys();
        }
        assert_eq!(disk.unsynced(), 3);
        partition.apply(&["put d 1"]).await;
        assert_eq!(disk.unsynced(), 3, "the last commit is in memory only");
        disk.crash(kept);
        assert!(partition.reader.list(b"", b"", 9, 999).is_err(), "a dead process reads nothing");
        let store = StateStore::open_simulated(&disk, small()).unwrap();
        let left = ["a=1@1v1", "a=1@1v1 b=1@2v1", "a=1@1v1 b=2@3v2", "a=1@1v1 b=2@3v2 c=1@4v1"];
        assert_eq!(Partition::open(&store, 1).keys(), left[kept]);
    }
}
