use super::super::log_core::Segment;
use super::super::rewrite::should_empty_oldest;
use super::super::{entry_codec, frame};
use super::*;

const SEGMENT_BYTES: u64 = 4 << 10;

/// Writes and purges in group 1 until it has filled many segments.
async fn churn(log: &SharedLog, range: std::ops::Range<u64>) {
    let mut group = log.group(1);
    for index in range {
        append(&mut group, vec![entry(2, index, vec![b'x'; 200])]).await;
        group.save_committed(Some(log_id(2, 1, index))).await.unwrap();
        if index % 10 == 9 {
            group.purge(log_id(2, 1, index - 5)).await.unwrap();
        }
    }
}

/// Ends when the committer has no more than `count` segments left; it works on its own after an append.
async fn wait_for_segments(disk: &FaultyDisk, count: usize) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while segments(disk).len() > count {
        assert!(std::time::Instant::now() < deadline, "{:?}", segments(disk));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn segments_without_live_entries_are_deleted() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(SEGMENT_BYTES));
    churn(&log, 0..500).await;
    wait_for_segments(&disk, 3).await;
    let before = views(&log).await;
    log.close().await.unwrap();
    assert!(segments(&disk)[0] > segment_path(10));
    assert_eq!(views(&open(&disk, small_segments(SEGMENT_BYTES))).await, before);
}

fn segment_path(sequence: u64) -> PathBuf {
    super::super::segment::path(Path::new(DIRECTORY), sequence)
}

#[tokio::test]
async fn idle_groups_are_moved_forward_and_keep_entries_votes_and_positions() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(SEGMENT_BYTES));
    // Group 2 has a vote only, group 3 everything, group 4 an empty log behind a purge.
    log.group(2).save_vote(&vote(7)).await.unwrap();
    log.group(3).save_vote(&Vote::new_committed(5, 2)).await.unwrap();
    append(&mut log.group(3), entries(1, 0..4, b"idle")).await;
    append(&mut log.group(3), vec![Entry { log_id: log_id(1, 1, 4), payload: Payload::Blank }]).await;
    let voters = [std::collections::BTreeSet::from([1, 2, 3])].to_vec();
    let membership = openraft::Membership::new_with_defaults(voters, []);
    append(
        &mut log.group(3),
        vec![Entry { log_id: log_id(1, 1, 5), payload: Payload::Membership(membership) }],
    )
    .await;
    log.group(3).save_committed(Some(log_id(1, 1, 3))).await.unwrap();
    log.group(3).purge(log_id(1, 1, 1)).await.unwrap();
    append(&mut log.group(4), entries(1, 0..2, b"gone")).await;
    log.group(4).purge(log_id(1, 1, 1)).await.unwrap();
    let idle_before = (view(&log, 2).await, view(&log, 3).await, view(&log, 4).await);

    churn(&log, 0..500).await;
    wait_for_segments(&disk, 3).await;
    assert_eq!((view(&log, 2).await, view(&log, 3).await, view(&log, 4).await), idle_before);
    let before = views(&log).await;
    log.close().await.unwrap();

    let log = open(&disk, small_segments(SEGMENT_BYTES));
    assert_eq!(views(&log).await, before);
    // Moved entries can still be truncated and purged.
    log.group(3).truncate_after(Some(log_id(1, 1, 4))).await.unwrap();
    append(&mut log.group(3), vec![entry(6, 5, "new")]).await;
    log.group(3).purge(log_id(1, 1, 4)).await.unwrap();
    churn(&log, 500..900).await;
    wait_for_segments(&disk, 3).await;
    assert_eq!(view(&log, 3).await.entries, [entry(6, 5, "new")]);
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_segment_is_given_room_before_it_is_written_to() {
    let disk = FaultyDisk::new();
    let with_room = LogOptions { room_bytes: 4096, ..options() };
    let log = open(&disk, with_room.clone());
    let length = || disk.content(&segment_path(1)).unwrap().len();
    append(&mut log.group(0), entries(1, 0..1, b"asks for room")).await;
    assert_eq!(length(), 4096);
    let writes = disk.writes();
    for index in 1..20 {
        append(&mut log.group(0), vec![entry(1, index, "into the room")]).await;
    }
    assert_eq!((length(), disk.writes() - writes), (4096, 19));
    append(&mut log.group(0), vec![entry(1, 20, vec![b'x'; 4096])]).await;
    assert_eq!(length(), 8192);
    let before = views(&log).await;
    log.close().await.unwrap();
    assert_eq!(views(&open(&disk, with_room)).await, before);
}

