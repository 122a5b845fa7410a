//! The client itself: what can be asked of a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use evenkeel_protocol::v1::cluster_client::ClusterClient;
use evenkeel_protocol::v1::precondition;
use evenkeel_protocol::v1::records_client::RecordsClient;
use evenkeel_protocol::v1::{
    BatchOperation, BatchRequest, BatchResponse, Consistency, DeleteRequest, DeleteResponse, GetRequest,
    ListRequest, ListResponse, Precondition, PutRequest, PutResponse, Record, TopologyRequest,
    TopologyResponse,
};
use evenkeel_security::ClientTls;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::credentials::Token;
use crate::error::ClientError;
use crate::gateways::Gateways;
use crate::lanes::{LANES_MAX, Lanes};
use crate::pipeline::Pipeline;
use crate::watch::{Watch, WatchQuery};
use crate::watch_topology::TopologyWatch;

/// A page of 1,000 small records fits many times over; a page of large ones is cut by the gateway.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How a client behaves. Only the gateways have no default.
#[derive(Clone, Debug)]
pub struct Options {
    /// `host:port` of each gateway.
    pub gateways: Vec<String>,
    /// Whom to trust, and this client's certificate; without it, connections are not encrypted.
    pub tls: Option<ClientTls>,
    /// Sent with every call.
    pub token: Option<Token>,
    /// W3C's `traceparent`, sent with every call: the trace that they are part of.
    pub traceparent: Option<MetadataValue<Ascii>>,
    /// HTTP/2 connections to each gateway; more than one helps from some 32 concurrent calls on.
    pub connections_per_gateway: usize,
    /// Deadline of a call with all its retries.
    pub call_timeout: Duration,
    /// A gateway that is silent this long is given up for the next one.
    pub attempt_timeout: Duration,
    /// A watch that cannot be resumed for this long ends with an error.
    pub watch_timeout: Duration,
    /// Writes under way at once; more wait their turn.
    pub concurrent_writes_max: usize,
}

impl Options {
    /// Defaults, for these gateways.
    pub fn new<A: Into<String>>(gateways: impl IntoIterator<Item = A>) -> Self {
        Self {
            gateways: gateways.into_iter().map(Into::into).collect(),
            tls: None,
            token: None,
            traceparent: None,
            connections_per_gateway: 1,
            call_timeout: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(2),
            watch_timeout: Duration::from_secs(60),
            concurrent_writes_max: LANES_MAX,
        }
    }
}

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no record of this key.
    MustNotExist,
    /// The record has exactly this version.
    VersionEquals(u64),
}

impl From<Condition> for Precondition {
    fn from(condition: Condition) -> Self {
        let condition = match condition {
            Condition::MustNotExist => precondition::Condition::MustNotExist(true),
            Condition::VersionEquals(version) => precondition::Condition::VersionEquals(version),
        };
        Self { condition: Some(condition) }
    }
}

/// One page of records.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys that begin with this; empty for all.
    pub prefix: Bytes,
    /// 0 for every partition.
    pub partition_id: u32,
    /// At most this many; 0 for the gateway's default.
    pub page_size: u32,
    /// From the page before; empty for the first.
    pub page_token: Bytes,
    /// Linearizable unless stated.
    pub consistency: Consistency,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) gateways: Gateways,
    pub(crate) retries: AtomicU64,
    lanes: Arc<Lanes>,
}

