//! Whether a cluster is well, from its topology. Pure. `health`, `check`, `top` and `doctor` all judge by this.

use std::collections::BTreeMap;

use evenkeel_gateway::planner::REPLICATION_LAG_BYTES_MAX;
use evenkeel_protocol::v1::{Broker, Partition, Replica, Role, TopologyResponse};
use evenkeel_protocol::{LagVerdict, judge_lag};
use serde_json::{Value, json};

use crate::commands::status::{Lead, lead, leaders_per_broker};
use crate::output::verdict::{Wishes, is_misplaced, listed, replicas, verdict};

/// Partitions that a sentence names before it only counts.
const PARTITIONS_NAMED_MAX: usize = 10;

/// How it is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Everything works, on every broker.
    Healthy,
    /// Everything can be read and written, with less to spare than there should be.
    Degraded,
    /// Something cannot be read or written.
    Unhealthy,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub state: State,
    pub what: String,
    pub fix: String,
}

/// The judgement, and the numbers behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment {
    pub state: State,
    pub problems: Vec<Problem>,
    pub brokers: usize,
    pub brokers_reachable: usize,
    pub partitions: usize,
    pub leaderless: usize,
    pub misplaced: usize,
    /// Replicas that the worst partition can lose before it has no majority; below 0 it has none.
    pub quorum_margin_min: i64,
    /// What the follower that lacks most lacks.
    pub lag_bytes_max: u64,
    pub lag_entries_max: u64,
    /// By node id.
    pub leaders: Vec<(u64, usize)>,
    pub paused: bool,
    pub drained: usize,
    pub verdict: String,
}

impl Assessment {
    pub fn is_balanced(&self) -> bool {
        self.misplaced == 0 && self.leaderless == 0 && self.partitions > 0
    }

    pub fn to_json(&self) -> Value {
        let problem = |problem: &Problem| json!({"state": problem.state.name(), "what": problem.what, "fix": problem.fix});
        let leaders: BTreeMap<String, usize> =
            self.leaders.iter().map(|(node, led)| (node.to_string(), *led)).collect();
        json!({
            "state": self.state.name(),
            "healthy": self.state == State::Healthy,
            "balanced": self.is_balanced(),
            "verdict": self.verdict,
            "problems": self.problems.iter().map(problem).collect::<Vec<_>>(),
            "brokers": self.brokers,
            "brokers_reachable": self.brokers_reachable,
            "brokers_drained": self.drained,
            "partitions": self.partitions,
            "partitions_leaderless": self.leaderless,
            "partitions_misplaced": self.misplaced,
            "quorum_margin_min": self.quorum_margin_min,
            "lag_bytes_max": self.lag_bytes_max,
            "lag_entries_max": self.lag_entries_max,
            "leaders": leaders,
            "paused": self.paused,
        })
    }
}

/// Judges the cluster.
pub fn assess(topology: &TopologyResponse, wishes: &Wishes) -> Assessment {
    let partitions = &topology.partitions;
    let margins: Vec<(u32, i64, usize)> = partitions.iter().map(|p| margin(topology, p)).collect();
    let away = topology.brokers.iter().filter(|broker| !broker.reachable).map(|broker| broker.node_id);
    let away = away.collect();
    let leaderless = named(partitions, |partition| lead(partition) == Lead::Nobody);
    let lost: Vec<u32> = margins.iter().filter(|(_, margin, _)| *margin < 0).map(|(id, ..)| *id).collect();
    let idle = idle_replicas(topology);
    let lagging = lagging(topology);
    let mut problems = Vec::new();
    let mut add =
        |state, what: String, fix: &str| problems.push(Problem { state, what, fix: fix.to_owned() });
    if topology.partitions_count == 0 {
        add(
            State::Unhealthy,
            "the gateway knows no partition yet".to_owned(),
            "start the brokers, and see `cluster.brokers` in `evenkeel config print gateway`",
        );
    }
    if !lost.is_empty() {
        add(
            State::Unhealthy,
            format!("{} without a majority of working replicas", counted(&lost)),
            "start the brokers that are away",
        );
    } else if !leaderless.is_empty() {
        add(
            State::Unhealthy,
            format!("{} without leader", counted(&leaderless)),
            "wait for the election, half a second; then see the brokers' logs",
        );
    }
    if topology.brokers.iter().any(|broker| !broker.reachable) {
        add(State::Degraded, format!("broker {} does not answer", listed(&away)), "start it, or see its log");
    }
    if !idle.is_empty() {
        add(
            State::Degraded,
            format!("replicas that take no part: {}", idle.join(", ")),
            "wait while they are rebuilt; else see the brokers' logs",
        );
    }
    if !lagging.is_empty() {
        add(
            State::Degraded,
            format!("replicas that lack too much to lead: {}", lagging.join(", ")),
            "wait until they have caught up; `evenkeel status --watch` shows how far they are",
        );
    }
    let followers = || partitions.iter().flat_map(|partition| followers(topology, partition));
    Assessment {
        state: problems.iter().map(|problem| problem.state).max().unwrap_or(State::Healthy),
        problems,
        brokers: topology.brokers.len(),
        brokers_reachable: topology.brokers.iter().filter(|broker| broker.reachable).count(),
        partitions: topology.partitions_count as usize,
        leaderless: (topology.partitions_count as usize).saturating_sub(partitions.len()) + leaderless.len(),
        misplaced: partitions.iter().filter(|partition| is_misplaced(partition, wishes)).count(),
        quorum_margin_min: margins.iter().map(|(_, margin, _)| *margin).min().unwrap_or(0),
        lag_bytes_max: followers().filter_map(|(_, replica)| replica.lag_bytes).max().unwrap_or(0),
        lag_entries_max: followers().filter_map(|(_, replica)| replica.lag_entries).max().unwrap_or(0),
        leaders: leaders_per_broker(topology),
        paused: wishes.paused,
        drained: wishes.drained.len(),
        verdict: verdict(topology, wishes),
    }
}

