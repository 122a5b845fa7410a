//! Starts a broker, runs it, and stops it without leaving its partitions leaderless.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_http_server::Connections;
use evenkeel_protocol::internal::v1::broker_server::BrokerServer;
use evenkeel_protocol::internal::v1::raft_server::RaftServer;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::{Dialer, NodeId, PartitionId, SYSTEM_GROUP, wire_version};
use evenkeel_raft_storage::disk::RealDisk;
use evenkeel_raft_storage::log::affected_groups;
use evenkeel_raft_storage::types::raft::{CommittedLeaderId, Entry, LogId};
use evenkeel_raft_storage::{
    Affected, DataDirectory, DataDirectoryError, Forgotten, LogOptions, Offload, OpenLogError,
    OpenPartitionError, OpenStoreError, PartitionReader, Rebuild, RebuildError, SharedLog, StateStore,
    StoreOptions,
};
use evenkeel_raft_storage::{GroupLog, TypeConfig};
use evenkeel_security::{ClusterRole, GrpcGuard, Guard, Need, Security};
use evenkeel_supervision::Progress;
use evenkeel_traces::TraceLayer;
use futures::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::errors::Fatal;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{EntryPayload, Membership, RaftLogReader, SnapshotPolicy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Connected;

use crate::broker_service::{BrokerService, Room};
use crate::disk_room::DiskRoom;
use crate::distribution::{Distribution, Replica as Member};
use crate::drained::Drained;
use crate::election::{ElectionTimes, Order};
use crate::elector::Elector;
use crate::exporters;
use crate::exporting::Exporting;
use crate::handover::{Handover, Purpose};
use crate::layout::{ConfiguredLayout, LayoutError};
use crate::leadership;
use crate::metric_definitions;
use crate::monitoring::{self, MonitoringPort, Running};
use crate::network::{Awaited, Network};
use crate::observer::Observer;
use crate::options::{Options, OptionsError, RaftOptions, Validated};
use crate::peer::{MESSAGE_BYTES_MAX, Peer, Peers};
use crate::pulse::{self, PulseTimes};
use crate::raft_service::RaftService;
use crate::rebuilding::{self, Marks, REPLICAS_MIN, Rebuilding};
use crate::replica::{Raft, Replica};
use crate::replicas::Replicas;
use crate::status::{Identity, StatusHub};
use crate::step_down::Policy;
use crate::stop::Stop;
use crate::transfer::{FREEZE_MS_MAX, Limits};
use crate::voter_logs::VoterLogs;

/// The lease must have run out at every voter when a replica stands, and voters hear a heartbeat some milliseconds
/// apart.
const LEASE_MARGIN_MS: u64 = 15;
/// Entries in one append; their bytes are bounded by the log's reads.
const APPEND_ENTRIES_MAX: u64 = 1_024;
/// A snapshot must arrive and be installed within this.
const SNAPSHOT_TIMEOUT_MS: u64 = 120_000;
/// Leaderships handed over at once when stopping.
const DRAIN_CONCURRENCY: usize = 8;
/// A stopping broker leaves after this, handed over or not.
const DRAIN_MS_MAX: u64 = 10_000;
const SHUTDOWN_MS_MAX: u64 = 5_000;
/// Connections of other brokers, gateways and operators: a few each.
const CONNECTIONS_MAX: usize = 4_096;
/// Requests and watches of one gateway at once: a watch of a gateway's client is one for each partition that is led here.
const STREAMS_PER_CONNECTION_MAX: u32 = 16_384;
/// Requests that a gateway gave up while this broker did not run: they are no reason to end the connection, which carries
/// everybody's writes.
const RESET_STREAMS_MAX: usize = STREAMS_PER_CONNECTION_MAX as usize;
/// A peer that vanished is noticed within two of these.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Why a broker did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("{key} = {address}: cannot listen there ({source}); stop what holds the port or set another one")]
    Listen { key: &'static str, address: String, source: std::io::Error },
    #[error("data.directory: {0}")]
    DataDirectory(#[from] DataDirectoryError),
    #[error("{what}. {remedy}. An emptied data folder would forget votes and records that it has promised")]
    Damaged { what: String, remedy: String },
    #[error(
        "partition {partition} has fewer than {REPLICAS_MIN} replicas: the others cannot tell what this one promised, so \
         it cannot be rebuilt from them; put its files back as they were"
    )]
    TooFewPeers { partition: u32 },
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    #[error(transparent)]
    Traces(#[from] evenkeel_traces::StartError),
    #[error("data.directory = {directory}: which replicas are being rebuilt cannot be read ({source})")]
    ReadRebuilding { directory: String, source: std::io::Error },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Log(#[from] OpenLogError),
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    #[error(transparent)]
    Partition(#[from] OpenPartitionError),
    #[error("cluster.brokers = {address}: {source}")]
    Address { address: String, source: tonic::transport::Error },
    #[error("partition {partition}: cannot start its replica: {source}")]
    Raft { partition: u32, source: Fatal<TypeConfig> },
    #[error("partition {partition}: cannot write its first log entry: {source}")]
    Found { partition: u32, source: std::io::Error },
    #[error("data.directory = {directory}: whether the broker is drained cannot be read ({source})")]
    ReadDrained { directory: String, source: std::io::Error },
    #[error("data.directory = {directory}: whether exporting is paused cannot be read ({source})")]
    ReadExporting { directory: String, source: std::io::Error },
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error(
        "the log failed, so nothing more can be acknowledged: {0}; check the disk, then start the broker again"
    )]
    LogFailed(String),
    #[error(
        "the replica of partition {partition} stopped: {reason}; check the disk and its free space, then start the broker again"
    )]
    ReplicaStopped { partition: u32, reason: String },
    #[error(
        "the state database cannot be written, so nothing more can be applied: {0}; nothing is lost, the log has it: check the \
         disk and its free space, then start the broker again"
    )]
    StoreFailed(String),
    #[error("a listener failed: {0}")]
    Serve(String),
}

