//! Runs of `/cluster/v2/rebalance`: what is answered, what comes of them, and what is refused.

use std::collections::BTreeSet;

use evenkeel_protocol::internal::v1::{BrokerListRequest, broker_list_response};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Cluster, HELD, HeldRun, PATIENT_LEASE, RebalanceApi, Spec, http, leaders, leads_per_broker,
    partition_of, partitions_where, pending, run_of, terms, transferring, wait_until,
};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Waits until a dry run plans to move exactly these: followers have answered their new leaders.
async fn until_planned(api: &RebalanceApi, body: &Value, partitions: &[u32]) -> Value {
    wait_until(&format!("{partitions:?} to be planned"), async || {
        let planned = api.dry_run(body).await;
        if pending(&planned) == partitions { Ok(planned) } else { Err(planned.to_string()) }
    })
    .await
}

/// Checks that it is a problem of this kind; its body.
fn problem(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body = answer.json();
    assert_eq!((&body["status"], &body["type"]), (&json!(status), &json!("about:blank")), "{body}");
    assert_eq!(body["instance"], "/cluster/v2/rebalance", "{body}");
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    body
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// (partition, from, to) of what a run moved, or a dry run would move.
fn moves(run: &Value) -> Vec<(u64, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let partitions = run["partitions"].as_array().unwrap().iter();
    let moved = partitions.filter(|p| p["result"].is_null() || p["result"] == "TRANSFERRED");
    moved.map(|p| (p["partitionId"].as_u64().unwrap(), text(&p["from"]), text(&p["to"]))).collect()
}

/// The leaders that a finished run tells are those that the cluster has.
async fn assert_tells_the_truth(cluster: &Cluster, run: &Value) {
    let leaders = leaders(&cluster.topology().await);
    for partition in run["partitions"].as_array().unwrap() {
        let id = u32::try_from(partition["partitionId"].as_u64().unwrap()).unwrap();
        assert_eq!(partition["currentLeader"], leaders[&id].to_string(), "partition {id}: {run}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_accepted_with_or_without_body_carried_out_and_told_in_zeebes_shape() {
    let cluster = Cluster::start_balanced(Spec::new(3, 6)).await;
    let api = cluster.rebalance_api(0);
    let balance = api.balance().await;
    let expected = ["lastCompletedRebalance", "partitions", "runningRebalance", "state"];
    assert_eq!(keys(&balance), expected.into(), "{balance}");
    assert_eq!(balance["state"], "BALANCED");
    assert_eq!(
        (&balance["runningRebalance"], &balance["lastCompletedRebalance"]),
        (&json!(null), &json!(null))
    );
    let quiet = api.post(&json!({})).await;
    assert_eq!((quiet.status.as_u16(), quiet.header("location")), (202, None), "nothing to do is no run");

    let ways: [(&[(&str, &str)], &str); 4] = [
        (&[], ""),
        (&[("content-type", "text/plain")], ""),
        (&[("content-type", "application/x-www-form-urlencoded")], "{\"policy\": \"primary\"}"),
        (
            &[JSON],
            "{\"replicationLagThreshold\": 1048576, \"replicationTimeout\": \"PT10S\", \
            \"leaderWaitTimeout\": \"PT1M\", \"maxTransferAttempts\": 3}",
        ),
    ];
    for (number, (headers, body)) in (1..).zip(ways) {
        cluster.give(3, 0).await;
        cluster.give(6, 1).await;
        let unbalanced = api.balance().await;
        assert_eq!(unbalanced["state"], "UNBALANCED");
        assert_eq!(partitions_where(&unbalanced, |p| p["state"] == "UNBALANCED"), [3, 6], "{unbalanced}");
        until_planned(&api, &json!({}), &[3, 6]).await;

        let answer = api.post_as("", headers, body).await;
        assert_eq!(answer.status, 202, "{body:?}: {}", answer.text());
        assert_eq!(keys(&answer.json()), expected.into(), "the answer is the balance");
        let id = run_of(&answer).unwrap();
        assert_eq!(id, number, "ids count runs");
        let run = api.finished(id).await;
        assert_eq!(
            (&run["result"], &run["dryRun"], &run["cancelRequested"]),
            (&json!("COMPLETED"), &json!(false), &json!(false)),
            "{run}"
        );
        assert_eq!(moves(&run), [(3, "0".into(), "2".into()), (6, "1".into(), "2".into())]);
        assert_tells_the_truth(&cluster, &run).await;

        let balance = api.balance().await;
        assert_eq!((&balance["state"], &balance["lastCompletedRebalance"]), (&json!("BALANCED"), &run));
        assert!(balance["runningRebalance"].is_null(), "{balance}");
        assert_eq!(api.history().await[0]["rebalanceId"], id, "the newest first");
    }
    assert_shape(&api.balance().await);
    let history = api.history().await;
    assert_eq!(history.len(), 4);
    let (newest, run) = (&history[0], api.run(4).await);
    for told_by_both in ["startedAt", "finishedAt", "result", "cancelRequested", "policy", "plan"] {
        assert_eq!(newest[told_by_both], run[told_by_both], "{told_by_both}");
    }
    assert_eq!(newest["results"], json!({"TRANSFERRED": 2}));
    let unknown = http(Method::GET, &cluster.api("/cluster/v2/rebalance/5")).await.unwrap();
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}

fn assert_shape(balance: &Value) {
    for partition in balance["partitions"].as_array().unwrap() {
        let expected = ["currentLeader", "desiredLeader", "partitionId", "physicalTenantId", "state"];
        assert_eq!(keys(partition), expected.into());
        assert_eq!(
            (&partition["physicalTenantId"], &partition["state"]),
            (&json!("default"), &json!("BALANCED"))
        );
        assert_eq!(partition["currentLeader"], partition["desiredLeader"]);
    }
    let run = &balance["lastCompletedRebalance"];
    let zeebes =
        ["rebalanceId", "startedAt", "dryRun", "cancelRequested", "partitions", "finishedAt", "result"];
    assert_eq!(keys(run), zeebes.into_iter().chain(["policy", "plan"]).collect());
    for time in ["startedAt", "finishedAt"] {
        assert_is_time(run[time].as_str().unwrap());
    }
    for partition in run["partitions"].as_array().unwrap() {
        let zeebes =
            ["partitionId", "physicalTenantId", "currentLeader", "desiredLeader", "progress", "result"];
        let ours = ["lagEntries", "lagBytes", "from", "to", "gapMs", "phases", "reason", "detail"];
        assert_eq!(keys(partition), zeebes.into_iter().chain(ours).collect());
        assert_eq!((&partition["currentLeader"], &partition["desiredLeader"]), (&json!("2"), &json!("2")));
        assert_eq!(
            (&partition["progress"], &partition["result"]),
            (&json!("COMPLETED"), &json!("TRANSFERRED"))
        );
        assert_eq!((&partition["reason"], &partition["lagEntries"]), (&json!("MISPLACED"), &json!(0)));
        assert!(partition["gapMs"].as_f64().is_some_and(|gap| gap > 0.0), "{partition}");
        assert!(partition["detail"].as_str().is_some_and(|detail| detail.contains("moved")), "{partition}");
    }
}

/// RFC 3339, in UTC.
fn assert_is_time(text: &str) {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_equals_the_run_and_its_fingerprint_holds_until_the_topology_changes() {
    let cluster = Cluster::start_balanced(Spec::new(3, 9).broker("raft.lease", PATIENT_LEASE)).await;
    let api = cluster.rebalance_api(0);
    for (partition, to) in [(1, 1), (2, 2), (5, 0), (9, 1)] {
        cluster.give(partition, to).await;
    }
    let before = cluster.topology().await;
    let planned = until_planned(&api, &json!({}), &[1, 2, 5, 9]).await;
    assert_eq!(
        (&planned["dryRun"], &planned["rebalanceId"], &planned["result"]),
        (&json!(true), &json!(0), &json!(null)),
        "{planned}"
    );
    let others = partitions_where(&planned, |p| p["result"] == "ALREADY_LEADER");
    assert_eq!(others, [3, 4, 6, 7, 8], "{planned}");
    let again = api.dry_run(&json!({})).await;
    assert_eq!((&again["plan"], moves(&again)), (&planned["plan"], moves(&planned)), "nothing has changed");
    assert_eq!(terms(&cluster.topology().await), terms(&before), "a dry run moves nothing");
    assert!(api.history().await.is_empty() && api.balance().await["runningRebalance"].is_null());

    // Of another cluster than that which was looked at.
    cluster.give(4, 2).await;
    until_planned(&api, &json!({}), &[1, 2, 4, 5, 9]).await;
    for query in ["", "?dryRun=true"] {
        let refused = api.post_as(query, &[JSON], &json!({"plan": planned["plan"]}).to_string()).await;
        let body = problem(&refused, 409);
        assert_eq!(body["reason"], "PLAN_CHANGED", "{body}");
        assert!(body["detail"].as_str().unwrap().contains(planned["plan"].as_str().unwrap()), "{body}");
    }
    assert!(api.history().await.is_empty(), "nothing was started");

    let planned = api.dry_run(&json!({})).await;
    let run = api.run_to_the_end(&json!({"plan": planned["plan"]})).await;
    assert_eq!((&run["result"], &run["plan"]), (&json!("COMPLETED"), &planned["plan"]), "{run}");
    assert_eq!(moves(&run), moves(&planned), "what was planned was done");
    assert_tells_the_truth(&cluster, &run).await;
    let after = cluster.wait_until_balanced().await;
    assert_eq!(pending(&api.dry_run(&json!({})).await), [0; 0]);
    assert_eq!(problem(&api.post(&json!({"plan": planned["plan"]})).await, 409)["reason"], "PLAN_CHANGED");
    assert_eq!(terms(&cluster.topology().await), terms(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_understood_is_told_what_is_wrong_and_starts_nothing() {
    let cluster = Cluster::start_balanced(Spec::new(3, 3).broker("raft.lease", PATIENT_LEASE)).await;
    cluster.give(1, 1).await;
    let before = cluster.topology().await;
    let api = cluster.rebalance_api(0);
    let table = [
        ("", r#"{"replicationLagTreshold": 1}"#, "replicationLagTreshold"),
        ("", r#"{"replicationLagThreshold": -1}"#, "replicationLagThreshold"),
        ("", r#"{"replicationLagThreshold": "8MiB"}"#, "replicationLagThreshold"),
        ("", r#"{"replicationTimeout": "10s"}"#, "replicationTimeout"),
        ("", r#"{"leaderWaitTimeout": 10}"#, "leaderWaitTimeout"),
        ("", r#"{"pauseBudget": "PT"}"#, "pauseBudget"),
        ("", r#"{"maxTransferAttempts": 11}"#, "maxTransferAttempts"),
        ("", r#"{"maxConcurrent": 0}"#, "maxConcurrent"),
        ("", r#"{"policy": "fair"}"#, "policy"),
        ("", r#"{"partitions": [2, 4]}"#, "partition 4"),
        ("", r#"{"partitions": [0]}"#, "partition 0"),
        ("", r#"{"partitions": ["one"]}"#, "partitions"),
        ("", r#"{"targets": {"4": 1}}"#, "partition 4"),
        ("", r#"{"targets": {"1": 7}}"#, "targets"),
        ("", r#"{"targets": {"1": "seven"}}"#, "targets"),
        ("", r#"["policy"]"#, "object"),
        ("", "{", "body"),
        ("?dryRun=maybe", "", "dryRun"),
        ("?dryRun=true", r#"{"policy": "fair"}"#, "policy"),
        ("?dryRun=true", r#"{"partitions": [4]}"#, "partition 4"),
    ];
    for (query, body, named) in table {
        let answer = api.post_as(query, &[JSON], body).await;
        let told = problem(&answer, 400);
        assert!(told["detail"].as_str().unwrap().contains(named), "{query} {body}: {told}");
    }
    let long = "k".repeat(257);
    for key in ["", &long] {
        let told = problem(&api.post_as("", &[("idempotency-key", key)], "").await, 400);
        assert!(told["detail"].as_str().unwrap().contains("Idempotency-Key"), "{told}");
    }
    let balance = api.balance().await;
    assert_eq!((&balance["state"], &balance["runningRebalance"]), (&json!("UNBALANCED"), &json!(null)));
    assert!(api.history().await.is_empty(), "nothing was started");
    assert_eq!(terms(&cluster.topology().await), terms(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_run_is_active_others_are_refused_with_its_id_and_cancelling_it_ends_what_is_under_way() {
    let mut cluster = Cluster::start_balanced(HeldRun::spec(2)).await;
    let held = HeldRun::start(&mut cluster, 0).await;
    let location = format!("/cluster/v2/rebalance/{}", held.id);
    for gateway in [0, 1] {
        let api = cluster.rebalance_api(gateway);
        let refused = api.post(&json!({})).await;
        let body = problem(&refused, 409);
        assert_eq!((&body["reason"], &body["rebalanceId"]), (&json!("ACTIVE"), &json!(held.id)), "{body}");
        assert_eq!(refused.header("location"), Some(&*location));
        let balance = api.balance().await;
        assert_eq!(balance["state"], "BALANCING");
        assert_eq!(partitions_where(&balance, |p| p["state"] == "TRANSFERRING"), [held.first], "{balance}");
        assert_eq!(balance["runningRebalance"], api.run(held.id).await);
        let unfinished = &balance["runningRebalance"];
        assert!(unfinished.get("finishedAt").is_none() && unfinished.get("result").is_none(), "{balance}");
    }
    let actuator = cluster.rebalance().await;
    assert_eq!(
        (actuator.header("rebalance-status"), actuator.header("location")),
        (Some("running"), Some(&*location))
    );
    let ownership = cluster.api("/ESCManager/internal/ownership/rebalance");
    assert_eq!(
        http(Method::PUT, &ownership).await.unwrap().status,
        409,
        "runs of both kinds exclude each other"
    );

    // Through the gateway that does not carry it out.
    let api = cluster.rebalance_api(1);
    assert!(api.cancel().await);
    let run = api.wait_for(held.id, "to know that it is to stop", |run| run["cancelRequested"] == true).await;
    assert_eq!(transferring(&run), [held.first], "what is under way goes on: {run}");
    HeldRun::let_go(&mut cluster);
    let run = api.finished(held.id).await;
    assert_eq!((&run["result"], &run["cancelRequested"]), (&json!("CANCELLED"), &json!(true)), "{run}");
    assert_eq!(partition_of(&run, held.first)["result"], "TRANSFERRED", "{run}");
    assert_eq!(partitions_where(&run, |p| p["result"] == "CANCELLED"), held.others, "{run}");
    assert_tells_the_truth(&cluster, &run).await;
    assert!(!api.cancel().await, "there is none any more");
    assert_eq!(api.run(held.id).await, run, "and nothing happened to it");

    let run = api.run_to_the_end(&json!({})).await;
    assert_eq!(moves(&run).len(), HELD.len() - 1, "what was left, and by the other gateway: {run}");
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_refuses_runs_through_every_gateway_until_resumed() {
    let cluster =
        Cluster::start_balanced(Spec::new(3, 3).gateways(2).broker("raft.lease", PATIENT_LEASE)).await;
    cluster.give(1, 1).await;
    let [one, other] = [0, 1].map(|gateway| cluster.rebalance_api(gateway));
    until_planned(&one, &json!({}), &[1]).await;
    let before = cluster.topology().await;
    let ownership = |what: &str| cluster.api(&format!("/ESCManager/internal/ownership/{what}"));
    assert_eq!(http(Method::PUT, &ownership("pause")).await.unwrap().status, 200);
    for api in [&one, &other] {
        let body = problem(&api.post(&json!({})).await, 409);
        assert_eq!(body["reason"], "PAUSED", "{body}");
        let planned = api.dry_run(&json!({})).await;
        let partition = partition_of(&planned, 1);
        assert_eq!(
            (&partition["reason"], &partition["result"]),
            (&json!("PAUSED"), &json!("CANCELLED")),
            "{planned}"
        );
    }
    assert_eq!(cluster.rebalance().await.header("rebalance-status"), Some("refused"));
    assert!(one.history().await.is_empty());
    assert_eq!(terms(&cluster.topology().await), terms(&before));

    assert_eq!(http(Method::PUT, &ownership("resume")).await.unwrap().status, 200);
    assert_eq!(other.run_to_the_end(&json!({})).await["result"], "COMPLETED");
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_gives_the_same_run_whichever_gateway_is_asked_and_when() {
    const ROUNDS: usize = 12;
    let cluster = Cluster::start_balanced(Spec::new(3, 3).gateways(2)).await;
    let apis = [cluster.rebalance_api(0), cluster.rebalance_api(1)];
    for round in 1..=ROUNDS {
        cluster.give(1, 1 + round as u64 % 2).await;
        until_planned(&apis[0], &json!({}), &[1]).await;
        let key = format!("round {round}");
        let ask = |api: &RebalanceApi| {
            let (api, key) = (api.clone(), key.clone());
            // What a key is for: whoever got no answer in time asks again.
            async move {
                wait_until("an answer", async || {
                    let answer = api.post_as("", &[("idempotency-key", &key)], "").await;
                    if [503, 504].contains(&answer.status.as_u16()) { Err(answer.text()) } else { Ok(answer) }
                })
                .await
            }
        };
        let at_once = futures::future::join_all(apis.iter().chain(&apis).map(ask)).await;
        let id = run_of(&at_once[0]);
        for answer in &at_once {
            assert_eq!((answer.status.as_u16(), run_of(answer)), (202, id), "{}", answer.text());
        }
        assert_eq!(apis[1].finished(id.unwrap()).await["result"], "COMPLETED");
        // The cluster is balanced now; the key still names the run that did it.
        let late = ask(&apis[1]).await;
        assert_eq!((late.status.as_u16(), run_of(&late)), (202, id), "{}", late.text());
        assert_eq!(apis[0].history().await.len(), round, "one run a round");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stops_when_its_pause_budget_is_spent() {
    let cluster = Cluster::start_balanced(Spec::new(3, 9)).await;
    for partition in HELD {
        cluster.give(partition, 0).await;
    }
    let api = cluster.rebalance_api(0);
    until_planned(&api, &json!({}), &HELD).await;
    // One transfer takes more.
    let run = api.run_to_the_end(&json!({"pauseBudget": "PT0.000001S"})).await;
    assert_eq!((&run["result"], &run["cancelRequested"]), (&json!("CANCELLED"), &json!(false)), "{run}");
    assert_eq!(partitions_where(&run, |p| p["result"] == "TRANSFERRED").len(), 1, "{run}");
    let left = partitions_where(&run, |p| p["result"] == "CANCELLED" && p["reason"] == "BUDGET_SPENT");
    assert_eq!(left.len(), HELD.len() - 1, "{run}");
    assert_tells_the_truth(&cluster, &run).await;

    let run = api.run_to_the_end(&json!({"pauseBudget": "PT1M"})).await;
    assert_eq!((&run["result"], partitions_where(&run, |_| true)), (&json!("COMPLETED"), left), "{run}");
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_evens_out_what_it_is_about_with_the_fewest_moves() {
    let cluster = Cluster::start_balanced(Spec::new(3, 6)).await;
    // Partition 1 has as many records as all others together.
    let client = cluster.client();
    let keys = (0..).map(|i| format!("k{i}")).scan([0_u32; 6], |counts, key| {
        let at = evenkeel_protocol::partition_of(key.as_bytes(), 6).0 as usize - 1;
        let full = counts[at] == if at == 0 { 50 } else { 10 };
        counts[at] += u32::from(!full);
        (counts.iter().sum::<u32>() < 100 || !full).then_some((!full).then_some(key))
    });
    futures::future::try_join_all(keys.flatten().map(|key| client.put(key, "v", None))).await.unwrap();
    for (partition, to) in [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 2)] {
        cluster.give(partition, to).await;
    }
    let api = cluster.rebalance_api(0);
    let even_count = json!({"policy": "even-count"});
    wait_until("three moves to be planned", async || {
        let planned = api.dry_run(&even_count).await;
        if pending(&planned).len() == 3 { Ok(()) } else { Err(planned.to_string()) }
    })
    .await;
    let run = api.run_to_the_end(&even_count).await;
    assert_eq!((&run["result"], &run["policy"]), (&json!("COMPLETED"), &json!("even-count")), "{run}");
    assert!(partitions_where(&run, |p| p["reason"] != "UNEVEN").is_empty(), "{run}");
    assert_eq!(moves(&run).len(), 3, "{run}");
    assert_tells_the_truth(&cluster, &run).await;
    assert_eq!(leads_per_broker(&cluster.topology().await), [2, 2, 2]);

    // Whoever has partition 1 has enough.
    let owned = async || {
        let answer = http(Method::GET, &cluster.api("/ESCManager/internal/ownership")).await?.json();
        let brokers = answer["brokers"].as_array().unwrap().iter();
        let mut records: Vec<u64> = brokers.map(|broker| broker["records"].as_u64().unwrap()).collect();
        records.sort_unstable();
        Ok::<_, String>(records)
    };
    wait_until("all records to be counted", async || match owned().await? {
        records if records.iter().sum::<u64>() == 100 => Ok(()),
        records => Err(format!("{records:?}")),
    })
    .await;
    let by_records = json!({"policy": "records"});
    wait_until("a move to be planned", async || {
        let planned = api.dry_run(&by_records).await;
        if pending(&planned).is_empty() { Err(planned.to_string()) } else { Ok(()) }
    })
    .await;
    let run = api.run_to_the_end(&by_records).await;
    assert_eq!((&run["result"], &run["policy"]), (&json!("COMPLETED"), &json!("records")), "{run}");
    assert_eq!(moves(&run).len(), 1, "{run}");
    assert_tells_the_truth(&cluster, &run).await;
    wait_until("records to be spread as evenly as partitions allow", async || match owned().await? {
        records if records == [20, 30, 50] => Ok(()),
        records => Err(format!("{records:?}")),
    })
    .await;
    assert_eq!(api.run_to_the_end(&json!({})).await["result"], "COMPLETED");
    cluster.wait_until_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_hundred_runs_are_remembered_and_older_ones_leave_nothing_behind() {
    const KEPT: u64 = 100;
    const RUNS: u64 = KEPT + 3;
    let mut cluster = Cluster::start_balanced(Spec::new(3, 1)).await;
    cluster.kill(2);
    cluster.wait_until_abandoned(2).await;
    let api = cluster.rebalance_api(0);
    // Runs that have nothing to do but to be told about.
    for number in 1..=RUNS {
        let run = api.run_to_the_end(&json!({"targets": {"1": 2}})).await;
        assert_eq!((&run["rebalanceId"], &run["result"]), (&json!(number), &json!("FAILED")), "{run}");
    }
    wait_until("older runs to be forgotten", async || {
        let ids: Vec<u64> =
            api.history().await.iter().map(|run| run["rebalanceId"].as_u64().unwrap()).collect();
        if ids == (RUNS - KEPT + 1..=RUNS).rev().collect::<Vec<u64>>() {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    })
    .await;
    let forgotten = http(Method::GET, &cluster.api("/cluster/v2/rebalance/3")).await.unwrap();
    assert_eq!(forgotten.status, 404, "{}", forgotten.text());
    assert_eq!(api.run(4).await["rebalanceId"], 4);
    let plans = BrokerListRequest {
        prefix: "rebalance/plan/".into(),
        limit: 1000,
        bytes_max: 1 << 20,
        stale: true,
        ..Default::default()
    };
    let listed = cluster.broker_service(0).list(plans).await.unwrap().into_inner().result;
    let Some(broker_list_response::Result::Page(page)) = listed else { panic!("{listed:?}") };
    assert_eq!(page.records.len() as u64, KEPT, "one plan for each run");
}
