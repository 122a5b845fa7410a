//! How runs and plans are shown: tables, counts, and what to do about each partition that is not led as wanted. Pure.

use std::collections::BTreeMap;

use comfy_table::Table;

use crate::cluster::cluster_api::{RebalanceBody, Run, RunPartition, RunSummary};
use crate::output::tables::table;

/// Partitions that one hint names before it only counts.
const PARTITIONS_NAMED_MAX: usize = 10;

pub fn node(node: Option<&String>) -> String {
    node.filter(|node| !node.is_empty()).map_or_else(|| "-".to_owned(), Clone::clone)
}

/// The gateway's sentence without the partition's number, which has a column of its own.
pub fn detail(partition: &RunPartition) -> &str {
    let detail = partition.detail.as_deref().unwrap_or_default();
    detail.strip_prefix(&format!("partition {}: ", partition.partition_id)).unwrap_or(detail)
}

/// What became of each partition.
pub fn run_table(run: &Run) -> Table {
    let mut rows = table(["partition", "from", "to", "result", "gap ms", "detail"]);
    for partition in &run.partitions {
        let why = match detail(partition) {
            "" => partition.reason.as_deref().unwrap_or_default(),
            detail => detail,
        };
        rows.add_row([
            partition.partition_id.to_string(),
            node(partition.from.as_ref().or(partition.current_leader.as_ref())),
            node(partition.to.as_ref().or(partition.desired_leader.as_ref())),
            partition.result.clone().unwrap_or_else(|| "-".into()),
            partition.gap_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1}")),
            why.to_owned(),
        ]);
    }
    rows
}

/// What a dry run would do with the partition.
pub fn decision(partition: &RunPartition) -> String {
    match partition.result.as_deref() {
        None => format!("move to {}", node(partition.to.as_ref().or(partition.desired_leader.as_ref()))),
        Some("ALREADY_LEADER") => "stay".to_owned(),
        Some(_) => "skip".to_owned(),
    }
}

/// What a run would do with each partition.
pub fn plan_table(plan: &Run) -> Table {
    let header = ["partition", "leader now", "should lead", "lag entries", "lag bytes", "decision"];
    let mut rows = table(header.into_iter().chain(["reason", "detail"]));
    let lag = |lag: Option<u64>| lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string());
    for partition in &plan.partitions {
        rows.add_row([
            partition.partition_id.to_string(),
            node(partition.current_leader.as_ref()),
            node(partition.desired_leader.as_ref()),
            lag(partition.lag_entries),
            lag(partition.lag_bytes),
            decision(partition),
            partition.reason.clone().unwrap_or_default(),
            detail(partition).to_owned(),
        ]);
    }
    rows
}

/// How much a run would move, and the command that does just that.
pub fn plan_summary(plan: &Run, asked: &RebalanceBody) -> String {
    let moves = plan.partitions.iter().filter(|partition| partition.result.is_none()).count();
    let left = plan.partitions.iter().filter(|p| decision(p) == "skip" && !is_filtered(p)).count();
    let mut text = match (moves, left) {
        (0, 0) => "balanced: nothing to move".to_owned(),
        _ => format!("would move {moves} of {} partitions", plan.partitions.len()),
    };
    if left > 0 {
        text.push_str(&format!(", and leave {left} that cannot be moved now"));
    }
    let Some(fingerprint) = &plan.plan else { return text };
    text.push_str(&format!("; plan {fingerprint}"));
    if moves > 0 {
        text.push_str(&format!("\nrun just this plan: {}", command_for(fingerprint, asked)));
    }
    text
}

pub fn is_filtered(partition: &RunPartition) -> bool {
    partition.reason.as_deref() == Some("FILTERED")
}

