//! The folder that holds everything a broker must not lose, and the proof of whose it is.
//!
//! | in it | what |
//! | --- | --- |
//! | `identity.json` | format, cluster id, node id and broker uuid, written once |
//! | `layout.json` | the brokers and replica sets that the folder was founded with; the broker's own |
//! | `drained` | there while the broker is to lead nothing |
//! | `exporting-paused` | there while its exporters are to export nothing |
//! | `exporting-soft-paused` | there while they are to export, and not to tell how far they are |
//! | `rebuilding.json` | groups whose replicas here forgot their past and do not count yet |
//! | `rebuild-unfinished` | there while replicas are made to forget: nothing else may use the folder |
//! | `reserve` | nothing: room that is given back when the disk is full |
//! | `lock` | locked as long as a broker runs on the folder |
//! | `log/` | the write-ahead log |
//! | `state/` | the state database |
//!
//! A folder of another cluster or node is refused: its votes and log would make this broker break its promises.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::types::GroupId;

/// Version of the folder's layout and of the identity file.
const FORMAT: u32 = 1;
const IDENTITY_FILE: &str = "identity.json";
const DRAINED_FILE: &str = "drained";
const EXPORTING_PAUSED_FILE: &str = "exporting-paused";
const EXPORTING_SOFT_PAUSED_FILE: &str = "exporting-soft-paused";
const REBUILDING_FILE: &str = "rebuilding.json";
const UNFINISHED_FILE: &str = "rebuild-unfinished";
const RESERVE_FILE: &str = "reserve";
const LOCK_FILE: &str = "lock";
const LOG_FOLDER: &str = "log";
const STATE_FOLDER: &str = "state";

/// What a broker's exporters do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportingPhase {
    /// They export.
    #[default]
    Exporting,
    /// They export, and do not tell how far they are: whoever leads next exports that again.
    SoftPaused,
    /// They export nothing.
    Paused,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    #[error(
        "data folder {path}: locked by a running broker; stop that broker or give this one another folder"
    )]
    Locked { path: PathBuf },
    #[error(
        "data folder {path}: belongs to cluster \"{found}\", not \"{expected}\"; \
         give this broker its own folder or the right cluster id"
    )]
    OtherCluster { path: PathBuf, found: String, expected: String },
    #[error(
        "data folder {path}: belongs to node {found}, not {expected}; \
         give this broker its own folder or the right node id"
    )]
    OtherNode { path: PathBuf, found: u64, expected: u64 },
    #[error(
        "data folder {path}: its cluster has {found} partitions, not {expected}; set cluster.partitions = {found}, \
         since keys find their partition by that number"
    )]
    OtherPartitions { path: PathBuf, found: u32, expected: u32 },
    #[error(
        "data folder {path}: format {found} is newer than {FORMAT}, the newest that this version reads; \
         run the version that wrote it or a later one"
    )]
    NewerFormat { path: PathBuf, found: u32 },
    #[error(
        "data folder {path}: {IDENTITY_FILE} is missing beside data; \
         put the file back; do not empty the folder: the broker would forget votes and records that it has promised"
    )]
    IdentityMissing { path: PathBuf },
    #[error(
        "data folder {path}: a rebuild was cut short; give the same `evenkeel broker rebuild` command again"
    )]
    RebuildUnfinished { path: PathBuf },
    #[error("data folder {path}: {IDENTITY_FILE} cannot be read ({source}); restore it from a copy")]
    IdentityDamaged { path: PathBuf, source: serde_json::Error },
    #[error("data folder {path}: {source}; check that it can be created and written by this user")]
    Io { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster_id: String,
    node_id: u64,
    partitions: u32,
    broker_uuid: Uuid,
}

/// What `rebuilding.json` holds.
#[derive(Serialize, Deserialize)]
struct Rebuilding {
    format: u32,
    groups: BTreeSet<GroupId>,
}

/// Only what every format has, to be read before the rest.
#[derive(Deserialize)]
struct IdentityFormat {
    format: u32,
}

/// Room of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What the broker may still use.
    pub free_bytes: u64,
    /// All there is.
    pub size_bytes: u64,
}

impl DiskSpace {
    /// Of the disk that this path is on.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(path)?;
        // What only root may use is no room for a broker.
        Ok(Self {
            free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            size_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        })
    }
}

