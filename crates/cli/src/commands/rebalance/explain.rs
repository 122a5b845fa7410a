//! `evenkeel rebalance explain`: of each partition why it would move, stay or be skipped, and what would help. It asks the
//! leaders as a dry run does, and moves nothing.

use clap::Args;
use serde_json::{Value, json};

use super::{Asked, check_targets};
use crate::cluster::cluster_api::{ClusterApi, Run, RunPartition};
use crate::commands::rebalance::report::{decision, detail, is_filtered, node, plan_summary, remedy};
use crate::output::format::Output;
use crate::output::outcome::Failure;

#[derive(Args, Debug)]
pub struct ExplainArgs {
    #[command(flatten)]
    asked: Asked,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: &ExplainArgs, api: &ClusterApi) -> Result<(), Failure> {
    check_targets(&args.asked.targets)?;
    let body = args.asked.body();
    let (plan, _) = api.dry_run(&body).await?;
    args.output.show(
        || format!("{}\n{}", in_words(&plan), plan_summary(&plan, &body)),
        || plan.partitions.iter().map(to_json).collect(),
    )
}

/// What would let a run move it, when this one would not.
fn fix(partition: &RunPartition) -> Option<&'static str> {
    (decision(partition) == "skip" && !is_filtered(partition)).then(|| remedy(partition))
}

fn in_words(plan: &Run) -> String {
    let mut text = String::new();
    for partition in &plan.partitions {
        text.push_str(&format!(
            "partition {}, led by {}: {}\n",
            partition.partition_id,
            node(partition.current_leader.as_ref()),
            decision(partition)
        ));
        let why = match detail(partition) {
            "" => partition.reason.as_deref().unwrap_or_default(),
            detail => detail,
        };
        if !why.is_empty() {
            text.push_str(&format!("  why  {why}\n"));
        }
        if let Some(fix) = fix(partition) {
            text.push_str(&format!("  fix  {fix}\n"));
        }
    }
    text
}

fn to_json(partition: &RunPartition) -> Value {
    let decision = decision(partition);
    json!({
        "partitionId": partition.partition_id,
        "decision": decision.split_whitespace().next(),
        "currentLeader": partition.current_leader,
        "desiredLeader": partition.desired_leader,
        "reason": partition.reason,
        "why": detail(partition),
        "fix": fix(partition),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_reason_and_what_would_help() {
        let plan: Run = serde_json::from_value(json!({
            "rebalanceId": 0,
            "partitions": [
                {"partitionId": 1, "currentLeader": "1", "desiredLeader": "0", "to": "0", "reason": "MISPLACED",
                 "detail": "partition 1: broker 0 has the highest priority"},
                {"partitionId": 2, "currentLeader": "1", "desiredLeader": "2", "result": "LAG_TOO_HIGH",
                 "reason": "LAG", "detail": "partition 2: broker 2 lacks 9 MiB"},
                {"partitionId": 3, "currentLeader": "1", "desiredLeader": "1", "result": "ALREADY_LEADER"},
            ],
        }))
        .unwrap();
        let expected = "\
partition 1, led by 1: move to 0
  why  broker 0 has the highest priority
partition 2, led by 1: skip
  why  broker 2 lacks 9 MiB
  fix  wait until it has caught up (`evenkeel status` shows the lag), or raise --lag-threshold
partition 3, led by 1: stay
";
        assert_eq!(in_words(&plan), expected);
        let json: Vec<Value> = plan.partitions.iter().map(to_json).collect();
        assert_eq!((&json[0]["decision"], &json[0]["fix"]), (&"move".into(), &Value::Null));
        assert!(json[1]["fix"].as_str().is_some_and(|fix| fix.contains("--lag-threshold")));
    }
}
