//! A disk in memory that fails the way disks fail, for tests.
//!
//! It tells written from synced: [`FaultyDisk::crash`] forgets what was not synced, keeps some of it, or tears the
//! last write. It can run full, refuse writes or syncs, hold syncs back, and flip bits. Handles opened before a
//! crash stop working, as those of a dead process would.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile};

/// What a crash leaves of the bytes and names that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Only the process died: everything written is still there.
    ProcessOnly,
    /// The power went: nothing unsynced is left.
    LosesUnsynced,
    /// The power went in the middle of writing back: of each file's unsynced bytes a prefix is left, of which the
    /// last sector may be garbage; of the unsynced directory operations any. The seed decides.
    Tears { seed: u64 },
    /// The power went while sectors were written back in any order: of each file's unsynced sectors any are left, the
    /// others are as before, or zero; of the unsynced directory operations any. The seed decides.
    Scatters { seed: u64 },
}

#[derive(Debug, Default)]
struct Inode {
    written: Vec<u8>,
    synced: Vec<u8>,
    /// Outside of this `written` and `synced` are alike.
    unsynced: Range<usize>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Default)]
struct State {
    incarnation: u64,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    unsynced_changes: Vec<NameChange>,
    bytes_max: Option<u64>,
    writes_fail: bool,
    syncs_fail: bool,
    operations_left: Option<u64>,
    syncs_held: bool,
    sync_takes: (Duration, Duration),
    sync_random: Random,
    syncs_waiting: usize,
    syncs: u64,
    writes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// See the module. Cloning gives another handle on the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    shared: Arc<Shared>,
}

