//! Makes replicas of a stopped broker forget everything, so that they can be fetched from their peers.
//!
//! The log is written anew without them, since a group cannot be taken out of it and damaged segments cannot stay; from a
//! database that still opens their rows are removed, any other is begun anew, and then every replica of the broker forgets.
//! What was replaced stays beside, under another name.
//!
//! A replica that forgot must not vote, nor be counted, as if it had not: before anything is touched, `rebuilding.json`
//! says durably which replicas are to forget, and the broker that starts on the folder abides by it. While the folder is
//! neither the old nor the new one `rebuild-unfinished` keeps a broker from starting; the same command again completes it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data_directory::{DataDirectory, sync_folder};
use crate::disk::RealDisk;
use crate::log::{Affected, ForgetError, LogOptions, OpenLogError, affected_groups, copy_without, is_whole};
use crate::state_store::{OpenStoreError, StateStore, StoreOptions};
use crate::types::GroupId;

/// Names under which replaced folders are kept; then the oldest have to be deleted by hand.
const KEPT_MAX: u32 = 1_000;

/// Why replicas could not be made to forget.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("partition {partition}: this broker holds no replica of it; name one of {hosted:?}")]
    NotHosted { partition: GroupId, hosted: BTreeSet<GroupId> },
    #[error("more is damaged than was named: give the command with {needed} instead")]
    MoreDamaged { needed: Affected },
    #[error("nothing is damaged; name the partitions to rebuild all the same with --partition")]
    NothingDamaged,
    #[error(transparent)]
    Log(#[from] OpenLogError),
    #[error(transparent)]
    Copy(#[from] ForgetError),
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    #[error("data folder {path}: {source}; check the disk, its free space and the permissions", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What was forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    pub groups: BTreeSet<GroupId>,
    /// Where that which was replaced lies; nothing needs it any more.
    pub kept: Vec<PathBuf>,
}

/// What is to be rebuilt, and where.
#[derive(Debug)]
pub struct Rebuild<'a> {
    pub data: &'a DataDirectory,
    /// Groups that have a replica here.
    pub hosted: BTreeSet<GroupId>,
    pub log: LogOptions,
    pub store: StoreOptions,
}

impl Rebuild<'_> {
    /// What has to forget when these are named; with none named, what is damaged. Refuses when more is damaged.
    pub fn plan(&self, named: &Affected) -> Result<Affected, RebuildError> {
        if let Affected::Groups(groups) = named
            && let Some(partition) = groups.difference(&self.hosted).next()
        {
            return Err(RebuildError::NotHosted { partition: *partition, hosted: self.hosted.clone() });
        }
        self.settle_cut_short().map_err(self.io())?;
        let damaged = self.damaged()?;
        if *named == Affected::none() {
            let unfinished = self.data.is_rebuild_unfinished().map_err(self.io())?;
            if damaged == Affected::none() && !unfinished && is_whole(&RealDisk, &self.data.log_directory())?
            {
                return Err(RebuildError::NothingDamaged);
            }
            return Ok(damaged);
        }
        let needed = damaged.and(named.clone());
        if self.all_of(&needed) != self.all_of(named) {
            return Err(RebuildError::MoreDamaged { needed });
        }
        Ok(needed)
    }

    /// Makes what [`Self::plan`] answered forget, durably.
    pub async fn forget(&self, planned: &Affected) -> Result<Forgotten, RebuildError> {
        let mut groups = self.data.rebuilding().map_err(self.io())?;
        groups.extend(self.all_of(planned));
        self.data.set_rebuilding(&groups).map_err(self.io())?;
        self.data.set_rebuild_unfinished(true).map_err(self.io())?;
        let mut kept = Vec::new();
        self.replace_log(&groups, &mut kept).await?;
        self.replace_state(&groups, &mut kept)?;
        self.data.set_rebuild_unfinished(false).map_err(self.io())?;
        Ok(Forgotten { groups, kept })
    }

    fn damaged(&self) -> Result<Affected, RebuildError> {
        if !self.store_opens()? {
            return Ok(Affected::All);
        }
        let log = self.data.log_directory();
        if !is_filled(&log).map_err(self.io())? {
            return Ok(Affected::All);
        }
        Ok(affected_groups(&RealDisk, &log)?)
    }

    fn all_of(&self, affected: &Affected) -> BTreeSet<GroupId> {
        match affected {
            Affected::Groups(groups) => groups.intersection(&self.hosted).copied().collect(),
            Affected::All => self.hosted.clone(),
        }
    }

    fn io(&self) -> impl Fn(io::Error) -> RebuildError + '_ {
        |source| RebuildError::Io { path: self.data.path().to_owned(), source }
    }

    fn store_opens(&self) -> Result<bool, RebuildError> {
        if !is_filled(&self.data.state_directory()).map_err(self.io())? {
            return Ok(false);
        }
        match StateStore::open(self.data.state_directory(), self.store.clone()) {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A log that is written whole and waits for its name.
    fn new_log(&self) -> PathBuf {
        self.data.path().join("log.new")
    }

    /// Brings a log that was written anew to its place when the one before is gone, and throws it away when not.
    fn settle_cut_short(&self) -> io::Result<()> {
        let (log, new) = (self.data.log_directory(), self.new_log());
        if !new.try_exists()? {
            return Ok(());
        }
        if is_filled(&log)? {
            return remove_folder(&new);
        }
        remove_folder(&log)?;
        std::fs::rename(&new, &log)?;
        sync_folder(self.data.path())
    }

    async fn replace_log(
        &self,
        forget: &BTreeSet<GroupId>,
        kept: &mut Vec<PathBuf>,
    ) -> Result<(), RebuildError> {
        let (folder, log, new) = (self.data.path(), self.data.log_directory(), self.new_log());
        let partial = folder.join("log.partial");
        remove_folder(&partial).map_err(self.io())?;
        std::fs::create_dir_all(&log).map_err(self.io())?;
        let options = LogOptions { directory: partial.clone(), ..self.log.clone() };
        copy_without(Arc::new(RealDisk), &log, options, forget).await?;
        let mut replace = || -> io::Result<()> {
            std::fs::rename(&partial, &new)?;
            sync_folder(folder)?;
            kept.extend(set_aside(&log)?);
            std::fs::rename(&new, &log)?;
            sync_folder(folder)
        };
        replace().map_err(self.io())
    }

    fn replace_state(&self, forget: &BTreeSet<GroupId>, kept: &mut Vec<PathBuf>) -> Result<(), RebuildError> {
        let state = self.data.state_directory();
        if !self.store_opens()? {
            kept.extend(set_aside(&state).map_err(self.io())?);
            std::fs::create_dir_all(&state).map_err(self.io())?;
            return sync_folder(self.data.path()).map_err(self.io());
        }
        let store = StateStore::open(&state, self.store.clone())?;
        store.forget(forget.iter().copied()).map_err(self.io())
    }
}

fn is_filled(folder: &Path) -> io::Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a folder another name, unless there is nothing in it; returns where it is now.
fn set_aside(folder: &Path) -> io::Result<Option<PathBuf>> {
    if !is_filled(folder)? {
        remove_folder(folder)?;
        return Ok(None);
    }
    for number in 1..=KEPT_MAX {
        let aside = folder.with_extension(format!("replaced-{number}"));
        if !aside.try_exists()? {
            std::fs::rename(folder, &aside)?;
            return Ok(Some(aside));
        }
    }
    Err(io::Error::other(format!(
        "{} has been replaced {KEPT_MAX} times; delete what was kept",
        folder.display()
    )))
}