impl BrokerError {
    /// Whether a person has to change something, configuration or files, before another start can succeed.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use BrokerError as E;
        matches!(
            self,
            E::Options(_) | E::Listen { .. } | E::DataDirectory(_) | E::Layout(_) | E::Address { .. }
        )
            // Another start would find the same.
            || matches!(self, E::Damaged { .. } | E::ReadRebuilding { .. } | E::TooFewPeers { .. })
            || matches!(self, E::Log(OpenLogError::NewerFormat { .. }))
            || matches!(self, E::Store(OpenStoreError::NewerFormat { .. }))
    }
}

/// What a broker runs on: its disk and its network, those of this machine or simulated ones.
pub struct Surroundings<I> {
    pub log: SharedLog,
    pub store: StateStore,
    pub data: Arc<DataDirectory>,
    pub offload: Offload,
    pub dialer: Dialer,
    /// Connections of peers and gateways.
    pub incoming: I,
}

/// Runs a broker until `shutdown` resolves; then hands its leaderships over and stops. `progress` shows how it is meanwhile.
pub async fn run(
    options: Options,
    progress: Progress,
    shutdown: impl Future<Output = ()>,
) -> Result<(), BrokerError> {
    let validated = options.validate()?;
    let security =
        Security::load(validated.security.clone(), ClusterRole::Broker).map_err(OptionsError::from)?;
    exporters::check_files(&options.exporters)?;
    let prometheus = metric_definitions::install()?;
    let grpc = listen("network.port", &options.network.host, options.network.port).await?;
    let listener =
        listen("network.monitoring_port", &options.network.host, options.network.monitoring_port).await?;
    let data = Arc::new(DataDirectory::open(
        &options.data.directory,
        &options.cluster.id,
        options.cluster.node_id,
        options.cluster.partitions,
    )?);
    // Before anything is opened: what does not fit stays as it is.
    ConfiguredLayout::new(&options, &validated).check(&data)?;
    // Probes are answered while the log is replayed.
    let monitoring = MonitoringPort::serve(
        listener,
        security.clone(),
        data.clone(),
        prometheus,
        progress.clone(),
        options.transfer.lag_bytes_max,
    );
    let service = evenkeel_traces::Service {
        name: "evenkeel-broker",
        version: env!("CARGO_PKG_VERSION"),
        instance: options.cluster.node_id.to_string(),
    };
    // A broker traces what gateways do, and begins no traces.
    evenkeel_traces::start(&options.traces, 0.0, service)?;
    let (log, store) = open_storage(&options, &validated, &data).await?;
    let incoming = Connections::new(grpc, CONNECTIONS_MAX).http2(security.peers());
    let secured = security.dialer();
    let (offload, dialer) = (Offload::Threads, Dialer::new(move |endpoint| secured.channel(&endpoint)));
    let surroundings = Surroundings { log, store, data, offload, dialer, incoming };
    let served = serve(options, surroundings, Some(monitoring), security, progress, |_| {}, shutdown).await;
    // What it waits for is another thread of this process; its only failure would be a panic there.
    let _ = tokio::task::spawn_blocking(evenkeel_traces::finish).await;
    served
}