/// Id, replicas that can be lost before there is no majority, and replicas.
fn margin(topology: &TopologyResponse, partition: &Partition) -> (u32, i64, usize) {
    let (mut working, mut all) = (0, 0);
    for (broker, replica) in replicas(topology, partition) {
        all += 1;
        working += usize::from(broker.reachable && replica.role() != Role::Inactive);
    }
    (partition.partition_id, working as i64 - (all / 2 + 1) as i64, all)
}

/// Followers that take part.
fn followers<'a>(
    topology: &'a TopologyResponse,
    partition: &'a Partition,
) -> impl Iterator<Item = (&'a Broker, &'a Replica)> {
    replicas(topology, partition).filter(move |(broker, replica)| {
        broker.reachable
            && Some(broker.node_id) != partition.leader
            && !matches!(replica.role(), Role::Inactive | Role::Leader)
    })
}

fn idle_replicas(topology: &TopologyResponse) -> Vec<String> {
    let of_partition = |partition| {
        let mut idle = replicas(topology, partition)
            .filter(|(broker, replica)| broker.reachable && replica.role() == Role::Inactive);
        let idle: Vec<String> = idle.by_ref().map(|(broker, _)| broker.node_id.to_string()).collect();
        (!idle.is_empty())
            .then(|| format!("partition {} on broker {}", partition.partition_id, idle.join(", ")))
    };
    shortened(topology.partitions.iter().filter_map(of_partition).collect())
}

fn lagging(topology: &TopologyResponse) -> Vec<String> {
    let of_partition = |partition: &Partition| {
        // Without a leader nobody knows.
        partition.leader?;
        let late = |replica: &Replica| {
            judge_lag(replica.lag_entries, replica.lag_bytes, REPLICATION_LAG_BYTES_MAX)
                != LagVerdict::WithinLimit
        };
        let late: Vec<String> = followers(topology, partition)
            .filter(|(_, replica)| late(replica))
            .map(|(broker, _)| broker.node_id.to_string())
            .collect();
        (!late.is_empty())
            .then(|| format!("partition {} on broker {}", partition.partition_id, late.join(", ")))
    };
    shortened(topology.partitions.iter().filter_map(of_partition).collect())
}

fn shortened(mut list: Vec<String>) -> Vec<String> {
    if list.len() > PARTITIONS_NAMED_MAX {
        let more = list.len() - PARTITIONS_NAMED_MAX;
        list.truncate(PARTITIONS_NAMED_MAX);
        list.push(format!("{more} more"));
    }
    list
}

fn named(partitions: &[Partition], wanted: impl Fn(&Partition) -> bool) -> Vec<u32> {
    partitions.iter().filter(|p| wanted(p)).map(|partition| partition.partition_id).collect()
}

fn counted(ids: &[u32]) -> String {
    let names = shortened(ids.iter().map(u32::to_string).collect()).join(", ");
    format!("{} partition(s) ({names})", ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::topology;

    fn judged(topology: &TopologyResponse) -> (State, Vec<String>) {
        let assessment = assess(topology, &Wishes::default());
        (assessment.state, assessment.problems.into_iter().map(|problem| problem.what).collect())
    }

    #[test]
    fn a_cluster_is_as_well_as_its_worst_part() {
        let well = topology(&[Some(0), Some(1), Some(2)]);
        assert_eq!(judged(&well), (State::Healthy, Vec::new()));

        let mut away = topology(&[Some(0), Some(0), Some(2)]);
        away.brokers[1].reachable = false;
        assert_eq!(judged(&away), (State::Degraded, vec!["broker 1 does not answer".to_owned()]));

        away.brokers[2].reachable = false;
        let (state, problems) = judged(&away);
        assert_eq!(state, State::Unhealthy);
        assert_eq!(problems[0], "3 partition(s) (1, 2, 3) without a majority of working replicas");

        let headless = topology(&[Some(0), None, Some(2)]);
        assert_eq!(
            judged(&headless),
            (State::Unhealthy, vec!["1 partition(s) (2) without leader".to_owned()])
        );

        let mut late = well.clone();
        late.brokers[1].replicas[0].lag_bytes = Some(REPLICATION_LAG_BYTES_MAX + 1);
        assert_eq!(
            judged(&late),
            (
                State::Degraded,
                vec!["replicas that lack too much to lead: partition 1 on broker 1".to_owned()]
            )
        );

        let mut idle = well;
        idle.brokers[2].replicas[0].role = Role::Inactive.into();
        assert_eq!(
            judged(&idle),
            (State::Degraded, vec!["replicas that take no part: partition 1 on broker 2".to_owned()])
        );
        assert_eq!(judged(&TopologyResponse::default()).0, State::Unhealthy);
    }

    #[test]
    fn numbers_are_those_of_the_worst() {
        let mut skewed = topology(&[Some(0), Some(0), Some(2)]);
        let numbers = assess(&skewed, &Wishes::default());
        assert_eq!((numbers.misplaced, numbers.quorum_margin_min, numbers.is_balanced()), (1, 1, false));
        assert_eq!((numbers.lag_entries_max, numbers.lag_bytes_max), (20, 2_000));
        assert_eq!(numbers.leaders, [(0, 2), (1, 0), (2, 1)]);
        skewed.brokers[1].reachable = false;
        let numbers = assess(&skewed, &Wishes::default());
        assert_eq!((numbers.quorum_margin_min, numbers.brokers_reachable), (0, 2));
    }
}
