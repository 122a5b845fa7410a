//! More than 100,000 hours in the life of clusters: brokers die, return and catch up, are drained and undrained;
//! a rebalance comes at random, at most once per cool-down. Between two events at most one plan moves anything,
//! and each partition it moves was not where the policy wants it.

use evenkeel_gateway::planner::{
    ClusterView, Decision, PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX, plan,
};
use evenkeel_protocol::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::{carry_out, catch_up, check, come_back, die, round_robin, set_drained};

const HOURS: u64 = 12_000;
const CLUSTERS: u64 = 9;
const COOL_DOWN_HOURS: u64 = 2;
/// Of a broker.
const HOURS_BETWEEN_FAILURES: u64 = 500;

#[derive(Clone, Copy, PartialEq)]
enum Broker {
    Up,
    Down,
    Lagging,
}

struct Life {
    cluster: ClusterView,
    brokers: Vec<Broker>,
    random: StdRng,
    events: u64,
}

impl Life {
    /// One hour. Whether anything happened to the topology.
    fn hour(&mut self) -> bool {
        let before = self.events;
        for i in 0..self.brokers.len() {
            let node = NodeId(i as u64);
            let down = self.brokers.iter().filter(|broker| **broker != Broker::Up).count();
            let state = self.brokers[i];
            match state {
                // One at a time, so that most of each partition's replicas are always there.
                Broker::Up if down == 0 && self.one_in(HOURS_BETWEEN_FAILURES) => {
                    die(&mut self.cluster, node);
                    self.becomes(i, Broker::Down);
                }
                Broker::Down if self.one_in(8) => {
                    come_back(&mut self.cluster, node);
                    self.becomes(i, Broker::Lagging);
                }
                Broker::Lagging if self.one_in(3) => {
                    catch_up(&mut self.cluster, node);
                    self.becomes(i, Broker::Up);
                }
                _ => {}
            }
            let drained = self.cluster.brokers[i].drained;
            if self.one_in(if drained { 20 } else { 4 * HOURS_BETWEEN_FAILURES }) {
                set_drained(&mut self.cluster, node, !drained);
                self.events += 1;
            }
        }
        self.events > before
    }

    fn becomes(&mut self, broker: usize, state: Broker) {
        self.brokers[broker] = state;
        self.events += 1;
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.random.random_range(0..chances) == 0
    }
}

#[test]
fn partitions_do_not_go_back_and_forth() {
    let (mut hours, mut moves, mut plans) = (0, 0, 0);
    for seed in 0..CLUSTERS {
        let policy = [Policy::Primary, Policy::EvenCount, Policy::Records][seed as usize % 3];
        let cap = (seed >= 6).then_some(6);
        let request = PlanRequest { policy, leaders_per_broker_max: cap, ..PlanRequest::default() };
        let mut cluster = round_robin(5, 20, 3, 0);
        for partition in &mut cluster.partitions {
            partition.records = 1000 + u64::from(partition.id.0) * 37 % 200;
        }
        let random = StdRng::seed_from_u64(seed);
        let mut life = Life { cluster, brokers: vec![Broker::Up; 5], random, events: 0 };
        let (mut rebalanced_at, mut moved_since_event) = (0, false);
        for hour in 0..HOURS {
            hours += 1;
            if life.hour() {
                moved_since_event = false;
            }
            if hour < rebalanced_at + COOL_DOWN_HOURS || !life.one_in(12) {
                continue;
            }
            rebalanced_at = hour;
            let plan = plan(&life.cluster, &request);
            plans += 1;
            check(&life.cluster, &plan, REPLICATION_LAG_BYTES_MAX);
            let at = format!("seed {seed}, hour {hour}, {policy:?}");
            if moved_since_event {
                assert!(
                    plan.is_empty(),
                    "{at}: nothing happened since the last moves, yet {:?}",
                    plan.transfers
                );
            }
            for decision in &plan.decisions {
                if matches!(decision.decision, Decision::Move { .. }) {
                    assert_ne!(decision.current, decision.desired, "{at}");
                }
            }
            moved_since_event |= !plan.is_empty();
            moves += plan.transfers.len();
            carry_out(&mut life.cluster, &plan.transfers);
        }
        // In the end all are back: the policy gets what it wants.
        for node in 0..5 {
            set_drained(&mut life.cluster, NodeId(node), false);
            come_back(&mut life.cluster, NodeId(node));
            catch_up(&mut life.cluster, NodeId(node));
        }
        let last = plan(&life.cluster, &request);
        carry_out(&mut life.cluster, &last.transfers);
        assert!(plan(&life.cluster, &request).is_empty(), "seed {seed}");
        match policy {
            Policy::Primary | Policy::EvenCount => {
                assert!(last.brokers.iter().all(|broker| broker.leaders_after == 4), "{:?}", last.brokers);
            }
            Policy::Records => {
                let most = last.brokers.iter().map(|broker| broker.records_after).max().unwrap();
                assert!(most < last.records_optimal * 11 / 10, "{:?}", last.brokers);
            }
        }
    }
    assert!(hours > 100_000 && plans > 1000 && moves > 100, "{hours} hours, {plans} plans, {moves} moves");
}