/// Runs a broker without monitoring port on what it is given, and tells `started` how to look inside.
pub async fn run_on<I, C, E>(
    options: Options,
    surroundings: Surroundings<I>,
    started: impl FnOnce(Observer),
    shutdown: impl Future<Output = ()>,
) -> Result<(), BrokerError>
where
    I: Stream<Item = Result<C, E>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    serve(options, surroundings, None, Security::off(), Progress::new(), started, shutdown).await
}

async fn serve<I, C, E>(
    options: Options,
    surroundings: Surroundings<I>,
    monitoring: Option<MonitoringPort>,
    security: Security,
    progress: Progress,
    started: impl FnOnce(Observer),
    shutdown: impl Future<Output = ()>,
) -> Result<(), BrokerError>
where
    I: Stream<Item = Result<C, E>> + Send + 'static,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let validated = options.validate()?;
    let Surroundings { log, store, data, offload, dialer, incoming } = surroundings;
    let layout = ConfiguredLayout::new(&options, &validated);
    let layout_is_known = layout.check(&data)?;
    let unreadable =
        |source| BrokerError::ReadRebuilding { directory: options.data.directory.clone(), source };
    let marks = Arc::new(Marks::read(data.clone()).map_err(unreadable)?);
    let (stop_tx, stop) = Stop::new();
    let peers = connect_peers(&validated, &dialer)?;
    let elector = new_elector(&options);
    let hosted = start_replicas(&options, &validated, &log, &store, &peers, &marks.groups().await).await?;
    // One that is being rebuilt has forgotten its set.
    for replica in hosted.iter().filter(|replica| !replica.rebuilding.is_under_way()) {
        let (partition, members) = (replica.partition, replica.members.iter().map(|member| member.node));
        layout.check_voters(&data, partition, members, voters(replica).await?.into_iter())?;
    }
    if !layout_is_known {
        layout.remember(&data)?;
    }
    let replicas = Replicas::new(hosted, elector.clone());
    started(Observer::new(replicas.clone()));
    for replica in replicas.iter().filter(|replica| !replica.rebuilding.is_under_way()) {
        // Only the founding entry: nobody has led yet.
        let new = replica.raft_metrics().last_log_index.unwrap_or(0) == 0;
        elector.add(replica.partition, replica.rank(), new);
    }
    let handover = Handover { peers: peers.clone(), limits: limits(&options), policy: policy(&options) };
    let address = &validated.brokers[&validated.node];
    let cluster_size = u32::try_from(validated.brokers.len()).unwrap_or(u32::MAX);
    let identity = Identity {
        host: address.host.clone(),
        port: u32::from(address.port),
        broker_uuid: data.broker_uuid().to_string(),
        security: security.clone(),
    };
    let status = StatusHub::new(&options, identity, cluster_size, replicas.clone(), peers.clone());
    let drained = Drained::remembered(data.clone(), offload, elector.clone(), status.clone());
    let drained = drained
        .map_err(|source| BrokerError::ReadDrained { directory: options.data.directory.clone(), source })?;
    let exporting = Exporting::remembered(options.exporters.clone(), validated.node, data.clone(), offload);
    let exporting = exporting
        .map_err(|source| BrokerError::ReadExporting { directory: options.data.directory.clone(), source })?;

    let mut background = tokio::task::JoinSet::new();
    for peer in peers.iter() {
        background.spawn(peer.clone().run(replicas.clone(), stop.clone()));
        background.spawn(revive_replication(peer.clone(), replicas.clone(), stop.clone()));
    }
    background.spawn(pulse::run(
        replicas.clone(),
        peers.clone(),
        validated.node,
        pulse_times(&options),
        stop.clone(),
    ));
    background.spawn(elector.clone().run(replicas.clone(), peers.clone(), stop.clone()));
    background.spawn(status.clone().run(progress.clone(), stop.clone()));
    if let Some(monitoring) = &monitoring {
        background.spawn(monitoring::keep_up(monitoring.prometheus.clone(), stop.clone()));
        monitoring.show(Running { status: status.clone(), exporting: exporting.clone() });
    }
    background.spawn(security.clone().keep_fresh());
    let (stopped, mut first_stopped) = mpsc::channel(1);
    for replica in replicas.iter().cloned() {
        if replica.rebuilding.is_under_way() {
            let (peers, marks) = (peers.clone(), marks.clone());
            background.spawn(rebuilding::bring_back(
                replica.clone(),
                peers,
                marks,
                elector.clone(),
                status.clone(),
                stop.clone(),
            ));
        }
        if exporting.is_configured() {
            background.spawn(exporting.clone().follow(replica.clone()));
        }
        let (elector, status, stopped) = (elector.clone(), status.clone(), stopped.clone());
        background.spawn(async move {
            leadership::follow(replica.clone(), elector, status).await;
            // The first one is enough.
            let _ = stopped.try_send(replica);
        });
    }
    let room = Room::new(options.limits.in_flight_writes_max);
    let disk_room =
        DiskRoom::new(data.clone(), offload, options.data.free_bytes_min, options.cluster.node_id);
    background.spawn(disk_room.clone().run(
        log.full(),
        status.clone(),
        replicas.clone(),
        handover.clone(),
        elector.clone(),
        stop.clone(),
    ));
    let broker_service = BrokerService {
        replicas: replicas.clone(),
        handover: handover.clone(),
        status: status.clone(),
        drained,
        exporting: exporting.clone(),
        room,
        disk_room: disk_room.clone(),
    };
    let raft_service = RaftService { replicas: replicas.clone(), store: store.clone(), disk_room };
    let mut grpc_server =
        tokio::spawn(serve_grpc(incoming, security.peer_guard(), raft_service, broker_service, stop.clone()));
    let mut http_server = tokio::spawn(serve_monitoring(monitoring, stop));
    progress.start();
    tracing::info!(
        node = %validated.node, partitions = replicas.len(), grpc = %address, monitoring_port = options.network.monitoring_port,
        data = %options.data.directory, "broker started"
    );

    let ended = tokio::select! {
        // In this order: a replica that stops has a reason.
        biased;
        () = shutdown => {
            tracing::info!("stopping: handing leaderships over");
            drain(&replicas, &handover, &elector, &status).await;
            Ok(())
        }
        failure = log.failure() => Err(BrokerError::LogFailed(failure.to_string())),
        failure = store.failure() => Err(BrokerError::StoreFailed(failure)),
        // Without it the broker would only look alive; started again it may do better.
        Some(replica) = first_stopped.recv() => {
            let reason = replica.raft_metrics().running_state.err().map_or_else(String::new, |fatal| fatal.to_string());
            Err(BrokerError::ReplicaStopped { partition: replica.partition.0, reason })
        }
        ended = &mut grpc_server => Err(BrokerError::Serve(format!("{ended:?}"))),
        ended = &mut http_server => Err(BrokerError::Serve(format!("{ended:?}"))),
    };
    stop_tx.send_replace(true);
    store.stop_waiting();
    let stopping = async {
        futures::stream::iter(replicas.iter())
            .for_each_concurrent(None, |replica| async {
                if let Err(error) = replica.raft.shutdown().await {
                    tracing::warn!(partition = %replica.partition, %error, "a replica did not stop cleanly");
                }
            })
            .await;
        if let Err(error) = log.close().await {
            tracing::warn!(%error, "the log did not close cleanly");
        }
    };
    if tokio::time::timeout(Duration::from_millis(SHUTDOWN_MS_MAX), stopping).await.is_err() {
        tracing::warn!("replicas still run after {SHUTDOWN_MS_MAX} ms; leaving all the same");
    }
    background.shutdown().await;
    ended
}