/// A broker's data folder, locked until this is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    broker_uuid: Uuid,
    /// Told in place of what the system says.
    space: Option<DiskSpace>,
    _lock: File,
}

impl DataDirectory {
    /// Creates or opens the folder for a node of a cluster with so many partitions.
    pub fn open(
        path: impl AsRef<Path>,
        cluster_id: &str,
        node_id: u64,
        partitions: u32,
    ) -> Result<Self, DataDirectoryError> {
        let this = Self::open_for_rebuild(path, cluster_id, node_id, partitions)?;
        let path = this.path.clone();
        let io = |source| DataDirectoryError::Io { path: path.clone(), source };
        if this.is_rebuild_unfinished().map_err(io)? {
            return Err(DataDirectoryError::RebuildUnfinished { path });
        }
        for folder in [LOG_FOLDER, STATE_FOLDER] {
            std::fs::create_dir_all(path.join(folder)).map_err(io)?;
        }
        sync_folder(&path).map_err(io)?;
        Ok(this)
    }

    /// Like [`Self::open`], but also when a rebuild was cut short; makes no folders for log and state.
    pub fn open_for_rebuild(
        path: impl AsRef<Path>,
        cluster_id: &str,
        node_id: u64,
        partitions: u32,
    ) -> Result<Self, DataDirectoryError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| DataDirectoryError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(io)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirectoryError::Locked { path }),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let identity = match std::fs::read(path.join(IDENTITY_FILE)) {
            Ok(json) => read_identity(&path, &json)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if has_data(&path).map_err(io)? {
                    return Err(DataDirectoryError::IdentityMissing { path });
                }
                let identity = Identity {
                    format: FORMAT,
                    cluster_id: cluster_id.into(),
                    node_id,
                    partitions,
                    broker_uuid: Uuid::new_v4(),
                };
                write_whole(&path, IDENTITY_FILE, &identity).map_err(io)?;
                identity
            }
            Err(error) => return Err(io(error)),
        };
        if identity.cluster_id != cluster_id {
            let found = identity.cluster_id;
            return Err(DataDirectoryError::OtherCluster { path, found, expected: cluster_id.into() });
        }
        if identity.node_id != node_id {
            return Err(DataDirectoryError::OtherNode { path, found: identity.node_id, expected: node_id });
        }
        if identity.partitions != partitions {
            let found = identity.partitions;
            return Err(DataDirectoryError::OtherPartitions { path, found, expected: partitions });
        }
        Ok(Self { path, broker_uuid: identity.broker_uuid, space: None, _lock: lock })
    }

    /// Tells of this room in place of the disk's: what else is on it must not show in a simulation.
    pub fn with_space(self, space: DiskSpace) -> Self {
        Self { space: Some(space), ..self }
    }

    /// Made when the folder was first used; tells a broker from one that lost its disk.
    pub fn broker_uuid(&self) -> Uuid {
        self.broker_uuid
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the broker is to lead nothing.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn is_drained(&self) -> io::Result<bool> {
        self.path.join(DRAINED_FILE).try_exists()
    }

    /// Remembers, durably, whether the broker is to lead nothing.
    ///
    /// # Errors
    /// When the folder cannot be written; what was remembered before may or may not hold.
    pub fn set_drained(&self, drained: bool) -> io::Result<()> {
        set_flag(&self.path, DRAINED_FILE, drained)
    }

    /// Whether the broker's exporters are paused.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn exporting(&self) -> io::Result<ExportingPhase> {
        let is_there = |file| self.path.join(file).try_exists();
        // Both are there when a change was cut off: the one that exports less is safe.
        Ok(match (is_there(EXPORTING_PAUSED_FILE)?, is_there(EXPORTING_SOFT_PAUSED_FILE)?) {
            (true, _) => ExportingPhase::Paused,
            (false, true) => ExportingPhase::SoftPaused,
            (false, false) => ExportingPhase::Exporting,
        })
    }

    /// Remembers, durably, whether the broker's exporters are paused.
    ///
    /// # Errors
    /// When the folder cannot be written; what was remembered before may or may not hold.
    pub fn set_exporting(&self, phase: ExportingPhase) -> io::Result<()> {
        // The new one is there before the old one goes.
        let soft = phase == ExportingPhase::SoftPaused;
        if soft {
            set_flag(&self.path, EXPORTING_SOFT_PAUSED_FILE, true)?;
        }
        set_flag(&self.path, EXPORTING_PAUSED_FILE, phase == ExportingPhase::Paused)?;
        if soft { Ok(()) } else { set_flag(&self.path, EXPORTING_SOFT_PAUSED_FILE, false) }
    }

    /// The groups whose replicas here forgot their past and must not count before they know again what they did.
    ///
    /// # Errors
    /// When the file is there and cannot be read; whoever cannot tell must not take part.
    pub fn rebuilding(&self) -> io::Result<BTreeSet<GroupId>> {
        let path = self.path.join(REBUILDING_FILE);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let unreadable = |what: String| {
            let text = format!("{} {what}; restore it or rebuild every partition with --all", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let IdentityFormat { format } =
            serde_json::from_slice(&json).map_err(|error| unreadable(format!("cannot be read ({error})")))?;
        if format > FORMAT {
            return Err(unreadable(format!("has format {format}, newer than {FORMAT}")));
        }
        let rebuilding: Rebuilding =
            serde_json::from_slice(&json).map_err(|error| unreadable(format!("cannot be read ({error})")))?;
        Ok(rebuilding.groups)
    }

    /// Remembers, durably, which groups' replicas do not count.
    ///
    /// # Errors
    /// When the folder cannot be written; what was remembered before or this holds.
    pub fn set_rebuilding(&self, groups: &BTreeSet<GroupId>) -> io::Result<()> {
        let rebuilding = Rebuilding { format: FORMAT, groups: groups.clone() };
        write_whole(&self.path, REBUILDING_FILE, &rebuilding)
    }

    /// Whether replicas were being made to forget when the process ended.
    pub(crate) fn is_rebuild_unfinished(&self) -> io::Result<bool> {
        self.path.join(UNFINISHED_FILE).try_exists()
    }

    /// Remembers, durably, whether replicas are being made to forget.
    pub(crate) fn set_rebuild_unfinished(&self, unfinished: bool) -> io::Result<()> {
        set_flag(&self.path, UNFINISHED_FILE, unfinished)
    }

    /// Writes a JSON file of the folder's owner, durably: after a crash it is there whole or as it was before.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write_file(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        write_whole(&self.path, name, content)
    }

    /// How much room the disk has that the folder is on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn disk_space(&self) -> io::Result<DiskSpace> {
        self.space.map_or_else(|| DiskSpace::of(&self.path), Ok)
    }

    /// Keeps so many bytes of the disk for when it is full, or gives them back with 0. Blocks.
    ///
    /// # Errors
    /// When there is no room for them; then none are kept.
    pub fn keep_reserve(&self, bytes: u64) -> io::Result<()> {
        let path = self.path.join(RESERVE_FILE);
        if bytes == 0 {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        let kept = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
        if let Err(error) = kept {
            // Nothing depends on it: without it there is a little less time.
            let _ = std::fs::remove_file(path);
            return Err(error.into());
        }
        Ok(())
    }

    /// Where the write-ahead log lies.
    pub fn log_directory(&self) -> PathBuf {
        self.path.join(LOG_FOLDER)
    }

    /// Where the state database lies.
    pub fn state_directory(&self) -> PathBuf {
        self.path.join(STATE_FOLDER)
    }
}

