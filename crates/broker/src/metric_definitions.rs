//! Names, help texts and buckets of every metric that a broker exports.
//!
//! The `atomix_*` and `zeebe_*` names are those that Zeebe's own Grafana dashboard reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::{NodeId, SYSTEM_GROUP};
use evenkeel_raft_storage::DiskSpace;
use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

use crate::clock;
use crate::disk_room::Room;
use crate::transfer::Spent;

/// Every partition metric carries it, as in Zeebe.
const GROUP_NAME: &str = "raft-partition";
/// The system group is no partition, and Zeebe's dashboard must not count it as one.
const SYSTEM_GROUP_NAME: &str = "system";

const LATENCY_SECONDS: &[f64] =
    &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
const HEARTBEAT_SECONDS: &[f64] = &[0.01, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0];
const BATCH_BYTES: &[f64] = &[256.0, 1e3, 4e3, 16e3, 64e3, 256e3, 1e6, 4e6, 16e6];
const BATCH_FRAMES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Makes the process's recorder. Every histogram gets explicit buckets: without them the exporter emits
/// summaries, and `histogram_quantile` finds nothing.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let suffix = |s: &str| Matcher::Suffix(s.to_owned());
    let full = |s: &str| Matcher::Full(s.to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets(LATENCY_SECONDS)?
        .set_buckets_for_metric(full("atomix_heartbeat_time_in_s"), HEARTBEAT_SECONDS)?
        .set_buckets_for_metric(suffix("_bytes"), BATCH_BYTES)?
        .set_buckets_for_metric(suffix("_frames"), BATCH_FRAMES)?
        .set_buckets_for_metric(suffix("_partitions"), BATCH_FRAMES)?
        .build_recorder();
    let handle = recorder.handle();
    // A second recorder in one process is a test's: the first one keeps what it has.
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::debug!("a metrics recorder is installed already");
    }
    describe();
    Ok(handle)
}

fn describe() {
    evenkeel_raft_storage::describe_metrics();
    describe_gauge!(
        "atomix_role",
        "Role of this broker's replica: 0 inactive, 1 follower, 2 candidate, 3 leader."
    );
    describe_gauge!(
        "atomix_non_replicated_entries",
        "Entries that the follower lacks, as its leader sees it."
    );
    describe_gauge!(
        "evenkeel_non_replicated_bytes",
        Unit::Bytes,
        "Bytes that the follower lacks, as its leader sees it."
    );
    describe_gauge!(
        "atomix_non_committed_entries",
        "Entries in the leader's log that are not committed yet."
    );
    describe_counter!(
        "atomix_append_entries_rate_total",
        "Entries that the follower accepted from this leader."
    );
    describe_counter!(
        "atomix_append_entries_data_rate_total",
        Unit::Bytes,
        "Bytes that the follower accepted from this leader."
    );
    describe_histogram!(
        "atomix_append_entries_latency",
        Unit::Seconds,
        "Time from sending an append until the follower has it on disk."
    );
    describe_counter!("atomix_commit_entries_rate_total", "Entries committed while this broker led.");
    describe_gauge!("atomix_partition_raft_commit_index", "Index of the last committed entry known here.");
    describe_gauge!("atomix_partition_raft_append_index", "Index of the last entry in the log here.");
    describe_histogram!(
        "atomix_heartbeat_time_in_s",
        Unit::Seconds,
        "Time between two signs of life of the leader."
    );
    describe_counter!(
        "atomix_heartbeat_miss_count_total",
        "Times a replica heard no leader for longer than the lease."
    );
    describe_gauge!("atomix_election_latency_in_ms", "Duration of the last election that this replica won.");
    describe_counter!("atomix_raft_messages_send_total", "Raft messages sent.");
    describe_counter!("atomix_raft_messages_received_total", "Raft messages received.");
    describe_gauge!("atomix_snapshot_replication_count", "Snapshots received by this replica.");
    describe_gauge!(
        "atomix_snapshot_replication_duration_milliseconds",
        "Duration of the last snapshot received."
    );
    describe_gauge!("zeebe_health", "Health of the replica: 1 healthy, 0 unhealthy, -1 dead.");
    describe_gauge!(
        "zeebe_leader_transition_latency",
        Unit::Seconds,
        "Time from winning the last election until the leader could serve."
    );
    describe_gauge!("evenkeel_partition_records", "Records in the partition, as applied here.");
    describe_gauge!(
        "evenkeel_partition_resting",
        "1 while this broker leads the partition and sends nothing for it, since nothing happens."
    );
    describe_gauge!("evenkeel_partition_priority", "Priority of this broker's replica.");
    describe_gauge!(
        "evenkeel_replica_rebuilding",
        "1 while this broker's replica is fetched from its peers and has no vote; absent when it never was."
    );
    describe_counter!("evenkeel_role_changes_total", "Role changes of this broker's replica.");
    describe_counter!(
        "evenkeel_elections_won_total",
        "Times this broker's replica came to lead, by an election or by a transfer."
    );
    describe_gauge!(
        "evenkeel_data_disk_free_bytes",
        Unit::Bytes,
        "What the broker may still use of the disk with its data folder."
    );
    describe_gauge!(
        "evenkeel_data_disk_full",
        "1 while the broker refuses writes because less than data.free_bytes_min is free, else 0."
    );
    describe_gauge!(
        "evenkeel_data_disk_size_bytes",
        Unit::Bytes,
        "Size of the disk with the broker's data folder."
    );
    describe_counter!(
        "evenkeel_transfers_total",
        "Transfers that this broker's leaders attempted, by result."
    );
    describe_histogram!(
        "evenkeel_transfer_frozen_seconds",
        Unit::Seconds,
        "How long a transfer held writes back."
    );
    describe_histogram!(
        "evenkeel_transfer_phase_seconds",
        Unit::Seconds,
        "How long transfers were in each phase: probe, catch_up, freeze, election."
    );
    describe_counter!(
        "evenkeel_leaderships_loaded_total",
        "Times this broker's replica began what it does only as leader."
    );
    describe_counter!(
        "evenkeel_leaderships_unloaded_total",
        "Times this broker's replica ended what it does only as leader."
    );
    describe_exporter_metrics();
    // Present from the start, so that a rate over it begins at 0.
    let results = (StepDown::Transferred as i32..).map_while(|number| StepDown::try_from(number).ok());
    for result in results {
        counter!("evenkeel_transfers_total", "result" => result.as_str_name()).increment(0);
    }
    drop(histogram!("evenkeel_transfer_frozen_seconds"));
}

