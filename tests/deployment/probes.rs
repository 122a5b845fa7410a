//! Probes mean different things: started, ready, alive.

use http::Method;

use crate::harness::{Answer, Cluster, Spec, http, wait_until};

async fn ask(port: u16, group: &str) -> Result<Answer, String> {
    http(Method::GET, &format!("http://127.0.0.1:{port}/actuator/health{group}")).await
}

async fn wait_for(port: u16, group: &str, status: &str) -> serde_json::Value {
    wait_until(&format!("{group} to be {status}"), async || {
        let answer = ask(port, group).await?;
        let body = answer.json();
        let code = if body["status"] == "UP" { 200 } else { 503 };
        assert_eq!(answer.status.as_u16(), code, "{body}");
        if body["status"] == status { Ok(body) } else { Err(body.to_string()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_quorum_is_alive_and_not_ready() {
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    cluster.wait_until_balanced().await;
    let port = cluster.ports.brokers[0].1;
    for group in ["", "/liveness", "/readiness", "/startup"] {
        wait_for(port, group, "UP").await;
    }
    cluster.kill(1);
    cluster.kill(2);
    let body = wait_for(port, "/readiness", "DOWN").await;
    assert_ne!(body["components"]["partitions"]["details"]["withoutLeader"], 0);
    for group in ["", "/liveness", "/startup"] {
        let answer = ask(port, group).await.unwrap();
        assert_eq!(answer.status, 200, "{group}: {}", answer.text());
    }
    cluster.restart(1);
    wait_for(port, "/readiness", "UP").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_brokers_is_alive_and_not_ready() {
    let mut cluster = Cluster::start(Spec::new(1, 1)).await;
    cluster.wait_until_balanced().await;
    let [.., port] = cluster.ports.gateways[0];
    wait_for(port, "/readiness", "UP").await;
    cluster.kill(0);
    let body = wait_for(port, "/readiness", "DOWN").await;
    assert_eq!(body["components"]["brokers"]["details"]["reachable"], 0);
    for group in ["/liveness", "/startup"] {
        wait_for(port, group, "UP").await;
    }
}