fn read_identity(path: &Path, json: &[u8]) -> Result<Identity, DataDirectoryError> {
    let damaged = |source| DataDirectoryError::IdentityDamaged { path: path.to_path_buf(), source };
    let IdentityFormat { format } = serde_json::from_slice(json).map_err(damaged)?;
    if format > FORMAT {
        return Err(DataDirectoryError::NewerFormat { path: path.to_path_buf(), found: format });
    }
    serde_json::from_slice(json).map_err(damaged)
}

/// Writes the file under another name, syncs it and renames it: it is there whole or not at all.
fn write_whole(folder: &Path, name: &str, content: &impl Serialize) -> io::Result<()> {
    let unfinished = folder.join(format!("{name}.new"));
    let mut file = File::create(&unfinished)?;
    serde_json::to_writer_pretty(&mut file, content)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, folder.join(name))?;
    sync_folder(folder)
}

/// A file that says something by being there, durably.
fn set_flag(folder: &Path, name: &str, set: bool) -> io::Result<()> {
    let path = folder.join(name);
    if set {
        File::create(path)?;
    } else {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_folder(folder)
}

pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn has_data(path: &Path) -> io::Result<bool> {
    for folder in [LOG_FOLDER, STATE_FOLDER] {
        match std::fs::read_dir(path.join(folder)) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uuid_stays_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        let first = DataDirectory::open(&path, "c", 1, 12).unwrap();
        let uuid = first.broker_uuid();
        assert!(first.log_directory().is_dir() && first.state_directory().is_dir());
        drop(first);
        assert_eq!(DataDirectory::open(&path, "c", 1, 12).unwrap().broker_uuid(), uuid);
    }

    #[test]
    fn that_a_broker_is_drained_outlives_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DataDirectory::open(folder.path(), "c", 1, 12).unwrap();
        assert!(!open().is_drained().unwrap());
        for drained in [true, true, false, false] {
            open().set_drained(drained).unwrap();
            assert_eq!(open().is_drained().unwrap(), drained);
        }
    }

    #[test]
    fn a_disk_has_no_more_free_than_it_is_large() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path(), "c", 1, 12).unwrap();
        let space = data.disk_space().unwrap();
        assert!(0 < space.free_bytes && space.free_bytes <= space.size_bytes, "{space:?}");
        let told = std::process::Command::new("df").arg("-PB1").arg(folder.path()).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let size = told.lines().last().and_then(|line| line.split_whitespace().nth(1)).unwrap();
        assert_eq!(space.size_bytes.to_string(), size, "{told}");
    }

    #[test]
    fn a_folder_in_use_is_refused_with_its_path_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let _open = DataDirectory::open(folder.path(), "c", 1, 12).unwrap();
        let error = DataDirectory::open(folder.path(), "c", 1, 12).unwrap_err();
        assert!(matches!(error, DataDirectoryError::Locked { .. }));
        let text = error.to_string();
        assert!(
            text.contains(&folder.path().display().to_string()) && text.contains("stop that broker"),
            "{text}"
        );
    }

    #[test]
    fn a_folder_of_another_cluster_node_or_shape_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataDirectory::open(folder.path(), "ours", 1, 12).unwrap());
        let before = std::fs::read(folder.path().join(IDENTITY_FILE)).unwrap();
        let error = DataDirectory::open(folder.path(), "theirs", 1, 12).unwrap_err();
        assert!(error.to_string().contains("belongs to cluster \"ours\", not \"theirs\""), "{error}");
        let error = DataDirectory::open(folder.path(), "ours", 2, 12).unwrap_err();
        assert!(error.to_string().contains("belongs to node 1, not 2"), "{error}");
        let error = DataDirectory::open(folder.path(), "ours", 1, 24).unwrap_err();
        assert!(error.to_string().contains("12 partitions, not 24"), "{error}");
        assert_eq!(std::fs::read(folder.path().join(IDENTITY_FILE)).unwrap(), before);
    }

    #[test]
    fn a_newer_format_is_refused_even_when_the_rest_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(IDENTITY_FILE), r#"{"format": 9, "novelty": []}"#).unwrap();
        let error = DataDirectory::open(folder.path(), "c", 1, 12).unwrap_err();
        assert!(matches!(error, DataDirectoryError::NewerFormat { found: 9, .. }), "{error}");
    }

    #[test]
    fn a_damaged_or_missing_identity_beside_data_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(IDENTITY_FILE), "{").unwrap();
        let error = DataDirectory::open(folder.path(), "c", 1, 12).unwrap_err();
        assert!(matches!(error, DataDirectoryError::IdentityDamaged { .. }), "{error}");
        std::fs::remove_file(folder.path().join(IDENTITY_FILE)).unwrap();
        std::fs::create_dir_all(folder.path().join(LOG_FOLDER)).unwrap();
        std::fs::write(folder.path().join(LOG_FOLDER).join("1"), "x").unwrap();
        let error = DataDirectory::open(folder.path(), "c", 1, 12).unwrap_err();
        assert!(matches!(error, DataDirectoryError::IdentityMissing { .. }), "{error}");
    }

    #[test]
    fn a_folder_whose_first_start_was_cut_off_is_used() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(format!("{IDENTITY_FILE}.new")), "{").unwrap();
        assert!(DataDirectory::open(folder.path(), "c", 1, 12).is_ok());
    }

    #[test]
    fn a_path_that_is_a_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = DataDirectory::open(&path, "c", 1, 12).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