async fn listen(key: &'static str, host: &str, port: u16) -> Result<TcpListener, BrokerError> {
    let address = format!("{host}:{port}");
    let listener = evenkeel_http_server::listen(host.trim_matches(['[', ']']), port).await;
    listener.map_err(|source| BrokerError::Listen { key, address, source })
}

async fn open_storage(
    options: &Options,
    validated: &Validated,
    data: &DataDirectory,
) -> Result<(SharedLog, StateStore), BrokerError> {
    let (log_options, store_options) = storage_options(options, data);
    let (log_directory, state_directory) = (data.log_directory(), data.state_directory());
    let hosted = hosted(validated);
    let open = move || -> Result<_, BrokerError> {
        let log = SharedLog::open_on_disk(log_options).map_err(|error| {
            let affected = error.is_damage().then(|| affected_groups(&RealDisk, &log_directory));
            match affected {
                // What cannot even be read may concern anything.
                Some(affected) => damaged(&error, affected.unwrap_or(Affected::All), &hosted),
                None => error.into(),
            }
        })?;
        let store = StateStore::open(state_directory, store_options).map_err(|error| {
            // Its tables hold rows of all partitions.
            if error.is_damage() { damaged(&error, Affected::All, &hosted) } else { error.into() }
        })?;
        Ok((log, store))
    };
    tokio::task::spawn_blocking(open).await.map_err(|e| BrokerError::Serve(e.to_string()))?
}

