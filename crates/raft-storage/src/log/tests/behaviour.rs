use super::*;
use crate::disk::RealDisk;

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(2 << 10));
    for group in 0..5 {
        let mut group_log = log.group(group);
        group_log.save_vote(&vote(3)).await.unwrap();
        append(&mut group_log, entries(1, 0..20, b"a value of some length")).await;
        group_log.truncate_after(Some(log_id(1, 1, 14))).await.unwrap();
        append(&mut group_log, vec![entry(2, 15, "after the truncation")]).await;
        group_log.save_committed(Some(log_id(1, 1, 10))).await.unwrap();
        group_log.purge(log_id(1, 1, u64::from(group))).await.unwrap();
    }
    let before = views(&log).await;
    assert_eq!(before[4].1.entries.first().unwrap().log_id, log_id(1, 1, 5));
    assert_eq!(before[4].1.last, Some(log_id(2, 1, 15)));
    log.close().await.unwrap();

    let log = open(&disk, small_segments(2 << 10));
    assert_eq!(views(&log).await, before);
}

#[tokio::test]
async fn the_real_disk_keeps_the_log_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes_max: 2 << 10, ..LogOptions::new(directory.path().join("log")) };
    let log = SharedLog::open(Arc::new(RealDisk), options.clone()).unwrap();
    append(&mut log.group(7), entries(1, 0..100, b"a value of some length")).await;
    append(&mut log.group(7), entries(1, 100..120, b"another")).await;
    log.group(7).purge(log_id(1, 1, 99)).await.unwrap();
    append(&mut log.group(8), entries(4, 0..3, b"x")).await;
    let before = views(&log).await;
    log.close().await.unwrap();

    let log = SharedLog::open_on_disk(options).unwrap();
    assert_eq!(views(&log).await, before);
    log.close().await.unwrap();
}

#[tokio::test]
async fn an_entry_counts_as_durable_once_it_is_synced_and_no_longer_when_it_is_replaced() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    let mut group = log.group(1);
    assert_eq!(group.durable(), None);
    append(&mut group, entries(1, 0..5, b"synced")).await;
    assert_eq!(group.durable(), Some(log_id(1, 1, 4)));

    disk.hold_syncs();
    let flushed = start_append(&mut group, entries(1, 5..9, b"not yet")).await;
    disk.wait_for_held_sync();
    assert_eq!(group.durable(), Some(log_id(1, 1, 4)));
    disk.release_syncs();
    flushed.await.unwrap().unwrap();
    assert_eq!(group.durable(), Some(log_id(1, 1, 8)));

    group.truncate_after(Some(log_id(1, 1, 2))).await.unwrap();
    assert_eq!(group.durable(), Some(log_id(1, 1, 2)));
    group.purge(log_id(1, 1, 2)).await.unwrap();
    assert_eq!(group.durable(), Some(log_id(1, 1, 2)), "what was purged is in the state");
    append(&mut group, entries(2, 3..4, b"instead")).await;
    assert_eq!(group.durable(), Some(log_id(2, 1, 3)));
    log.close().await.unwrap();
    assert_eq!(open(&disk, options()).group(1).durable(), Some(log_id(2, 1, 3)));
}

#[tokio::test]
async fn appends_that_queue_during_a_sync_share_the_next_one() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    disk.hold_syncs();
    let first = start_append(&mut log.group(0), entries(1, 0..1, b"first")).await;
    disk.wait_for_held_sync();
    let (writes, syncs) = (disk.writes(), disk.syncs());
    let mut others = Vec::new();
    for group in 1..50 {
        others.push(start_append(&mut log.group(group), entries(1, 0..1, b"other")).await);
    }
    assert!(others.iter_mut().all(|flushed| flushed.try_recv().is_err()));
    disk.release_syncs();
    first.await.unwrap().unwrap();
    for flushed in others {
        flushed.await.unwrap().unwrap();
    }
    assert_eq!(disk.writes() - writes, 1);
    assert_eq!(disk.syncs() - syncs, 2);
}

#[tokio::test]
async fn a_committed_position_causes_no_sync_and_rides_with_the_next_append() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    append(&mut log.group(0), entries(1, 0..3, b"x")).await;
    let syncs = disk.syncs();
    log.group(0).save_committed(Some(log_id(1, 1, 1))).await.unwrap();
    log.group(0).save_committed(Some(log_id(1, 1, 2))).await.unwrap();
    assert_eq!(disk.syncs(), syncs);
    append(&mut log.group(1), entries(1, 0..1, b"x")).await;
    assert_eq!(disk.syncs(), syncs + 1);
    disk.crash(crate::faulty_disk::Crash::LosesUnsynced);
    drop(log);

    let log = open(&disk, options());
    assert_eq!(log.group(0).committed(), Some(log_id(1, 1, 2)));
}

