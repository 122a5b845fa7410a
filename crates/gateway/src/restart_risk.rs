//! `GET /cluster/v2/brokers/{node}/restart-risk`: what a restart of a broker would cost now, from what every broker says
//! when asked just now. The judgement is `protocol/src/restart_risk.rs`, as on the brokers themselves.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use evenkeel_protocol::internal::v1::{BrokerStatus, WatchStatusRequest};
use evenkeel_protocol::{NodeId, RestartRisk, group_standings, restart_risk};
use futures::StreamExt;
use serde_json::json;

use crate::broker_link::BrokerLink;
use crate::brokers_http::unknown;
use crate::http::{HttpState, problem_with};
use crate::planner::REPLICATION_LAG_BYTES_MAX;

/// How long brokers may take to tell how they are; who takes longer is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Statuses that a broker sends to who asks: what it published last, and then what is so now.
const STATUSES_ASKED: usize = 2;

/// Answers 200 whether it is safe or not: the body's `safe` tells.
pub(crate) async fn show(State(state): State<HttpState>, Path(node): Path<String>, uri: Uri) -> Response {
    let topology = state.topology.borrow().clone();
    let known = node.parse().map(NodeId).ok().filter(|node| topology.broker(*node).is_some());
    let Some(node) = known else { return unknown(&uri, &node) };
    let links = topology.brokers.iter().filter_map(|broker| state.router.links.get(broker.node));
    let statuses: Vec<BrokerStatus> =
        futures::future::join_all(links.map(|link| ask(link))).await.into_iter().flatten().collect();
    match judge(node, &statuses) {
        Some(risk) => Json(risk).into_response(),
        None => {
            let detail = format!(
                "broker {node} does not answer, and no broker that does names a replica of it, so what it holds is \
                 not known; start the brokers, then ask again"
            );
            problem_with(StatusCode::SERVICE_UNAVAILABLE, &uri, detail, json!({"reason": "NOT_KNOWN"}))
        }
    }
}

/// `None` when nobody tells which replicas the broker has.
fn judge(node: NodeId, statuses: &[BrokerStatus]) -> Option<RestartRisk> {
    let risk = restart_risk(node, &group_standings(statuses, REPLICATION_LAG_BYTES_MAX));
    let answers = statuses.iter().any(|status| status.node_id == node.0);
    (answers || !risk.partitions.is_empty()).then_some(risk)
}

/// What the broker said last in time, if it said anything.
async fn ask(link: &BrokerLink) -> Option<BrokerStatus> {
    let mut latest = None;
    let asking = async {
        let mut client = link.client();
        let Ok(statuses) = client.watch_status(WatchStatusRequest::default()).await else { return };
        let mut statuses = statuses.into_inner().take(STATUSES_ASKED);
        while let Some(Ok(status)) = statuses.next().await {
            latest = Some(status);
        }
    };
    // What was told until then counts.
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    latest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_is_judged_only_if_others_name_it() {
        assert_eq!(judge(NodeId(0), &[]), None);
        let alone = BrokerStatus { node_id: 0, ..BrokerStatus::default() };
        assert!(judge(NodeId(0), std::slice::from_ref(&alone)).is_some_and(|risk| risk.safe));
        assert_eq!(judge(NodeId(1), &[alone]), None);
    }
}
