use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::damage::{Affected, affected_groups, is_whole};
use super::super::{copy_without, frame, segment};
use super::*;

const NEW: &str = "/new";

/// Three groups in several segments: votes, entries, truncations, purges; every frame's group, segment and offset.
async fn written(disk: &FaultyDisk) -> Vec<(u32, View)> {
    let log = open(disk, small_segments(1 << 10));
    for group in 0..3 {
        log.group(group).save_vote(&vote(4)).await.unwrap();
    }
    for round in 0..12_u64 {
        for group in 0..3 {
            append(&mut log.group(group), vec![entry(4, round, format!("value {group} {round}"))]).await;
        }
    }
    let mut first = log.group(1);
    first.truncate_after(Some(log_id(4, 1, 9))).await.unwrap();
    first.save_vote(&vote(5)).await.unwrap();
    append(&mut first, vec![entry(5, 10, "another value")]).await;
    first.save_committed(Some(log_id(4, 1, 9))).await.unwrap();
    first.purge(log_id(4, 1, 3)).await.unwrap();
    log.group(2).save_committed(Some(log_id(4, 1, 10))).await.unwrap();
    log.group(2).save_vote(&vote(6)).await.unwrap();
    let views = views(&log).await;
    log.close().await.unwrap();
    assert!(segments(disk).len() >= 3);
    views
}

/// (segment, offset, length, group) of every frame behind a checkpoint.
fn frames(disk: &FaultyDisk) -> Vec<(PathBuf, usize, usize, u32)> {
    let mut frames = Vec::new();
    for path in segments(disk) {
        let bytes = disk.content(&path).unwrap();
        let salt = segment::decode_header(&bytes).unwrap().salt;
        let mut offset = segment::HEADER_BYTES;
        let mut in_checkpoint = true;
        while offset < bytes.len() {
            let (header, payload) = frame::decode(&bytes[offset..], salt).unwrap();
            let length = frame::HEADER_BYTES + payload.len();
            if !in_checkpoint && header.kind != frame::Kind::Batch {
                frames.push((path.clone(), offset, length, header.group));
            }
            in_checkpoint &= header.kind != frame::Kind::CheckpointEnd;
            offset += length;
        }
    }
    frames
}

/// Where the last write began, which cannot be told from a torn one; in a segment that was just begun there is none.
fn last_write(disk: &FaultyDisk) -> (PathBuf, usize) {
    let last = segments(disk).pop().unwrap();
    let content = disk.content(&last).unwrap();
    let offset = super::super::last_write(&content).unwrap_or(content.len());
    (last, offset)
}

fn affected(disk: &FaultyDisk) -> Affected {
    affected_groups(disk, Path::new(DIRECTORY)).unwrap()
}

/// What a new log without these groups says of the others.
async fn copied(disk: &FaultyDisk, forget: &BTreeSet<u32>) -> Vec<(u32, View)> {
    let new = LogOptions { directory: NEW.into(), ..small_segments(1 << 10) };
    copy_without(Arc::new(disk.clone()), Path::new(DIRECTORY), new.clone(), forget).await.unwrap();
    let log = SharedLog::open(Arc::new(disk.clone()), new).unwrap();
    let views = views(&log).await;
    log.close().await.unwrap();
    for path in disk.files().into_iter().filter(|path| path.parent() == Some(Path::new(NEW))) {
        crate::disk::Disk::remove(disk, &path).unwrap();
    }
    views
}

fn without(views: &[(u32, View)], forget: &BTreeSet<u32>) -> Vec<(u32, View)> {
    views.iter().filter(|(group, _)| !forget.contains(group)).cloned().collect()
}

#[tokio::test]
async fn a_group_is_forgotten_and_the_others_keep_everything() {
    let disk = FaultyDisk::new();
    let before = written(&disk).await;
    assert_eq!(affected(&disk), Affected::none());
    for forget in [BTreeSet::new(), BTreeSet::from([1]), BTreeSet::from([0, 2]), BTreeSet::from([0, 1, 2])] {
        assert_eq!(copied(&disk, &forget).await, without(&before, &forget), "{forget:?}");
    }
}

