//! Every metric of a gateway, with its help text, and the process's one recorder.

use std::sync::OnceLock;
use std::time::Duration;

use evenkeel_protocol::v1::Role;
use evenkeel_protocol::{NodeId, PartitionId};
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tonic::Code;

use crate::rebalance::PartitionResult;

const PARTITION_ROLES: &str = "zeebe_gateway_topology_partition_roles";
const REQUESTS: &str = "evenkeel_gateway_requests_total";
const REQUEST_SECONDS: &str = "evenkeel_gateway_request_seconds";
const PARKED: &str = "evenkeel_gateway_parked_requests";
const REPLAYS: &str = "evenkeel_gateway_replays_total";
const REBALANCE_RUNS: &str = "evenkeel_rebalance_runs_total";
const REBALANCE_PARTITIONS: &str = "evenkeel_rebalance_partition_results_total";
const REBALANCE_RUN_SECONDS: &str = "evenkeel_rebalance_run_seconds";
const REBALANCE_GAP_SECONDS: &str = "evenkeel_rebalance_gap_seconds";
const AUTOMATIC_ROUNDS: &str = "evenkeel_rebalance_automatic_rounds_total";
const APPEND_RATE: &str = "evenkeel_replicated_bytes_per_second";
const PARTITION_BALANCED: &str = "evenkeel_partition_balanced";
const QUORUM_MARGIN: &str = "evenkeel_partition_quorum_margin";
const BROKER_REACHABLE: &str = "evenkeel_broker_reachable";
const BROKER_DRAINED: &str = "evenkeel_broker_drained";
const OWNERSHIP_PAUSED: &str = "evenkeel_ownership_paused";
const REBALANCE_ACTIVE: &str = "evenkeel_rebalance_active";
const AUDIT_ENTRIES: &str = "evenkeel_audit_entries_total";
const OWNERSHIP_REBALANCES: &str = "evenkeel_ownership_rebalances_total";

/// From a write's fastest way through three fsyncs to the longest that one may be parked.
const REQUEST_SECONDS_BUCKETS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
    30.0,
];
/// From a target that has everything to one whose freeze runs out, several times.
const GAP_SECONDS_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0];
/// From one partition to many that each wait for a lagging replica.
const RUN_SECONDS_BUCKETS: [f64; 12] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 900.0];
/// For any histogram without buckets of its own: without buckets the exporter would emit a summary.
const DEFAULT_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];

/// What may become of a round of automatic rebalancing: started, and the names of what stands in its way.
const AUTOMATIC_OUTCOMES: [&str; 12] = [
    "started",
    "balanced",
    "activity_unknown",
    "busy",
    "settling",
    "lagging",
    "leaderless",
    "cooling_down",
    "paused",
    "active",
    "refused",
    "system_group_away",
];

/// What may become of a partition in a run.
const ALL_PARTITION_RESULTS: [PartitionResult; 15] = [
    PartitionResult::Transferred,
    PartitionResult::AlreadyLeader,
    PartitionResult::Cancelled,
    PartitionResult::LagTooHigh,
    PartitionResult::Unreachable,
    PartitionResult::NoResponse,
    PartitionResult::NotMember,
    PartitionResult::NotReplicating,
    PartitionResult::TransferInProgress,
    PartitionResult::ReplicationTimedOut,
    PartitionResult::TimeoutNowExhausted,
    PartitionResult::LeaderChanged,
    PartitionResult::LeaderInitializing,
    PartitionResult::NoLeader,
    PartitionResult::PauseFailed,
];

/// How often the recorder's upkeep must run: it drains what histograms have collected.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The metrics recorder could not be set up.
#[derive(Clone, Debug, thiserror::Error)]
#[error("metrics recorder: {0}; let one component of the process install it")]
pub struct RecorderError(String);

/// Installs the process's metrics recorder, once; later calls return the same handle.
///
/// # Errors
/// When something else has installed a recorder before.
pub fn install_recorder() -> Result<PrometheusHandle, RecorderError> {
    static INSTALLED: OnceLock<Result<PrometheusHandle, RecorderError>> = OnceLock::new();
    INSTALLED.get_or_init(|| install().map_err(|error| RecorderError(error.to_string()))).clone()
}

fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&DEFAULT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(REQUEST_SECONDS.into()), &REQUEST_SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(REBALANCE_GAP_SECONDS.into()), &GAP_SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(REBALANCE_RUN_SECONDS.into()), &RUN_SECONDS_BUCKETS)?
        .install_recorder()?;
    describe_counter!(
        AUDIT_ENTRIES,
        "Entries about what operators did, stored in the system group or lost to the log only."
    );
    for outcome in ["stored", "lost"] {
        audit_entries(outcome).increment(0);
    }
    describe_gauge!(
        PARTITION_ROLES,
        "Role of a broker's replica as the gateway sees it: 0 inactive, 1 follower, 2 candidate, 3 leader"
    );
    describe_counter!(REQUESTS, "Requests answered, by method and gRPC status");
    describe_histogram!(REQUEST_SECONDS, "Time from a request's arrival to its answer, parking included");
    describe_gauge!(PARKED, "Requests that wait for a partition's leader");
    describe_counter!(REPLAYS, "Attempts that ended in a setback and were made again, by reason");
    describe_counter!(
        REBALANCE_RUNS,
        "Rebalance requests that were refused or had nothing to do, and finished runs, by result"
    );
    describe_counter!(REBALANCE_PARTITIONS, "What became of the partitions of rebalance runs, by result");
    describe_histogram!(
        REBALANCE_RUN_SECONDS,
        "Duration of rebalance runs, as far as this gateway carried them out"
    );
    describe_histogram!(
        REBALANCE_GAP_SECONDS,
        "How long old leaders held a partition's writes back while it was rebalanced"
    );
    describe_counter!(
        AUTOMATIC_ROUNDS,
        "Rounds of automatic rebalancing by outcome: started, or why nothing was"
    );
    describe_gauge!(
        APPEND_RATE,
        "What all leaders together replicate, as automatic rebalancing sees it; absent when it is off"
    );
    describe_gauge!(
        PARTITION_BALANCED,
        "1 when the partition is led by its primary, 0 when by another or nobody"
    );
    describe_counter!(
        OWNERSHIP_REBALANCES,
        "Ownership rebalances asked for through ESC's API, by outcome: completed, partial, nothing, refused_*, failed"
    );
    describe_gauge!(
        QUORUM_MARGIN,
        "How many more replicas the partition can lose and still have a majority; below 0 it has none"
    );
    describe_gauge!(BROKER_REACHABLE, "1 when the gateway hears the broker, 0 when not");
    describe_gauge!(BROKER_DRAINED, "1 when an operator wants the broker to lead nothing");
    describe_gauge!(OWNERSHIP_PAUSED, "1 when rebalancing is paused in the whole cluster");
    describe_gauge!(REBALANCE_ACTIVE, "1 while a rebalance run is under way in the cluster, whoever runs it");
    // Present from the start, so that a rate over it begins at 0.
    gauge!(PARKED).set(0.0);
    for result in ["completed", "cancelled", "failed", "noop", "refused"] {
        counter!(REBALANCE_RUNS, "result" => result).absolute(0);
    }
    for outcome in ["completed", "partial", "nothing", "failed"] {
        counter!(OWNERSHIP_REBALANCES, "outcome" => outcome).absolute(0);
    }
    drop((rebalance_gap_seconds(), rebalance_run_seconds()));
    for outcome in AUTOMATIC_OUTCOMES {
        counter!(AUTOMATIC_ROUNDS, "outcome" => outcome).absolute(0);
    }
    for result in ALL_PARTITION_RESULTS {
        counter!(REBALANCE_PARTITIONS, "result" => result.name()).absolute(0);
    }
    Ok(handle)
}

/// `atomix_role`'s numbers.
pub(crate) fn role_number(role: Role) -> f64 {
    match role {
        Role::Unspecified | Role::Inactive => 0.0,
        Role::Follower => 1.0,
        Role::Candidate => 2.0,
        Role::Leader => 3.0,
    }
}

pub(crate) fn partition_role(partition: PartitionId, broker: NodeId) -> Gauge {
    gauge!(PARTITION_ROLES, "partition" => partition.to_string(), "broker" => broker.to_string())
}

pub(crate) fn parked() -> Gauge {
    gauge!(PARKED)
}

pub(crate) fn replays(reason: &'static str) -> Counter {
    counter!(REPLAYS, "reason" => reason)
}

pub(crate) fn rebalance_runs(result: &'static str) -> Counter {
    counter!(REBALANCE_RUNS, "result" => result)
}

pub(crate) fn rebalance_partition_results(result: &'static str) -> Counter {
    counter!(REBALANCE_PARTITIONS, "result" => result)
}

pub(crate) fn rebalance_run_seconds() -> Histogram {
    histogram!(REBALANCE_RUN_SECONDS)
}

pub(crate) fn rebalance_gap_seconds() -> Histogram {
    histogram!(REBALANCE_GAP_SECONDS)
}

pub(crate) fn automatic_rounds(outcome: &'static str) -> Counter {
    counter!(AUTOMATIC_ROUNDS, "outcome" => outcome)
}

pub(crate) fn append_rate() -> Gauge {
    gauge!(APPEND_RATE)
}

pub(crate) fn partition_balanced(partition: PartitionId) -> Gauge {
    gauge!(PARTITION_BALANCED, "partition" => partition.to_string())
}

pub(crate) fn quorum_margin(partition: PartitionId) -> Gauge {
    gauge!(QUORUM_MARGIN, "partition" => partition.to_string())
}

pub(crate) fn broker_reachable(broker: NodeId) -> Gauge {
    gauge!(BROKER_REACHABLE, "broker" => broker.to_string())
}

pub(crate) fn broker_drained(broker: NodeId) -> Gauge {
    gauge!(BROKER_DRAINED, "broker" => broker.to_string())
}

pub(crate) fn ownership_paused(paused: bool) {
    gauge!(OWNERSHIP_PAUSED).set(f64::from(u8::from(paused)));
}

pub(crate) fn rebalance_active(active: bool) {
    gauge!(REBALANCE_ACTIVE).set(f64::from(u8::from(active)));
}

pub(crate) fn ownership_rebalances(outcome: &'static str) -> Counter {
    counter!(OWNERSHIP_REBALANCES, "outcome" => outcome)
}

/// Highest gRPC status code.
const CODES: usize = 17;

/// One method's requests; looks its series up once, since this is on every request's way.
pub(crate) struct MethodMetrics {
    method: &'static str,
    seconds: Histogram,
    by_code: [OnceLock<Counter>; CODES],
}

impl MethodMetrics {
    pub(crate) fn new(method: &'static str) -> Self {
        let seconds = histogram!(REQUEST_SECONDS, "method" => method);
        Self { method, seconds, by_code: std::array::from_fn(|_| OnceLock::new()) }
    }

    pub(crate) fn record(&self, code: Code, took: Duration) {
        self.seconds.record(took.as_secs_f64());
        if let Some(counter) = self.by_code.get(code as usize) {
            counter
                .get_or_init(|| counter!(REQUESTS, "method" => self.method, "status" => code_name(code)))
                .increment(1);
        }
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

pub(crate) fn audit_entries(outcome: &'static str) -> Counter {
    counter!(AUDIT_ENTRIES, "outcome" => outcome)
}