fn storage_options(options: &Options, data: &DataDirectory) -> (LogOptions, StoreOptions) {
    let mut log_options = LogOptions::new(data.log_directory());
    log_options.segment_bytes_max = options.data.segment_bytes_max;
    log_options.cache_bytes_max = options.data.log_cache_bytes_max;
    let defaults = StoreOptions::default();
    let store_options = StoreOptions {
        changes_retained_max: options.data.changes_retained_max,
        memtable_bytes: unlike_its_neighbours(defaults.memtable_bytes, options.cluster.node_id),
        ..defaults
    };
    (log_options, store_options)
}

/// Replicas apply the same writes, so with tables of one size a majority would write theirs at one moment, and every disk
/// that could acknowledge a write would be busy: three brokers' logs waited 74 ms for one sync, all at once. So brokers
/// that follow each other in the ring write tables of different sizes.
fn unlike_its_neighbours(memtable_bytes: u64, node: u64) -> u64 {
    memtable_bytes - memtable_bytes / 6 * (node % 3)
}

fn damaged(what: &impl std::fmt::Display, affected: Affected, hosted: &Hosted) -> BrokerError {
    let remedy = match too_few_peers(&affected, hosted) {
        Some(partition) => format!(
            "Put the file back as it was: partition {partition} has too few replicas to rebuild this one from its peers"
        ),
        None if affected == Affected::none() => "Nothing of any partition is lost; write the log anew: \
             `evenkeel broker rebuild --config FILE`, then start the broker again"
            .to_owned(),
        None => format!(
            "The others serve meanwhile; fetch what is damaged from them: `evenkeel broker rebuild --config FILE \
             {affected}`, then start the broker again"
        ),
    };
    BrokerError::Damaged { what: what.to_string(), remedy }
}

