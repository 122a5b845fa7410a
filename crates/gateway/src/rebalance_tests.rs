use super::*;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use evenkeel_protocol::Epoch;
use evenkeel_protocol::internal::v1::{BrokerStatus, FollowerLag, ReplicaStatus};
use evenkeel_protocol::v1::{Health, Role};

use crate::cluster_view::{LeadersNow, cluster_view};
use crate::rebalance_record::{Run, RunHead, RunJson, Transition, balance, timestamp};
use crate::topology::{BrokerView, PartitionView, ReplicaView};

/// Two brokers with a replica of every partition; given are leader and primary of each.
fn topology(partitions: &[(Option<u64>, Option<u64>)]) -> Topology {
    let priority = |primary: Option<u64>, node: u64| match primary {
        Some(primary) => u32::from(primary == node) + 1,
        None => 1,
    };
    let broker = |node: u64| BrokerView {
        node: NodeId(node),
        host: "b".into(),
        port: 1,
        version: String::new(),
        uuid: String::new(),
        reachable: true,
        draining: false,
        drained: false,
        replicated_bytes_total: 0,
        facts: crate::topology::HostFacts::default(),
        replicas: (1..)
            .zip(partitions)
            .map(|(id, &(_, primary))| ReplicaView {
                partition: PartitionId(id),
                role: Role::Follower,
                health: Health::Healthy,
                priority: priority(primary, node),
                term: 4,
                lag_entries: Some(0),
                lag_bytes: Some(0),
                indices: crate::topology::Indices::default(),
            })
            .collect(),
    };
    Topology {
        cluster_size: 2,
        partitions_count: partitions.len() as u32,
        replication_factor: 2,
        priority_election: true,
        brokers: vec![broker(0), broker(1)],
        partitions: (1..)
            .zip(partitions)
            .map(|(id, &(leader, primary))| PartitionView {
                id: PartitionId(id),
                leader: leader.map(NodeId),
                epoch: leader.map(|node| Epoch { term: 4, node: NodeId(node) }),
                primary: primary.map(NodeId),
                replicas: vec![NodeId(0), NodeId(1)],
                records: 0,
                counted: true,
            })
            .collect(),
        system: None,
    }
}

fn decided(topology: &Topology, settings: &RunSettings) -> Decision {
    decide(topology, &cluster_view(topology, &LeadersNow::default()), settings).0
}

fn planned_of(topology: &Topology) -> Vec<PlannedPartition> {
    match decided(topology, &RunSettings::default()) {
        Decision::Run(planned) => planned,
        other => panic!("no run: {other:?}"),
    }
}

#[test]
fn only_partitions_that_their_primary_does_not_lead_take_part() {
    let skewed = topology(&[(Some(0), Some(0)), (Some(0), Some(1)), (None, Some(1)), (Some(1), None)]);
    let taking_part: Vec<_> = planned_of(&skewed).iter().map(|p| (p.partition.0, p.result)).collect();
    assert_eq!(taking_part, [(2, None), (3, Some(PartitionResult::NoLeader))]);
    let balanced = topology(&[(Some(0), Some(0)), (Some(1), Some(1)), (Some(1), None)]);
    assert_eq!(decided(&balanced, &RunSettings::default()), Decision::Balanced);
}

#[test]
fn partitions_asked_for_by_name_are_told_about_and_others_left_out() {
    let skewed = topology(&[(Some(0), Some(0)), (Some(0), Some(1)), (Some(0), Some(1))]);
    let settings =
        RunSettings { partitions: Some([PartitionId(1), PartitionId(2)].into()), ..RunSettings::default() };
    let Decision::Run(planned) = decided(&skewed, &settings) else { panic!("no run") };
    let told: Vec<_> = planned.iter().map(|p| (p.partition.0, p.result)).collect();
    assert_eq!(told, [(2, None), (1, Some(PartitionResult::AlreadyLeader))]);
}

#[test]
fn a_primary_that_lags_or_is_away_is_told_as_such() {
    let mut lagging = topology(&[(Some(0), Some(1))]);
    lagging.brokers[1].replicas[0].lag_bytes = Some(u64::MAX);
    assert_eq!(planned_of(&lagging)[0].result, Some(PartitionResult::LagTooHigh));
    let mut away = topology(&[(Some(0), Some(1))]);
    away.brokers[1].reachable = false;
    let planned = planned_of(&away);
    assert_eq!(planned[0].result, Some(PartitionResult::Unreachable));
    assert_eq!(planned[0].reason, Reason::PrimaryUnreachable);
}