/// A plan depends on what was asked for, so the same has to be asked for again.
fn command_for(fingerprint: &str, asked: &RebalanceBody) -> String {
    let mut command = format!("evenkeel rebalance --plan {fingerprint}");
    if let Some(policy) = &asked.policy {
        command.push_str(&format!(" --policy {policy}"));
    }
    if let Some(partitions) = &asked.partitions {
        command.push_str(&format!(" --partition {}", listed(partitions.iter())));
    }
    for (partition, broker) in &asked.targets {
        command.push_str(&format!(" --target {partition}={broker}"));
    }
    if let Some(most) = asked.max_leaders_per_broker {
        command.push_str(&format!(" --max-leaders-per-broker {most}"));
    }
    if let Some(bytes) = asked.replication_lag_threshold {
        command.push_str(&format!(" --lag-threshold {bytes}"));
    }
    command
}

fn listed<'a>(partitions: impl Iterator<Item = &'a u32>) -> String {
    partitions.map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Runs, one a line.
pub fn history_table(runs: &[RunSummary]) -> Table {
    let mut rows = table(["id", "started", "finished", "result", "policy", "partitions"]);
    for run in runs {
        let dash = || "-".to_owned();
        rows.add_row([
            run.rebalance_id.to_string(),
            run.started_at.clone(),
            run.finished_at.clone().unwrap_or_else(dash),
            run.result.clone().unwrap_or_else(|| "under way".to_owned()),
            run.policy.clone().unwrap_or_else(dash),
            counted(&run.results),
        ]);
    }
    rows
}

/// `TRANSFERRED 4, LAG_TOO_HIGH 1`.
pub fn counted(results: &BTreeMap<String, u64>) -> String {
    results.iter().map(|(result, count)| format!("{result} {count}")).collect::<Vec<_>>().join(", ")
}

/// One line about a partition that is done with.
pub fn partition_line(partition: &RunPartition, done: usize, all: usize) -> String {
    let mut line = format!(
        "[{done}/{all}] partition {}: {}",
        partition.partition_id,
        partition.result.as_deref().unwrap_or("-")
    );
    if partition.result.as_deref() == Some("TRANSFERRED") {
        line.push_str(&format!(
            ", broker {} → {}",
            node(partition.from.as_ref()),
            node(partition.to.as_ref())
        ));
    }
    if let Some(ms) = partition.gap_ms {
        line.push_str(&format!(", gap {ms:.1} ms"));
    }
    if !partition.went_well() && !detail(partition).is_empty() {
        line.push_str(&format!(": {}", detail(partition)));
    }
    line
}

/// How a run ended, or how far it is, in a few words.
pub fn outcome_sentence(run: &Run) -> String {
    let (id, all) = (run.rebalance_id, run.partitions.len());
    if !run.is_finished() {
        let done = run.partitions.iter().filter(|partition| partition.result.is_some()).count();
        let how = if run.cancel_requested { "is being stopped" } else { "is under way" };
        return format!("rebalance {id} {how}: {done} of {all} partitions are done with");
    }
    if run.went_well() {
        let moved = run.partitions.iter().filter(|p| p.result.as_deref() == Some("TRANSFERRED")).count();
        return format!("balanced: {moved} moved (rebalance {id})");
    }
    let failed = run.partitions.iter().filter(|partition| !partition.went_well()).count();
    let ended = run.result.as_deref().unwrap_or("ended").to_lowercase();
    format!("rebalance {id} {ended}: {failed} of {all} partitions are not led as wanted")
}

/// What to do about the partitions of a finished run that are not led as wanted, one line for each remedy.
pub fn hints(run: &Run) -> Vec<String> {
    let mut by_remedy: Vec<(&str, Vec<u32>)> = Vec::new();
    for partition in run.partitions.iter().filter(|partition| !partition.went_well()) {
        let remedy = remedy(partition);
        match by_remedy.iter_mut().find(|(known, _)| *known == remedy) {
            Some((_, partitions)) => partitions.push(partition.partition_id),
            None => by_remedy.push((remedy, vec![partition.partition_id])),
        }
    }
    by_remedy.iter().map(|(remedy, partitions)| format!("{}: {remedy}", named(partitions))).collect()
}

fn named(partitions: &[u32]) -> String {
    match partitions {
        [one] => format!("partition {one}"),
        few if few.len() <= PARTITIONS_NAMED_MAX => format!("partitions {}", listed(few.iter())),
        many => format!(
            "partitions {} and {} more",
            listed(many.iter().take(PARTITIONS_NAMED_MAX)),
            many.len() - PARTITIONS_NAMED_MAX
        ),
    }
}

pub fn remedy(partition: &RunPartition) -> &'static str {
    let known_reason = match partition.reason.as_deref() {
        Some("BUDGET_SPENT") => "give a larger --pause-budget, or run it again for the rest",
        Some("PAUSED") => "ownership is paused; `evenkeel resume` and run it again",
        Some("CAPPED") => "raise --max-leaders-per-broker, or leave it out",
        Some("DRAINED") if partition.result.as_deref() == Some("CANCELLED") => {
            "that broker is drained: name another with --target, or `evenkeel undrain` it first"
        }
        Some("PRIORITY_ELECTION_DISABLED") => "set raft.priority_election = true on the brokers",
        Some("NO_PRIMARY") => "give one replica the single highest priority, or choose another --policy",
        _ => "",
    };
    if !known_reason.is_empty() {
        return known_reason;
    }
    match partition.result.as_deref().unwrap_or_default() {
        "LAG_TOO_HIGH" => {
            "wait until it has caught up (`evenkeel status` shows the lag), or raise --lag-threshold"
        }
        "REPLICATION_TIMED_OUT" => "it did not catch up in time; run it again when fewer writes come in",
        "UNREACHABLE" => "start the broker that should lead, or see in its log why it does not answer",
        "NO_RESPONSE" => "its leader did not answer; see that broker's log, then run it again",
        "NOT_MEMBER" => {
            "that broker holds no replica of it; see [partitioning] in the brokers' configuration"
        }
        "NOT_REPLICATING" => {
            "that replica has not taken anything from this leader yet; run it again in a moment"
        }
        "TIMEOUT_NOW_EXHAUSTED" => "that broker did not win its election; see its log, then run it again",
        "NO_LEADER" => "nobody leads it: start its brokers, most of them must run",
        "CANCELLED" => "not begun when the run was stopped; run it again for the rest",
        // What passes by itself.
        _ => "run it again in a moment",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let text = r#"{"rebalanceId":7,"startedAt":"2026-01-01T00:00:00Z","finishedAt":"2026-01-01T00:00:01Z",
            "dryRun":false,"cancelRequested":false,"result":"FAILED","policy":"primary","plan":"00ff","partitions":[
            {"partitionId":1,"physicalTenantId":"default","currentLeader":"1","desiredLeader":"1","from":"0","to":"1",
             "progress":"COMPLETED","result":"TRANSFERRED","gapMs":3.14,"lagEntries":0,"lagBytes":0,"reason":"MISPLACED",
             "detail":"partition 1: broker 1 leads"},
            {"partitionId":2,"currentLeader":"0","desiredLeader":"2","result":"LAG_TOO_HIGH","gapMs":null,
             "detail":"broker 2 lacks 5,000 entries"},
            {"partitionId":3,"currentLeader":null,"desiredLeader":"","result":"NO_LEADER","reason":"NO_LEADER"},
            {"partitionId":4,"currentLeader":"0","desiredLeader":"2","result":"LAG_TOO_HIGH"}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_run_is_told_partition_by_partition() {
        let expected = "\
╭───────────┬──────┬────┬──────────────┬────────┬──────────────────────────────╮
│ partition ┆ from ┆ to ┆ result       ┆ gap ms ┆ detail                       │
╞═══════════╪══════╪════╪══════════════╪════════╪══════════════════════════════╡
│ 1         ┆ 0    ┆ 1  ┆ TRANSFERRED  ┆ 3.1    ┆ broker 1 leads               │
│ 2         ┆ 0    ┆ 2  ┆ LAG_TOO_HIGH ┆ -      ┆ broker 2 lacks 5,000 entries │
│ 3         ┆ -    ┆ -  ┆ NO_LEADER    ┆ -      ┆ NO_LEADER                    │
│ 4         ┆ 0    ┆ 2  ┆ LAG_TOO_HIGH ┆ -      ┆                              │
╰───────────┴──────┴────┴──────────────┴────────┴──────────────────────────────╯";
        assert_eq!(run_table(&run()).to_string(), expected);
        assert_eq!(outcome_sentence(&run()), "rebalance 7 failed: 3 of 4 partitions are not led as wanted");
        let mut under_way = Run { result: None, finished_at: None, cancel_requested: true, ..run() };
        under_way.partitions[0].result = None;
        assert_eq!(
            outcome_sentence(&under_way),
            "rebalance 7 is being stopped: 3 of 4 partitions are done with"
        );
    }

    #[test]
    fn partitions_with_the_same_remedy_share_a_line() {
        let told = hints(&run());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("partitions 2,4: wait until it has caught up"), "{told:?}");
        assert!(told[1].starts_with("partition 3: nobody leads it"), "{told:?}");
        let spent = RunPartition {
            result: Some("CANCELLED".into()),
            reason: Some("BUDGET_SPENT".into()),
            ..RunPartition::default()
        };
        let many = Run {
            partitions: (1..=12).map(|id| RunPartition { partition_id: id, ..spent.clone() }).collect(),
            ..run()
        };
        let told = hints(&many);
        assert!(
            told[0].starts_with("partitions 1,2,3,4,5,6,7,8,9,10 and 2 more: give a larger --pause-budget")
        );
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn every_result_that_a_run_may_give_has_a_remedy_of_its_own_or_passes_by_itself() {
        let remedy_of = |result: &str| {
            remedy(&RunPartition { result: Some(result.into()), ..RunPartition::default() }).to_owned()
        };
        let passing = [
            "TRANSFER_IN_PROGRESS",
            "LEADER_CHANGED",
            "LEADER_INITIALIZING",
            "PAUSE_FAILED",
            "CONFIGURATION_CHANGE_IN_PROGRESS",
            "STALE_CONFIGURATION",
            "NOT_COORDINATOR",
        ];
        for result in passing {
            assert_eq!(remedy_of(result), "run it again in a moment");
        }
        let lasting = [
            "CANCELLED",
            "LAG_TOO_HIGH",
            "UNREACHABLE",
            "NO_RESPONSE",
            "NOT_MEMBER",
            "NOT_REPLICATING",
            "REPLICATION_TIMED_OUT",
            "TIMEOUT_NOW_EXHAUSTED",
            "NO_LEADER",
        ];
        let remedies: std::collections::BTreeSet<String> =
            lasting.iter().map(|result| remedy_of(result)).collect();
        assert_eq!(remedies.len(), lasting.len());
    }

    fn plan() -> Run {
        let text = r#"{"rebalanceId":0,"dryRun":true,"plan":"3f00000000000001","partitions":[
            {"partitionId":1,"currentLeader":"0","desiredLeader":"1","to":"2","result":null,"lagEntries":12,"lagBytes":3400,
             "reason":"PRIMARY_LAGGING","detail":"partition 1: broker 1 lacks too much"},
            {"partitionId":2,"currentLeader":"0","desiredLeader":"0","result":"ALREADY_LEADER","lagEntries":null,
             "lagBytes":null,"reason":"ALREADY_LEADER","detail":"partition 2: broker 0 leads it, as wanted"},
            {"partitionId":3,"currentLeader":null,"desiredLeader":"2","result":"NO_LEADER","reason":"NO_LEADER"}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_plan_says_what_it_would_do_and_how_to_run_it() {
        let expected = "\
╭───────────┬────────────┬─────────────┬─────────────┬───────────┬───────────┬─────────────────┬──────────────────────────────╮
│ partition ┆ leader now ┆ should lead ┆ lag entries ┆ lag bytes ┆ decision  ┆ reason          ┆ detail                       │
╞═══════════╪════════════╪═════════════╪═════════════╪═══════════╪═══════════╪═════════════════╪══════════════════════════════╡
│ 1         ┆ 0          ┆ 1           ┆ 12          ┆ 3400      ┆ move to 2 ┆ PRIMARY_LAGGING ┆ broker 1 lacks too much      │
│ 2         ┆ 0          ┆ 0           ┆ ?           ┆ ?         ┆ stay      ┆ ALREADY_LEADER  ┆ broker 0 leads it, as wanted │
│ 3         ┆ -          ┆ 2           ┆ ?           ┆ ?         ┆ skip      ┆ NO_LEADER       ┆                              │
╰───────────┴────────────┴─────────────┴─────────────┴───────────┴───────────┴─────────────────┴──────────────────────────────╯";
        assert_eq!(plan_table(&plan()).to_string(), expected);
        let asked = RebalanceBody {
            policy: Some("records".into()),
            partitions: Some(vec![1, 3]),
            replication_lag_threshold: Some(1024),
            targets: [(3, 0)].into(),
            max_leaders_per_broker: Some(4),
            ..RebalanceBody::default()
        };
        assert_eq!(
            plan_summary(&plan(), &asked),
            "would move 1 of 3 partitions, and leave 1 that cannot be moved now; plan 3f00000000000001\n\
             run just this plan: evenkeel rebalance --plan 3f00000000000001 --policy records --partition 1,3 \
             --target 3=0 --max-leaders-per-broker 4 --lag-threshold 1024"
        );
        let still = Run { partitions: vec![plan().partitions[1].clone()], ..plan() };
        assert_eq!(
            plan_summary(&still, &RebalanceBody::default()),
            "balanced: nothing to move; plan 3f00000000000001"
        );
    }

    #[test]
    fn history_is_a_run_a_line() {
        let text = r#"[{"rebalanceId":8,"startedAt":"2026-01-01T00:00:02Z","finishedAt":null,"result":null,
            "cancelRequested":false,"policy":"records","plan":"00","results":{}},
            {"rebalanceId":7,"startedAt":"2026-01-01T00:00:00Z","finishedAt":"2026-01-01T00:00:01Z","result":"FAILED",
            "policy":"primary","results":{"TRANSFERRED":3,"LAG_TOO_HIGH":1}}]"#;
        let runs: Vec<RunSummary> = serde_json::from_str(text).unwrap();
        let expected = "\
╭────┬──────────────────────┬──────────────────────┬───────────┬─────────┬───────────────────────────────╮
│ id ┆ started              ┆ finished             ┆ result    ┆ policy  ┆ partitions                    │
╞════╪══════════════════════╪══════════════════════╪═══════════╪═════════╪═══════════════════════════════╡
│ 8  ┆ 2026-01-01T00:00:02Z ┆ -                    ┆ under way ┆ records ┆                               │
│ 7  ┆ 2026-01-01T00:00:00Z ┆ 2026-01-01T00:00:01Z ┆ FAILED    ┆ primary ┆ LAG_TOO_HIGH 1, TRANSFERRED 3 │
╰────┴──────────────────────┴──────────────────────┴───────────┴─────────┴───────────────────────────────╯";
        assert_eq!(history_table(&runs).to_string(), expected);
    }

    #[test]
    fn a_line_tells_how_a_partition_went() {
        let run = run();
        assert_eq!(
            partition_line(&run.partitions[0], 1, 4),
            "[1/4] partition 1: TRANSFERRED, broker 0 → 1, gap 3.1 ms"
        );
        assert_eq!(
            partition_line(&run.partitions[1], 2, 4),
            "[2/4] partition 2: LAG_TOO_HIGH: broker 2 lacks 5,000 entries"
        );
    }
}
