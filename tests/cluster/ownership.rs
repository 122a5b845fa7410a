//! Cisco ESC's contract on real processes: who owns how many records, and evening that out when asked.

use std::collections::BTreeMap;
use std::time::Instant;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, PATIENT_LEASE, Spec, http, leaders, wait_until};

const OWNERSHIP: &str = "/ESCManager/internal/ownership";
const RECORDS: usize = 360;

async fn put(cluster: &Cluster, what: &str) -> Answer {
    http(Method::PUT, &cluster.api(&format!("{OWNERSHIP}/{what}"))).await.unwrap()
}

async fn ownership(cluster: &Cluster) -> Result<Value, String> {
    http(Method::GET, &cluster.api(OWNERSHIP)).await.map(|answer| answer.json())
}

/// Records owned by UUID.
fn owned(ownership: &Value) -> BTreeMap<String, u64> {
    let brokers = ownership["brokers"].as_array().unwrap().iter();
    brokers.map(|b| (b["uuid"].as_str().unwrap().to_owned(), b["records"].as_u64().unwrap())).collect()
}

/// Waits until the gateway counts every record, and answers who owns how many.
async fn all_counted(cluster: &Cluster) -> BTreeMap<String, u64> {
    wait_until("every record to be counted", async || {
        let shown = ownership(cluster).await?;
        let owned = owned(&shown);
        if owned.values().sum::<u64>() == RECORDS as u64 { Ok(owned) } else { Err(shown.to_string()) }
    })
    .await
}

/// Asks for a rebalance that must be refused; what ESC is told. How long that took is printed, not judged: this machine may
/// have more to do than cores.
async fn refusal(cluster: &Cluster, code: u16) -> String {
    let asked = Instant::now();
    let answer = put(cluster, "rebalance").await;
    println!("refused with {code} after {:?}", asked.elapsed());
    assert_refused(&answer, code);
    answer.json()["error"]["error_message"].as_str().unwrap().to_owned()
}

fn assert_refused(answer: &Answer, code: u16) {
    let body = answer.json();
    assert_eq!((answer.status.as_u16(), &body["error"]["error_code"]), (code, &json!(code)), "{body}");
    assert!(body["error"]["error_message"].is_string(), "{body}");
}

/// By UUID: previous, requested, accepted, current.
type Account = BTreeMap<String, [u64; 4]>;

fn account_of(body: &Value) -> Account {
    let numbers = |account: &Value| {
        assert_eq!(account.as_object().unwrap().len(), 4, "{body}");
        ["previous_configs", "requested_unload", "accepted_unload", "current_configs"]
            .map(|name| account[format!("{name}_count")].as_u64().unwrap())
    };
    let account: Account =
        body.as_object().unwrap().iter().map(|(uuid, account)| (uuid.clone(), numbers(account))).collect();
    assert!(account.values().all(|[_, requested, accepted, _]| accepted <= requested), "{body}");
    let sums = [0, 3].map(|at: usize| account.values().map(|numbers| numbers[at]).sum::<u64>());
    assert_eq!(sums, [RECORDS as u64; 2], "{body}");
    account
}