#[test]
fn what_a_leader_says_of_its_followers_decides_before_what_the_gateway_sees() {
    let skewed = topology(&[(Some(0), Some(1))]);
    let told = |follower: FollowerLag| {
        let mut now = LeadersNow::default();
        now.take(&BrokerStatus {
            node_id: 0,
            replicas: vec![ReplicaStatus {
                partition_id: 1,
                role: Role::Leader.into(),
                term: 4,
                followers: vec![follower],
                ..ReplicaStatus::default()
            }],
            ..BrokerStatus::default()
        });
        let decided = decide(&skewed, &cluster_view(&skewed, &now), &RunSettings::default()).0;
        let Decision::Run(planned) = decided else { panic!("no run: {decided:?}") };
        (planned[0].result, planned[0].reason)
    };
    let near =
        FollowerLag { node_id: 1, entries: Some(1), bytes: Some(100), unreachable: false, silent: false };
    assert_eq!(told(near), (None, Reason::Misplaced));
    let cut_off = FollowerLag { unreachable: true, ..near };
    assert_eq!(told(cut_off), (Some(PartitionResult::Unreachable), Reason::PrimaryUnreachable));
    let hangs = FollowerLag { silent: true, ..near };
    assert_eq!(told(hangs), (Some(PartitionResult::Unreachable), Reason::PrimaryUnreachable));
    // Leaders look at the lag before they probe, so that is told first.
    let hangs_and_lags = FollowerLag { bytes: Some(u64::MAX), ..hangs };
    assert_eq!(told(hangs_and_lags), (Some(PartitionResult::LagTooHigh), Reason::PrimaryLagging));
    let unheard = FollowerLag { entries: None, bytes: None, ..near };
    assert_eq!(told(unheard), (Some(PartitionResult::NotReplicating), Reason::NotReplicating));
    let behind_the_log = FollowerLag { bytes: None, ..near };
    assert_eq!(told(behind_the_log), (Some(PartitionResult::LagTooHigh), Reason::PrimaryLagging));
}

#[test]
fn what_a_drained_broker_cannot_give_away_is_told_by_what_keeps_the_others() {
    let mut drained = topology(&[(Some(0), Some(0))]);
    drained.brokers[0].drained = true;
    let mut told = |lag_bytes: Option<u64>, reachable: bool| {
        let broker = &mut drained.brokers[1];
        broker.reachable = reachable;
        (broker.replicas[0].lag_entries, broker.replicas[0].lag_bytes) = (lag_bytes, lag_bytes);
        let planned = &planned_of(&drained)[0];
        assert_eq!(planned.reason, Reason::NoCandidate);
        planned.result
    };
    assert_eq!(told(Some(u64::MAX), true), Some(PartitionResult::LagTooHigh));
    assert_eq!(told(None, true), Some(PartitionResult::NotReplicating));
    assert_eq!(told(Some(0), false), Some(PartitionResult::Unreachable));
}

#[test]
fn a_drained_broker_that_the_request_names_is_not_called_the_leader() {
    let mut skewed = topology(&[(Some(0), Some(0))]);
    skewed.brokers[1].drained = true;
    let settings = RunSettings { targets: [(PartitionId(1), NodeId(1))].into(), ..RunSettings::default() };
    let Decision::Run(planned) = decided(&skewed, &settings) else { panic!("no run") };
    assert_eq!((planned[0].result, planned[0].reason), (Some(PartitionResult::Cancelled), Reason::Drained));
}

#[test]
fn a_rebalance_that_cannot_work_is_refused_with_the_reason() {
    let mut unreachable = topology(&[(Some(0), Some(1))]);
    for broker in &mut unreachable.brokers {
        broker.reachable = false;
    }
    assert_eq!(refused(&unreachable, Policy::Records), Some(RefusedBecause::NoBroker));

    let mut switched_off = topology(&[(Some(0), Some(1))]);
    switched_off.priority_election = false;
    assert_eq!(refused(&switched_off, Policy::Primary), Some(RefusedBecause::PriorityElectionDisabled));
    assert_eq!(refused(&switched_off, Policy::EvenCount), None);

    let no_primary = topology(&[(Some(0), None), (Some(1), None)]);
    assert_eq!(refused(&no_primary, Policy::Primary), Some(RefusedBecause::NoPrimary));
}

fn outcome(result: PartitionResult, reason: Option<Reason>) -> Outcome {
    Outcome {
        result,
        reason,
        detail: String::new(),
        from: Some(NodeId(0)),
        to: Some(NodeId(1)),
        leader: Some(NodeId(1)),
        frozen_us: Some(2_500),
        phases: Some(Phases { probe_us: 400, catch_up_us: 12_000, freeze_us: 1_000, election_us: 1_500 }),
    }
}

