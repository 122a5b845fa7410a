//! What an operator can set on a broker, and the check that refuses what cannot work.
//!
//! Sizes are bytes, durations are texts such as `"100ms"`. Every key is also a flag and an environment variable
//! (see `evenkeel-settings`); the texts that explain them are in [`Settings::DOCS`].

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_protocol::{NodeId, PartitionId, Priority};
use evenkeel_security::{AuthOptions, Checked, TlsOptions};
use evenkeel_settings::Settings;
use evenkeel_traces::TracesOptions;
use serde::{Deserialize, Serialize};

use crate::distribution::{Distribution, DistributionError, FixedPartition};
use crate::exporters::{self, ExporterOptions};

/// Longest cluster id.
pub const CLUSTER_ID_BYTES_MAX: usize = 64;
/// Smallest log segment: below it the segment's own header and rotation would dominate.
pub const SEGMENT_BYTES_MIN: u64 = 4096;
/// Most partitions of one cluster.
pub const PARTITIONS_MAX: u32 = 100_000;
/// Longest interval or time-out that makes sense in a cluster that fails over in milliseconds.
pub const DURATION_MAX: Duration = Duration::from_secs(600);

/// Everything that a broker can be told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Who belongs to the cluster and which of them this is.
    pub cluster: ClusterOptions,
    /// Where the broker listens.
    pub network: NetworkOptions,
    /// Certificates of this broker and of those that it trusts.
    pub tls: TlsOptions,
    /// Who may ask at the monitoring port.
    pub auth: AuthOptions,
    /// Where and how it stores.
    pub data: DataOptions,
    /// Elections and the log.
    pub raft: RaftOptions,
    /// Handing leadership over.
    pub transfer: TransferOptions,
    /// How much may be under way.
    pub limits: LimitOptions,
    /// Which broker holds which replica.
    pub partitioning: PartitioningOptions,
    /// Where committed records are pushed to.
    pub exporters: Vec<ExporterOptions>,
    /// Where spans of traced requests are sent to.
    pub traces: TracesOptions,
}

/// Who belongs to the cluster and which of them this is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterOptions {
    /// Name of the cluster.
    pub id: String,
    /// This broker.
    pub node_id: u64,
    /// Every broker as `NODE_ID=HOST:PORT`.
    pub brokers: Vec<String>,
    /// How many partitions there are.
    pub partitions: u32,
    /// Replicas of each partition.
    pub replication_factor: u32,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            id: "evenkeel".into(),
            node_id: 0,
            brokers: vec!["0=127.0.0.1:26501".into()],
            partitions: 12,
            replication_factor: 3,
        }
    }
}

/// Where the broker listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOptions {
    /// Address or name of the interface that both listeners bind to.
    pub host: String,
    /// gRPC.
    pub port: u16,
    /// Metrics and health.
    pub monitoring_port: u16,
    /// Whether others may reach it without TLS or authentication.
    pub insecure: bool,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 26501, monitoring_port: 9600, insecure: false }
    }
}

/// Where and how a broker stores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// Folder for log and records.
    pub directory: String,
    /// When a log segment is full.
    pub segment_bytes_max: u64,
    /// Memory for log entries that followers may still ask for.
    pub log_cache_bytes_max: u64,
    /// Changes kept per partition for watchers that resume.
    pub changes_retained_max: u64,
    /// With less than this free on the disk, writes are refused.
    pub free_bytes_min: u64,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            directory: "data".into(),
            segment_bytes_max: 64 << 20,
            log_cache_bytes_max: 64 << 20,
            changes_retained_max: 100_000,
            free_bytes_min: 256 << 20,
        }
    }
}