#[tokio::test]
async fn a_disk_without_room_to_spare_still_takes_what_fits() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { room_bytes: 4096, ..options() });
    let begun = disk.content(&segment_path(1)).unwrap().len();
    disk.limit_bytes(Some(begun as u64 + 400));
    append(&mut log.group(0), entries(1, 0..2, b"fits")).await;
    append(&mut log.group(0), entries(1, 2..3, b"fits as well")).await;
    let length = disk.content(&segment_path(1)).unwrap().len();
    assert!(length < begun + 400, "{length}");
    disk.limit_bytes(None);
    append(&mut log.group(0), vec![entry(1, 3, vec![b'x'; 5000])]).await;
    assert_eq!(disk.content(&segment_path(1)).unwrap().len(), 8192);
    let before = views(&log).await;
    log.close().await.unwrap();
    assert_eq!(views(&open(&disk, options())).await, before);
}

#[tokio::test]
async fn a_slow_group_with_a_full_oldest_segment_does_not_keep_the_whole_log() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(SEGMENT_BYTES));
    let slow: Vec<Entry> = (0..100).map(|index| entry(1, index, vec![b's'; 100])).collect();
    for entries in slow.chunks(10) {
        append(&mut log.group(5), entries.to_vec()).await;
    }
    churn(&log, 0..1000).await;
    // 14,000 bytes of the slow group are alive; around them at most as much again may be dead.
    wait_for_segments(&disk, 10).await;
    assert_eq!(view(&log, 5).await.entries, slow);
    log.close().await.unwrap();
    assert_eq!(view(&open(&disk, small_segments(SEGMENT_BYTES)), 5).await.entries, slow);
}

#[tokio::test]
async fn an_entry_that_changed_while_it_was_read_is_not_moved() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    append(&mut log.group(0), entries(1, 0..3, b"old")).await;
    let location = |index| log.handle.log.core.lock().groups[&0].slot(index).unwrap().location;
    let (unchanged, truncated) = (location(1), location(2));
    log.group(0).truncate_after(Some(log_id(1, 1, 1))).await.unwrap();
    append(&mut log.group(0), vec![entry(2, 2, "new")]).await;
    let moved = |index, from| {
        let stale =
            entry_codec::encode(0, entry(1, index, "old"), frame::MOVED, log.handle.log.salt).unwrap();
        log.handle.log.core.lock().move_forward(0, stale, from)
    };
    assert_eq!(moved(2, truncated), 0);
    assert_eq!(moved(1, unchanged), frame::HEADER_BYTES as u64 + 3);
    log.close().await.unwrap();
    let expected = vec![entry(1, 0, "old"), entry(1, 1, "old"), entry(2, 2, "new")];
    assert_eq!(view(&open(&disk, options()), 0).await.entries, expected);
}

#[test]
fn the_oldest_is_emptied_when_it_or_the_log_is_mostly_dead() {
    // (bytes, live bytes) of finished segments; the open one follows.
    let cases: [(&[(u64, u64)], bool); 7] = [
        (&[], false),
        (&[(100, 0)], false),
        (&[(100, 25)], true),
        (&[(100, 26)], false),
        (&[(100, 90), (100, 0), (100, 0)], false),
        (&[(100, 90), (100, 0), (100, 0), (100, 100)], true),
        (&[(100, 90), (100, 60), (100, 0), (100, 60)], false),
    ];
    for (finished, expected) in cases {
        let mut segments = std::collections::BTreeMap::new();
        for (sequence, (bytes, live_bytes)) in (1..).zip(finished) {
            let segment: &mut Segment = segments.entry(sequence).or_default();
            (segment.bytes, segment.live_bytes) = (*bytes, *live_bytes);
        }
        let open = finished.len() as u64 + 1;
        segments.insert(open, Segment::default());
        assert_eq!(should_empty_oldest(&segments, open), expected, "{finished:?}");
    }
}
