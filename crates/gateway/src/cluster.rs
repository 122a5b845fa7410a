//! The gRPC services that show the cluster: ours and the part of Zeebe's gateway that existing clients read.

use evenkeel_protocol::gateway_protocol::gateway_server::Gateway;
use evenkeel_protocol::v1::cluster_server::Cluster;
use evenkeel_protocol::{gateway_protocol as zeebe, v1};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::metric_definitions::MethodMetrics;
use crate::topology::SharedTopology;
use crate::topology_views;
use crate::topology_watch::{self, QUEUE_EVENTS_MAX};
use crate::watchers::Watchers;

/// Answers from the published topology; never waits.
pub(crate) struct TopologyService {
    topology: watch::Receiver<SharedTopology>,
    watchers: Watchers,
    stopping: CancellationToken,
    metrics: MethodMetrics,
    watch_metrics: MethodMetrics,
}

impl TopologyService {
    /// `stopping` ends open watches.
    pub(crate) fn new(
        topology: watch::Receiver<SharedTopology>,
        watchers: Watchers,
        stopping: CancellationToken,
    ) -> Self {
        let (metrics, watch_metrics) = (MethodMetrics::new("Topology"), MethodMetrics::new("WatchTopology"));
        Self { topology, watchers, stopping, metrics, watch_metrics }
    }

    fn show<T>(&self, shape: impl FnOnce(&SharedTopology) -> T) -> Response<T> {
        let started = Instant::now();
        let topology = self.topology.borrow().clone();
        let response = Response::new(shape(&topology));
        self.metrics.record(Code::Ok, started.elapsed());
        response
    }
}

#[tonic::async_trait]
impl Cluster for TopologyService {
    type WatchTopologyStream = BoxStream<'static, Result<v1::TopologyEvent, Status>>;

    async fn topology(
        &self,
        _request: Request<v1::TopologyRequest>,
    ) -> Result<Response<v1::TopologyResponse>, Status> {
        Ok(self.show(|topology| topology_views::to_v1(topology)))
    }

    async fn watch_topology(
        &self,
        _request: Request<v1::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        let started = Instant::now();
        let admitted = self.watchers.admit().map_err(Status::from);
        let code = admitted.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.watch_metrics.record(code, started.elapsed());
        let permit = admitted?;
        let (out, told) = mpsc::channel(QUEUE_EVENTS_MAX);
        tokio::spawn(topology_watch::follow(self.topology.clone(), out, self.stopping.clone()));
        let events = stream::unfold((told, permit), |(mut told, permit)| async move {
            let event = told.recv().await?;
            Some((event.map_err(Status::from), (told, permit)))
        });
        Ok(Response::new(events.boxed()))
    }
}

#[tonic::async_trait]
impl Gateway for TopologyService {
    async fn topology(
        &self,
        _request: Request<zeebe::TopologyRequest>,
    ) -> Result<Response<zeebe::TopologyResponse>, Status> {
        Ok(self.show(|topology| topology_views::to_zeebe(topology)))
    }
}
