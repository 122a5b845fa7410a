//! One bit of a broker's log that its disk turned round, in the middle of what it had synced.
//!
//! Nothing tells a damaged last write from a torn one, so the bit is before it, and before the one before: with those behind it the
//! broker must refuse to start, and name the file. Then the bit is put back, and the broker must start.

use std::path::PathBuf;

use evenkeel_raft_storage::faulty_disk::FaultyDisk;
use evenkeel_raft_storage::last_write;

use crate::chance::Chance;

pub struct FlippedBit {
    pub node: usize,
    pub file: PathBuf,
    pub offset: usize,
    mask: u8,
    /// What is there now.
    byte: u8,
}

impl FlippedBit {
    /// Flips a bit anywhere in the log but in a segment's last two writes; `None` where there is nothing else.
    pub fn flip(node: usize, disk: &FaultyDisk, chance: &mut Chance) -> Option<Self> {
        let files: Vec<PathBuf> = disk.files().into_iter().filter(|file| is_segment(file)).collect();
        let index = chance.index(files.len());
        let file = files.get(index)?.clone();
        let mut content = disk.content(&file)?;
        // Room that a segment was given before it is written to holds nothing that could be damaged.
        // A running broker may not have synced its last write: lost in a crash, it would leave the one before as the last.
        let end = last_write(&content[..last_write(&content)?])?;
        let (offset, mask) = (chance.index(end), 1 << chance.index(8));
        content[offset] ^= mask;
        let byte = content[offset];
        disk.set_content(&file, content);
        Some(Self { node, file, offset, mask, byte })
    }

    /// Whether it is still in the log: segments are deleted once nothing in them is needed.
    pub fn is_there(&self, disk: &FaultyDisk) -> bool {
        disk.content(&self.file).is_some_and(|content| content.get(self.offset) == Some(&self.byte))
    }

    /// Puts the bit back.
    pub fn undo(&self, disk: &FaultyDisk) {
        if let Some(mut content) = disk.content(&self.file).filter(|_| self.is_there(disk)) {
            content[self.offset] ^= self.mask;
            disk.set_content(&self.file, content);
        }
    }
}

fn is_segment(file: &std::path::Path) -> bool {
    file.extension().is_some_and(|extension| extension == "log")
}
