//! Whether a broker may be restarted: brokers and gateways agree, and change their minds with the cluster.

use http::Method;
use serde_json::Value;

use crate::harness::{Cluster, Spec, http, wait_until};

fn of_broker(cluster: &Cluster, node: usize) -> String {
    format!("http://127.0.0.1:{}/actuator/restart-risk", cluster.ports.brokers[node].1)
}

fn of_gateway(cluster: &Cluster, node: u64) -> String {
    cluster.api(&format!("/cluster/v2/brokers/{node}/restart-risk"))
}

async fn risk(url: &str) -> Value {
    let answer = http(Method::GET, url).await.unwrap();
    assert_eq!(answer.status, 200, "{url}: {}", answer.text());
    answer.json()
}

async fn until(url: &str, member: &str, expected: bool) -> Value {
    wait_until(&format!("{member} = {expected} at {url}"), async || {
        let answer = http(Method::GET, url).await?;
        let told = answer.json();
        if told[member] == expected { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    risk(url).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_broker_is_away_no_other_may_be_restarted() {
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    cluster.wait_until_balanced().await;
    for node in 0..3 {
        let by_broker = until(&of_broker(&cluster, node), "safe", true).await;
        let by_gateway = until(&of_gateway(&cluster, node as u64), "safe", true).await;
        assert_eq!(by_broker["nodeId"], node);
        for told in [&by_broker, &by_gateway] {
            // Three partitions and the system group.
            assert_eq!(told["partitions"].as_array().map(Vec::len), Some(4), "{told}");
            let pauses = |group: &&Value| group["pauses"] == true && group["partitionId"] != 0;
            assert_eq!(told["partitions"].as_array().unwrap().iter().filter(pauses).count(), 1, "{told}");
        }
    }

    cluster.kill(2);
    let by_broker = until(&of_broker(&cluster, 0), "safe", false).await;
    let by_gateway = until(&of_gateway(&cluster, 0), "safe", false).await;
    for told in [&by_broker, &by_gateway] {
        for group in told["partitions"].as_array().unwrap() {
            assert_eq!(
                (&group["reason"], &group["losesAvailability"]),
                (&"NO_MAJORITY".into(), &true.into())
            );
        }
        assert!(told["verdict"].as_str().unwrap().contains("start broker 2 first"), "{told}");
    }
    // The one that is away may be restarted, once what it led has new leaders, and is not back.
    let away = until(&of_gateway(&cluster, 2), "safe", true).await;
    assert_eq!((&away["safe"], &away["recovered"]), (&true.into(), &false.into()), "{away}");

    cluster.restart(2);
    until(&of_gateway(&cluster, 2), "recovered", true).await;
    until(&of_gateway(&cluster, 0), "safe", true).await;
    until(&of_broker(&cluster, 0), "safe", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_known_is_a_problem() {
    let cluster = Cluster::start(Spec::new(3, 1)).await;
    cluster.wait_until_balanced().await;
    for node in ["7", "one"] {
        let url = cluster.api(&format!("/cluster/v2/brokers/{node}/restart-risk"));
        let answer = http(Method::GET, &url).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (404, &"UNKNOWN_BROKER".into()));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    let mut cluster = cluster;
    (0..3).for_each(|node| cluster.kill(node));
    let url = of_gateway(&cluster, 0);
    wait_until("the gateway to know nothing", async || {
        let answer = http(Method::GET, &url).await?;
        match answer.status.as_u16() {
            503 if answer.json()["reason"] == "NOT_KNOWN" => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
}