#[tokio::test]
async fn every_flipped_bit_of_a_frame_concerns_its_group_alone() {
    let disk = FaultyDisk::new();
    let before = written(&disk).await;
    let frames = frames(&disk);
    let (last, last_offset) = last_write(&disk);
    let durable = frames.iter().filter(|(path, offset, ..)| *path != last || *offset < last_offset);
    for (path, offset, length, group) in durable {
        let whole = disk.content(path).unwrap();
        for bit in (0..length * 8).step_by(3) {
            let mut bytes = whole.clone();
            bytes[offset + bit / 8] ^= 1 << (bit % 8);
            disk.set_content(path, bytes);
            let expected = BTreeSet::from([*group]);
            assert_eq!(
                affected(&disk),
                Affected::Groups(expected.clone()),
                "{path:?} byte {offset}, bit {bit}"
            );
            if bit % 64 == 0 {
                assert_eq!(copied(&disk, &expected).await, without(&before, &expected));
            }
        }
        disk.set_content(path, whole);
    }
}

#[tokio::test]
async fn a_damaged_batch_header_is_nobodys_and_is_gone_from_a_new_log() {
    let disk = FaultyDisk::new();
    let before = written(&disk).await;
    let (path, offset, ..) = frames(&disk)[0].clone();
    let whole = disk.content(&path).unwrap();
    assert!(is_whole(&disk, Path::new(DIRECTORY)).unwrap());
    for bit in 0..frame::HEADER_BYTES * 8 {
        let mut bytes = whole.clone();
        bytes[offset - frame::HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
        disk.set_content(&path, bytes);
        assert_eq!(affected(&disk), Affected::none(), "bit {bit}");
        assert!(!is_whole(&disk, Path::new(DIRECTORY)).unwrap(), "bit {bit}");
        assert!(SharedLog::open(Arc::new(disk.clone()), small_segments(1 << 10)).is_err(), "bit {bit}");
    }
    assert_eq!(copied(&disk, &BTreeSet::new()).await, before);
}

#[tokio::test]
async fn a_damaged_or_missing_start_of_a_segment_concerns_every_group() {
    let disk = FaultyDisk::new();
    written(&disk).await;
    for path in segments(&disk) {
        let whole = disk.content(&path).unwrap();
        for at in [0, 9, 17, 25, segment::HEADER_BYTES + 4] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            if at == 9 {
                // A version that no program will ever write is one that this program does not read.
                bytes[9] = 0;
                bytes[8] = 0;
            }
            disk.set_content(&path, bytes);
            assert_eq!(affected(&disk), Affected::All, "{path:?} byte {at}");
        }
        disk.set_content(&path, whole);
    }
    let second = segments(&disk)[1].clone();
    crate::disk::Disk::remove(&disk, &second).unwrap();
    assert_eq!(affected(&disk), Affected::All);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is overwritten before the last frame: a group that is thought whole says what it said before.
    #[test]
    fn a_group_that_is_thought_whole_has_lost_nothing(
        place in 0.0..1.0_f64, garbage in proptest::collection::vec(any::<u8>(), 1..200), blank in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk = FaultyDisk::new();
            let before = written(&disk).await;
            let (last, last_offset) = last_write(&disk);
            let segments = segments(&disk);
            let path = &segments[(place * segments.len() as f64) as usize];
            let mut bytes = disk.content(path).unwrap();
            let end = if *path == last { last_offset } else { bytes.len() };
            let at = (place * 7919.0).fract() * end as f64;
            for (offset, byte) in (at as usize..end).zip(&garbage) {
                bytes[offset] = if blank { 0 } else { *byte };
            }
            disk.set_content(path, bytes);
            let affected = match affected_groups(&disk, Path::new(DIRECTORY)) {
                // The version was overwritten.
                Err(_) => return,
                Ok(affected) => affected,
            };
            let whole: BTreeSet<u32> = (0..3).filter(|group| !affected.contains(*group)).collect();
            let forget: BTreeSet<u32> = (0..3).filter(|group| !whole.contains(group)).collect();
            assert_eq!(copied(&disk, &forget).await, without(&before, &forget), "{affected:?}");
        });
    }
}
