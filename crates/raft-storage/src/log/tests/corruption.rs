use super::super::{frame, segment};
use super::*;
use crate::log::OpenLogError;

/// A log with several segments on the disk, closed.
async fn written(disk: &FaultyDisk) -> Vec<(u32, View)> {
    let log = open(disk, small_segments(1 << 10));
    log.group(0).save_vote(&vote(4)).await.unwrap();
    for index in 0..60 {
        append(&mut log.group(index as u32 % 3), vec![entry(1, index / 3, format!("value {index}"))]).await;
    }
    let views = views(&log).await;
    log.close().await.unwrap();
    assert!(segments(disk).len() >= 3);
    views
}

fn reopen(disk: &FaultyDisk) -> Result<SharedLog, OpenLogError> {
    SharedLog::open(Arc::new(disk.clone()), small_segments(1 << 10))
}

fn edit(disk: &FaultyDisk, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut content = disk.content(path).unwrap();
    edit(&mut content);
    disk.set_content(path, content);
}

/// Offset of each frame in a segment.
fn frame_offsets(disk: &FaultyDisk, path: &Path) -> Vec<usize> {
    let bytes = disk.content(path).unwrap();
    let salt = segment::decode_header(&bytes).unwrap().salt;
    let mut offsets = vec![segment::HEADER_BYTES];
    loop {
        let offset = *offsets.last().unwrap();
        if offset == bytes.len() {
            offsets.pop();
            return offsets;
        }
        let (_, payload) = frame::decode(&bytes[offset..], salt).unwrap();
        offsets.push(offset + frame::HEADER_BYTES + payload.len());
    }
}

#[tokio::test]
async fn a_torn_write_at_the_very_end_is_dropped_and_the_log_goes_on() {
    let disk = FaultyDisk::new();
    let before = written(&disk).await;
    let last = segments(&disk).pop().unwrap();
    let whole = disk.content(&last).unwrap();
    let entries = vec![entry(1, 20, "first of the last batch"), entry(1, 21, "second")];
    let log = reopen(&disk).unwrap();
    append(&mut log.group(0), entries.clone()).await;
    log.close().await.unwrap();
    let longer = disk.content(&last).unwrap();
    let batch = whole.len()..longer.len();

    let garbage = |at: usize| if at.is_multiple_of(3) { 0xE7 } else { at as u8 };
    let torn = [
        ("a part", Box::new(|at, length| if at < length { longer[at] } else { 0 })),
        ("an end", Box::new(|at, length| if at < length { 0 } else { longer[at] })),
        ("a part and garbage", Box::new(|at, length| if at < length { longer[at] } else { garbage(at) })),
    ] as [(&str, Box<dyn Fn(usize, usize) -> u8>); 3];
    for (what, byte) in &torn {
        for length in batch.clone().skip(1) {
            for room in [0, 300] {
                let mut bytes: Vec<u8> = batch.clone().map(|at| byte(at, length)).collect();
                bytes.resize(bytes.len() + room, 0);
                disk.set_content(&last, [&whole[..], &bytes].concat());
                let log = reopen(&disk).unwrap();
                assert_eq!(views(&log).await, before, "{what}, {length}");
                append(&mut log.group(0), entries.clone()).await;
                let after = views(&log).await;
                log.close().await.unwrap();
                assert_eq!(views(&reopen(&disk).unwrap()).await, after, "{what}, {length}");
            }
        }
    }
}

#[tokio::test]
async fn an_older_format_is_refused() {
    let disk = FaultyDisk::new();
    written(&disk).await;
    edit(&disk, &segments(&disk)[0], |bytes| bytes[8] = 1);
    let refused = reopen(&disk).err().unwrap();
    assert!(refused.to_string().contains("format 1, older than 2"), "{refused}");
}

