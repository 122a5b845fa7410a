//! Log and state machine under real openraft nodes: purging, restarts, and a snapshot for a node that was away.

#![allow(clippy::unwrap_used, reason = "clippy knows only functions marked as tests for tests")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1 as internal;
use evenkeel_protocol::internal::v1::outcome::Outcome;
use evenkeel_protocol::v1::{BatchOperation, BatchPut, RequestId, batch_operation::Operation};
use evenkeel_raft_storage::types::raft;
use evenkeel_raft_storage::{
    Command, GroupId, GroupLog, LogOptions, OpenStoreError, PartitionReader, PartitionStateMachine,
    SharedLog, Snapshot, StateStore, StoreOptions, TypeConfig,
};
use futures::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, ClientWriteResponse, SnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{
    Config, EmptyNode, OptionalSend, Raft, RaftMetrics, RaftNetworkFactory, RaftNetworkV2, SnapshotPolicy,
};
use parking_lot::Mutex;
use prost::Message;
use tempfile::TempDir;

const GROUP: GroupId = 7;
/// Entries between two snapshots; nothing before a snapshot is kept.
const SNAPSHOT_EVERY: u64 = 50;

type Node = Raft<TypeConfig, PartitionStateMachine>;

/// The nodes that are up.
#[derive(Clone, Default)]
struct Nodes(Arc<Mutex<BTreeMap<u64, (Node, StateStore)>>>);

struct Link {
    nodes: Nodes,
    target: u64,
}

impl RaftNetworkFactory<TypeConfig> for Nodes {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { nodes: self.clone(), target }
    }
}

