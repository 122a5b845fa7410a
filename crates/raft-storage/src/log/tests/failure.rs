use std::time::Duration;

use super::*;

/// Long enough that only a hang reaches it.
const HANG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_failed_sync_stops_everything_and_is_not_retried() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    append(&mut log.group(0), entries(1, 0..3, b"x")).await;
    let failure = log.failure();
    disk.hold_syncs();
    let in_flight = start_append(&mut log.group(0), entries(1, 3..4, b"x")).await;
    disk.wait_for_held_sync();
    let queued = start_append(&mut log.group(1), entries(1, 0..1, b"x")).await;
    disk.fail_syncs();
    disk.release_syncs();
    assert!(in_flight.await.unwrap().is_err());
    assert!(queued.await.unwrap().is_err());
    let failure = tokio::time::timeout(HANG, failure).await.unwrap();
    assert_eq!(failure.action, "sync");
    assert!(failure.to_string().contains("/log/00000000000000000001.log"), "{failure}");

    let (syncs, writes) = (disk.syncs(), disk.writes());
    let mut group = log.group(0);
    assert!(group.append(entries(1, 4..5, b"x"), IOFlushed::noop()).await.is_err());
    assert!(group.save_vote(&vote(9)).await.is_err());
    assert!(group.save_committed(None).await.is_err());
    assert!(group.truncate_after(None).await.is_err());
    assert!(group.purge(log_id(1, 1, 0)).await.is_err());
    assert!(log.close().await.is_err());
    assert_eq!((disk.syncs(), disk.writes()), (syncs, writes));
    // Who asks later is told as well.
    tokio::time::timeout(HANG, log.failure()).await.unwrap();
}

#[tokio::test]
async fn on_a_full_disk_what_is_queued_waits_and_nothing_of_it_is_left_until_there_is_room() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    append(&mut log.group(0), entries(1, 0..10, b"kept")).await;
    let before = views(&log).await;
    let used: usize = segments(&disk).iter().map(|path| disk.content(path).unwrap().len()).sum();
    let mut full = log.full();
    disk.limit_bytes(Some(used as u64 + 100));
    let flushed = start_append(&mut log.group(0), entries(1, 10..20, b"does not fit any more")).await;
    tokio::time::timeout(HANG, full.wait_for(|full| *full)).await.unwrap().unwrap();
    let next = start_append(&mut log.group(1), entries(1, 0..1, b"waits behind it")).await;
    // What a crash leaves now is what was acknowledged, or more of what was queued.
    disk.crash(crate::faulty_disk::Crash::LosesUnsynced);
    assert!(flushed.await.unwrap().is_err() && next.await.unwrap().is_err());
    drop(log);
    let log = open(&disk, options());
    assert_eq!(views(&log).await, before);

    let mut full = log.full();
    let flushed = start_append(&mut log.group(0), entries(1, 10..20, b"does not fit any more")).await;
    tokio::time::timeout(HANG, full.wait_for(|full| *full)).await.unwrap().unwrap();
    disk.limit_bytes(None);
    tokio::time::timeout(HANG, flushed).await.unwrap().unwrap().unwrap();
    tokio::time::timeout(HANG, full.wait_for(|full| !*full)).await.unwrap().unwrap();
    let after = views(&log).await;
    log.close().await.unwrap();
    assert_eq!(views(&open(&disk, options())).await, after);
}

#[tokio::test]
async fn a_segment_that_finds_no_room_is_begun_when_there_is() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(1 << 10));
    let used = |disk: &FaultyDisk| -> usize {
        segments(disk).iter().map(|path| disk.content(path).unwrap().len()).sum()
    };
    let mut full = log.full();
    let value = vec![b'x'; 1100];
    // The entry fits, the next segment's start does not.
    disk.limit_bytes(Some((used(&disk) + value.len() + 2 * frame_bytes()) as u64));
    append(&mut log.group(0), vec![entry(1, 0, value)]).await;
    tokio::time::timeout(HANG, full.wait_for(|full| *full)).await.unwrap().unwrap();
    let waits = start_append(&mut log.group(0), entries(1, 1..2, b"in the next segment")).await;
    disk.limit_bytes(None);
    tokio::time::timeout(HANG, waits).await.unwrap().unwrap().unwrap();
    let before = views(&log).await;
    log.close().await.unwrap();
    assert_eq!(segments(&disk).len(), 2);
    assert_eq!(views(&open(&disk, small_segments(1 << 10))).await, before);
}

fn frame_bytes() -> usize {
    super::super::frame::HEADER_BYTES
}

#[tokio::test]
async fn a_full_log_can_be_closed_and_says_that_it_lost_what_waited() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    let mut full = log.full();
    disk.limit_bytes(Some(0));
    let flushed = start_append(&mut log.group(0), entries(1, 0..1, b"x")).await;
    tokio::time::timeout(HANG, full.wait_for(|full| *full)).await.unwrap().unwrap();
    assert!(tokio::time::timeout(HANG, log.close()).await.unwrap().is_err());
    assert!(flushed.await.unwrap().is_err());
}

#[tokio::test]
async fn a_failed_write_fails_those_who_wait_for_room() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { queue_bytes_max: 1, ..options() });
    disk.hold_syncs();
    let first = start_append(&mut log.group(0), entries(1, 0..1, b"x")).await;
    disk.wait_for_held_sync();
    let second = start_append(&mut log.group(0), entries(1, 1..2, b"x")).await;
    disk.fail_writes();
    let mut group = log.group(1);
    let waiting = group.append(entries(1, 0..1, b"x"), IOFlushed::noop());
    tokio::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    disk.release_syncs();
    first.await.unwrap().unwrap();
    assert!(second.await.unwrap().is_err());
    drop(tokio::time::timeout(HANG, waiting).await.unwrap());
    tokio::time::timeout(HANG, log.failure()).await.unwrap();
}

#[tokio::test]
async fn a_purge_never_survives_without_the_committed_position_before_it() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    let mut group = log.group(0);
    append(&mut group, entries(1, 0..10, b"x")).await;
    group.save_committed(Some(log_id(1, 1, 9))).await.unwrap();
    group.purge(log_id(1, 1, 5)).await.unwrap();
    // Half of the batch is written.
    disk.fail_writes();
    assert!(group.save_vote(&vote(2)).await.is_err());
    disk.crash(crate::faulty_disk::Crash::ProcessOnly);
    let after = view(&open(&disk, options()), 0).await;
    assert_eq!((after.committed, after.purged, after.vote), (None, None, None));
}

#[test]
fn those_who_wait_are_told_when_the_committer_is_killed() {
    let disk = FaultyDisk::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (committing, calling) = (runtime(), runtime());
    let log =
        committing.block_on(async { open(&disk, LogOptions { driver: CommitterDriver::Task, ..options() }) });
    let flushed = calling.block_on(start_append(&mut log.group(0), entries(1, 0..1, b"x")));
    drop(committing);
    assert!(calling.block_on(flushed).unwrap().is_err());
    assert_eq!(calling.block_on(log.failure()).reason, "its committer was stopped");
    assert!(calling.block_on(log.close()).is_err());
}

#[test]
fn options_out_of_range_are_refused_with_the_range() {
    let refused = SharedLog::open(Arc::new(FaultyDisk::new()), small_segments(10)).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "log option segment_bytes_max = 10 is out of range; choose 1024 to 1073741824"
    );
}