impl FaultyDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Crashes the machine: every open handle goes stale and `crash` decides what is left. Ends all faults.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.shared.state.lock();
        state.incarnation += 1;
        state.writes_fail = false;
        state.syncs_fail = false;
        state.operations_left = None;
        state.syncs_held = false;
        let (left, seed) = match crash {
            Crash::Tears { seed } => (Left::Prefix, seed),
            Crash::Scatters { seed } => (Left::AnySectors, seed),
            Crash::ProcessOnly | Crash::LosesUnsynced => (Left::Nothing, 0),
        };
        let mut random = Random(seed);
        if crash != Crash::ProcessOnly {
            let changes = std::mem::take(&mut state.unsynced_changes);
            let mut names = state.synced_names.clone();
            for change in &changes {
                if left != Left::Nothing && random.below(2) == 0 {
                    apply(&mut names, change);
                }
            }
            state.names = names.clone();
            state.synced_names = names;
            for inode in &mut state.inodes {
                inode.crash(left, &mut random);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Every later write fails, after writing a part, until the next crash.
    pub fn fail_writes(&self) {
        self.shared.state.lock().writes_fail = true;
    }

    /// Every later sync fails, until the next crash.
    pub fn fail_syncs(&self) {
        self.shared.state.lock().syncs_fail = true;
    }

    /// After this many more changing operations (create, write, cut, sync, rename, remove) every one fails, until
    /// the next crash: with each number, the log stops at another step.
    pub fn die_after(&self, operations: u64) {
        self.shared.state.lock().operations_left = Some(operations);
    }

    /// The disk holds at most this many bytes: a write beyond fails as on a full disk. `None`: no limit.
    pub fn limit_bytes(&self, bytes_max: Option<u64>) {
        self.shared.state.lock().bytes_max = bytes_max;
    }

    /// Later file syncs take between `least` and `most`, at random from the seed, where the committer is a task.
    pub fn slow_syncs(&self, least: Duration, most: Duration, seed: u64) {
        let mut state = self.shared.state.lock();
        state.sync_takes = (least, most.max(least));
        state.sync_random = Random(seed);
    }

    /// Every later file sync waits until [`FaultyDisk::release_syncs`].
    pub fn hold_syncs(&self) {
        self.shared.state.lock().syncs_held = true;
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.shared.state.lock().syncs_held = false;
        self.shared.changed.notify_all();
    }

    /// Blocks until a sync is being held.
    pub fn wait_for_held_sync(&self) {
        let mut state = self.shared.state.lock();
        while state.syncs_waiting == 0 {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Number of file syncs so far.
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// Number of writes so far.
    pub fn writes(&self) -> u64 {
        self.shared.state.lock().writes
    }

    /// Paths of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.shared.state.lock().names.keys().cloned().collect()
    }

    /// Content of a file; `None` when there is none.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.shared.state.lock();
        state.names.get(path).map(|&inode| state.inodes[inode].written.clone())
    }

    /// Replaces a file's content, durably; creates the file when there is none.
    pub fn set_content(&self, path: &Path, content: Vec<u8>) {
        let mut state = self.shared.state.lock();
        let inode = Inode { unsynced: 0..0, written: content.clone(), synced: content };
        match state.names.get(path).copied() {
            Some(existing) => state.inodes[existing] = inode,
            None => {
                state.inodes.push(inode);
                let number = state.inodes.len() - 1;
                state.names.insert(path.to_owned(), number);
                state.synced_names.insert(path.to_owned(), number);
            }
        }
    }

    fn handle(&self, state: &State, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { shared: self.shared.clone(), inode, incarnation: state.incarnation })
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.shared.state.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.shared.state.lock();
        state.check_works()?;
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.change(NameChange::Link(path.to_owned(), inode));
        Ok(self.handle(&state, inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.shared.state.lock();
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&state, inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_works()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_works()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Unlink(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.check_works()?;
        if state.syncs_fail {
            return Err(io::Error::other("injected directory sync failure"));
        }
        state.unsynced_changes.clear();
        state.synced_names = state.names.clone();
        Ok(())
    }

    fn sync_takes(&self) -> Duration {
        let mut state = self.shared.state.lock();
        let (least, most) = state.sync_takes;
        let spread = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX - 1);
        least + Duration::from_micros(state.sync_random.below(spread + 1))
    }
}

impl State {
    /// Counts a changing operation; false when the disk is dead.
    fn spend_operation(&mut self) -> bool {
        match &mut self.operations_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    fn check_works(&mut self) -> io::Result<()> {
        if self.spend_operation() { Ok(()) } else { Err(io::Error::other("injected disk failure")) }
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.unsynced_changes.push(change);
    }

    fn bytes_used(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].written.len() as u64).sum()
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Unlink(path) => {
            names.remove(path);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

const SECTOR_BYTES: usize = 512;

/// What a crash leaves of a file's unsynced bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Prefix,
    AnySectors,
}

impl Inode {
    /// Notes that bytes changed, or came, or went.
    fn changed(&mut self, range: Range<usize>) {
        self.unsynced = if self.unsynced.is_empty() {
            range
        } else {
            self.unsynced.start.min(range.start)..self.unsynced.end.max(range.end)
        };
    }

    /// Keeps what was synced, and of what was written since as much as `leaves` says: a prefix may have a garbage end. Whatever
    /// is lost of bytes that lay there before is as it was.
    fn crash(&mut self, leaves: Left, random: &mut Random) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let until = unsynced.end.min(self.written.len());
        let mut left = std::mem::take(&mut self.synced);
        if unsynced.start < until && leaves != Left::Nothing {
            let before = left.clone();
            let kept = random.below((until - unsynced.start) as u64 + 1) as usize;
            let kept_until = unsynced.start + kept;
            left.resize(left.len().max(kept_until), 0);
            left[unsynced.start..kept_until].copy_from_slice(&self.written[unsynced.start..kept_until]);
            if leaves == Left::AnySectors {
                let mut sector = unsynced.start - unsynced.start % SECTOR_BYTES;
                while sector < kept_until {
                    let next = sector + SECTOR_BYTES;
                    if random.below(2) == 0 {
                        let lost = sector.max(unsynced.start)..next.min(kept_until);
                        let was = before.iter().skip(lost.start).copied().chain(std::iter::repeat(0));
                        left[lost].iter_mut().zip(was).for_each(|(byte, was)| *byte = was);
                    }
                    sector = next;
                }
            } else if kept > 0 && random.below(2) == 0 {
                let from = kept_until - 1 - random.below(kept.min(SECTOR_BYTES) as u64) as usize;
                for byte in &mut left[from..kept_until] {
                    *byte = random.below(256) as u8;
                }
            }
        }
        self.written = left.clone();
        self.synced = left;
    }
}

#[derive(Debug)]
struct FaultyFile {
    shared: Arc<Shared>,
    inode: usize,
    incarnation: u64,
}

impl FaultyFile {
    fn check_alive(&self, state: &State) -> io::Result<()> {
        if state.incarnation == self.incarnation {
            return Ok(());
        }
        Err(io::Error::other("the machine crashed since this file was opened"))
    }
}

impl DiskFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.shared.state.lock();
        self.check_alive(&state)?;
        Ok(state.inodes[self.inode].written.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.shared.state.lock();
        self.check_alive(&state)?;
        let start = offset as usize;
        let source = state.inodes[self.inode].written.get(start..start + buffer.len());
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        self.check_alive(&state)?;
        state.writes += 1;
        let failed = !state.spend_operation() || state.writes_fail;
        let room = state.bytes_max.map(|max| max.saturating_sub(state.bytes_used()));
        let fits = if failed {
            bytes.len() / 2
        } else {
            bytes.len().min(room.unwrap_or(u64::MAX).try_into().unwrap_or(usize::MAX))
        };
        let start = offset as usize;
        let inode = &mut state.inodes[self.inode];
        let grown_from = start.min(inode.written.len());
        if inode.written.len() < start + fits {
            inode.written.resize(start + fits, 0);
        }
        inode.changed(grown_from..start + fits);
        let written = &mut inode.written;
        written[start..start + fits].copy_from_slice(&bytes[..fits]);
        if failed {
            return Err(io::Error::other("injected write failure"));
        }
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        self.check_alive(&state)?;
        state.check_works()?;
        let inode = &mut state.inodes[self.inode];
        let length = length as usize;
        let (least, most) = (length.min(inode.written.len()), length.max(inode.written.len()));
        inode.written.resize(length, 0);
        inode.changed(least..most);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.syncs_waiting += 1;
        self.shared.changed.notify_all();
        while state.syncs_held && state.incarnation == self.incarnation {
            self.shared.changed.wait(&mut state);
        }
        state.syncs_waiting -= 1;
        self.check_alive(&state)?;
        state.syncs += 1;
        state.check_works()?;
        if state.syncs_fail {
            return Err(io::Error::other("injected sync failure"));
        }
        let inode = &mut state.inodes[self.inode];
        let unsynced = std::mem::take(&mut inode.unsynced);
        inode.synced.resize(inode.written.len(), 0);
        let end = unsynced.end.min(inode.written.len());
        if unsynced.start < end {
            inode.synced[unsynced.start..end].copy_from_slice(&inode.written[unsynced.start..end]);
        }
        Ok(())
    }
}

/// A small generator (splitmix64), so that a seed alone replays a crash.
#[derive(Debug, Default)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