/// Elections and the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftOptions {
    /// Whether priorities decide who stands first.
    pub priority_election: bool,
    /// How often a leader shows that it lives.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// How long a silent leader is trusted.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How much longer each lower rank waits before it stands.
    #[serde(with = "humantime_serde")]
    pub stagger: Duration,
    /// How long nothing may have happened before a partition rests; zero keeps all awake.
    #[serde(with = "humantime_serde")]
    pub rest_after: Duration,
    /// Applied entries after which a partition is snapshotted.
    pub snapshot_after_entries: u64,
    /// Entries kept after a snapshot for followers that lag a little.
    pub log_entries_kept: u64,
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            priority_election: true,
            heartbeat_interval: Duration::from_millis(100),
            lease: Duration::from_millis(500),
            stagger: Duration::from_millis(50),
            rest_after: Duration::from_secs(3),
            snapshot_after_entries: 50_000,
            log_entries_kept: 20_000,
        }
    }
}

/// Handing leadership over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferOptions {
    /// Most bytes that the new leader may lack at the start.
    pub lag_bytes_max: u64,
    /// How long it may take to catch up.
    #[serde(with = "humantime_serde")]
    pub catch_up_timeout: Duration,
    /// How long it may take to answer whether it is there.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
    /// How long it may take to lead once told to.
    #[serde(with = "humantime_serde")]
    pub leader_wait_timeout: Duration,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            lag_bytes_max: 8 << 20,
            catch_up_timeout: Duration::from_secs(10),
            probe_timeout: Duration::from_millis(200),
            leader_wait_timeout: Duration::from_secs(3),
        }
    }
}

/// How much may be under way. How large keys, values and batches may be is for gateways to say: they refuse before
/// anything is sent, and a leader that knew other limits than the one before it would refuse what the cluster took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitOptions {
    /// Writes under way at once.
    pub in_flight_writes_max: usize,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self { in_flight_writes_max: 16_384 }
    }
}

/// Which broker holds which replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PartitioningOptions {
    /// Computed or listed.
    pub scheme: Scheme,
    /// The list, for [`Scheme::Fixed`].
    pub fixed: Vec<FixedPartitionOptions>,
}

/// How replicas find their brokers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    /// Computed from the brokers' ids.
    #[default]
    RoundRobin,
    /// As listed in `[[partitioning.fixed]]`.
    Fixed,
}

/// One partition's replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedPartitionOptions {
    /// Which partition.
    pub partition_id: u32,
    /// `NODE_ID=PRIORITY` each, or `NODE_ID` each for replicas without preference.
    pub nodes: Vec<String>,
}

