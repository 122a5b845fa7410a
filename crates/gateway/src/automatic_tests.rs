use super::*;

fn after(start: Instant, s: f64) -> Instant {
    start + Duration::from_secs_f64(s)
}

fn totals(of: &[(u64, u64)]) -> BTreeMap<NodeId, u64> {
    of.iter().map(|(node, total)| (NodeId(*node), *total)).collect()
}

#[test]
fn the_rate_is_what_totals_grew_by_and_survives_restarts_and_newcomers() {
    let start = Instant::now();
    let mut rate = AppendRate::default();
    let table = [
        (0.0, vec![(0, 1_000), (1, 500)], None, "nothing to compare with"),
        (1.0, vec![(0, 9_000), (1, 500)], None, "too soon"),
        (2.0, vec![(0, 9_000), (1, 2_500)], Some(5_000.0), "8,000 and 2,000 in 2 s"),
        (3.0, vec![(0, 99_000), (1, 2_500)], None, "too soon for another"),
        (4.0, vec![(0, 400), (1, 2_500)], Some(200.0), "broker 0 was restarted"),
        (6.0, vec![(0, 400), (1, 2_500), (2, 77_000)], Some(0.0), "broker 2 was not known before"),
    ];
    for (s, told, expected, name) in table {
        assert_eq!(rate.observe(totals(&told), after(start, s)), expected, "{name}");
    }
}

#[test]
fn a_cluster_is_idle_after_a_whole_window_and_busy_again_only_at_twice_the_limit() {
    use Activity::{Busy, Idle, Settling};
    let start = Instant::now();
    let mut gate = IdleGate::new(100.0, Duration::from_secs(10));
    assert_eq!(gate.activity(), Activity::Unknown);
    let settling = |s| Settling { lacks: Duration::from_secs(s) };
    let table = [
        (1.0, 100.0, Busy { bytes_per_s: 100.0 }),
        (2.0, 99.0, settling(10)),
        (8.0, 0.0, settling(4)),
        (9.0, 150.0, Busy { bytes_per_s: 150.0 }),
        (10.0, 1.0, settling(10)),
        (20.0, 99.0, Idle),
        (21.0, 199.0, Idle),
        (22.0, 200.0, Busy { bytes_per_s: 200.0 }),
        (23.0, 99.0, settling(10)),
    ];
    for (s, rate, expected) in table {
        gate.observe(rate, after(start, s));
        assert_eq!(gate.activity(), expected, "at {s} s with {rate}");
    }
}

fn decided(partition: u32, decision: Decision, reason: Reason, lag: Option<u64>) -> PartitionDecision {
    PartitionDecision {
        partition: PartitionId(partition),
        current: Some(NodeId(0)),
        desired: Some(NodeId(1)),
        lag_entries: lag,
        lag_bytes: lag,
        decision,
        reason,
        hindrance: None,
        detail: String::new(),
    }
}

fn moved(partition: u32, lag: Option<u64>) -> PartitionDecision {
    let decision = Decision::Move { from: NodeId(0), to: NodeId(1), alternatives: Vec::new() };
    decided(partition, decision, Reason::Misplaced, lag)
}

fn plan(decisions: Vec<PartitionDecision>) -> Plan {
    Plan {
        decisions,
        transfers: Vec::new(),
        brokers: Vec::new(),
        records_optimal: 0,
        fingerprint: String::new(),
    }
}

#[test]
fn a_round_starts_only_what_is_idle_caught_up_and_cooled_down() {
    let stays = || decided(1, Decision::Stay, Reason::AlreadyLeader, Some(0));
    let lagging = || decided(2, Decision::Skip, Reason::PrimaryLagging, Some(9_000));
    let leaderless = || decided(2, Decision::Skip, Reason::NoLeader, None);
    let lacks = Duration::from_secs(3);
    let ids = |ids: &[u32]| ids.iter().map(|id| PartitionId(*id)).collect::<BTreeSet<_>>();
    let skip = Round::Skip;
    let two = PartitionId(2);
    let table = [
        (vec![stays()], Activity::Idle, vec![], skip(Skipped::Balanced)),
        (vec![stays()], Activity::Busy { bytes_per_s: 1e9 }, vec![], skip(Skipped::Balanced)),
        (vec![stays(), moved(2, Some(0))], Activity::Idle, vec![], Round::Start(ids(&[2]))),
        (
            vec![moved(2, Some(0))],
            Activity::Busy { bytes_per_s: 1e9 },
            vec![],
            skip(Skipped::Busy { bytes_per_s: 1e9 }),
        ),
        (vec![moved(2, Some(0))], Activity::Settling { lacks }, vec![], skip(Skipped::Settling { lacks })),
        (vec![moved(2, Some(0))], Activity::Unknown, vec![], skip(Skipped::ActivityUnknown)),
        (vec![moved(2, Some(65))], Activity::Idle, vec![], skip(Skipped::Lagging { partition: two })),
        (vec![moved(2, None)], Activity::Idle, vec![], skip(Skipped::Lagging { partition: two })),
        (
            vec![moved(1, Some(0)), lagging()],
            Activity::Idle,
            vec![],
            skip(Skipped::Lagging { partition: two }),
        ),
        (
            vec![moved(1, Some(0)), leaderless()],
            Activity::Idle,
            vec![],
            skip(Skipped::Leaderless { partition: two }),
        ),
        (vec![moved(1, Some(0)), moved(2, Some(3))], Activity::Idle, vec![1], Round::Start(ids(&[2]))),
        (vec![moved(2, Some(0))], Activity::Idle, vec![2], skip(Skipped::CoolingDown { partitions: 1 })),
    ];
    for (decisions, activity, cooling, expected) in table {
        let name = format!("{decisions:?} {activity:?} {cooling:?}");
        assert_eq!(decide(&plan(decisions), activity, &ids(&cooling)), expected, "{name}");
    }
}
