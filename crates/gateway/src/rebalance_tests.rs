use super::*;
use crate::topology::BrokerView;
use std::time::Duration;

fn topology(partitions: &[(Option<u64>, Option<u64>)]) -> Topology {
    Topology {
        cluster_size: 3,
        partitions_count: partitions.len() as u32,
        replication_factor: 3,
        priority_election: true,
        brokers: vec![BrokerView {
            node: NodeId(0),
            host: "b".into(),
            port: 1,
            version: String::new(),
            uuid: String::new(),
            reachable: true,
            draining: false,
            replicas: Vec::new(),
        }],
        partitions: (1..)
            .zip(partitions)
            .map(|(id, &(leader, primary))| PartitionView {
                id: PartitionId(id),
                leader: leader.map(NodeId),
                epoch: leader.map(|node| Epoch { term: 4, node: NodeId(node) }),
                primary: primary.map(NodeId),
                replicas: Vec::new(),
                records: 0,
                counted: true,
            })
            .collect(),
        system: None,
    }
}

fn contacted(decision: &Decision) -> Vec<u32> {
    match decision {
        Decision::Run(misplaced) => misplaced.iter().map(|m| m.partition.0).collect(),
        Decision::Balanced | Decision::Refused(_) => Vec::new(),
    }
}

#[test]
fn only_partitions_that_their_primary_does_not_lead_are_handed_over() {
    let skewed = topology(&[(Some(0), Some(0)), (Some(0), Some(1)), (None, Some(2)), (Some(1), None)]);
    assert_eq!(contacted(&decide(&skewed)), [2, 3]);
    let balanced = topology(&[(Some(0), Some(0)), (Some(1), Some(1)), (Some(1), None)]);
    assert_eq!(decide(&balanced), Decision::Balanced);
}

#[test]
fn a_rebalance_that_cannot_work_is_refused_with_the_reason() {
    let mut unreachable = topology(&[(Some(0), Some(1))]);
    unreachable.brokers[0].reachable = false;
    assert_eq!(decide(&unreachable), Decision::Refused(RefusedBecause::NoBroker));

    let mut switched_off = topology(&[(Some(0), Some(1))]);
    switched_off.priority_election = false;
    assert_eq!(decide(&switched_off), Decision::Refused(RefusedBecause::PriorityElectionDisabled));

    let no_primary = topology(&[(Some(0), None), (Some(1), None)]);
    assert_eq!(decide(&no_primary), Decision::Refused(RefusedBecause::NoPrimary));
}

fn outcome(result: PartitionResult) -> Outcome {
    Outcome {
        result,
        reason: None,
        detail: String::new(),
        from: Some(NodeId(0)),
        to: Some(NodeId(1)),
        frozen_us: Some(2_500),
    }
}

#[test]
fn a_run_is_completed_only_when_every_partition_is_well_led() {
    use PartitionResult::{AlreadyLeader, LagTooHigh, Transferred};
    let table = [
        ([Transferred, AlreadyLeader], RunResult::Completed),
        ([Transferred, LagTooHigh], RunResult::Failed),
    ];
    let misplaced: Vec<Misplaced> =
        topology(&[(Some(0), Some(1)), (Some(0), Some(1))]).partitions.iter().filter_map(misplaced).collect();
    for (results, expected) in table {
        let mut run = Run::new(1, &misplaced, SystemTime::UNIX_EPOCH);
        for (partition, result) in misplaced.iter().zip(results) {
            run.begin(partition.partition);
            run.end(partition.partition, outcome(result));
        }
        assert_eq!(run.finish(SystemTime::UNIX_EPOCH), expected);
    }
}

#[test]
fn a_run_has_the_wire_shape_of_the_cluster_api() {
    let skewed = topology(&[(Some(0), Some(1))]);
    let misplaced: Vec<Misplaced> = skewed.partitions.iter().filter_map(misplaced).collect();
    let mut run = Run::new(7, &misplaced, SystemTime::UNIX_EPOCH);
    run.begin(PartitionId(1));
    let shown = serde_json::to_value(balance(&skewed, Some(run.clone()), None)).unwrap();
    assert_eq!(shown["state"], "BALANCING");
    assert_eq!(shown["partitions"][0]["state"], "TRANSFERRING");
    assert_eq!(shown["lastCompletedRebalance"], serde_json::Value::Null);
    assert_eq!(shown["runningRebalance"]["partitions"][0]["progress"], "TRANSFERRING");
    assert!(shown["runningRebalance"].get("result").is_none());

    run.end(PartitionId(1), outcome(PartitionResult::Transferred));
    run.finish(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    let expected = serde_json::json!({
        "rebalanceId": 7,
        "startedAt": "1970-01-01T00:00:00.000Z",
        "dryRun": false,
        "cancelRequested": false,
        "partitions": [{
            "partitionId": 1,
            "physicalTenantId": "default",
            "currentLeader": "1",
            "desiredLeader": "1",
            "progress": "COMPLETED",
            "result": "TRANSFERRED",
            "from": "0",
            "to": "1",
            "gapMs": 2.5,
            "reason": null,
            "detail": null,
        }],
        "finishedAt": "1970-01-01T00:00:01.000Z",
        "result": "COMPLETED",
    });
    assert_eq!(serde_json::to_value(&run).unwrap(), expected);
    let shown = serde_json::to_value(balance(&skewed, None, Some(run))).unwrap();
    assert_eq!(
        (shown["state"].as_str(), shown["partitions"][0]["state"].as_str()),
        (Some("UNBALANCED"), Some("UNBALANCED"))
    );
}

#[test]
fn every_answer_has_a_result_name_and_names_serialize_as_metrics_label_them() {
    for number in 0..=12 {
        let (result, _) = result_of(StepDown::try_from(number).unwrap());
        assert_eq!(serde_json::to_value(result).unwrap(), result.name());
    }
}