#[tokio::test]
async fn a_bad_frame_before_a_good_one_is_refused_with_file_and_offset() {
    let disk = FaultyDisk::new();
    written(&disk).await;
    let log = reopen(&disk).unwrap();
    for index in 20..23 {
        append(&mut log.group(0), vec![entry(1, index, "in a batch of its own")]).await;
    }
    log.close().await.unwrap();
    let last = segments(&disk).pop().unwrap();
    let offsets = frame_offsets(&disk, &last);
    // Behind it are the header and the frame of the last batch.
    let bad = offsets[offsets.len() - 3];
    edit(&disk, &last, |bytes| bytes[bad + frame::HEADER_BYTES + 1] ^= 1);
    let refused = reopen(&disk).err().unwrap();
    assert!(
        matches!(&refused, OpenLogError::Corrupt { path, offset, .. } if *path == last && *offset == bad as u64),
        "{refused}"
    );
    let text = refused.to_string();
    assert!(text.contains(&format!("at byte {bad}")) && text.contains("checksum"), "{text}");
}

#[tokio::test]
async fn every_damaged_byte_of_a_finished_segment_is_refused() {
    let disk = FaultyDisk::new();
    written(&disk).await;
    let first = segments(&disk)[0].clone();
    let whole = disk.content(&first).unwrap();
    for at in 0..whole.len() {
        edit(&disk, &first, |bytes| bytes[at] ^= 0x40);
        let refused = reopen(&disk).err();
        assert!(
            matches!(refused, Some(OpenLogError::Corrupt { .. } | OpenLogError::NewerFormat { .. })),
            "byte {at}: {refused:?}"
        );
        disk.set_content(&first, whole.clone());
    }
    for length in [0, 10, whole.len() - 1] {
        edit(&disk, &first, |bytes| bytes.truncate(length));
        assert!(matches!(reopen(&disk).err(), Some(OpenLogError::Corrupt { .. })), "length {length}");
        disk.set_content(&first, whole.clone());
    }
    reopen(&disk).unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let disk = FaultyDisk::new();
    written(&disk).await;
    let files = segments(&disk);
    let whole = disk.content(&files[1]).unwrap();
    crate::disk::Disk::remove(&disk, &files[1]).unwrap();
    assert!(matches!(reopen(&disk).err(), Some(OpenLogError::MissingSegment { path }) if path == files[1]));
    disk.set_content(&files[1], whole);

    crate::disk::Disk::remove(&disk, &files[0]).unwrap();
    let refused = reopen(&disk).err();
    assert!(matches!(refused, Some(OpenLogError::MissingEntry { group: 0, index: 0, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_segment_of_another_log_is_refused() {
    let (disk, other) = (FaultyDisk::new(), FaultyDisk::new());
    written(&disk).await;
    written(&other).await;
    let second = segments(&disk)[1].clone();
    disk.set_content(&second, other.content(&second).unwrap());
    let refused = reopen(&disk).err().unwrap();
    assert!(refused.to_string().contains("belongs to another log"), "{refused}");
}

#[tokio::test]
async fn a_newer_format_is_refused_with_both_versions() {
    let disk = FaultyDisk::new();
    written(&disk).await;
    edit(&disk, &segments(&disk)[0], |bytes| bytes[8] = 3);
    let refused = reopen(&disk).err().unwrap();
    assert!(matches!(refused, OpenLogError::NewerFormat { found: 3, supported: 2, .. }));
    assert!(refused.to_string().contains("format 3, newer than 2"), "{refused}");
}

#[tokio::test]
async fn damage_found_while_reading_is_an_error_that_names_the_place() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { cache_bytes_max: 0, ..options() });
    append(&mut log.group(0), entries(1, 0..3, b"value")).await;
    append(&mut log.group(1), entries(1, 0..1, b"makes the first durable and evicted")).await;
    let path = segments(&disk)[0].clone();
    // Behind checkpoint, batch header and the first entry.
    let second = frame_offsets(&disk, &path)[3];
    edit(&disk, &path, |bytes| bytes[second + 42] ^= 1);
    let error = log.group(0).try_get_log_entries(0..3).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("log segment 1") && text.contains("of group 0") && text.contains("checksum"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unfinished_segment_is_removed_and_the_log_opens() {
    let disk = FaultyDisk::new();
    let before = written(&disk).await;
    let unfinished = Path::new(DIRECTORY).join(format!("{:020}.log.new", 99));
    disk.set_content(&unfinished, b"evkl".to_vec());
    let log = reopen(&disk).unwrap();
    assert_eq!(views(&log).await, before);
    assert!(disk.content(&unfinished).is_none());
}
