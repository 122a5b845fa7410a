//! `GET /actuator/restart-risk`: what a restart of this broker would cost now, from what all brokers say of themselves.
//!
//! Every other broker is asked at once; one that does not answer in time is away. One that answers with a refusal
//! leaves the question open: it may be well, and nobody can tell what it holds.

use std::time::Duration;

use evenkeel_protocol::internal::v1::{BrokerStatus, WatchStatusRequest};
use evenkeel_protocol::{NodeId, RestartRisk, group_standings, restart_risk};
use futures::StreamExt;
use tonic::Code;

use crate::peer::{Peer, Peers};
use crate::status::StatusHub;

/// How long the other brokers may take to tell how they are.
const ANSWER_MS_MAX: u64 = 1_000;
/// Statuses that a broker sends to who asks: what it published last, and then what is so now.
const STATUSES_ASKED: usize = 2;

/// Why nobody can tell.
#[derive(Debug, thiserror::Error)]
#[error("broker {node} does not tell how it is: {detail}; see its log, and ask again")]
pub struct NotKnown {
    node: NodeId,
    detail: String,
}

/// Judges a restart of this broker. Who lacks more than `lag_bytes_max` has not caught up.
pub async fn own_restart_risk(
    status: &StatusHub,
    peers: &Peers,
    lag_bytes_max: u64,
) -> Result<RestartRisk, NotKnown> {
    let own = status.now();
    let node = NodeId(own.node_id);
    let asked = peers.iter().map(|peer| ask(peer));
    let answers: Result<Vec<Option<BrokerStatus>>, NotKnown> =
        futures::future::join_all(asked).await.into_iter().collect();
    let others = answers?.into_iter().flatten();
    // A broker of another cluster at a peer's address is not that peer.
    let others = others.filter(|told| told.cluster_id == own.cluster_id);
    let statuses: Vec<BrokerStatus> = others.chain(std::iter::once(own.clone())).collect();
    Ok(restart_risk(node, &group_standings(&statuses, lag_bytes_max)))
}

/// `None` when it does not answer.
async fn ask(peer: &Peer) -> Result<Option<BrokerStatus>, NotKnown> {
    let mut latest = None;
    let asking = async {
        let mut client = peer.broker_client();
        let mut statuses =
            client.watch_status(WatchStatusRequest::default()).await?.into_inner().take(STATUSES_ASKED);
        while let Some(status) = statuses.next().await {
            latest = Some(status?);
        }
        Ok(())
    };
    let asked: Result<Result<(), tonic::Status>, _> =
        tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), asking).await;
    match asked {
        Ok(Err(refused)) if !is_away(refused.code()) => {
            Err(NotKnown { node: peer.node, detail: refused.message().to_owned() })
        }
        _ => Ok(latest),
    }
}

/// What a broken or missing connection looks like.
fn is_away(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown)
}
