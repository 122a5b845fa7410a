//! To whom leaders hand over: the scripts of `testdata/step_down`.
//!
//! ```text
//! policy lag_bytes_max=8388608 priority_election=on
//! replica 0 priority=3 lag=12/3400             entries and bytes; also lag=unknown, away, learner
//! choose 2                                     broker 2 leads and was asked to rebalance
//! successor 2                                  broker 2 leads and is about to stop
//! ```
//! `replica` replaces what was said about that broker before; `clear` forgets all replicas.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use evenkeel_broker::step_down::{Choice, Policy, ReplicaView, choose, successor};
use evenkeel_protocol::{NodeId, PartitionId, Priority};

struct Partition {
    policy: Policy,
    replicas: BTreeMap<u64, ReplicaView>,
}

impl Partition {
    fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["policy", ref settings @ ..] => self.set_policy(settings),
            ["clear"] => self.replicas.clear(),
            ["replica", node, ref facts @ ..] => {
                let view = replica(node.parse().unwrap(), facts);
                self.replicas.insert(view.node.0, view);
            }
            [question @ ("choose" | "successor"), leader] => {
                let views: Vec<ReplicaView> = self.replicas.values().copied().collect();
                let leader = NodeId(leader.parse().unwrap());
                let answer = if question == "choose" { choose } else { successor };
                return print(answer(PartitionId(7), leader, &views, &self.policy));
            }
            _ => panic!("unknown command {line}"),
        }
        String::new()
    }

    fn set_policy(&mut self, settings: &[&str]) {
        for setting in settings {
            match setting.split_once('=').unwrap() {
                ("lag_bytes_max", most) => self.policy.lag_bytes_max = most.parse().unwrap(),
                ("priority_election", switch) => self.policy.priority_election = switch == "on",
                _ => panic!("unknown setting {setting}"),
            }
        }
    }
}

fn replica(node: u64, facts: &[&str]) -> ReplicaView {
    let mut view = ReplicaView {
        node: NodeId(node),
        priority: Priority(1),
        voter: true,
        reachable: true,
        lag_entries: Some(0),
        lag_bytes: Some(0),
    };
    for fact in facts {
        match fact.split_once('=') {
            Some(("priority", priority)) => view.priority = Priority(priority.parse().unwrap()),
            Some(("lag", "unknown")) => (view.lag_entries, view.lag_bytes) = (None, None),
            Some(("lag", lag)) => {
                let (entries, bytes) = lag.split_once('/').unwrap();
                (view.lag_entries, view.lag_bytes) = (Some(entries.parse().unwrap()), bytes.parse().ok());
            }
            None if *fact == "away" => view.reachable = false,
            None if *fact == "learner" => view.voter = false,
            _ => panic!("unknown fact {fact}"),
        }
    }
    view
}

fn print(choice: Choice) -> String {
    match choice {
        Choice::Stay => "stay\n".to_owned(),
        Choice::Candidates(nodes) => {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            format!("hand over to {}\n", nodes.join(", else "))
        }
        Choice::Refuse { reason, detail } => format!("{reason:?}: {detail}\n"),
    }
}

#[test]
fn leaders_hand_over_to_whom_the_scripts_say() {
    evenkeel_golden::run("step_down", || {
        let policy = Policy { priority_election: true, lag_bytes_max: 8 << 20 };
        let mut partition = Partition { policy, replicas: BTreeMap::new() };
        move |line: &str| partition.command(line)
    });
}
