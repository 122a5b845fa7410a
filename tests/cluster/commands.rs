//! The operator's commands against a running cluster.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Cluster, Spec, evenkeel, evenkeel_with};

/// Runs a command on this cluster.
async fn run(cluster: &Cluster, args: &[&str]) -> Output {
    run_with(&[], cluster, args).await
}

/// The same with these variables.
async fn run_with(environment: &[(&str, String)], cluster: &Cluster, args: &[&str]) -> Output {
    let gateway = format!("127.0.0.1:{}", cluster.ports.gateways[0][0]);
    let (api, monitoring) = (cluster.api(""), cluster.monitoring(""));
    let place = ["--gateway", &gateway, "--api", &api, "--monitoring", &monitoring];
    evenkeel_with(environment, args.iter().chain(&place).copied()).await
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_tells_it_as_data_too() {
    let cluster = Cluster::start_balanced(Spec::new(3, 3)).await;
    let as_json = [("EVENKEEL_OUTPUT", "json".to_owned())];
    for (words, member, expected) in [
        (&["put", "a", "1"][..], "version", json!(1)),
        (&["get", "a"], "value", json!("1")),
        (&["delete", "a"], "existed", json!(true)),
        (&["delete", "a"], "existed", json!(false)),
        (&["rebalance"], "rebalanceId", Value::Null),
        (&["rebalance", "cancel"], "wasRunning", json!(false)),
        (&["drain", "0"], "leaders", json!(0)),
        (&["undrain", "0"], "drained", json!(false)),
        (&["pause"], "paused", json!(true)),
        (&["resume"], "paused", json!(false)),
    ] {
        let text = printed(&run_with(&as_json, &cluster, words).await);
        let told: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"));
        assert_eq!(told.get(member), Some(&expected), "{words:?}: {text}");
    }
    let as_yaml = printed(&run(&cluster, &["put", "a", "1", "--output", "yaml"]).await);
    assert!(as_yaml.lines().any(|line| line == "version: 1"), "{as_yaml}");
    let checked = printed(&run(&cluster, &["config", "print", "gateway", "--output", "json"]).await);
    assert_eq!(serde_json::from_str::<Value>(&checked).unwrap()["network"]["api_port"], 8080);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_write_read_show_the_skew_and_rebalance_it() {
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    cluster.wait_until_balanced().await;
    printed(&run(&cluster, &["put", "order-1", "paid"]).await);
    assert_eq!(printed(&run(&cluster, &["get", "order-1"]).await).trim_end(), "paid");
    assert!(printed(&run(&cluster, &["list", "--prefix", "order-"]).await).contains("order-1"));
    let noop = run(&cluster, &["rebalance"]).await;
    assert!(printed(&noop).contains("nothing to move"));

    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    cluster.restart(0);
    cluster.wait_until_caught_up(0).await;
    assert!(printed(&run(&cluster, &["status"]).await).contains("1 of 3 leaders are not on their primary"));
    let status: Value =
        serde_json::from_str(&printed(&run(&cluster, &["status", "--output", "json"]).await)).unwrap();
    assert!(status.is_object());

    let dry_run = printed(&run(&cluster, &["rebalance", "--dry-run"]).await);
    assert!(dry_run.contains("would move 1 of 3 partitions; plan "), "{dry_run}");
    let offered = dry_run.lines().last().unwrap().split_once("evenkeel ").unwrap().1;
    let just_this: Vec<&str> = offered.split_whitespace().chain(["--output", "json"]).collect();
    let run_json = printed(&run(&cluster, &just_this).await);
    let moved: Value = serde_json::from_str(&run_json).unwrap();
    assert_eq!((&moved["result"], moved["partitions"].as_array().unwrap().len()), (&"COMPLETED".into(), 1));
    cluster.wait_until_balanced().await;
    let id = moved["rebalanceId"].to_string();
    for (words, expected) in [
        (&["rebalance", "--show", &id][..], "TRANSFERRED"),
        (&["rebalance", "--history"], "TRANSFERRED 1"),
        (&["rebalance", "--cancel"], "no rebalance was under way"),
        (&["pause"], "paused"),
    ] {
        let text = printed(&run(&cluster, words).await);
        assert!(text.contains(expected), "{words:?}: {text}");
    }
    let refused = run(&cluster, &["rebalance"]).await;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("ownership is paused"), "{told}");
    printed(&run(&cluster, &["resume"]).await);
    assert!(printed(&run(&cluster, &["rebalance"]).await).contains("nothing to move"));
    assert!(printed(&run(&cluster, &["status"]).await).contains("balanced: 1/1/1 leaders per broker"));

    printed(&run(&cluster, &["delete", "order-1"]).await);
    let missing = run(&cluster, &["get", "order-1"]).await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_broker_is_marked_and_leads_again_once_undrained_and_rebalanced() {
    let cluster = Cluster::start(Spec::new(3, 6)).await;
    cluster.wait_until_balanced().await;
    let drained = printed(&run(&cluster, &["drain", "1"]).await);
    assert!(drained.ends_with("kept free of leaderships until `evenkeel undrain 1`\n"), "{drained}");
    let status = printed(&run(&cluster, &["status"]).await);
    assert!(status.contains("broker 1 drained") && status.contains("3/0/3 leaders per broker"), "{status}");
    let status: Value =
        serde_json::from_str(&printed(&run(&cluster, &["status", "--output", "json"]).await)).unwrap();
    assert_eq!(status["brokers"][1]["drained"], true);
    // It leads nothing already.
    printed(&run(&cluster, &["drain", "1", "--wait"]).await);
    assert!(printed(&run(&cluster, &["undrain", "1"]).await).contains("evenkeel rebalance"));
    let watched = run(&cluster, &["rebalance", "--watch"]).await;
    assert!(printed(&watched).contains("balanced: 2 moved"), "{watched:?}");
    let lines = String::from_utf8(watched.stderr).unwrap();
    assert!(lines.contains("[2/2] partition "), "{lines}");
    cluster.wait_until_balanced().await;
    assert_eq!(run(&cluster, &["drain", "7"]).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn bench_rebalance_moves_exactly_what_is_misplaced_and_leaves_nothing_drained() {
    let cluster = Cluster::start(Spec::new(3, 6)).await;
    cluster.wait_until_balanced().await;
    let words = ["bench", "rebalance", "--rounds", "2", "--clients", "4", "--capacity-seconds", "1"];
    let report = printed(&run(&cluster, &[&words[..], &["--output", "json"]].concat()).await);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["failed"], &report["moved"]), (&0.into(), &4.into()), "{report}");
    assert_eq!((&report["misplaced"], &report["broken"]), (&4.into(), &Value::Array(Vec::new())), "{report}");
    assert!(report["write_gap_ms"]["max"].is_f64() && report["frozen_ms"]["max"].is_f64(), "{report}");
    let status = printed(&run(&cluster, &["status"]).await);
    assert!(status.contains("balanced: 2/2/2 leaders per broker") && !status.contains("drained"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_commands_exit_with_3_and_say_how_to_start_one() {
    let nobody = format!("127.0.0.1:{}", crate::harness::reserve_ports::<1>()[0]);
    let output = evenkeel(["get", "k", "--gateway", &nobody]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains(&nobody) && told.contains("evenkeel dev"), "{told}");
}