impl Settings for Options {
    const DOCS: &'static [(&'static str, &'static str)] = &[
        ("cluster.id", "Name of the cluster; data of another cluster is refused"),
        ("cluster.node_id", "Id of this broker, one of those in cluster.brokers"),
        ("cluster.brokers", "Every broker as NODE_ID=HOST:PORT, the address that peers and gateways dial"),
        ("cluster.partitions", "Number of partitions; fixed once there is data"),
        ("cluster.replication_factor", "Replicas of each partition; at most the number of brokers"),
        ("network.host", "Address that this broker listens on"),
        ("network.port", "Port for gRPC"),
        ("network.monitoring_port", "Port for metrics and health over HTTP"),
        (
            "network.insecure",
            "Let other machines in without TLS or authentication; only in a network where everybody is trusted",
        ),
        (
            "tls.certificate_file",
            "PEM file with this process's certificate; with it and the next two, all ports use TLS",
        ),
        ("tls.key_file", "PEM file with its private key; not readable by everybody"),
        (
            "tls.ca_file",
            "PEM file with the cluster's authority: peers and callers must have certificates of it",
        ),
        (
            "auth.tokens_file",
            "File with a line NAME ROLES sha256:HASH per bearer token, as evenkeel token makes them",
        ),
        ("auth.client_certificates", "Let certificates of tls.ca_file tell who calls"),
        (
            "auth.certificate_roles",
            "NAME=ROLES for certificates that name no role: read, write, operate, several with commas",
        ),
        ("data.directory", "Folder for log and records; one per broker"),
        ("data.segment_bytes_max", "Size at which a log segment is closed and the next one begun, in bytes"),
        ("data.log_cache_bytes_max", "Memory for recent log entries of all partitions, in bytes"),
        ("data.changes_retained_max", "Changes kept per partition for watchers that resume"),
        (
            "data.free_bytes_min",
            "With less free on the disk, in bytes, writes are refused until there is more; 0: no check",
        ),
        ("raft.priority_election", "Let replicas with higher priority lead; false makes all replicas equal"),
        ("raft.heartbeat_interval", "How often a leader shows that it lives; less than half of raft.lease"),
        ("raft.lease", "How long a silent leader is trusted before the first replica stands for election"),
        ("raft.stagger", "How much longer each replica of lower priority waits than the one above it"),
        (
            "raft.rest_after",
            "How long nothing may happen before a partition falls silent; 0s keeps all awake",
        ),
        ("raft.snapshot_after_entries", "Snapshot a partition after this many applied log entries"),
        (
            "raft.log_entries_kept",
            "Log entries kept after a snapshot, so that short absences need no snapshot",
        ),
        (
            "transfer.lag_bytes_max",
            "Before it stops, hand leadership to no replica that lacks more bytes than this",
        ),
        ("transfer.catch_up_timeout", "How long a chosen replica may take to catch up before a transfer"),
        ("transfer.probe_timeout", "How long a chosen replica may take to answer before a transfer"),
        ("transfer.leader_wait_timeout", "How long a chosen replica may take to lead once it was told to"),
        ("limits.in_flight_writes_max", "Writes under way at once; more are refused as overload"),
        (
            "partitioning.scheme",
            "round-robin computes where replicas are; fixed takes them from partitioning.fixed",
        ),
        (
            "partitioning.fixed",
            "With scheme fixed, each partition's replicas: { partition_id = 1, nodes = [\"0=3\", \"1=2\", \
             \"2=1\"] }, a node being NODE_ID=PRIORITY",
        ),
        (
            "exporters",
            "Where leaders push committed records: { name = \"files\", kind = \"json-lines\", directory = \"exports\" } or \
             { name = \"hook\", kind = \"http\", url = \"http://HOST:PORT/PATH\" }; the same on all brokers",
        ),
        (
            "traces.endpoint",
            "http://HOST:PORT of an OpenTelemetry collector's OTLP port for gRPC; empty for no traces",
        ),
    ];

    const TABLE_LISTS: &'static [&'static str] = &["partitioning.fixed", "exporters"];
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// One key.
    #[error("{key} = {value}: {problem}; {remedy}")]
    Setting {
        /// Dotted path of the setting.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// Why that cannot work.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The replicas as a whole.
    #[error(transparent)]
    Distribution(#[from] DistributionError),
    /// Certificates, keys and tokens.
    #[error(transparent)]
    Security(#[from] evenkeel_security::OptionsError),
    /// Where traces go.
    #[error(transparent)]
    Traces(#[from] evenkeel_traces::OptionsError),
}

/// Where a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Host name or address; IPv6 addresses in brackets.
    pub host: String,
    /// gRPC port.
    pub port: u16,
}

impl std::fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What follows from options that can work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// This broker.
    pub node: NodeId,
    /// Every broker, this one included.
    pub brokers: BTreeMap<NodeId, BrokerAddress>,
    /// Who holds which replica.
    pub distribution: Distribution,
    /// TLS and authentication.
    pub security: Checked,
}

impl Validated {
    /// The other brokers.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &BrokerAddress)> + '_ {
        self.brokers.iter().filter(|(node, _)| **node != self.node).map(|(node, address)| (*node, address))
    }
}

