//! Whether a broker may be restarted: brokers and gateways agree, and change their minds with the cluster.

use std::path::Path;

use http::Method;
use serde_json::Value;

use crate::harness::{Cluster, PATIENT_LEASE, Process, Spec, http, reserve_ports, wait_until};

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

/// `evenkeel pre-stop` of broker 1 with these addresses, under way.
fn pre_stop(folder: &Path, name: &str, addresses: [(&str, String); 2]) -> Process {
    let options = addresses.into_iter().flat_map(|(option, url)| [option.to_owned(), url]);
    let words = ["pre-stop", "--broker", "1", "--for-at-most", "10m"].map(str::to_owned);
    Process::start(name, words.into_iter().chain(options), &folder.join(format!("{name}.log")))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_about_to_stop_waits_for_the_one_that_was_restarted_before_with_a_gateway_or_without() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3).broker("raft.lease", PATIENT_LEASE)).await;
    cluster.kill(2);
    until(&of_broker(&cluster, 1), "safe", false).await;

    let folder = tempfile::tempdir().unwrap();
    let [nobody] = reserve_ports().map(|port| format!("http://127.0.0.1:{port}"));
    let itself = format!("http://127.0.0.1:{}", cluster.ports.brokers[1].1);
    let gateway = cluster.api("");
    let by_gateway = [("--api", gateway), ("--broker-monitoring", nobody.clone())];
    let by_itself = [("--api", nobody), ("--broker-monitoring", itself)];
    let mut waiting = [("gateway", by_gateway), ("itself", by_itself)]
        .map(|(name, addresses)| pre_stop(folder.path(), name, addresses));
    for process in &mut waiting {
        wait_until(&format!("{} to tell that it waits", process.name), async || {
            assert!(process.is_running(), "{}", process.log());
            let log = process.log();
            if log.contains("broker 1 is not safe to restart") { Ok(()) } else { Err(log) }
        })
        .await;
    }
    cluster.restart(2);
    for process in &mut waiting {
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
        assert!(process.log().contains("broker 1 is safe to restart"), "{}", process.log());
    }
    // The mark is taken back: it may lead again.
    let brokers = http(Method::GET, &cluster.api("/cluster/v2/brokers")).await.unwrap().json();
    assert_eq!(brokers["brokers"][1]["drained"], false, "{brokers}");
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
