//! The client's watch of the topology against a gateway whose streams break as told.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use evenkeel_client::v1::cluster_server::{Cluster, ClusterServer};
use evenkeel_client::v1::topology_event::Event;
use evenkeel_client::v1::*;
use evenkeel_client::{Client, Options};
use futures::Stream;
use parking_lot::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

/// What one watch delivers, to its end.
type Script = Vec<Result<TopologyEvent, Status>>;
type Events = Pin<Box<dyn Stream<Item = Result<TopologyEvent, Status>> + Send>>;

#[derive(Clone, Default)]
struct Gateway {
    /// Of the watches opened one after another; an error refuses the opening.
    watches: Arc<Mutex<VecDeque<Result<Script, Status>>>>,
}

#[tonic::async_trait]
impl Cluster for Gateway {
    type WatchTopologyStream = Events;

    async fn topology(&self, _: Request<TopologyRequest>) -> Result<Response<TopologyResponse>, Status> {
        Ok(Response::new(TopologyResponse::default()))
    }

    async fn watch_topology(&self, _: Request<WatchTopologyRequest>) -> Result<Response<Events>, Status> {
        let script = self.watches.lock().pop_front();
        match script {
            Some(script) => Ok(Response::new(Box::pin(futures::stream::iter(script?)))),
            None => Ok(Response::new(Box::pin(futures::stream::pending()))),
        }
    }
}

async fn client(watches: impl IntoIterator<Item = Result<Script, Status>>) -> Client {
    let gateway = Gateway { watches: Arc::new(Mutex::new(watches.into_iter().collect())) };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(ClusterServer::new(gateway))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    Client::new(Options::new([address])).unwrap()
}

fn snapshot(partitions_count: u32) -> TopologyEvent {
    let view = TopologyResponse { partitions_count, ..TopologyResponse::default() };
    TopologyEvent { event: Some(Event::Snapshot(view)) }
}

fn leader(term: u64) -> TopologyEvent {
    let epoch = Some(Epoch { term, node_id: 1 });
    let changed = LeaderChanged { partition_id: 1, leader: Some(1), epoch };
    TopologyEvent { event: Some(Event::LeaderChanged(changed)) }
}

#[tokio::test]
async fn a_watch_that_breaks_begins_anew_with_a_snapshot() {
    let unknown = TopologyEvent { event: None };
    let client = client([
        Ok(vec![Ok(snapshot(1)), Ok(leader(2)), Ok(unknown), Err(Status::unavailable("stopping"))]),
        Err(Status::unavailable("still starting")),
        Ok(vec![Ok(snapshot(3))]),
        Ok(vec![Ok(snapshot(4)), Ok(leader(9))]),
    ])
    .await;
    let mut watch = client.watch_topology().await.unwrap();
    for expected in [snapshot(1), leader(2), snapshot(3), snapshot(4), leader(9)] {
        assert_eq!(Some(watch.next().await.unwrap()), expected.event);
    }
}

#[tokio::test]
async fn a_refusal_that_no_retry_can_help_ends_the_watch() {
    let client = client([Ok(vec![Ok(snapshot(1)), Err(Status::unimplemented("an older gateway"))])]).await;
    let mut watch = client.watch_topology().await.unwrap();
    watch.next().await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::Unimplemented);
}