impl Options {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first setting that cannot work, in one line with key, value and remedy.
    pub fn validate(&self) -> Result<Validated, OptionsError> {
        self.check_cluster_id()?;
        let brokers = self.broker_addresses()?;
        let node = NodeId(self.cluster.node_id);
        if !brokers.contains_key(&node) {
            let problem = format!("is not among the {} broker(s) of cluster.brokers", brokers.len());
            let remedy = "use an id from that list, or add \"NODE_ID=HOST:PORT\" to it";
            return Err(refuse("cluster.node_id", node, problem, remedy));
        }
        self.check_network()?;
        let security = evenkeel_security::check(&self.tls, &self.auth)?;
        security.check_exposure(&self.network.host, self.network.insecure)?;
        if self.data.directory.is_empty() {
            return Err(refuse("data.directory", "\"\"", "is empty", "name the folder to store in"));
        }
        exporters::check(&self.exporters)?;
        evenkeel_traces::check_endpoint(&self.traces)?;
        self.check_numbers()?;
        self.check_durations()?;
        let distribution = self.distribution(&brokers)?;
        Ok(Validated { node, brokers, distribution, security })
    }

    fn check_cluster_id(&self) -> Result<(), OptionsError> {
        let id = &self.cluster.id;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if id.is_empty() || id.len() > CLUSTER_ID_BYTES_MAX || !id.chars().all(allowed) {
            let remedy = format!("use 1 to {CLUSTER_ID_BYTES_MAX} letters, digits, '-', '_' or '.'");
            return Err(refuse("cluster.id", quoted(id), "is not a cluster name", remedy));
        }
        Ok(())
    }

    fn broker_addresses(&self) -> Result<BTreeMap<NodeId, BrokerAddress>, OptionsError> {
        const KEY: &str = "cluster.brokers";
        const SHAPE: &str = "write each broker as NODE_ID=HOST:PORT, such as 0=127.0.0.1:26501";
        let size = self.cluster.brokers.len();
        if size == 0 {
            return Err(refuse(KEY, "[]", "names no broker", SHAPE));
        }
        let mut brokers: BTreeMap<NodeId, BrokerAddress> = BTreeMap::new();
        for text in &self.cluster.brokers {
            let Some((node, address)) = parse_broker(text) else {
                return Err(refuse(KEY, quoted(text), "is not a broker's id and address", SHAPE));
            };
            if node.0 >= size as u64 {
                let problem = format!("has an id outside 0..={} in a cluster of {size}", size - 1);
                return Err(refuse(KEY, quoted(text), problem, "number the brokers from 0 without gaps"));
            }
            if let Some(other) = brokers.get(&node) {
                let problem = format!("repeats node id {node} of \"{node}={other}\"");
                return Err(refuse(KEY, quoted(text), problem, "give every broker its own id"));
            }
            if let Some((other, _)) = brokers.iter().find(|(_, known)| **known == address) {
                let problem = format!("repeats the address of broker {other}");
                return Err(refuse(KEY, quoted(text), problem, "give every broker its own address"));
            }
            brokers.insert(node, address);
        }
        Ok(brokers)
    }

