//! The log's options and handle.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metrics::gauge;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

use super::committer::{self, Committer};
use super::frame::Salt;
use super::group_log::GroupLog;
use super::log_core::LogCore;
use super::log_error::{LogFailure, LogRefusal, OpenLogError};
use super::recovery;
use crate::disk::{Disk, RealDisk};
use crate::metric_definitions::LOG_SEGMENTS;
use crate::types::GroupId;

/// Who drives the committer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitterDriver {
    /// A thread of its own, so that syncs block nobody else.
    Thread,
    /// A task on the runtime that opens the log; everything runs on that runtime, stored entries are read in place.
    Task,
}

/// How a log is to be kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Where the segments are.
    pub directory: PathBuf,
    /// A segment that has grown to this is finished and the next one begun.
    pub segment_bytes_max: u64,
    /// A segment is given room in steps of this, before it is written to; 0: no room.
    pub room_bytes: u64,
    /// Memory for recent entries, over all groups.
    pub cache_bytes_max: u64,
    /// Appends wait while this much is queued.
    pub queue_bytes_max: u64,
    /// Payload bytes that a limited read returns, but always one entry.
    pub read_bytes_max: u64,
    pub driver: CommitterDriver,
}

impl LogOptions {
    /// The defaults, in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            segment_bytes_max: 64 << 20,
            room_bytes: 1 << 20,
            cache_bytes_max: 64 << 20,
            queue_bytes_max: 16 << 20,
            read_bytes_max: 1 << 20,
            driver: CommitterDriver::Thread,
        }
    }

    fn check(&self) -> Result<(), OpenLogError> {
        let ranges = [
            ("segment_bytes_max", self.segment_bytes_max, 1 << 10, 1 << 30),
            ("room_bytes", self.room_bytes, 0, 64 << 20),
            ("cache_bytes_max", self.cache_bytes_max, 0, 1 << 40),
            ("queue_bytes_max", self.queue_bytes_max, 1, 1 << 30),
            ("read_bytes_max", self.read_bytes_max, 1, 1 << 30),
        ];
        for (name, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(OpenLogError::Option { name, value, least, most });
            }
        }
        Ok(())
    }
}

/// What handles and committer share.
pub(super) struct LogShared {
    pub disk: Arc<dyn Disk>,
    pub options: LogOptions,
    pub salt: Salt,
    pub core: Mutex<LogCore>,
    pub work_for_thread: Condvar,
    pub work_for_task: Notify,
    /// Told whenever the queue has been emptied.
    pub room: Notify,
    failure: watch::Sender<Option<Arc<LogFailure>>>,
    pub stopped: watch::Sender<bool>,
    /// Whether a batch waits for room on the disk.
    pub full: watch::Sender<bool>,
}

impl LogShared {
    /// Tells the committer that something is queued.
    pub fn wake_committer(&self) {
        match self.options.driver {
            CommitterDriver::Thread => {
                self.work_for_thread.notify_one();
            }
            CommitterDriver::Task => self.work_for_task.notify_one(),
        }
    }

    /// Stops the log when its committer ended in any other way than by closing or failing.
    pub fn committer_ended(&self) {
        let in_order = {
            let core = self.core.lock();
            core.failure.is_some() || (core.closing && !core.has_batch())
        };
        if !in_order {
            self.fail(LogFailure {
                action: "go on committing to",
                path: self.options.directory.clone(),
                reason: "its committer was stopped".into(),
            });
        }
        self.stopped.send_replace(true);
    }

    /// Stops the log for good: whoever waits is told, whoever comes is refused. The first failure stays.
    pub fn fail(&self, failure: LogFailure) -> Arc<LogFailure> {
        let (failure, waiters) = {
            let mut core = self.core.lock();
            let failure = core.failure.get_or_insert_with(|| Arc::new(failure)).clone();
            (failure, core.take_waiters())
        };
        // First, so that nobody sees a replica stop without the reason.
        self.failure.send_if_modified(|known| known.is_none() && known.replace(failure.clone()).is_none());
        for waiter in waiters {
            waiter.complete(&Err(failure.clone()));
        }
        self.room.notify_waiters();
        failure
    }

    /// Returns once the queue has room, or at once when the log is not usable any more.
    pub async fn wait_for_room(&self) {
        loop {
            let emptied = self.room.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            {
                let core = self.core.lock();
                if core.check_usable().is_err() || (core.queued_bytes() as u64) < self.options.queue_bytes_max
                {
                    return;
                }
            }
            emptied.await;
        }
    }
}