/// A partition that cannot be rebuilt: without the replica that forgets, no majority is left to tell what it promised.
fn too_few_peers(affected: &Affected, hosted: &Hosted) -> Option<PartitionId> {
    let few = |(partition, members): &&(PartitionId, Vec<Member>)| {
        affected.contains(partition.0) && members.len() < REPLICAS_MIN
    };
    hosted.iter().find(few).map(|(partition, _)| *partition)
}

/// Makes the replicas in `named` of this broker, which must not run, forget everything; with none named, those that are
/// damaged. When it starts again it fetches them from their peers.
///
/// # Errors
/// When the broker runs, more is damaged than was named, a partition has no majority without this replica, or the disk
/// fails.
pub async fn rebuild(options: Options, named: Affected) -> Result<Forgotten, BrokerError> {
    let validated = options.validate()?;
    let cluster = &options.cluster;
    let data = DataDirectory::open_for_rebuild(
        &options.data.directory,
        &cluster.id,
        cluster.node_id,
        cluster.partitions,
    )?;
    ConfiguredLayout::new(&options, &validated).check(&data)?;
    let hosted = hosted(&validated);
    if let Some(partition) = too_few_peers(&named, &hosted) {
        return Err(BrokerError::TooFewPeers { partition: partition.0 });
    }
    let (log, store) = storage_options(&options, &data);
    let groups = hosted.iter().map(|(partition, _)| partition.0);
    let rebuild = Rebuild { data: &data, hosted: groups.collect(), log, store };
    let plan = rebuild.plan(&named)?;
    if let Some(partition) = too_few_peers(&plan, &hosted) {
        return Err(BrokerError::TooFewPeers { partition: partition.0 });
    }
    Ok(rebuild.forget(&plan).await?)
}

fn connect_peers(validated: &Validated, dialer: &Dialer) -> Result<Peers, BrokerError> {
    let peer = |(node, address): (NodeId, &crate::options::BrokerAddress)| {
        let address = address.to_string();
        Peer::new(node, address.clone(), dialer).map_err(|source| BrokerError::Address { address, source })
    };
    Ok(Peers::new(validated.peers().map(peer).collect::<Result<Vec<_>, _>>()?))
}

fn new_elector(options: &Options) -> Elector {
    let raft = &options.raft;
    let times = ElectionTimes {
        lease: raft.lease + Duration::from_millis(LEASE_MARGIN_MS),
        stagger: raft.stagger,
        retry: raft.stagger,
    };
    let order =
        if raft.priority_election { Order::ByRank } else { Order::Jitter { seed: options.cluster.node_id } };
    Elector::new(times, order)
}

fn pulse_times(options: &Options) -> PulseTimes {
    let RaftOptions { heartbeat_interval, lease, rest_after, .. } = options.raft;
    PulseTimes { heartbeat_interval, lease, rest_after }
}

fn raft_config(options: &Options) -> Arc<openraft::Config> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let lease = ms(options.raft.lease);
    Arc::new(openraft::Config {
        cluster_name: options.cluster.id.clone(),
        heartbeat_interval: ms(options.raft.heartbeat_interval),
        heartbeat_min_interval: None,
        // openraft takes the maximum for the leader's lease; all replicas share it, ranks differ in our elector.
        election_timeout_min: lease.saturating_sub(1).max(1),
        election_timeout_max: lease,
        enable_elect: false,
        // One tick for all replicas: `pulse`.
        enable_tick: false,
        enable_leader_restore: Some(false),
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.raft.snapshot_after_entries),
        max_in_snapshot_log_to_keep: options.raft.log_entries_kept,
        replication_lag_threshold: options.raft.snapshot_after_entries.saturating_mul(2),
        purge_batch_size: 256,
        ..Default::default()
    })
}