#[tokio::test]
async fn entries_are_readable_before_they_are_durable() {
    let disk = FaultyDisk::new();
    // No cache budget at all: what is not durable must be kept all the same.
    let log = open(&disk, LogOptions { cache_bytes_max: 0, ..options() });
    disk.hold_syncs();
    let first = start_append(&mut log.group(0), entries(1, 0..5, b"first")).await;
    disk.wait_for_held_sync();
    let second = start_append(&mut log.group(0), entries(1, 5..10, b"second")).await;
    assert_eq!(log.group(0).try_get_log_entries(..).await.unwrap().len(), 10);
    disk.release_syncs();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(log.group(0).try_get_log_entries(3..=7).await.unwrap().len(), 5);
}

#[tokio::test]
async fn evicted_entries_are_read_back_from_their_segments() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { cache_bytes_max: 2 << 10, ..small_segments(4 << 10) });
    for index in 0..200 {
        append(&mut log.group(0), vec![entry(1, index, format!("value {index}"))]).await;
        append(&mut log.group(1), vec![entry(1, index, format!("other {index}"))]).await;
    }
    let read = log.group(0).try_get_log_entries(..).await.unwrap();
    let expected: Vec<Entry> = (0..200).map(|index| entry(1, index, format!("value {index}"))).collect();
    assert_eq!(read, expected);
    let mut reader = log.group(0);
    let streamed = reader.entries_stream(50..150).await;
    let streamed: Vec<Entry> = futures::TryStreamExt::try_collect(streamed).await.unwrap();
    assert_eq!(streamed, expected[50..150]);
}

#[tokio::test]
async fn a_limited_read_stops_at_the_limit_but_returns_one_entry() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { read_bytes_max: 10, ..options() });
    append(
        &mut log.group(0),
        vec![entry(1, 0, "0123456789abcdef"), entry(1, 1, "01234"), entry(1, 2, "56789")],
    )
    .await;
    append(&mut log.group(0), vec![entry(1, 3, "x")]).await;
    let mut reader = log.group(0);
    assert_eq!(reader.limited_get_log_entries(0, 4).await.unwrap().len(), 1);
    assert_eq!(reader.limited_get_log_entries(1, 4).await.unwrap().len(), 2);
    assert_eq!(reader.limited_get_log_entries(3, 4).await.unwrap().len(), 1);
}

#[tokio::test]
async fn lag_in_bytes_counts_the_payloads_behind_an_index() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    let mut group = log.group(0);
    assert_eq!(group.bytes_after(None), 0);
    append(&mut group, vec![entry(1, 5, "12345"), entry(1, 6, "123"), entry(1, 7, "1")]).await;
    assert_eq!(group.bytes_after(None), 9);
    assert_eq!(group.bytes_after(Some(2)), 9);
    assert_eq!(group.bytes_after(Some(5)), 4);
    assert_eq!(group.bytes_after(Some(7)), 0);
    assert_eq!(group.bytes_after(Some(100)), 0);
    group.purge(log_id(1, 1, 5)).await.unwrap();
    assert_eq!((group.bytes_after(None), group.bytes_after(Some(6))), (4, 1));
    group.truncate_after(Some(log_id(1, 1, 6))).await.unwrap();
    assert_eq!((group.bytes_after(None), group.bytes_after(Some(6))), (3, 0));
}

#[tokio::test]
async fn an_append_that_would_leave_a_hole_is_refused_and_nothing_is_written() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    append(&mut log.group(0), entries(1, 0..3, b"x")).await;
    let (sender, flushed) = TypeConfig::oneshot();
    let refused = log.group(0).append(entries(1, 4..6, b"x"), IOFlushed::signal(sender)).await.unwrap_err();
    assert_eq!(refused.to_string(), "group 0: append: entry 4 where 3 must come next");
    assert!(flushed.await.unwrap().is_err());
    let holed = vec![entry(1, 3, "x"), entry(1, 5, "x")];
    assert!(log.group(0).append(holed, IOFlushed::noop()).await.is_err());
    assert_eq!(view(&log, 0).await.last, Some(log_id(1, 1, 2)));
    // A group that was refused its first entries has left no trace.
    assert!(log.group(9).append(vec![entry(1, 3, "x"), entry(1, 5, "x")], IOFlushed::noop()).await.is_err());
    assert_eq!(log.groups(), [0]);
    append(&mut log.group(0), entries(1, 3..4, b"x")).await;
}