/// Closes the log when the last handle is gone.
pub(super) struct LogHandle {
    pub log: Arc<LogShared>,
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        {
            let mut core = self.log.core.lock();
            core.closing = true;
            core.flush_all();
        }
        self.log.wake_committer();
    }
}

/// The shared write-ahead log of a broker. Cheap to clone; see the [module](super).
#[derive(Clone)]
pub struct SharedLog {
    pub(super) handle: Arc<LogHandle>,
}

impl fmt::Debug for SharedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedLog({})", self.directory().display())
    }
}

impl SharedLog {
    /// Recovers the log in the options' directory, or begins one, and starts its committer. With
    /// [`CommitterDriver::Task`] this must be called on a tokio runtime. Blocks while it reads the log.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Self, OpenLogError> {
        options.check()?;
        #[cfg_attr(not(feature = "known-bugs"), expect(unused_mut))]
        let mut recovered = recovery::recover(&*disk, &options.directory, fresh_salt())?;
        #[cfg(feature = "known-bugs")]
        if crate::known_bugs::KnownBug::ForgetVote.is_awake() {
            recovered.groups.values_mut().for_each(|group| group.vote = None);
        }
        let salt = recovered.salt;
        gauge!(LOG_SEGMENTS).set(recovered.segments.len() as f64);
        let core = LogCore::new(recovered, options.segment_bytes_max, options.cache_bytes_max);
        let log = Arc::new(LogShared {
            disk,
            options,
            salt,
            core: Mutex::new(core),
            work_for_thread: Condvar::new(),
            work_for_task: Notify::new(),
            room: Notify::new(),
            failure: watch::Sender::new(None),
            stopped: watch::Sender::new(false),
            full: watch::Sender::new(false),
        });
        let driven = Committer(log.clone());
        match log.options.driver {
            CommitterDriver::Thread => {
                let spawned = std::thread::Builder::new()
                    .name("log-committer".into())
                    .spawn(move || committer::run_on_thread(driven));
                spawned.map_err(|source| OpenLogError::Io {
                    action: "start the committer of",
                    path: log.options.directory.clone(),
                    source,
                })?;
            }
            CommitterDriver::Task => drop(tokio::spawn(committer::run_on_task(driven))),
        }
        Ok(Self { handle: Arc::new(LogHandle { log }) })
    }

    /// [`SharedLog::open`] on this machine's file system.
    pub fn open_on_disk(options: LogOptions) -> Result<Self, OpenLogError> {
        Self::open(Arc::new(RealDisk), options)
    }

    /// The log of one group, empty if the group never wrote anything.
    pub fn group(&self, group: GroupId) -> GroupLog {
        GroupLog::new(group, self.handle.clone())
    }

    /// Groups that have anything in the log, ascending.
    pub fn groups(&self) -> Vec<GroupId> {
        self.handle.log.core.lock().groups.keys().copied().collect()
    }

    /// Ends when the log has failed; never, as long as it works. The broker must stop then.
    pub fn failure(&self) -> impl Future<Output = Arc<LogFailure>> + Send + 'static {
        let mut failure = self.handle.log.failure.subscribe();
        async move {
            let known = failure.wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
            match known {
                Some(failure) => failure,
                // Every handle is gone: nothing can fail any more.
                None => std::future::pending().await,
            }
        }
    }

    /// Whether a batch waits for room on the disk: nothing is lost, and nothing is acknowledged meanwhile.
    pub fn full(&self) -> watch::Receiver<bool> {
        self.handle.log.full.subscribe()
    }

    /// Makes everything queued durable, committed positions included, and stops the committer. Later calls on any
    /// handle are refused.
    pub async fn close(&self) -> Result<(), LogRefusal> {
        let log = &self.handle.log;
        {
            let mut core = log.core.lock();
            if !core.closing && core.failure.is_none() {
                core.closing = true;
                core.flush_all();
            }
        }
        log.wake_committer();
        let mut stopped = log.stopped.subscribe();
        // Cannot end early: this log holds the sender.
        drop(stopped.wait_for(|stopped| *stopped).await);
        match &log.core.lock().failure {
            Some(failure) => Err(LogRefusal::Failed(failure.clone())),
            None => Ok(()),
        }
    }

    /// Directory of the log.
    pub fn directory(&self) -> &Path {
        &self.handle.log.options.directory
    }
}

fn fresh_salt() -> Salt {
    Salt(RandomState::new().build_hasher().finish())
}
