//! What can go wrong with the log: when it is opened, and while it runs.
//!
//! Of damage only what and where is said here; whoever opens the log knows how its replicas are rebuilt.

use std::io;
use std::path::PathBuf;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error("log {path}: cannot {action}: {source}; check the disk, its free space and the permissions", path = .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "log segment {path} is corrupt at byte {offset}: {what}; acknowledged records may be lost here",
        path = .path.display()
    )]
    Corrupt { path: PathBuf, offset: u64, what: String },
    #[error(
        "log segment {path} has format {found}, newer than {supported}, the newest that this version reads; run the version \
         that wrote it or a later one",
        path = .path.display()
    )]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error(
        "log segment {path} is missing; the segments before and after it are there",
        path = .path.display()
    )]
    MissingSegment { path: PathBuf },
    #[error(
        "log {path}: entry {index} of group {group} is in no segment: one that held it is missing",
        path = .path.display()
    )]
    MissingEntry { path: PathBuf, group: u32, index: u64 },
    #[error("log option {name} = {value} is out of range; choose {least} to {most}")]
    Option { name: &'static str, value: u64, least: u64, most: u64 },
}

/// Why a running log stopped for good.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot {action} {path}: {reason}; the broker must stop, check its disk", path = .path.display())]
pub struct LogFailure {
    /// What was tried, such as `write`.
    pub action: &'static str,
    pub path: PathBuf,
    pub reason: String,
}

/// Why a running log refuses a call.
#[derive(Debug, thiserror::Error)]
pub enum LogRefusal {
    #[error("the log stopped: {0}")]
    Failed(std::sync::Arc<LogFailure>),
    #[error("the log is closed")]
    Closed,
}

impl OpenLogError {
    /// Whether something that was there is gone or does not check.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::MissingSegment { .. } | Self::MissingEntry { .. })
    }
}

impl From<LogRefusal> for io::Error {
    fn from(refusal: LogRefusal) -> Self {
        io::Error::other(refusal)
    }
}
