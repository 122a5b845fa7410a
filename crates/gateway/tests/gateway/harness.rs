//! A gateway in this process in front of a fake cluster, and clients for its ports.

use std::time::Duration;

use bytes::Bytes;
use evenkeel_gateway::{Addresses, Gateway, Options};
use evenkeel_protocol::partition_of;
use evenkeel_protocol::v1::cluster_client::ClusterClient;
use evenkeel_protocol::v1::records_client::RecordsClient;
use evenkeel_protocol::v1::{PutRequest, TopologyRequest, TopologyResponse};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::{ErrorInfo, StatusExt};

use crate::fake_cluster::{BROKERS, FakeCluster};

/// Long enough for anything that should happen, short enough for a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Harness {
    pub cluster: FakeCluster,
    pub addresses: Addresses,
    pub channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), evenkeel_gateway::GatewayError>>,
}

impl Harness {
    pub async fn start(partitions: u32) -> Self {
        Self::with_options(partitions, |_| ()).await
    }

    /// A running gateway that has heard every broker.
    pub async fn with_options(partitions: u32, change: impl FnOnce(&mut Options)) -> Self {
        let cluster = FakeCluster::start(partitions).await;
        let mut options = Options::default();
        options.cluster.brokers.clone_from(&cluster.contacts);
        (options.network.port, options.network.api_port, options.network.monitoring_port) = (0, 0, 0);
        change(&mut options);
        let gateway = Gateway::bind(options).await.unwrap();
        let addresses = gateway.addresses();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(gateway.serve(async {
            let _ = stopped.await;
        }));
        let channel = Endpoint::from_shared(format!("http://{}", addresses.grpc)).unwrap().connect_lazy();
        let harness = Self { cluster, addresses, channel, stop: Some(stop), running };
        harness
            .until_topology(|view| view.brokers.iter().filter(|b| b.reachable).count() == BROKERS as usize)
            .await;
        harness
    }

    pub fn records(&self) -> RecordsClient<Channel> {
        RecordsClient::new(self.channel.clone()).max_encoding_message_size(64 << 20)
    }

    /// A connection of its own.
    pub fn new_channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addresses.grpc)).unwrap().connect_lazy()
    }

    pub async fn topology(&self) -> TopologyResponse {
        let mut client = ClusterClient::new(self.channel.clone());
        client.topology(TopologyRequest {}).await.unwrap().into_inner()
    }

    /// Returns when the gateway's topology satisfies `condition`.
    pub async fn until_topology(&self, condition: impl Fn(&TopologyResponse) -> bool) {
        let seen = async {
            while !condition(&self.topology().await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("the topology should have come to this");
    }

    pub async fn until_leader(&self, partition: u32, leader: Option<u64>) {
        self.until_topology(|view| view.partitions[partition as usize - 1].leader == leader).await;
    }

    /// A key of `partition`.
    pub fn key(&self, partition: u32, partitions: u32) -> Bytes {
        (0..)
            .map(|i| Bytes::from(format!("key-{i}")))
            .find(|key| partition_of(key, partitions).0 == partition)
            .unwrap()
    }

    pub async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(PATIENCE, &mut self.running).await.unwrap().unwrap().unwrap();
    }
}

/// Returns when `holds` does.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, held).await.is_ok(), "waited in vain for {what}");
}

pub fn put(key: &Bytes, value: &'static str) -> PutRequest {
    PutRequest {
        key: key.clone(),
        value: Bytes::from_static(value.as_bytes()),
        precondition: None,
        request_id: None,
    }
}

pub fn error_info(status: &Status) -> ErrorInfo {
    status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"))
}

pub struct HttpAnswer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl HttpAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub async fn http(method: &str, at: std::net::SocketAddr, path: &str) -> HttpAnswer {
    http_then(method, at, path, || ()).await
}

/// Does something between the answer's first bytes and the rest.
pub async fn http_then(
    method: &str,
    at: std::net::SocketAddr,
    path: &str,
    then: impl FnOnce(),
) -> HttpAnswer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let request =
        http::Request::builder().method(method).uri(format!("http://{at}{path}")).body(Empty::new()).unwrap();
    let (head, mut body) = client.request(request).await.unwrap().into_parts();
    let first = body.frame().await.map(|frame| frame.unwrap().into_data().unwrap()).unwrap_or_default();
    then();
    let body = [first, body.collect().await.unwrap().to_bytes()].concat().into();
    HttpAnswer { status: head.status.as_u16(), headers: head.headers, body }
}