impl Link {
    fn node(&self) -> Result<(Node, StateStore), Unreachable<TypeConfig>> {
        let nodes = self.nodes.0.lock();
        nodes.get(&self.target).cloned().ok_or_else(|| Unreachable::from_string("down"))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.node()?.0.append_entries(rpc).await;
        answer.map_err(|e| NetworkError::new(&e).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.node()?.0.vote(rpc).await.map_err(|e| NetworkError::new(&e).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: raft::Vote,
        snapshot: SnapshotOf<TypeConfig, Snapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (node, store) = self.node()?;
        let received = async {
            let mut receiver = store.snapshot_receiver(GROUP)?;
            let mut chunks = snapshot.snapshot.stream();
            while let Some(chunk) = chunks.next().await {
                receiver.push(chunk?).await?;
            }
            receiver.finish().await
        };
        let received = received.await.map_err(|e: io::Error| NetworkError::new(&e))?;
        let snapshot = SnapshotOf::<TypeConfig, _> { meta: snapshot.meta, snapshot: received };
        node.install_full_snapshot(vote, snapshot).await.map_err(|e| NetworkError::new(&e).into())
    }
}

/// One node's disk, and the node when it is up.
struct Broker {
    id: u64,
    folder: TempDir,
    running: Option<Running>,
}

struct Running {
    raft: Node,
    log: GroupLog,
    reader: PartitionReader,
}

impl Broker {
    fn new(id: u64) -> Self {
        Self { id, folder: tempfile::tempdir().unwrap(), running: None }
    }

    async fn start(&mut self, nodes: &Nodes) {
        let config = Config {
            heartbeat_interval: 50,
            election_timeout_min: 300,
            election_timeout_max: 600,
            install_snapshot_timeout: 10_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            replication_lag_threshold: SNAPSHOT_EVERY + 1,
            max_in_snapshot_log_to_keep: 0,
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let log =
            SharedLog::open_on_disk(LogOptions::new(self.folder.path().join("log"))).unwrap().group(GROUP);
        let options = StoreOptions { memtable_bytes: 256 * 1024, ..StoreOptions::default() };
        let store = self.open_store(options).await;
        let (machine, reader) = store.partition(GROUP).unwrap();
        let config = Arc::new(config.validate().unwrap());
        let raft = Node::new(self.id, config, nodes.clone(), log.clone(), machine).await.unwrap();
        nodes.0.lock().insert(self.id, (raft.clone(), store));
        self.running = Some(Running { raft, log, reader });
    }

    /// openraft drops a stopped node's state machine, and with it the store, a little after it says that it stopped.
    async fn open_store(&self, options: StoreOptions) -> StateStore {
        let opened = async {
            loop {
                match StateStore::open(self.folder.path().join("state"), options.clone()) {
                    Err(OpenStoreError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                    opened => return opened.unwrap(),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), opened).await.expect("closes in time")
    }

    async fn stop(&mut self, nodes: &Nodes) {
        nodes.0.lock().remove(&self.id);
        self.running.take().unwrap().raft.shutdown().await.unwrap();
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// `purged ≤ snapshot ≤ applied ≤ appended`, as openraft sees it and as log and state machine do.
    fn check_positions(&self) {
        let Running { raft, log, reader } = self.running();
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched().clone();
        assert!(metrics.purged <= metrics.snapshot && metrics.snapshot <= metrics.last_applied, "{metrics}");
        // In this order: each only grows, so reading the lesser first cannot make a wrong order look right.
        let purged = log.state().last_purged_log_id.map_or(0, |id| id.index);
        let applied = *reader.applied().borrow();
        let appended = log.state().last_log_id.map_or(0, |id| id.index);
        assert!(purged <= applied && applied <= appended, "{purged} {applied} {appended}");
    }

    async fn applied(&self, index: u64) {
        let mut applied = self.running().reader.applied();
        let waiting = applied.wait_for(|applied| *applied >= index);
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("applies in time").unwrap();
    }

    /// Waits until the log begins after `index`.
    async fn purged(&self, index: u64) {
        seen(&self.running().raft, |metrics| metrics.purged.is_some_and(|id| id.index >= index)).await;
    }
}

/// Waits for what a node tells of itself.
async fn seen(
    raft: &Node,
    condition: impl Fn(&RaftMetrics<TypeConfig>) -> bool + Send,
) -> RaftMetrics<TypeConfig> {
    raft.wait(Some(Duration::from_secs(30))).metrics(condition, "condition").await.unwrap()
}

fn command(client_id: u64, sequence: u64) -> Command {
    let key = format!("key-{}", sequence % 40).into();
    let put = BatchPut { key, value: vec![sequence as u8; 2_000].into(), precondition: None };
    let operations = vec![BatchOperation { operation: Some(Operation::Put(put)) }];
    let request_id = Some(RequestId { client_id, sequence });
    Command(internal::Command { request_id, operations, ..Default::default() }.encode_to_vec().into())
}

/// Writes, and again as a retry; returns the position of the retry.
async fn write(brokers: &[&Broker], client: u64, sequence: u64) -> u64 {
    let first = write_once(brokers, client, sequence).await;
    let again = write_once(brokers, client, sequence).await;
    assert_eq!(first.data, again.data, "a retry is answered as the first time");
    again.log_id.index
}

/// Writes through whoever leads, as often as it takes.
async fn write_once(brokers: &[&Broker], client: u64, sequence: u64) -> ClientWriteResponse<TypeConfig> {
    let attempts = async {
        loop {
            match leader(brokers).await.client_write(command(client, sequence)).await {
                Ok(written) => return written,
                // A leader that lost, or has just won, its leadership.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), attempts).await.expect("writes in time");
    assert!(matches!(written.data.outcome, Some(Outcome::Applied(_))), "{:?}", written.data);
    written
}

/// The leader, once it is one of these.
async fn leader(brokers: &[&Broker]) -> Node {
    let of = |id: u64| brokers.iter().find(|broker| broker.id == id);
    let metrics =
        seen(&brokers[0].running().raft, |metrics| metrics.current_leader.is_some_and(|id| of(id).is_some()));
    let leader = metrics.await.current_leader.and_then(of).unwrap();
    leader.running().raft.clone()
}

fn records(broker: &Broker) -> Vec<evenkeel_protocol::v1::Record> {
    broker.running().reader.list(b"", b"", usize::MAX, usize::MAX).unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_past_the_logs_start_gets_a_snapshot_and_goes_on() {
    let nodes = Nodes::default();
    let [mut a, mut b, mut c] = [0, 1, 2].map(Broker::new);
    for broker in [&mut a, &mut b, &mut c] {
        broker.start(&nodes).await;
    }
    let voters = BTreeMap::from([0, 1, 2].map(|id| (id, EmptyNode {})));
    a.running().raft.initialize(voters).await.unwrap();
    let mut index = write(&[&a, &b, &c], 1, 1).await;
    for broker in [&a, &b, &c] {
        broker.applied(index).await;
    }

    c.stop(&nodes).await;
    for sequence in 2..2 + 2 * SNAPSHOT_EVERY {
        index = write(&[&a, &b], 1, sequence).await;
    }
    a.applied(index).await;
    a.purged(SNAPSHOT_EVERY).await;
    b.purged(SNAPSHOT_EVERY).await;
    a.check_positions();
    b.check_positions();

    c.start(&nodes).await;
    c.applied(index).await;
    // Its log had none of this: it begins after the snapshot now.
    c.purged(SNAPSHOT_EVERY).await;
    c.check_positions();
    assert_eq!(records(&c), records(&a));

    for broker in [&mut a, &mut b, &mut c] {
        broker.stop(&nodes).await;
        broker.start(&nodes).await;
    }
    index = write(&[&a, &b, &c], 2, 1).await;
    for broker in [&a, &b, &c] {
        broker.applied(index).await;
        broker.check_positions();
        assert_eq!(records(broker), records(&a));
    }
}