async fn start_replicas(
    options: &Options,
    validated: &Validated,
    log: &SharedLog,
    store: &StateStore,
    peers: &Peers,
    forgotten: &BTreeSet<u32>,
) -> Result<Vec<Arc<Replica>>, BrokerError> {
    let config = raft_config(options);
    let me = validated.node;
    let mut started = Vec::new();
    let hosted = hosted(validated);
    for (partition, members) in hosted.clone() {
        let group = partition.0;
        let (state_machine, reader) = store.partition(group)?;
        let mut log = log.group(group);
        check_state_reaches_log(group, &log, &reader, &hosted)?;
        found(&mut log, &members).await.map_err(|source| BrokerError::Found { partition: group, source })?;
        let awaited = Awaited::default();
        let network = Network {
            group,
            me,
            peers: peers.clone(),
            awaited: awaited.clone(),
            log: log.clone(),
            voter_logs: VoterLogs::default(),
        };
        let raft = Raft::new(me.0, config.clone(), network, log.clone(), state_machine).await;
        let raft = raft.map_err(|source| BrokerError::Raft { partition: group, source })?;
        let rebuilding = match forgotten.contains(&group) {
            true => Rebuilding::begun(members.len()),
            false => Rebuilding::done(),
        };
        let lease = options.raft.lease;
        let replica = Replica::new(me, raft, log, reader, members, rebuilding, lease, awaited);
        started.push(Arc::new(replica));
    }
    Ok(started)
}

/// The state database may have lost its newest writes, which the log has; but not what the log has no more.
fn check_state_reaches_log(
    group: u32,
    log: &GroupLog,
    reader: &PartitionReader,
    hosted: &Hosted,
) -> Result<(), BrokerError> {
    let purged = log.state().last_purged_log_id.map_or(0, |purged| purged.index);
    let applied = *reader.applied().borrow();
    if applied >= purged {
        return Ok(());
    }
    let what = format!(
        "state database: partition {group} is at position {applied}, and the log begins after {purged}: what lies \
         between is lost"
    );
    Err(damaged(&what, Affected::Groups([group].into()), hosted))
}

/// Replicas of a broker: each group with its whole replica set, highest priority first.
type Hosted = Vec<(PartitionId, Vec<Member>)>;

/// The groups that this broker has a replica of.
fn hosted(validated: &Validated) -> Hosted {
    let me = validated.node;
    let nodes: Vec<NodeId> = validated.brokers.keys().copied().collect();
    let system = (SYSTEM_GROUP, Distribution::system_group(&nodes));
    let distribution = &validated.distribution;
    let partitions = distribution.partitions().map(|p| (p, distribution.replicas(p).to_vec()));
    let mut hosted: Vec<_> = std::iter::once(system)
        .chain(partitions)
        .filter(|(_, members)| members.iter().any(|m| m.node == me))
        .collect();
    for (_, members) in &mut hosted {
        members.sort_by_key(|m| std::cmp::Reverse(m.priority));
    }
    hosted
}

/// Gives an empty log its first entry: the replica set. Every replica writes the same one, so any of them can stand
/// or vote from its first start on. openraft's `initialize` does this on one replica only; if that one died
/// between its first vote and its first append, the others could neither be initialized nor stand.
async fn found(log: &mut GroupLog, members: &[Member]) -> std::io::Result<()> {
    if log.get_log_state().await?.last_log_id.is_some() || log.read_vote().await?.is_some() {
        return Ok(());
    }
    let voters: BTreeSet<u64> = members.iter().map(|m| m.node.0).collect();
    let membership = Membership::new_with_defaults(vec![voters], []);
    let nobody = CommittedLeaderId { term: 0, node_id: 0 };
    let entry = Entry::new(LogId::new(nobody, 0), EntryPayload::Membership(membership));
    log.blocking_append([entry]).await.map_err(std::io::Error::other)
}

/// The replica set that the partition's own log names.
async fn voters(replica: &Replica) -> Result<Vec<NodeId>, BrokerError> {
    let read = replica.raft.with_raft_state(|state| {
        state.membership_state.effective().voter_ids().map(NodeId).collect::<Vec<_>>()
    });
    read.await.map_err(|source| BrokerError::Raft { partition: replica.partition.0, source })
}

fn limits(options: &Options) -> Limits {
    Limits {
        probe: options.transfer.probe_timeout,
        catch_up: options.transfer.catch_up_timeout,
        freeze: Duration::from_millis(FREEZE_MS_MAX),
        leader_wait: options.transfer.leader_wait_timeout,
        lag_bytes_max: options.transfer.lag_bytes_max,
    }
}

