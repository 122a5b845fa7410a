//! A server that answers etcd's `KV.Put` at once and stores nothing: what calls alone cost on this machine, when they are made as
//! etcd's are, over a connection for each client.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::etcd::{PutRequest, PutResponse};

#[derive(Clone)]
struct Kv;

impl NamedService for Kv {
    const NAME: &'static str = "etcdserverpb.KV";
}

impl Service<http::Request<Body>> for Kv {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(Grpc::new(ProstCodec::<PutResponse, PutRequest>::default()).unary(Put, request).await)
        })
    }
}

struct Put;

impl UnaryService<PutRequest> for Put {
    type Response = PutResponse;
    type Future = Ready<Result<Response<PutResponse>, Status>>;

    fn call(&mut self, _: Request<PutRequest>) -> Self::Future {
        ready(Ok(Response::new(PutResponse {})))
    }
}

/// Until it is killed.
pub async fn serve(port: u16) -> anyhow::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Server::builder().tcp_nodelay(true).add_service(Kv).serve(address).await?;
    Ok(())
}