#[test]
fn a_run_is_completed_only_when_every_partition_is_well_led() {
    use PartitionResult::{AlreadyLeader, Cancelled, LagTooHigh, Transferred};
    let table = [
        ([Transferred, AlreadyLeader], None, false, RunResult::Completed),
        ([Transferred, AlreadyLeader], None, true, RunResult::Completed),
        ([Transferred, LagTooHigh], None, false, RunResult::Failed),
        ([Transferred, Cancelled], None, true, RunResult::Cancelled),
        ([Transferred, Cancelled], Some(Reason::BudgetSpent), false, RunResult::Cancelled),
        ([Transferred, Cancelled], Some(Reason::PriorityElectionDisabled), false, RunResult::Failed),
    ];
    for (results, reason, cancel_requested, expected) in table {
        let outcomes = results.map(|result| outcome(result, reason));
        assert_eq!(RunResult::of(&outcomes.each_ref()[..], cancel_requested), expected, "{results:?}");
    }
}

#[test]
fn a_run_has_the_wire_shape_of_the_cluster_api() {
    let skewed = topology(&[(Some(0), Some(1))]);
    let head = RunHead {
        id: 7,
        started_at: timestamp(SystemTime::UNIX_EPOCH),
        settings: RunSettings::default(),
        fingerprint: "00ff".into(),
        cancel_requested: false,
        finished_at: None,
        result: None,
        results: BTreeMap::new(),
    };
    let begun = Transition::Begun(PartitionId(1));
    let run = Run::assemble(head.clone(), planned_of(&skewed), [begun.clone()]);
    let shown = serde_json::to_value(balance(&skewed, Some(&run), None)).unwrap();
    assert_eq!(shown["state"], "BALANCING");
    assert_eq!(shown["partitions"][0]["state"], "TRANSFERRING");
    assert_eq!(shown["lastCompletedRebalance"], serde_json::Value::Null);
    assert_eq!(shown["runningRebalance"]["partitions"][0]["progress"], "TRANSFERRING");
    assert!(shown["runningRebalance"].get("result").is_none());

    let finished = RunHead {
        finished_at: Some(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1))),
        result: Some(RunResult::Completed),
        ..head
    };
    let ended =
        Transition::Ended(PartitionId(1), outcome(PartitionResult::Transferred, Some(Reason::Misplaced)));
    let run = Run::assemble(finished, planned_of(&skewed), [begun, ended]);
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
            "lagEntries": 0,
            "lagBytes": 0,
            "from": "0",
            "to": "1",
            "gapMs": 2.5,
            "phases": {"probeMs": 0.4, "catchUpMs": 12.0, "freezeMs": 1.0, "electionMs": 1.5},
            "reason": "MISPLACED",
            "detail": null,
        }],
        "finishedAt": "1970-01-01T00:00:01.000Z",
        "result": "COMPLETED",
        "policy": "primary",
        "plan": "00ff",
    });
    assert_eq!(serde_json::to_value(RunJson::of(&run)).unwrap(), expected);
    let shown = serde_json::to_value(balance(&skewed, None, Some(&run))).unwrap();
    assert_eq!(
        (shown["state"].as_str(), shown["partitions"][0]["state"].as_str()),
        (Some("UNBALANCED"), Some("UNBALANCED"))
    );
}

#[test]
fn every_answer_has_a_result_name_and_names_serialize_as_metrics_label_them() {
    let answers: Vec<StepDown> = (0..).map_while(|number| StepDown::try_from(number).ok()).collect();
    assert!(answers.contains(&StepDown::NotReplicating), "all of them: {answers:?}");
    for answer in answers {
        let (result, _) = result_of(answer);
        assert_eq!(serde_json::to_value(result).unwrap(), result.name());
        if !matches!(answer, StepDown::Transferred | StepDown::AlreadyLeader) {
            assert!(!result.is_success(), "{answer:?}");
        }
    }
}

#[test]
fn what_a_leader_says_of_itself_keeps_its_name_and_is_asked_again() {
    for (answer, name) in [
        (StepDown::LeaderInitializing, "LEADER_INITIALIZING"),
        (StepDown::PauseFailed, "PAUSE_FAILED"),
        (StepDown::NotReplicating, "NOT_REPLICATING"),
        (StepDown::TransferInProgress, "TRANSFER_IN_PROGRESS"),
        (StepDown::ReplicationTimedOut, "REPLICATION_TIMED_OUT"),
    ] {
        let (result, _) = result_of(answer);
        assert_eq!(result.name(), name);
        assert!(result.is_worth_a_retry(), "{name}");
    }
}

#[test]
fn outcomes_stored_before_phases_were_told_stay_readable() {
    let told = outcome(PartitionResult::Transferred, None);
    let mut stored = serde_json::to_value(&told).unwrap();
    assert_eq!(serde_json::from_value::<Outcome>(stored.clone()).unwrap(), told);
    stored.as_object_mut().unwrap().remove("phases").unwrap();
    let read: Outcome = serde_json::from_value(stored).unwrap();
    assert_eq!(read, Outcome { phases: None, ..told });
}