    fn check_network(&self) -> Result<(), OptionsError> {
        let NetworkOptions { host, port, monitoring_port, .. } = &self.network;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(refuse(
                "network.host",
                quoted(host),
                "is not an address",
                "set one, such as 127.0.0.1",
            ));
        }
        if *port == 0 {
            let remedy = "set the port that cluster.brokers names for this broker";
            return Err(refuse("network.port", port, "could not be found by peers", remedy));
        }
        if port == monitoring_port {
            let remedy = "give each listener its own port";
            return Err(refuse("network.monitoring_port", port, "is also network.port", remedy));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), OptionsError> {
        const SIZE_MAX: u64 = 1 << 40;
        let Self { cluster, data, raft, transfer, limits, .. } = self;
        let ranges = [
            ("cluster.partitions", u64::from(cluster.partitions), 1, u64::from(PARTITIONS_MAX)),
            ("data.segment_bytes_max", data.segment_bytes_max, SEGMENT_BYTES_MIN, SIZE_MAX),
            ("data.log_cache_bytes_max", data.log_cache_bytes_max, 1, SIZE_MAX),
            ("data.changes_retained_max", data.changes_retained_max, 1, SIZE_MAX),
            ("data.free_bytes_min", data.free_bytes_min, 0, SIZE_MAX),
            ("raft.snapshot_after_entries", raft.snapshot_after_entries, 1, SIZE_MAX),
            ("raft.log_entries_kept", raft.log_entries_kept, 1, SIZE_MAX),
            ("transfer.lag_bytes_max", transfer.lag_bytes_max, 1, SIZE_MAX),
            ("limits.in_flight_writes_max", limits.in_flight_writes_max as u64, 1, 1 << 24),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(refuse(key, value, "is out of range", format!("set {least} to {most}")));
            }
        }
        Ok(())
    }

    fn check_durations(&self) -> Result<(), OptionsError> {
        let Self { raft, transfer, .. } = self;
        let durations = [
            ("raft.heartbeat_interval", raft.heartbeat_interval),
            ("raft.lease", raft.lease),
            ("raft.stagger", raft.stagger),
            ("transfer.catch_up_timeout", transfer.catch_up_timeout),
            ("transfer.probe_timeout", transfer.probe_timeout),
            ("transfer.leader_wait_timeout", transfer.leader_wait_timeout),
        ];
        for (key, duration) in durations {
            if duration < Duration::from_millis(1) || duration > DURATION_MAX {
                let remedy = format!("set 1ms to {}", text(DURATION_MAX));
                return Err(refuse(key, text(duration), "is out of range", remedy));
            }
        }
        if raft.heartbeat_interval >= raft.lease / 2 {
            let problem = format!("is not less than half of raft.lease = {}", text(raft.lease));
            let remedy = "lower it, or raise raft.lease, so that one lost heartbeat starts no election";
            return Err(refuse("raft.heartbeat_interval", text(raft.heartbeat_interval), problem, remedy));
        }
        Ok(())
    }

    fn distribution(&self, brokers: &BTreeMap<NodeId, BrokerAddress>) -> Result<Distribution, OptionsError> {
        let nodes: Vec<NodeId> = brokers.keys().copied().collect();
        let ClusterOptions { partitions, replication_factor, .. } = self.cluster;
        let PartitioningOptions { scheme, fixed } = &self.partitioning;
        if *scheme == Scheme::RoundRobin {
            if !fixed.is_empty() {
                let problem = format!("leaves the {} entries of [[partitioning.fixed]] unused", fixed.len());
                let remedy = "set it to \"fixed\", or remove them";
                return Err(refuse("partitioning.scheme", "\"round-robin\"", problem, remedy));
            }
            return Ok(Distribution::round_robin(&nodes, partitions, replication_factor)?);
        }
        let entries = fixed.iter().map(parse_fixed).collect::<Result<Vec<_>, _>>()?;
        let priorities_differ = self.raft.priority_election;
        Ok(Distribution::fixed(&nodes, partitions, replication_factor, &entries, priorities_differ)?)
    }
}

/// `NODE_ID=HOST:PORT`.
fn parse_broker(text: &str) -> Option<(NodeId, BrokerAddress)> {
    let (node, address) = text.trim().split_once('=')?;
    let (host, port) = address.trim().rsplit_once(':')?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let malformed =
        host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !bracketed);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let node = NodeId(node.trim().parse().ok()?);
    (!malformed).then(|| (node, BrokerAddress { host: host.to_owned(), port }))
}

fn parse_fixed(entry: &FixedPartitionOptions) -> Result<FixedPartition, OptionsError> {
    let parse = |text: &String| {
        let parsed = match text.split_once('=') {
            None => text.trim().parse().ok().map(|node| (NodeId(node), None)),
            Some((node, priority)) => node
                .trim()
                .parse()
                .ok()
                .zip(priority.trim().parse().ok())
                .map(|(node, priority)| (NodeId(node), Some(Priority(priority)))),
        };
        parsed.ok_or_else(|| {
            let problem = format!("of partition {} is not a node and its priority", entry.partition_id);
            refuse("partitioning.fixed", quoted(text), problem, "write NODE_ID=PRIORITY, such as \"0=3\"")
        })
    };
    let nodes = entry.nodes.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(FixedPartition { partition: PartitionId(entry.partition_id), nodes })
}

