//! The gRPC services that show the cluster: ours and the part of Zeebe's gateway that existing clients read.

use evenkeel_protocol::gateway_protocol::gateway_server::Gateway;
use evenkeel_protocol::v1::cluster_server::Cluster;
use evenkeel_protocol::{gateway_protocol as zeebe, v1};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::metric_definitions::MethodMetrics;
use crate::topology::SharedTopology;
use crate::topology_views;

/// Answers from the published topology; never waits.
pub(crate) struct TopologyService {
    topology: watch::Receiver<SharedTopology>,
    metrics: MethodMetrics,
}

impl TopologyService {
    pub(crate) fn new(topology: watch::Receiver<SharedTopology>) -> Self {
        Self { topology, metrics: MethodMetrics::new("Topology") }
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
    async fn topology(
        &self,
        _request: Request<v1::TopologyRequest>,
    ) -> Result<Response<v1::TopologyResponse>, Status> {
        Ok(self.show(|topology| topology_views::to_v1(topology)))
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
