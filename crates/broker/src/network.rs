//! openraft's view of the other replicas of one partition.
//!
//! Implements openraft's network traits one by one rather than its all-in-one `RaftNetworkV2`, so that
//! replication is a pipelined stream: up to [`OUTSTANDING_MAX`] requests are under way before the first answer.

mod pipeline;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel_protocol::NodeId;
use evenkeel_raft_storage::types::raft::{LogId, Vote};
use evenkeel_raft_storage::{GroupId, GroupLog, Snapshot, TypeConfig};
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RPCTypes};

use self::pipeline::Pipeline;
use crate::metric_definitions::FollowerMetrics;
use crate::peer::{Peer, Peers};
use crate::voter_logs::VoterLogs;
use crate::{snapshot_transfer, wire};

type C = TypeConfig;

/// Requests of one partition to one peer that may wait for their answers.
pub const OUTSTANDING_MAX: usize = 64;
/// openraft's own back-off grows to a second; a peer that returns should not wait for that.
const BACKOFF_MS_MIN: u64 = 20;
const BACKOFF_MS_MAX: u64 = 200;

/// How many requests wait for a majority to answer the partition's next heartbeat, shared by its replica and its network.
#[derive(Clone, Default)]
pub struct Awaited(Arc<AtomicUsize>);

impl Awaited {
    /// Counts one, until it is dropped.
    pub fn one(&self) -> impl Drop {
        struct One(Awaited);
        impl Drop for One {
            fn drop(&mut self) {
                self.0.0.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.0.fetch_add(1, Ordering::AcqRel);
        One(self.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

/// Makes the clients that openraft asks for, for one partition.
pub struct Network {
    pub group: GroupId,
    pub me: NodeId,
    pub peers: Peers,
    pub awaited: Awaited,
    /// This broker's own log of the partition.
    pub log: GroupLog,
    pub voter_logs: VoterLogs,
}

impl Network {
    fn client(&self, target: u64, heartbeat: bool) -> Client {
        let peer = self.peers.get(NodeId(target)).cloned();
        let metrics = FollowerMetrics::new(self.group, NodeId(target));
        Client {
            group: self.group,
            me: self.me,
            target: NodeId(target),
            peer,
            heartbeat,
            awaited: self.awaited.clone(),
            log: self.log.clone(),
            voter_logs: self.voter_logs.clone(),
            matching: None,
            metrics,
        }
    }
}

impl RaftNetworkFactory<C> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        self.client(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        self.client(target, true)
    }
}

/// Talks to one replica of the partition.
pub struct Client {
    group: GroupId,
    me: NodeId,
    target: NodeId,
    /// `None` when the membership names a broker that the configuration does not.
    peer: Option<Arc<Peer>>,
    heartbeat: bool,
    awaited: Awaited,
    log: GroupLog,
    voter_logs: VoterLogs,
    /// The newest entry that openraft was told of as matching.
    matching: Option<LogId>,
    metrics: FollowerMetrics,
}

impl Client {
    fn peer(&self) -> Result<&Arc<Peer>, Unreachable<C>> {
        self.peer.as_ref().ok_or_else(|| {
            Unreachable::from_string(format!("broker {} is not in [cluster] brokers", self.target))
        })
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<C> {
        Timeout { action, id: self.me.0, target: self.target.0, timeout }
    }

    /// Answers a probe at an entry that the follower had when it voted for this leadership. Only the first request of a
    /// stream can be one, and it is when openraft does not know yet that the entry before it matches.
    fn answered_by_vote(&mut self, request: &AppendEntriesRequest<C>) -> Option<LogId> {
        let probed = request.prev_log_id?;
        // Without entries the answer would acknowledge all of it, and openraft would take a lease from that.
        let is_probe = !self.heartbeat && !request.entries.is_empty() && Some(probed) > self.matching;
        let entry_at = |index| self.log.log_id(index);
        if !is_probe || !self.voter_logs.holds(self.target, &request.vote, probed, entry_at) {
            return None;
        }
        self.matching = Some(probed);
        Some(probed)
    }

    fn learn(&mut self, answer: &StreamAppendResult<C>) {
        match answer {
            Ok(matching) => self.matching = self.matching.max(*matching),
            Err(StreamAppendError::Conflict(_)) => {
                self.matching = None;
                self.voter_logs.forget(self.target);
            }
            Err(StreamAppendError::HigherVote(_)) => {}
        }
    }

    /// One unary call within its deadline, with the errors that openraft acts on.
    async fn call<T>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RPCError<C>> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
                Err(Unreachable::from_string(status.message()).into())
            }
            Ok(Err(status)) => Err(NetworkError::from_string(status.message()).into()),
            Err(_) => Err(self.timeout(action, deadline).into()),
        }
    }

    async fn vote_or_pre_vote(
        &self,
        request: VoteRequest<C>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.metrics.message_sent(if pre_vote { "PollRequest" } else { "VoteRequest" });
        let mut client = self.peer()?.client();
        let wire = wire::vote_request_to_wire(self.group, pre_vote, &request);
        let answer = self.call(RPCTypes::Vote, option.soft_ttl(), client.vote(wire)).await?;
        let response =
            wire::vote_response_from_wire(self.group, &answer).map_err(|e| NetworkError::new(&e))?;
        if let (true, false, Some(last)) = (answer.durable && answer.granted, pre_vote, response.last_log_id)
        {
            self.voter_logs.note(self.target, request.vote, last);
        }
        Ok(response)
    }
}

impl NetBackoff<C> for Client {
    fn backoff(&self) -> Option<Backoff> {
        let steps = std::iter::successors(Some(BACKOFF_MS_MIN), |ms| Some((ms * 2).min(BACKOFF_MS_MAX)));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

impl NetVote<C> for Client {
    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.vote_or_pre_vote(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        self.vote_or_pre_vote(request, true, option).await
    }
}

impl NetTransferLeader<C> for Client {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        // Our transfers do not go through openraft's trigger (see `transfer`); this serves whatever does.
        self.metrics.message_sent("TransferRequest");
        let mut client = self.peer()?.client();
        let wire = wire::transfer_to_wire(self.group, &request);
        let call = client.transfer_leader(wire);
        let response = self.call(RPCTypes::TransferLeader, option.soft_ttl(), call).await?;
        match response.rejection {
            None => Ok(Ok(())),
            Some(_) => Err(NetworkError::from_string("the target cannot take over now").into()),
        }
    }
}

impl NetSnapshot<C> for Client {
    type SnapshotData = Snapshot;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<C, Snapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        self.metrics.message_sent("InstallRequest");
        let peer = self.peer()?;
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = snapshot_transfer::send(peer, self.group, vote, snapshot) => sent,
        }
    }
}

impl NetStreamAppend<C> for Client {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<C>, RPCError<C>>>, RPCError<C>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let stream = match self.peer()?.open_stream(OUTSTANDING_MAX + 1) {
                Ok(stream) => stream,
                Err(error) => {
                    // openraft keeps its back-off in the requests: whoever fails without asking for one is asked
                    // again at once, for ever.
                    input.next().await;
                    return Err(Unreachable::new(&error).into());
                }
            };
            let pipeline = Pipeline::new(self, input, stream);
            let results = futures::stream::unfold(pipeline, |mut p| async move {
                let item = p.next().await?;
                Some((item, p))
            });
            Ok(results.boxed() as BoxStream<'s, _>)
        })
    }
}
