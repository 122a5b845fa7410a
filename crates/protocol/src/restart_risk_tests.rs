use super::*;

const UP_TO_DATE: Standing = Standing::Working(LagVerdict::WithinLimit);
const LATE: Standing = Standing::Working(LagVerdict::TooHigh);
const SILENT: Standing = Standing::Working(LagVerdict::NotReplicating);

/// A partition whose replicas are on brokers 0, 1, 2 and so on.
fn group(id: u32, leader: Option<u64>, standings: &[Standing]) -> GroupStanding {
    GroupStanding {
        id: PartitionId(id),
        leader: leader.map(NodeId),
        replicas: (0..).map(NodeId).zip(standings.iter().copied()).collect(),
    }
}

/// Why, and whether it would lose availability and durability.
type Against = (Option<RiskReason>, bool, bool);

/// What one partition has against a restart of broker 0.
fn against(leader: Option<u64>, standings: &[Standing]) -> Against {
    let risk = restart_risk(NodeId(0), &[group(1, leader, standings)]);
    let group = &risk.partitions[0];
    assert_eq!(risk.safe, group.reason.is_none());
    assert_eq!(group.detail.is_some(), group.reason.is_some());
    (group.reason, group.loses_availability, group.loses_durability)
}

#[test]
fn a_restart_is_safe_where_the_others_are_a_majority_that_has_caught_up() {
    use RiskReason::{NoLeader, NoMajority, OnlyReplica, OthersLag};
    use Standing::{Away, Inactive, Stopping};
    let ok = UP_TO_DATE;
    let table: [(Option<u64>, &[Standing], Against); 15] = [
        (Some(0), &[ok, ok, ok], (None, false, false)),
        (Some(1), &[ok, ok, ok], (None, false, false)),
        // What broker 0 itself lacks is no reason against its restart.
        (Some(1), &[LATE, ok, ok], (None, false, false)),
        (Some(1), &[Away, ok, ok], (None, false, false)),
        (Some(0), &[ok], (Some(OnlyReplica), true, true)),
        (Some(0), &[ok, ok], (Some(NoMajority), true, true)),
        (Some(0), &[ok, Away, ok], (Some(NoMajority), true, true)),
        (Some(0), &[ok, Stopping, ok], (Some(NoMajority), true, true)),
        (Some(0), &[ok, Inactive, ok], (Some(NoMajority), true, true)),
        (None, &[ok, SILENT, SILENT], (Some(NoLeader), true, true)),
        (Some(0), &[ok, LATE, ok], (Some(OthersLag), false, true)),
        (Some(0), &[ok, SILENT, ok], (Some(OthersLag), false, true)),
        (Some(0), &[ok, Away, ok, ok, ok], (None, false, false)),
        (Some(0), &[ok, Away, LATE, ok, ok], (Some(OthersLag), false, true)),
        (Some(0), &[ok, Away, Inactive, ok, ok], (Some(NoMajority), true, true)),
    ];
    for (leader, standings, expected) in table {
        assert_eq!(against(leader, standings), expected, "led by {leader:?}: {standings:?}");
    }
}

#[test]
fn what_it_leads_pauses_and_it_has_recovered_once_its_replicas_take_part() {
    let ok = UP_TO_DATE;
    let groups = [
        group(0, Some(1), &[ok, ok, ok]),
        group(1, Some(0), &[ok, ok, ok]),
        group(2, Some(2), &[ok, ok, ok]),
        // No replica of broker 0.
        GroupStanding { replicas: vec![(NodeId(2), ok)], ..group(3, Some(2), &[]) },
    ];
    let risk = restart_risk(NodeId(0), &groups);
    assert!(risk.safe && risk.recovered);
    let pauses: Vec<_> = risk.partitions.iter().map(|group| (group.partition_id.0, group.pauses)).collect();
    assert_eq!(pauses, [(0, false), (1, true), (2, false)]);
    assert_eq!(
        risk.verdict,
        "broker 0 is safe to restart: all 3 groups keep a majority that has caught up; 1 that it leads (1) pauses for \
         a failover"
    );
    for own in [LATE, SILENT, Standing::Away, Standing::Inactive] {
        let risk = restart_risk(NodeId(0), &[group(1, Some(1), &[own, ok, ok])]);
        assert!(risk.safe && !risk.recovered, "{own:?}");
    }
    assert!(restart_risk(NodeId(7), &groups).safe, "it has no replica");
}

#[test]
fn the_verdict_names_partitions_and_remedies() {
    let ok = UP_TO_DATE;
    let groups = [
        group(0, Some(0), &[ok, Standing::Away, ok]),
        group(1, Some(0), &[ok, Standing::Away, ok]),
        group(2, Some(0), &[ok, LATE, ok]),
        group(3, Some(0), &[ok, ok, ok]),
    ];
    let risk = restart_risk(NodeId(0), &groups);
    assert_eq!(
        risk.verdict,
        "broker 0 is not safe to restart: 3 of 4 groups (the system group, 1, 2) would lose availability 2, durability \
         3; no majority of its 3 replicas would be left: start broker 1 first; too few of its other replicas hold what \
         was acknowledged: wait until broker 1 has caught up"
    );
    let many: Vec<_> = (1..=20).map(|id| group(id, Some(0), &[ok])).collect();
    assert!(restart_risk(NodeId(0), &many).verdict.contains("(1, 2, 3, 4, 5, 6, 7, 8, 12 more)"));
}
