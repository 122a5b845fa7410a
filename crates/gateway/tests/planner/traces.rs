//! Plans as the scripts of `testdata/planner` show them.
//!
//! ```text
//! round-robin brokers=3 partitions=6 records=10    three replicas each, led by their primaries
//! brokers 0 1 2                                    these, and no partitions
//! partition 1 leader=2 records=5 0:3 1:2 2:1       replicas with priorities; also leader=none, election=off
//! replica 1 0 lag=12/3400                          entries and bytes; also lag=unknown, away, learner, fine
//! broker 0 dies | returns | catches-up | drained | undrained
//! paused | resumed
//! plan primary|even-count|records [cap=N] [lag=BYTES] [partitions=1,2] [target=1:2]
//! summary …                                        as plan, without the decisions
//! apply                                            carries out what was planned last
//! ```

use std::fmt::Write as _;

use evenkeel_gateway::planner::{ClusterView, Decision, Plan, PlanRequest, Policy, Transfer, plan};
use evenkeel_protocol::{NodeId, PartitionId};

use crate::world::{
    broker, carry_out, catch_up, come_back, die, partition, replica, round_robin, set_drained,
};

#[derive(Default)]
struct Script {
    cluster: ClusterView,
    transfers: Vec<Transfer>,
}

impl Script {
    fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["round-robin", brokers, partitions, records] => {
                let number = |word: &str| word.split_once('=').unwrap().1.parse::<u64>().unwrap();
                let partitions = number(partitions) as u32;
                self.cluster = round_robin(number(brokers), partitions, 3, number(records));
            }
            ["brokers", ref nodes @ ..] => {
                self.cluster = ClusterView::default();
                self.cluster.brokers = nodes.iter().map(|node| broker(node.parse().unwrap())).collect();
            }
            ["partition", id, ref facts @ ..] => self.partition(id.parse().unwrap(), facts),
            ["replica", id, node, fact] => self.replica(id.parse().unwrap(), node.parse().unwrap(), fact),
            ["broker", node, event] => self.broker(NodeId(node.parse().unwrap()), event),
            ["paused"] => self.cluster.paused = true,
            ["resumed"] => self.cluster.paused = false,
            ["apply"] => carry_out(&mut self.cluster, &std::mem::take(&mut self.transfers)),
            [what @ ("plan" | "summary"), policy, ref settings @ ..] => {
                let planned = plan(&self.cluster, &request(policy, settings));
                self.transfers.clone_from(&planned.transfers);
                return print(&planned, what == "plan");
            }
            _ => panic!("unknown command {line}"),
        }
        String::new()
    }

    fn partition(&mut self, id: u32, facts: &[&str]) {
        let mut state = partition(id, 0, 0, Vec::new());
        state.leader = None;
        for fact in facts {
            match fact.split_once('=') {
                Some(("leader", node)) => state.leader = node.parse().ok().map(NodeId),
                Some(("records", records)) => state.records = records.parse().unwrap(),
                Some(("election", switch)) => state.priority_election = switch == "on",
                _ => {
                    let (node, priority) = fact.split_once(':').unwrap();
                    state.replicas.push(replica(node.parse().unwrap(), priority.parse().unwrap()));
                }
            }
        }
        self.cluster.partitions.retain(|partition| partition.id != state.id);
        self.cluster.partitions.push(state);
    }

    fn replica(&mut self, id: u32, node: u64, fact: &str) {
        let partition = self.cluster.partitions.iter_mut().find(|p| p.id.0 == id).unwrap();
        let replica = partition.replicas.iter_mut().find(|r| r.node.0 == node).unwrap();
        match fact.split_once('=') {
            Some(("lag", "unknown")) => (replica.lag_entries, replica.lag_bytes) = (None, None),
            Some(("lag", lag)) => {
                let (entries, bytes) = lag.split_once('/').unwrap();
                (replica.lag_entries, replica.lag_bytes) = (entries.parse().ok(), bytes.parse().ok());
            }
            None if fact == "away" => replica.reachable = false,
            None if fact == "learner" => replica.voter = false,
            None if fact == "fine" => *replica = crate::world::replica(node, replica.priority.0),
            _ => panic!("unknown fact {fact}"),
        }
    }

    fn broker(&mut self, node: NodeId, event: &str) {
        match event {
            "dies" => die(&mut self.cluster, node),
            "returns" => come_back(&mut self.cluster, node),
            "catches-up" => catch_up(&mut self.cluster, node),
            "drained" => set_drained(&mut self.cluster, node, true),
            "undrained" => set_drained(&mut self.cluster, node, false),
            _ => panic!("unknown event {event}"),
        }
    }
}

fn request(policy: &str, settings: &[&str]) -> PlanRequest {
    let policy = match policy {
        "primary" => Policy::Primary,
        "even-count" => Policy::EvenCount,
        "records" => Policy::Records,
        _ => panic!("unknown policy {policy}"),
    };
    let mut request = PlanRequest { policy, ..PlanRequest::default() };
    for setting in settings {
        match setting.split_once('=').unwrap() {
            ("cap", most) => request.leaders_per_broker_max = Some(most.parse().unwrap()),
            ("lag", most) => request.replication_lag_bytes_max = most.parse().unwrap(),
            ("partitions", ids) => {
                request.partitions =
                    Some(ids.split(',').map(|id| PartitionId(id.parse().unwrap())).collect());
            }
            ("target", target) => {
                let (id, node) = target.split_once(':').unwrap();
                request.targets.insert(PartitionId(id.parse().unwrap()), NodeId(node.parse().unwrap()));
            }
            _ => panic!("unknown setting {setting}"),
        }
    }
    request
}

fn print(plan: &Plan, decisions: bool) -> String {
    let mut printed = String::new();
    for decision in plan.decisions.iter().filter(|_| decisions) {
        let what = match &decision.decision {
            Decision::Move { from, to, alternatives } => {
                let others: String = alternatives.iter().map(|node| format!(" else {node}")).collect();
                format!("move {from} -> {to}{others}")
            }
            Decision::Stay => "stay".to_owned(),
            Decision::Skip => "skip".to_owned(),
        };
        let reason = decision.reason.name();
        let detail = decision.detail.split_once(": ").unwrap().1;
        let _ = writeln!(printed, "p{} {what} {reason}: {detail}", decision.partition);
    }
    let order: Vec<String> =
        plan.transfers.iter().map(|t| format!("p{} {}>{}", t.partition, t.from, t.to)).collect();
    let _ = writeln!(
        printed,
        "transfers: {}",
        if order.is_empty() { "none".to_owned() } else { order.join(", ") }
    );
    for load in &plan.brokers {
        let _ = writeln!(
            printed,
            "broker {}: leaders {} -> {}, records {} -> {}, {} requested",
            load.node,
            load.leaders_before,
            load.leaders_after,
            load.records_before,
            load.records_after,
            load.records_requested
        );
    }
    printed
}

#[test]
fn plans_are_what_the_scripts_say() {
    evenkeel_golden::run("planner", || {
        let mut script = Script::default();
        move |line: &str| script.command(line)
    });
}
