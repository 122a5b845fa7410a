//! Writes to etcd: its `KV.Put` over gRPC, with the two messages that it takes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::load::Recorder;

const KEYS: u64 = 1_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, PartialEq, prost::Message)]
pub struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Its header is not looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutResponse {}

/// Each client has a connection of its own, to the servers in turn.
pub async fn write(
    endpoints: Vec<String>,
    client: usize,
    value: Bytes,
    mut recorder: Recorder,
) -> anyhow::Result<Recorder> {
    let endpoint = &endpoints[client % endpoints.len()];
    let channel: Channel = Endpoint::from_shared(format!("http://{endpoint}"))?
        .tcp_nodelay(true)
        .timeout(CALL_TIMEOUT)
        .connect_lazy();
    let mut grpc = Grpc::new(channel);
    for number in 0u64.. {
        if recorder.is_stopped() {
            break;
        }
        let began = Instant::now();
        let key = Bytes::from(format!("k{client}-{}", number % KEYS));
        let request = PutRequest { key, value: value.clone() };
        recorder.record(began, put(&mut grpc, request).await).await;
    }
    Ok(recorder)
}

async fn put(grpc: &mut Grpc<Channel>, request: PutRequest) -> anyhow::Result<()> {
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
    grpc.unary(tonic::Request::new(request), path, codec).await?;
    Ok(())
}
