//! Writing a log anew without some of its groups: the only way to forget a group, and to get rid of damaged segments.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use super::damage;
use super::entry_source::{EntrySource, read_all};
use super::group_index::GroupIndex;
use super::log_error::OpenLogError;
use super::shared_log::{LogOptions, SharedLog};
use crate::disk::Disk;
use crate::types::GroupId;
use crate::types::raft::LogId;

/// Payload bytes copied at once.
const COPY_BYTES_MAX: u64 = 1 << 20;

/// Why a log could not be written anew.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    #[error(transparent)]
    Open(#[from] OpenLogError),
    #[error("log: copying group {group}: {source}; check the disk and its free space")]
    Copy { group: GroupId, source: io::Error },
    #[error("log: closing the new one: {0}; check the disk and its free space")]
    Close(io::Error),
}

/// Writes what the log in `from` holds of every group but those in `forget` into a new log, durably. `from` is only read.
/// Whatever is damaged must be in `forget`; damaged groups are never copied.
pub async fn copy_without(
    disk: Arc<dyn Disk>,
    from: &Path,
    to: LogOptions,
    forget: &BTreeSet<GroupId>,
) -> Result<(), ForgetError> {
    let surviving = damage::surviving(&*disk, from)?;
    let log = SharedLog::open(disk, to)?;
    for (group, index) in surviving.groups.iter().filter(|(group, _)| !forget.contains(group)) {
        copy(&log, *group, index, &surviving)
            .await
            .map_err(|source| ForgetError::Copy { group: *group, source })?;
    }
    log.close().await.map_err(|refusal| ForgetError::Close(refusal.into()))
}

async fn copy(
    log: &SharedLog,
    group: GroupId,
    index: &GroupIndex,
    surviving: &damage::Surviving,
) -> io::Result<()> {
    let mut log = log.group(group);
    if let Some(vote) = &index.vote {
        log.save_vote(vote).await?;
    }
    if let Some(purged) = index.purged {
        log.purge(purged).await?;
    }
    let mut run = Vec::new();
    let mut bytes = 0;
    for (at, slot) in index.entries() {
        let file = surviving.files.get(&slot.location.segment).cloned();
        let file = file.ok_or_else(|| io::Error::other(format!("entry {at} is in no segment")))?;
        run.push(EntrySource::Stored { log_id: LogId::new(slot.leader, at), location: slot.location, file });
        bytes += slot.location.payload_bytes();
        if bytes >= COPY_BYTES_MAX {
            log.blocking_append(read_all(std::mem::take(&mut run), group, surviving.salt)?).await?;
            bytes = 0;
        }
    }
    if !run.is_empty() {
        log.blocking_append(read_all(run, group, surviving.salt)?).await?;
    }
    log.save_committed(index.committed).await
}