/// A handle to a cluster; clones share connections and request ids.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Connects to the first of these gateways (`host:port`) that answers; the others serve as well and when it
    /// fails.
    ///
    /// # Errors
    /// `BadAddress`, or `Unreachable` when none accepts a connection.
    pub async fn connect<A: Into<String>>(
        gateways: impl IntoIterator<Item = A>,
    ) -> Result<Self, ClientError> {
        Self::connect_with(Options::new(gateways)).await
    }

    /// The same with other than default options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(options: Options) -> Result<Self, ClientError> {
        let client = Self::new(options)?;
        client.inner.gateways.probe().await?;
        Ok(client)
    }

    /// A client that connects when first used, for clusters that are still starting. Must run inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// `BadAddress`.
    pub fn new(options: Options) -> Result<Self, ClientError> {
        let dialer = options.tls.as_ref().map(ClientTls::grpc).unwrap_or_default();
        let sends_token = options.token.is_some();
        let gateways =
            Gateways::new(&options.gateways, options.connections_per_gateway, &dialer, sends_token)?;
        let lanes = Lanes::new(options.concurrent_writes_max.clamp(1, LANES_MAX));
        Ok(Self { inner: Arc::new(Inner { options, gateways, retries: AtomicU64::new(0), lanes }) })
    }

    /// How often any call of this client was sent again. A call that succeeded on a retry did not fail.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.inner.retries.load(Relaxed)
    }

    /// Writes a record.
    ///
    /// # Errors
    /// `Refused` with `FAILED_PRECONDITION` when the condition does not hold, `INVALID_ARGUMENT` for a bad key or
    /// an oversized value; `DeadlineExceeded` when the outcome is unknown.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Option<Condition>,
    ) -> Result<PutResponse, ClientError> {
        let lane = self.inner.lanes.take().await;
        let request = PutRequest {
            key: key.into(),
            value: value.into(),
            precondition: condition.map(Into::into),
            request_id: Some(lane.request_id()),
        };
        self.inner
            .call("put", request, |channel, request| async move { records(channel).put(request).await })
            .await
    }

    /// Deletes a record; deleting what is not there succeeds and says so.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        condition: Option<Condition>,
    ) -> Result<DeleteResponse, ClientError> {
        let lane = self.inner.lanes.take().await;
        let request = DeleteRequest {
            key: key.into(),
            precondition: condition.map(Into::into),
            request_id: Some(lane.request_id()),
        };
        self.inner
            .call("delete", request, |channel, request| async move { records(channel).delete(request).await })
            .await
    }

    /// Several writes to one partition, all or none.
    ///
    /// # Errors
    /// As [`Client::put`]; `INVALID_ARGUMENT` when the keys belong to several partitions.
    pub async fn batch(&self, operations: Vec<BatchOperation>) -> Result<BatchResponse, ClientError> {
        let lane = self.inner.lanes.take().await;
        let request = BatchRequest { operations, request_id: Some(lane.request_id()) };
        self.inner
            .call("batch", request, |channel, request| async move { records(channel).batch(request).await })
            .await
    }

    /// A stream for many writes at once, at most `under_way_max` (up to 4,096): several times as many writes a second as
    /// calls. Must be called inside a tokio runtime.
    #[must_use]
    pub fn pipeline(&self, under_way_max: usize) -> Pipeline {
        Pipeline::open(self, under_way_max)
    }

    /// Reads a record; `None` when there is none.
    ///
    /// # Errors
    /// `Refused` for a bad key, `DeadlineExceeded` when its partition has no leader for long.
    pub async fn get(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Record>, ClientError> {
        let request = GetRequest { key: key.into(), consistency: consistency.into() };
        let response = self
            .inner
            .call("get", request, |channel, request| async move { records(channel).get(request).await })
            .await?;
        Ok(response.record)
    }

    /// One page of records in key order.
    ///
    /// # Errors
    /// `Refused` for an unknown partition or a bad page token.
    pub async fn list(&self, query: ListQuery) -> Result<ListResponse, ClientError> {
        let request = ListRequest {
            prefix: query.prefix,
            partition_id: query.partition_id,
            page_size: i32::try_from(query.page_size).unwrap_or(i32::MAX),
            page_token: query.page_token,
            consistency: query.consistency.into(),
        };
        self.inner
            .call("list", request, |channel, request| async move { records(channel).list(request).await })
            .await
    }

    /// Every change from now, or from given positions, on.
    ///
    /// # Errors
    /// `Refused` with `OUT_OF_RANGE` when a position is no longer kept.
    pub async fn watch(&self, query: WatchQuery) -> Result<Watch, ClientError> {
        Watch::open(self.clone(), query).await
    }

    /// The cluster as a gateway sees it.
    ///
    /// # Errors
    /// `DeadlineExceeded` when no gateway answers.
    pub async fn topology(&self) -> Result<TopologyResponse, ClientError> {
        self.inner
            .call("topology", TopologyRequest {}, |channel, request| async move {
                ClusterClient::new(channel)
                    .max_decoding_message_size(ANSWER_BYTES_MAX)
                    .topology(request)
                    .await
            })
            .await
    }

    /// The cluster as a gateway sees it, then each change of a leader or a broker as it happens. Events that this
    /// watch missed, say because a gateway went away, are made up for by another snapshot.
    ///
    /// # Errors
    /// `Refused` with `RESOURCE_EXHAUSTED` when too many watches are open, `DeadlineExceeded` when no gateway
    /// answers.
    pub async fn watch_topology(&self) -> Result<TopologyWatch, ClientError> {
        TopologyWatch::open(self.clone()).await
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}

pub(crate) fn records(channel: Channel) -> RecordsClient<Channel> {
    RecordsClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}
