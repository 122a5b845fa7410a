//! A broker's machine: its disk, its clock, and the real broker that runs on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use evenkeel_broker::{Options, Surroundings, run_on};
use evenkeel_raft_storage::faulty_disk::FaultyDisk;
use evenkeel_raft_storage::{
    CommitterDriver, DataDirectory, DiskSpace, LogOptions, Offload, SharedLog, SimulatedState, StateStore,
    StoreOptions,
};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::network;
use crate::witness::Shared;

pub const PORT: u16 = 26501;
/// Why a broker ended that stopped in order.
pub const ASKED_TO: &str = "asked to";
const CLUSTER: &str = "simulated";
/// What brokers tell of their disks: the room on the one that the tests run on is no function of the seed.
const SPACE: DiskSpace = DiskSpace { free_bytes: 1 << 40, size_bytes: 1 << 41 };
/// How often a machine's clock is set wrong.
const CLOCK_STEP: Duration = Duration::from_millis(50);

/// What of a broker outlives its process.
pub struct Machine {
    pub node: usize,
    pub disk: FaultyDisk,
    pub state: SimulatedState,
    /// Identity and lock of the data folder: on the real disk. Made before chance is simulated: how often a name is tried
    /// depends on the folders that are there.
    folder: TempDir,
    /// Asks the broker to stop in order.
    pub stop: Notify,
    /// The clock runs so many millionths too fast.
    pub drift_ppm: AtomicU64,
    /// The clock is to jump forward by so many milliseconds.
    pub jump_ms: AtomicU64,
    shape: Shape,
}

/// What all machines of a run have in common.
#[derive(Debug, Clone)]
pub struct Shape {
    pub brokers: usize,
    pub partitions: u32,
    pub snapshot_after_entries: u64,
    pub log_entries_kept: u64,
}

pub fn name(node: usize) -> String {
    format!("broker-{node}")
}

/// As `cluster.brokers` has it.
pub fn contacts(brokers: usize) -> Vec<String> {
    (0..brokers).map(|node| format!("{node}={}:{PORT}", name(node))).collect()
}

impl Machine {
    pub fn new(node: usize, folder: TempDir, shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            node,
            disk: FaultyDisk::new(),
            state: SimulatedState::new(),
            folder,
            stop: Notify::new(),
            drift_ppm: AtomicU64::new(0),
            jump_ms: AtomicU64::new(0),
            shape,
        })
    }

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.cluster.id = CLUSTER.into();
        options.cluster.node_id = self.node as u64;
        options.cluster.brokers = contacts(self.shape.brokers);
        options.cluster.partitions = self.shape.partitions;
        options.cluster.replication_factor = 3;
        options.network.host = name(self.node);
        // Nobody else is on the simulated network.
        options.network.insecure = true;
        options.network.port = PORT;
        options.data.directory = self.folder.path().display().to_string();
        // The simulated log meets a full disk by itself.
        options.data.free_bytes_min = 0;
        options.raft.snapshot_after_entries = self.shape.snapshot_after_entries;
        options.raft.log_entries_kept = self.shape.log_entries_kept;
        options
    }

    /// One life of the broker's process; tells the witness how it ended.
    pub async fn run(self: Arc<Self>, shared: Shared) {
        tokio::spawn(self.clone().misset_clock());
        let ended = match Box::pin(self.clone().serve(&shared)).await {
            Ok(()) => ASKED_TO.to_owned(),
            Err(error) => format!("{error:#}"),
        };
        shared.lock().broker_ended(self.node, ended);
    }

    async fn serve(self: Arc<Self>, shared: &Shared) -> anyhow::Result<()> {
        let options = self.options();
        let incoming = network::listen(PORT).await.context("listen")?;
        let (node, partitions) = (options.cluster.node_id, options.cluster.partitions);
        let data = DataDirectory::open(&options.data.directory, CLUSTER, node, partitions)?.with_space(SPACE);
        let mut log_options = LogOptions::new(PathBuf::from("/log"));
        log_options.driver = CommitterDriver::Task;
        // Small, so that segments end, are rewritten and deleted, and entries are read back from the disk.
        log_options.segment_bytes_max = 64 << 10;
        log_options.cache_bytes_max = 16 << 10;
        let log = SharedLog::open(Arc::new(self.disk.clone()), log_options)?;
        let store = StateStore::open_simulated(&self.state, StoreOptions::default())?;
        let surroundings = Surroundings {
            log,
            store,
            data: Arc::new(data),
            offload: Offload::InPlace,
            dialer: network::dialer(),
            incoming: Box::pin(incoming),
        };
        let started = |observer| shared.lock().broker_started(self.node, observer);
        Ok(run_on(options, surroundings, started, self.stop.notified()).await?)
    }

    /// Moves this machine's clock ahead of the others'.
    async fn misset_clock(self: Arc<Self>) {
        let mut ahead = Duration::ZERO;
        loop {
            tokio::time::sleep(CLOCK_STEP).await;
            let drift = self.drift_ppm.load(Ordering::Relaxed);
            ahead += CLOCK_STEP.mul_f64(drift as f64 / 1e6);
            ahead += Duration::from_millis(self.jump_ms.swap(0, Ordering::Relaxed));
            let step = Duration::from_millis(u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX));
            if !step.is_zero() {
                ahead -= step;
                tokio::time::advance(step).await;
            }
        }
    }
}