#[tokio::test]
async fn appends_wait_while_the_queue_is_full() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { queue_bytes_max: 100, ..options() });
    disk.hold_syncs();
    let first = start_append(&mut log.group(0), entries(1, 0..1, b"x")).await;
    disk.wait_for_held_sync();
    let second = start_append(&mut log.group(0), entries(1, 1..5, b"x")).await;
    let mut group = log.group(1);
    let third = start_append(&mut group, entries(1, 0..1, b"x"));
    tokio::pin!(third);
    assert!(futures::poll!(third.as_mut()).is_pending());
    disk.release_syncs();
    third.await.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn groups_that_work_at_once_do_not_disturb_each_other() {
    const ROUNDS: u64 = 150;
    let disk = FaultyDisk::new();
    let options =
        LogOptions { cache_bytes_max: 8 << 10, queue_bytes_max: 4 << 10, ..small_segments(4 << 10) };
    let log = open(&disk, options.clone());
    let groups = (0..8_u32).map(|number| {
        let mut group = log.group(number);
        tokio::spawn(async move {
            let value = |index: u64| format!("{number}/{index}").repeat(number as usize + 1);
            // Group 0 idles and must be moved forward; every other one truncates and purges at its own pace.
            let rounds = if number == 0 { 3 } else { ROUNDS };
            let mut next = 0;
            for round in 0..rounds {
                let appended: Vec<Entry> =
                    (next..next + 4).map(|index| entry(1, index, value(index))).collect();
                append(&mut group, appended).await;
                next += 4;
                if round % (u64::from(number) + 5) == 4 {
                    next -= 2;
                    group.truncate_after(Some(log_id(1, 1, next - 1))).await.unwrap();
                    group.save_committed(Some(log_id(1, 1, next - 1))).await.unwrap();
                    group.purge(log_id(1, 1, next - 3 - u64::from(number))).await.unwrap();
                }
                let first = group.state().last_purged_log_id.map_or(0, |log_id| log_id.index + 1);
                let expected: Vec<Entry> = (first..next).map(|index| entry(1, index, value(index))).collect();
                assert_eq!(group.try_get_log_entries(..).await.unwrap(), expected);
            }
        })
    });
    for group in groups.collect::<Vec<_>>() {
        group.await.unwrap();
    }
    let before = views(&log).await;
    assert_eq!(before[0].1.entries.len(), 12);
    log.close().await.unwrap();
    assert!(disk.content(&super::super::segment::path(Path::new(DIRECTORY), 1)).is_none());
    assert_eq!(views(&open(&disk, options)).await, before);
}

#[tokio::test]
async fn a_committer_task_serves_the_same_log() {
    let disk = FaultyDisk::new();
    let options = LogOptions { driver: CommitterDriver::Task, ..small_segments(2 << 10) };
    let log = open(&disk, options.clone());
    let mut flushed = Vec::new();
    for group in 0..20 {
        flushed.push(start_append(&mut log.group(group), entries(1, 0..10, b"some value")).await);
    }
    let syncs = disk.syncs();
    for flushed in flushed {
        flushed.await.unwrap().unwrap();
    }
    // One for the batch, one for the segment that it filled.
    assert_eq!(disk.syncs() - syncs, 2);
    let before = views(&log).await;
    log.close().await.unwrap();
    assert!(log.group(0).append(entries(1, 10..11, b"late"), IOFlushed::noop()).await.is_err());
    assert_eq!(views(&open(&disk, options)).await, before);
}

#[tokio::test]
async fn closing_makes_committed_positions_durable() {
    let disk = FaultyDisk::new();
    let log = open(&disk, options());
    append(&mut log.group(0), entries(1, 0..3, b"x")).await;
    log.group(0).save_committed(Some(log_id(1, 1, 2))).await.unwrap();
    log.close().await.unwrap();
    log.close().await.unwrap();
    disk.crash(crate::faulty_disk::Crash::LosesUnsynced);
    assert_eq!(open(&disk, options()).group(0).committed(), Some(log_id(1, 1, 2)));
}