fn policy(options: &Options) -> Policy {
    Policy {
        priority_election: options.raft.priority_election,
        lag_bytes_max: options.transfer.lag_bytes_max,
    }
}

/// Ends openraft's back-off towards a peer as soon as the peer is back.
async fn revive_replication(peer: Arc<Peer>, replicas: Replicas, mut stop: Stop) {
    let mut connected = peer.connected();
    loop {
        tokio::select! {
            changed = connected.changed() => if changed.is_err() { return },
            () = stop.requested() => return,
        }
        if !*connected.borrow_and_update() {
            continue;
        }
        for replica in replicas.iter().filter(|r| r.leads().is_some()) {
            if let Err(error) = replica.raft.trigger().reset_backoff([peer.node.0]).await {
                tracing::debug!(partition = %replica.partition, %error, "cannot reset the back-off");
            }
        }
    }
}

/// Replication is for brokers only, the rest of this port for gateways too.
fn need(path: &str) -> Need {
    if path.starts_with("/evenkeel.internal.v1.Raft/") { Need::Broker } else { Need::Nothing }
}

/// What gateways' reads are called in traces; writes are named by their commands, and the rest is for no request.
fn trace_name(_: &http::Method, uri: &http::Uri, _: &http::Extensions) -> Option<String> {
    let call = uri.path().strip_prefix("/evenkeel.internal.v1.Broker/")?;
    ["Get", "List"].contains(&call).then(|| format!("evenkeel.internal.v1.Broker/{call}"))
}

/// Without a port there is nothing to serve until `stop`.
async fn serve_monitoring(port: Option<MonitoringPort>, mut stop: Stop) {
    match port {
        Some(port) => port.until(stop).await,
        None => stop.requested().await,
    }
}

async fn serve_grpc<I, C, E>(
    incoming: I,
    guard: Option<Arc<Guard>>,
    raft: RaftService,
    broker: BrokerService,
    mut stop: Stop,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<C, E>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let raft = RaftServer::new(raft)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let broker = BrokerServer::new(broker)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let stopped = async move {
        stop.requested().await;
        // Long-lived streams would hold a graceful stop up for ever; their other ends reconnect elsewhere.
    };
    let serving = tonic::transport::Server::builder()
        .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
        .layer(TraceLayer::new(trace_name))
        .layer(GrpcGuard::new(guard, need))
        .add_service(InterceptedService::new(raft, wire_version::check))
        .add_service(InterceptedService::new(broker, wire_version::check))
        .serve_with_incoming(incoming);
    tokio::select! {
        served = serving => served,
        () = stopped => Ok(()),
    }
}

/// Hands every leadership to the best other replica, so that nobody waits for a lease to run out.
async fn drain(replicas: &Replicas, handover: &Handover, elector: &Elector, status: &StatusHub) {
    elector.retire();
    status.set_draining();
    let led: Vec<_> = replicas.iter().filter(|r| r.leads().is_some()).cloned().collect();
    let total = led.len();
    let handed: BTreeMap<u32, _> = {
        let moves = futures::stream::iter(led).map(|replica| async move {
            let response = handover.step_down(&replica, 0, Purpose::Shutdown).await;
            (replica.partition.0, response)
        });
        let moves = moves.buffer_unordered(DRAIN_CONCURRENCY).collect();
        match tokio::time::timeout(Duration::from_millis(DRAIN_MS_MAX), moves).await {
            Ok(handed) => handed,
            Err(_) => {
                tracing::warn!("handing over took longer than {DRAIN_MS_MAX} ms; leaving all the same");
                return;
            }
        }
    };
    let transferred = handed.values().filter(|r| r.result() == StepDown::Transferred).count();
    for (partition, response) in handed.iter().filter(|(_, r)| r.result() != StepDown::Transferred) {
        tracing::warn!(
            partition,
            result = response.result().as_str_name(),
            detail = response.detail,
            "not handed over"
        );
    }
    tracing::info!("handed over {transferred} of {total} leaderships");
}
