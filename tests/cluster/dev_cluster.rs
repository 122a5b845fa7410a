//! `evenkeel dev`: a cluster for a person.

use std::collections::BTreeMap;
use std::path::Path;

use evenkeel_client::{Client, Options};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::harness::{Process, wait_until};

/// The first JSON object in the output, once it is there.
pub async fn announcement(dev: &mut Process) -> Value {
    wait_until("dev's announcement", async || {
        assert!(dev.is_running(), "{}", dev.log());
        let log = dev.log();
        let object = log.find('{').map(|start| &log[start..]).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_str(object).into_iter::<Value>();
        values.next().and_then(Result::ok).ok_or(log)
    })
    .await
}

fn pid(member: &Value) -> Pid {
    Pid::from_raw(i32::try_from(member["pid"].as_i64().unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_runs_a_cluster_leaves_a_killed_broker_down_until_told_and_stops_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let args = ["dev", "--ports", "auto", "--output", "json", "--partitions", "4", "--data-dir"];
    let args = args.into_iter().map(Into::into).chain([data.clone().into_os_string()]);
    let mut dev = Process::start("dev", args, &folder.path().join("dev.log"));
    let told = announcement(&mut dev).await;
    for file in ["gateway.toml", "broker-0.toml", "broker-1.toml", "broker-2.toml"] {
        let config = std::fs::read_to_string(data.join(file)).unwrap();
        toml::from_str::<toml::Table>(&config).unwrap();
    }
    assert_eq!(Path::new(told["data_dir"].as_str().unwrap()), data.canonicalize().unwrap());
    let client = Client::new(Options::new([told["gateway"]["grpc"].as_str().unwrap()])).unwrap();
    client.put("k", "v", None).await.unwrap();

    let broker = &told["brokers"][0];
    assert_eq!(broker["node_id"], 0);
    kill_process(pid(broker), Signal::KILL).unwrap();
    wait_until("dev to tell how the broker is started again", async || {
        let log = dev.log();
        if log.contains("stays down until you start it again") { Ok(()) } else { Err(log) }
    })
    .await;
    let reachable = async |expected: bool| {
        wait_until(&format!("broker 0 to be reachable = {expected}"), async || {
            let topology = client.topology().await.map_err(|error| error.to_string())?;
            let by_node: BTreeMap<u64, bool> =
                topology.brokers.iter().map(|broker| (broker.node_id, broker.reachable)).collect();
            let led = topology.partitions.iter().all(|partition| partition.leader.is_some());
            let is = by_node.get(&0) == Some(&expected) && led;
            if is { Ok(()) } else { Err(format!("{by_node:?}, every partition led: {led}")) }
        })
        .await;
    };
    reachable(false).await;

    let command: Vec<&str> =
        broker["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[0], env!("CARGO_BIN_EXE_evenkeel"));
    let mut again = Process::start("broker 0 again", &command[1..], &folder.path().join("again.log"));
    reachable(true).await;

    let gateway = pid(&told["gateway"]);
    dev.signal(Signal::TERM);
    assert_eq!(dev.ended().await.code(), Some(0));
    for member in [gateway, pid(&told["brokers"][1]), pid(&told["brokers"][2])] {
        assert!(test_kill_process(member).is_err(), "process {member:?} was left behind");
    }
    assert!(again.is_running(), "what dev did not start is not dev's to stop");
}