fn partition_labels(partition: u32) -> [(&'static str, String); 2] {
    let name = if partition == SYSTEM_GROUP.0 { SYSTEM_GROUP_NAME } else { GROUP_NAME };
    [("partitionGroupName", name.to_owned()), ("partition", partition.to_string())]
}

/// What `atomix_append_entries_data_rate_total` counts, over all partitions of records.
static REPLICATED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes that followers have accepted from this process's leaders, without the system group's.
pub fn replicated_bytes() -> u64 {
    REPLICATED_BYTES.load(Ordering::Relaxed)
}

/// One leader's counters for one follower; handles are looked up once.
pub struct FollowerMetrics {
    partition: u32,
    to: String,
    entries: Counter,
    bytes: Counter,
    latency: Histogram,
    appends_sent: Counter,
}

impl FollowerMetrics {
    pub fn new(partition: u32, follower: NodeId) -> Self {
        let to = follower.to_string();
        let labels = || {
            let [group, part] = partition_labels(partition);
            [group, part, ("follower", to.clone())]
        };
        Self {
            partition,
            appends_sent: messages_sent(partition, &to, "AppendRequest"),
            entries: counter!("atomix_append_entries_rate_total", &labels()),
            bytes: counter!("atomix_append_entries_data_rate_total", &labels()),
            latency: histogram!("atomix_append_entries_latency", &labels()),
            to,
        }
    }

    /// The follower has accepted entries.
    pub fn appended(&self, entries: u64, bytes: u64, took: Duration) {
        self.entries.increment(entries);
        self.bytes.increment(bytes);
        if self.partition != SYSTEM_GROUP.0 {
            REPLICATED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        }
        self.latency.record(took.as_secs_f64());
    }

    pub fn append_sent(&self) {
        self.appends_sent.increment(1);
    }

    /// For the rare kinds; appends have their own handle.
    pub fn message_sent(&self, kind: &'static str) {
        messages_sent(self.partition, &self.to, kind).increment(1);
    }
}

fn messages_sent(partition: u32, to: &str, kind: &'static str) -> Counter {
    let [group, part] = partition_labels(partition);
    counter!(
        "atomix_raft_messages_send_total",
        &[group, part, ("to", to.to_owned()), ("type", kind.to_owned())]
    )
}

/// What a replica counts for each message that reaches it; handles are looked up once.
pub struct ReplicaMetrics {
    partition: u32,
    appends_received: Counter,
    heartbeat_gap: Histogram,
}

impl ReplicaMetrics {
    pub fn new(partition: u32) -> Self {
        Self {
            partition,
            appends_received: messages_received(partition, "AppendRequest"),
            heartbeat_gap: histogram!("atomix_heartbeat_time_in_s", &partition_labels(partition)),
        }
    }

    pub fn append_received(&self) {
        self.appends_received.increment(1);
    }

    /// For the rare kinds; appends have their own handle.
    pub fn message_received(&self, kind: &'static str) {
        messages_received(self.partition, kind).increment(1);
    }

    pub fn leader_heard(&self, gap: Duration) {
        self.heartbeat_gap.record(gap.as_secs_f64());
    }
}

fn messages_received(partition: u32, kind: &'static str) -> Counter {
    let [group, part] = partition_labels(partition);
    counter!("atomix_raft_messages_received_total", &[group, part, ("type", kind.to_owned())])
}

pub fn heartbeat_missed(partition: u32) {
    counter!("atomix_heartbeat_miss_count_total", &partition_labels(partition)).increment(1);
}

/// When this broker's replicas last began to stand; read when they win.
static ELECTIONS: Mutex<Option<std::collections::HashMap<u32, Instant>>> = Mutex::new(None);

pub fn election_began(partition: u32) {
    ELECTIONS.lock().get_or_insert_default().insert(partition, clock::now());
}

pub fn election_won(partition: u32) {
    counter!("evenkeel_elections_won_total", &partition_labels(partition)).increment(1);
    if let Some(began) = ELECTIONS.lock().get_or_insert_default().remove(&partition) {
        gauge!("atomix_election_latency_in_ms", &partition_labels(partition))
            .set(began.elapsed().as_secs_f64() * 1e3);
    }
}

pub fn snapshot_received(partition: u32, took: Duration) {
    gauge!("atomix_snapshot_replication_count", &partition_labels(partition)).increment(1.0);
    gauge!("atomix_snapshot_replication_duration_milliseconds", &partition_labels(partition))
        .set(took.as_secs_f64() * 1e3);
}

pub fn leader_transition(partition: u32, took: Duration) {
    gauge!("zeebe_leader_transition_latency", &partition_labels(partition)).set(took.as_secs_f64());
}

pub fn role_changed(partition: u32) {
    counter!("evenkeel_role_changes_total", &partition_labels(partition)).increment(1);
}

pub fn committed(partition: u32, entries: u64) {
    counter!("atomix_commit_entries_rate_total", &partition_labels(partition)).increment(entries);
}

pub fn leadership_loaded(partition: u32) {
    counter!("evenkeel_leaderships_loaded_total", &partition_labels(partition)).increment(1);
}

/// Whether this broker's replica forgot its past and does not count yet.
pub fn rebuilding(partition: u32, under_way: bool) {
    gauge!("evenkeel_replica_rebuilding", &partition_labels(partition)).set(f64::from(u8::from(under_way)));
}

pub fn leadership_unloaded(partition: u32) {
    counter!("evenkeel_leaderships_unloaded_total", &partition_labels(partition)).increment(1);
}

fn describe_exporter_metrics() {
    describe_gauge!(
        "evenkeel_exporter_position",
        "Position up to which the exporter has exported the partition, as far as this broker knows."
    );
    describe_gauge!(
        "evenkeel_exporter_lag_entries",
        "Entries applied and not exported yet, on the partition's leader; 0 elsewhere."
    );
    describe_counter!("evenkeel_exporter_records_total", "Changes that the exporter's receiver has taken.");
    describe_counter!("evenkeel_exporter_failures_total", "Attempts to export that failed and are repeated.");
    describe_counter!(
        "evenkeel_exporter_lost_positions_total",
        "Positions that the exporter jumped over because their changes were not kept any more."
    );
    describe_gauge!(
        "evenkeel_exporting_paused",
        "1 while this broker's exporters are paused, softly or not, else 0."
    );
}

fn exporter_labels(partition: u32, exporter: &str) -> Vec<metrics::Label> {
    let mut labels = metrics::IntoLabels::into_labels(&partition_labels(partition));
    labels.push(metrics::Label::new("exporter", exporter.to_owned()));
    labels
}

pub fn set_exporter_gauges(partition: u32, exporter: &str, position: u64, lag_entries: u64) {
    let labels = exporter_labels(partition, exporter);
    gauge!("evenkeel_exporter_position", labels.clone()).set(position as f64);
    gauge!("evenkeel_exporter_lag_entries", labels).set(lag_entries as f64);
    // There from the first scrape on, so that the first failure is a rise.
    exported(partition, exporter, 0);
    exports_failed(partition, exporter, 0);
    export_lost(partition, exporter, 0);
}

pub fn set_exporting_paused(paused: bool) {
    gauge!("evenkeel_exporting_paused").set(f64::from(u8::from(paused)));
}

pub fn exported(partition: u32, exporter: &str, records: u64) {
    counter!("evenkeel_exporter_records_total", exporter_labels(partition, exporter)).increment(records);
}

pub fn exports_failed(partition: u32, exporter: &str, times: u64) {
    counter!("evenkeel_exporter_failures_total", exporter_labels(partition, exporter)).increment(times);
}

pub fn export_lost(partition: u32, exporter: &str, positions: u64) {
    counter!("evenkeel_exporter_lost_positions_total", exporter_labels(partition, exporter))
        .increment(positions);
}

/// Of the disk with the data folder; what the system does not tell is shown as unknown and not as its last value.
pub fn set_disk_gauges(space: Option<DiskSpace>) {
    let shown = |bytes: fn(&DiskSpace) -> u64| space.as_ref().map_or(f64::NAN, |space| bytes(space) as f64);
    gauge!("evenkeel_data_disk_free_bytes").set(shown(|space| space.free_bytes));
    gauge!("evenkeel_data_disk_size_bytes").set(shown(|space| space.size_bytes));
}

/// 1 while writes are refused for lack of room.
pub fn disk_room(room: Room) {
    gauge!("evenkeel_data_disk_full").set(if room == Room::Enough { 0.0 } else { 1.0 });
}

/// `spent` by the attempts, if any was made: a refusal has no durations.
pub fn transfer_ended(result: &'static str, spent: Option<Spent>) {
    counter!("evenkeel_transfers_total", "result" => result).increment(1);
    let Some(Spent { phases, gate_closed }) = spent else { return };
    histogram!("evenkeel_transfer_frozen_seconds").record(gate_closed.as_secs_f64());
    let phases = [
        ("probe", phases.probe),
        ("catch_up", phases.catch_up),
        ("freeze", phases.freeze),
        ("election", phases.election),
    ];
    for (phase, took) in phases.into_iter().filter(|(_, took)| !took.is_zero()) {
        histogram!("evenkeel_transfer_phase_seconds", "phase" => phase).record(took.as_secs_f64());
    }
}

/// The gauges of one replica, set from one look at it.
pub struct ReplicaGauges {
    pub role: f64,
    pub health: f64,
    pub commit_index: u64,
    /// It leads and has fallen silent, since there is nothing to say.
    pub resting: bool,
    pub append_index: u64,
    pub records: u64,
    pub priority: u32,
    /// (follower, entries, bytes); only on the leader.
    pub followers: Vec<(u64, u64, u64)>,
}

pub fn set_replica_gauges(partition: u32, replica: &ReplicaGauges, others: impl Iterator<Item = u64>) {
    let labels = partition_labels(partition);
    gauge!("atomix_role", &labels).set(replica.role);
    gauge!("zeebe_health", &labels).set(replica.health);
    gauge!("atomix_partition_raft_commit_index", &labels).set(replica.commit_index as f64);
    gauge!("atomix_partition_raft_append_index", &labels).set(replica.append_index as f64);
    gauge!("evenkeel_partition_resting", &labels).set(f64::from(u8::from(replica.resting)));
    gauge!("evenkeel_partition_records", &labels).set(replica.records as f64);
    gauge!("evenkeel_partition_priority", &labels).set(f64::from(replica.priority));
    let uncommitted = replica.append_index.saturating_sub(replica.commit_index);
    gauge!("atomix_non_committed_entries", &labels).set(uncommitted as f64);
    for other in others {
        // A broker that leads no longer reports nothing outstanding, rather than its last word for ever.
        let lag = replica.followers.iter().find(|f| f.0 == other);
        let [group, part] = labels.clone();
        let labels = [group, part, ("follower", other.to_string())];
        gauge!("atomix_non_replicated_entries", &labels).set(lag.map_or(0.0, |l| l.1 as f64));
        gauge!("evenkeel_non_replicated_bytes", &labels).set(lag.map_or(0.0, |l| l.2 as f64));
    }
}