fn refuse(
    key: &'static str,
    value: impl ToString,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> OptionsError {
    OptionsError::Setting { key, value: value.to_string(), problem: problem.into(), remedy: remedy.into() }
}

/// Quotes and escapes, so that the message stays one line.
fn quoted(value: &str) -> String {
    format!("{value:?}")
}

fn text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_brokers() -> Options {
        let mut options = Options::default();
        options.cluster.brokers = (0..3).map(|i| format!("{i}=127.0.0.1:{}", 26510 + i)).collect();
        options
    }

    #[test]
    fn the_defaults_lack_only_two_more_brokers() {
        assert_eq!(
            Options::default().validate().unwrap_err().to_string(),
            "cluster.replication_factor = 3: the cluster has only 1 broker(s); set at most 1, or add brokers to \
             cluster.brokers"
        );
        let validated = three_brokers().validate().unwrap();
        assert_eq!(validated.node, NodeId(0));
        assert_eq!(validated.distribution.partitions_count(), 12);
        let peers: Vec<String> =
            validated.peers().map(|(node, address)| format!("{node}={address}")).collect();
        assert_eq!(peers, ["1=127.0.0.1:26511", "2=127.0.0.1:26512"]);
    }

    #[test]
    fn every_bad_setting_is_named_with_its_value_and_remedy() {
        type Change = fn(&mut Options);
        fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let table: &[(&str, Change)] = &[
            ("cluster.id = \"\": is not a cluster name; use 1 to 64", |o| o.cluster.id.clear()),
            ("cluster.id = \"a\\nb\": is not a cluster name", |o| o.cluster.id = "a\nb".into()),
            ("cluster.node_id = 3: is not among the 3 broker(s) of cluster.brokers; use", |o| {
                o.cluster.node_id = 3
            }),
            ("cluster.brokers = []: names no broker; write", |o| o.cluster.brokers.clear()),
            ("cluster.brokers = \"0:1\": is not a broker's id and address; write each broker as", |o| {
                o.cluster.brokers[0] = "0:1".into();
            }),
            ("cluster.brokers = \"0=h:0\": is not", |o| o.cluster.brokers[0] = "0=h:0".into()),
            ("cluster.brokers = \"0=h:70000\": is not", |o| o.cluster.brokers[0] = "0=h:70000".into()),
            ("cluster.brokers = \"0=::1:5\": is not", |o| o.cluster.brokers[0] = "0=::1:5".into()),
            ("cluster.brokers = \"5=h:1\": has an id outside 0..=2 in a cluster of 3; number", |o| {
                o.cluster.brokers[2] = "5=h:1".into();
            }),
            ("cluster.brokers = \"1=h:1\": repeats node id 1 of \"1=127.0.0.1:26511\"; give", |o| {
                o.cluster.brokers[2] = "1=h:1".into();
            }),
            ("cluster.brokers = \"2=127.0.0.1:26510\": repeats the address of broker 0; give", |o| {
                o.cluster.brokers[2] = "2=127.0.0.1:26510".into();
            }),
            ("cluster.partitions = 0: is out of range; set 1 to", |o| o.cluster.partitions = 0),
            ("cluster.replication_factor = 0: each partition", |o| o.cluster.replication_factor = 0),
            ("cluster.replication_factor = 4: the cluster has only 3", |o| o.cluster.replication_factor = 4),
            ("network.host = \"\": is not an address; set", |o| o.network.host.clear()),
            ("network.port = 0: could not be found by peers; set", |o| o.network.port = 0),
            ("network.monitoring_port = 26501: is also network.port; give", |o| {
                o.network.monitoring_port = 26501
            }),
            ("data.directory = \"\": is empty; name", |o| o.data.directory.clear()),
            ("data.segment_bytes_max = 1: is out of range; set 4096 to", |o| o.data.segment_bytes_max = 1),
            ("raft.lease = 0s: is out of range; set 1ms to 10m", |o| o.raft.lease = Duration::ZERO),
            ("raft.stagger = 0s: is out of range", |o| o.raft.stagger = Duration::ZERO),
            ("raft.heartbeat_interval = 250ms: is not less than half of raft.lease = 500ms; lower", |o| {
                o.raft.heartbeat_interval = ms(250);
            }),
            ("transfer.probe_timeout = 20m: is out of range", |o| o.transfer.probe_timeout = ms(1_200_000)),
            ("transfer.lag_bytes_max = 0: is out of range; set 1", |o| o.transfer.lag_bytes_max = 0),
            ("limits.in_flight_writes_max = 0: is out of range", |o| o.limits.in_flight_writes_max = 0),
            ("partitioning.scheme = \"round-robin\": leaves the 1 entries", |o| {
                o.partitioning.fixed = vec![FixedPartitionOptions { partition_id: 1, nodes: vec![] }];
            }),
            ("partitioning.fixed: partition 2 has no entry; add", |o| {
                o.partitioning = fixed_for_partition_1(&["0=3", "1=2", "2=1"]);
            }),
            ("partitioning.fixed = \"0:3\": of partition 1 is not a node and its priority; write", |o| {
                o.partitioning = fixed_for_partition_1(&["0:3", "1=2", "2=1"]);
            }),
            ("partition 1: priority 3 given to both broker 0 and broker 2; make them different in", |o| {
                o.partitioning = fixed_for_partition_1(&["0=3", "1=2", "2=3"]);
            }),
            ("partition 1: node 9 is not in the cluster of 3 broker(s); use an id", |o| {
                o.partitioning = fixed_for_partition_1(&["0=3", "1=2", "9=1"]);
            }),
            ("partition 1: 2 broker(s) given, but cluster.replication_factor = 3; list", |o| {
                o.partitioning = fixed_for_partition_1(&["0=3", "1=2"]);
            }),
        ];
        for (expected, change) in table {
            let mut options = three_brokers();
            change(&mut options);
            let message = options.validate().unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
            assert!(message.contains("; ") && !message.contains('\n'), "{message:?}");
        }
    }

    fn fixed_for_partition_1(nodes: &[&str]) -> PartitioningOptions {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        PartitioningOptions {
            scheme: Scheme::Fixed,
            fixed: vec![FixedPartitionOptions { partition_id: 1, nodes }],
        }
    }

    #[test]
    fn a_fixed_distribution_is_taken_as_written() {
        let text = r#"
            [cluster]
            node_id = 1
            brokers = ["0=a:1", "1=[::1]:2", "2=c.example:3"]
            partitions = 2
            [partitioning]
            scheme = "fixed"
            [[partitioning.fixed]]
            partition_id = 1
            nodes = ["0=3", "1=2", "2=1"]
            [[partitioning.fixed]]
            partition_id = 2
            nodes = ["2", "0", "1"]
        "#;
        let validated = toml::from_str::<Options>(text).unwrap().validate().unwrap();
        assert_eq!(validated.brokers[&NodeId(1)].to_string(), "[::1]:2");
        assert_eq!(validated.distribution.primary(PartitionId(1)), Some(NodeId(0)));
        assert_eq!(validated.distribution.primary(PartitionId(2)), None);
        assert_eq!(validated.distribution.rank_of(PartitionId(2), NodeId(2)), Some(0));
    }

    #[test]
    fn options_survive_being_written_and_read() {
        let mut options = three_brokers();
        options.partitioning = fixed_for_partition_1(&["0=3"]);
        options.raft.stagger = Duration::from_millis(75);
        let written = toml::to_string(&options).unwrap();
        assert_eq!(toml::from_str::<Options>(&written).unwrap(), options);
    }

    #[test]
    fn every_key_is_documented() {
        evenkeel_settings::check_docs::<Options>().unwrap();
    }
}