/// What ESC tells its operators to do; every account given on the way, at least one.
async fn rebalance_until_nothing_is_left(cluster: &Cluster) -> Vec<Account> {
    let mut accounts = Vec::new();
    wait_until("nothing to be left to rebalance", async || {
        let answer = put(cluster, "rebalance").await;
        let body = answer.json();
        assert_eq!(answer.status, 200, "{body}");
        if body.get("message").is_none() {
            accounts.push(account_of(&body));
        } else {
            assert_eq!(body, json!({"message": "No configs found for rebalance."}));
            // It may come first as well: a broker that has just caught up is not known to have yet.
            if !accounts.is_empty() {
                return Ok(());
            }
        }
        Err(body.to_string())
    })
    .await;
    accounts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_broker_owns_nothing_until_ownership_is_rebalanced() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 12)).await;
    let client = cluster.client();
    let writes = (0..RECORDS).map(|i| client.put(format!("record-{i}"), "v", None));
    futures::future::try_join_all(writes).await.unwrap();
    let uuids: Vec<String> = all_counted(&cluster).await.into_keys().collect();
    assert_eq!(uuids.len(), 3, "each broker has a UUID of its own");

    cluster.kill(2);
    cluster.wait_until_abandoned(2).await;
    let spread = all_counted(&cluster).await;
    let shown = ownership(&cluster).await.unwrap();
    let lost = shown["brokers"][2]["uuid"].as_str().unwrap();
    assert_eq!((spread[lost], &shown["brokers"][2]["healthy"]), (0, &json!(false)));
    // Four partitions went to two brokers, two to each; a partition has about 30 records.
    assert!(spread.iter().filter(|(uuid, _)| *uuid != lost).all(|(_, records)| *records > 120), "{spread:?}");

    cluster.restart(2);
    cluster.wait_until_caught_up(2).await;
    let before = cluster.topology().await;
    assert_eq!(all_counted(&cluster).await, spread, "nothing moves until asked");

    assert_eq!(put(&cluster, "pause").await.json(), json!({"paused": true}));
    cluster.gateways[0].kill();
    cluster.gateways[0].restart();
    wait_until("the gateway to be back with every broker", async || {
        let shown = ownership(&cluster).await?;
        let healthy = shown["brokers"].as_array().unwrap().iter().all(|broker| broker["healthy"] == true);
        if healthy && shown["paused"].is_boolean() { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    assert!(refusal(&cluster, 409).await.contains("paused"));
    assert_eq!(ownership(&cluster).await.unwrap()["paused"], true, "the pause outlives the gateway");
    assert_eq!(leaders(&cluster.topology().await), leaders(&before));
    assert_eq!(put(&cluster, "resume").await.json(), json!({"paused": false}));
    assert_eq!(all_counted(&cluster).await, spread);

    let accounts = rebalance_until_nothing_is_left(&cluster).await;
    let first = &accounts[0];
    for (uuid, [previous, requested, ..]) in first {
        assert_eq!(*previous, spread[uuid], "{accounts:?}");
        assert_eq!(*requested > 0, uuid != lost, "only the overloaded are asked: {accounts:?}");
    }
    let evened = all_counted(&cluster).await;
    for (uuid, [.., current]) in accounts.last().unwrap() {
        assert_eq!(*current, evened[uuid], "{accounts:?}");
        // As even as partitions of about 30 records allow.
        assert!((90..=150).contains(current), "{accounts:?}");
    }
    assert_ne!(leaders(&cluster.topology().await), leaders(&before));

    cluster.kill(1);
    cluster.kill(2);
    cluster
        .wait_for("one broker left", |view| view.brokers.iter().filter(|b| b.reachable).count() == 1)
        .await;
    assert!(refusal(&cluster, 503).await.contains("less than two healthy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_broker_has_nobody_to_share_with() {
    let cluster = Cluster::start(Spec::new(1, 3)).await;
    assert!(refusal(&cluster, 501).await.contains("standalone"));
    let shown = ownership(&cluster).await.unwrap();
    assert_eq!(
        (&shown["brokers"][0]["healthy"], &shown["brokers"][0]["partitions_led"]),
        (&json!(true), &json!(3))
    );
}

/// ESC's own example: two nodes have 300 configurations each, the third has none.
#[tokio::test(flavor = "multi_thread")]
async fn a_third_broker_without_records_gets_a_hundred_of_each_that_has_three_hundred() {
    const PER_PARTITION: u32 = 100;
    let cluster = Cluster::start_balanced(Spec::new(3, 6)).await;
    let mut counts = [0; 6];
    let mut keys = Vec::new();
    for key in (0..).map(|i| format!("config-{i}")) {
        let partition = evenkeel_protocol::partition_of(key.as_bytes(), 6).0 as usize;
        if counts[partition - 1] < PER_PARTITION {
            counts[partition - 1] += 1;
            keys.push(key);
        }
        if counts == [PER_PARTITION; 6] {
            break;
        }
    }
    let client = cluster.client();
    futures::future::try_join_all(keys.into_iter().map(|key| client.put(key, "v", None))).await.unwrap();
    for (partition, to) in [(1, 0), (2, 1), (3, 0), (4, 0), (5, 1), (6, 1)] {
        cluster.give(partition, to).await;
    }
    wait_until("300, 300 and 0 records to be counted", async || {
        let shown = ownership(&cluster).await?;
        let records: Vec<u64> =
            shown["brokers"].as_array().unwrap().iter().map(|b| b["records"].as_u64().unwrap()).collect();
        if records == [300, 300, 0] { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let shown = ownership(&cluster).await.unwrap();
    let uuids = [0, 1, 2].map(|node: usize| shown["brokers"][node]["uuid"].as_str().unwrap().to_owned());

    let body = wait_until("owners to let go", async || {
        // A new leader that has not heard of its followers yet hands over to nobody, and says so.
        let body = put(&cluster, "rebalance").await.json();
        let accepted =
            |account: &Value| account["accepted_unload_count"].as_u64().is_some_and(|count| count > 0);
        let let_go = body.as_object().unwrap().values().any(accepted);
        if let_go { Ok(body) } else { Err(body.to_string()) }
    })
    .await;
    let account = |previous: u64, unloaded: u64| {
        json!({"previous_configs_count": previous, "requested_unload_count": unloaded,
            "accepted_unload_count": unloaded, "current_configs_count": 200})
    };
    let [one, two, three] = &uuids;
    let expected = json!({one: account(300, 100), two: account(300, 100), three: account(0, 0)});
    assert_eq!(body, expected);
    let again = put(&cluster, "rebalance").await;
    assert_eq!(
        (again.status.as_u16(), again.json()),
        (200, json!({"message": "No configs found for rebalance."}))
    );
    assert!(owned(&ownership(&cluster).await.unwrap()).values().all(|records| *records == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_ownership_goes_from_a_failed_broker_to_others_a_rebalance_is_refused() {
    let mut cluster = Cluster::start_balanced(Spec::new(3, 3).broker("raft.lease", PATIENT_LEASE)).await;
    cluster.kill(1);
    cluster.wait_for("partition 2 to have no leader", |view| !leaders(view).contains_key(&2)).await;
    assert!(refusal(&cluster, 409).await.contains("failover"));
    cluster.wait_until_abandoned(1).await;
    let answer = put(&cluster, "rebalance").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_cannot_be_told_apart_are_an_internal_error() {
    let mut cluster = Cluster::start(Spec::new(3, 1)).await;
    // Somebody has copied a data folder's identity.
    let identity = |node: usize| cluster.data_directory(node).join("identity.json");
    let read =
        |node: usize| -> Value { serde_json::from_slice(&std::fs::read(identity(node)).unwrap()).unwrap() };
    let mut copied = read(1);
    copied["broker_uuid"] = read(0)["broker_uuid"].clone();
    let file = identity(1);
    cluster.kill(1);
    std::fs::write(file, copied.to_string()).unwrap();
    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    assert_eq!(refusal(&cluster, 500).await, "Internal Error");
    let log = cluster.gateways[0].log();
    assert!(log.contains("UUID") && log.contains("give each its own data folder"), "{log}");
}
