//! What `evenkeel bench rebalance` has measured, what of it must hold, and how it is printed. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench::load::Gaps;
use crate::bench::spread::Spread;
use crate::cluster::cluster_api::Run;

/// One rebalance.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Partitions that their primary did not lead before it.
    pub misplaced: BTreeSet<u32>,
    /// Partitions that it moved.
    pub moved: BTreeSet<u32>,
    /// Whether every partition of the run was led as wanted at its end.
    pub went_well: bool,
    pub took: Option<Duration>,
    /// How long the old leaders held writes back, for each moved partition.
    frozen_ms: Vec<f64>,
    /// Longest time without an acknowledgement, for each moved partition; before the rebalance, and around it.
    gaps_before_ms: Vec<f64>,
    gaps_ms: Vec<f64>,
}

impl Round {
    pub fn new(misplaced: BTreeSet<u32>, run: Option<&Run>, gaps_before: &Gaps, gaps: &Gaps) -> Self {
        // No run is as good as a run of nothing.
        let nothing = Run { result: Some("COMPLETED".into()), ..Run::default() };
        let run = run.unwrap_or(&nothing);
        let transferred = run.partitions.iter().filter(|p| p.result.as_deref() == Some("TRANSFERRED"));
        let moved: BTreeSet<u32> = transferred.clone().map(|partition| partition.partition_id).collect();
        let of_moved = |gaps: &Gaps| -> Vec<f64> {
            moved.iter().filter_map(|id| Some(*gaps.partitions_us.get(id)? as f64 / 1e3)).collect()
        };
        Self {
            took: run.took(),
            went_well: run.went_well(),
            frozen_ms: transferred.filter_map(|partition| partition.gap_ms).collect(),
            gaps_before_ms: of_moved(gaps_before),
            gaps_ms: of_moved(gaps),
            misplaced,
            moved,
        }
    }
}

/// All rounds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub partitions: u32,
    pub clients: u32,
    pub value_bytes: usize,
    pub load_percent: u32,
    pub capacity_per_second: f64,
    /// Acknowledged during the rounds.
    pub per_second: f64,
    pub failed: u64,
    /// Sent again, then acknowledged.
    pub retried: u64,
    pub p99_before_ms: f64,
    pub p99_during_ms: f64,
    pub rounds: Vec<Round>,
}

impl Report {
    /// What had to hold and did not.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.failed > 0 {
            broken.push(format!("{} client requests failed", self.failed));
        }
        for (round, number) in self.rounds.iter().zip(1..) {
            if round.misplaced.is_empty() {
                broken
                    .push(format!("round {number}: the drained broker led nothing, so nothing was measured"));
            }
            if !round.went_well {
                broken.push(format!("round {number}: some partitions were not led as wanted after the run"));
            }
            let left = round.misplaced.difference(&round.moved).count();
            let needless = round.moved.difference(&round.misplaced).count();
            if left + needless > 0 {
                broken.push(format!(
                    "round {number}: of {} misplaced partitions {left} were not moved, and {needless} others were",
                    round.misplaced.len()
                ));
            }
        }
        broken
    }

    fn spread(&self, of_round: impl Fn(&Round) -> Vec<f64>) -> Option<Spread> {
        let values: Vec<f64> = self.rounds.iter().flat_map(of_round).collect();
        Spread::of(&values)
    }

    fn total(&self, of_round: impl Fn(&Round) -> usize) -> usize {
        self.rounds.iter().map(of_round).sum()
    }

    fn gaps(&self) -> Option<Spread> {
        self.spread(|round| round.gaps_ms.clone())
    }

    fn gaps_before(&self) -> Option<Spread> {
        self.spread(|round| round.gaps_before_ms.clone())
    }

    fn frozen(&self) -> Option<Spread> {
        self.spread(|round| round.frozen_ms.clone())
    }

    fn runs_s(&self) -> Option<Spread> {
        self.spread(|round| round.took.iter().map(Duration::as_secs_f64).collect())
    }
}

pub fn in_json(report: &Report) -> Value {
    let spread = |spread: Option<Spread>| spread.map(|spread| spread.json());
    json!({
        "rounds": report.rounds.len(),
        "partitions": report.partitions,
        "clients": report.clients,
        "value_bytes": report.value_bytes,
        "load_percent": report.load_percent,
        "capacity_writes_per_s": report.capacity_per_second.round(),
        "writes_per_s": report.per_second.round(),
        "failed": report.failed,
        "retried": report.retried,
        "misplaced": report.total(|round| round.misplaced.len()),
        "moved": report.total(|round| round.moved.len()),
        "write_gap_ms": spread(report.gaps()),
        "write_gap_before_ms": spread(report.gaps_before()),
        "frozen_ms": spread(report.frozen()),
        "run_s": spread(report.runs_s()),
        "client_p99_before_ms": report.p99_before_ms,
        "client_p99_during_ms": report.p99_during_ms,
        "broken": report.broken(),
    })
}

pub fn in_words(report: &Report) -> String {
    let millis = |spread: Option<Spread>| match spread {
        Some(Spread { p50, p99, max }) => format!("p50 {p50:.1} ms   p99 {p99:.1} ms   max {max:.1} ms"),
        None => "nothing measured".to_owned(),
    };
    let runs = match report.runs_s() {
        Some(Spread { p50, max, .. }) => format!("p50 {p50:.3} s   max {max:.3} s"),
        None => "nothing measured".to_owned(),
    };
    let ratio = match report.p99_before_ms {
        before if before > 0.0 => format!("   ({:.2} ×)", report.p99_during_ms / before),
        _ => String::new(),
    };
    [
        format!(
            "load         {:.0} writes/s, {} % of {:.0}  ({} clients, {} bytes)",
            report.per_second,
            report.load_percent,
            report.capacity_per_second,
            report.clients,
            report.value_bytes
        ),
        format!(
            "rounds       {}: {} of {} misplaced partitions moved",
            report.rounds.len(),
            report.total(|round| round.moved.len()),
            report.total(|round| round.misplaced.len())
        ),
        format!("failed       {}   (sent again, then acknowledged: {})", report.failed, report.retried),
        format!("write gap    {}   per moved partition", millis(report.gaps())),
        format!("  before     {}", millis(report.gaps_before())),
        format!("frozen       {}   as the old leaders tell", millis(report.frozen())),
        format!("run          {runs}"),
        format!(
            "client p99   {:.1} ms before, {:.1} ms during{ratio}",
            report.p99_before_ms, report.p99_during_ms
        ),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(partitions: &[(u32, u64)]) -> Gaps {
        Gaps { overall_us: 0, partitions_us: partitions.iter().copied().collect() }
    }

    fn run() -> Run {
        let text = r#"{"rebalanceId":1,"startedAt":"2026-01-01T00:00:00.000Z","finishedAt":"2026-01-01T00:00:00.250Z",
            "result":"COMPLETED","partitions":[
            {"partitionId":2,"result":"TRANSFERRED","gapMs":2.5},{"partitionId":5,"result":"TRANSFERRED","gapMs":3.5}]}"#;
        serde_json::from_str(text).unwrap()
    }

    fn round(misplaced: &[u32]) -> Round {
        let (before, during) =
            (gaps(&[(1, 90_000), (2, 1_000), (5, 2_000)]), gaps(&[(1, 1), (2, 4_000), (5, 6_000)]));
        Round::new(misplaced.iter().copied().collect(), Some(&run()), &before, &during)
    }

    fn report(rounds: Vec<Round>) -> Report {
        Report {
            partitions: 12,
            clients: 64,
            value_bytes: 256,
            load_percent: 70,
            capacity_per_second: 3500.4,
            per_second: 2450.2,
            p99_before_ms: 4.0,
            p99_during_ms: 5.0,
            rounds,
            ..Report::default()
        }
    }

    #[test]
    fn what_was_measured_is_told() {
        let expected = "\
load         2450 writes/s, 70 % of 3500  (64 clients, 256 bytes)
rounds       2: 4 of 4 misplaced partitions moved
failed       0   (sent again, then acknowledged: 0)
write gap    p50 4.0 ms   p99 6.0 ms   max 6.0 ms   per moved partition
  before     p50 1.0 ms   p99 2.0 ms   max 2.0 ms
frozen       p50 2.5 ms   p99 3.5 ms   max 3.5 ms   as the old leaders tell
run          p50 0.250 s   max 0.250 s
client p99   4.0 ms before, 5.0 ms during   (1.25 ×)";
        let report = report(vec![round(&[2, 5]), round(&[2, 5])]);
        assert_eq!(in_words(&report), expected);
        let json = in_json(&report);
        assert_eq!((&json["moved"], &json["misplaced"]), (&4.into(), &4.into()));
        assert_eq!(json["write_gap_ms"], json!({"p50": 4.0, "p99": 6.0, "max": 6.0}));
        assert_eq!(json["broken"], json!([]));
    }

    #[test]
    fn a_failure_a_move_too_few_or_too_many_breaks_the_promise() {
        let broken = |report: Report| report.broken().join("; ");
        assert_eq!(broken(report(vec![round(&[2, 5])])), "");
        assert_eq!(
            broken(report(vec![round(&[2, 5, 7])])),
            "round 1: of 3 misplaced partitions 1 were not moved, and 0 others were"
        );
        assert_eq!(
            broken(report(vec![round(&[2, 5]), round(&[2])])),
            "round 2: of 1 misplaced partitions 0 were not moved, and 1 others were"
        );
        let failed = Report { failed: 2, ..report(vec![round(&[2, 5])]) };
        assert_eq!(broken(failed), "2 client requests failed");
        let nothing = Round::new(BTreeSet::new(), None, &gaps(&[]), &gaps(&[]));
        assert!(broken(report(vec![nothing])).contains("nothing was measured"));
        let unmoved = Round::new([3].into(), None, &gaps(&[]), &gaps(&[]));
        assert!(broken(report(vec![unmoved])).contains("1 were not moved"));
        let unfinished = Round { went_well: false, ..round(&[2, 5]) };
        assert!(broken(report(vec![unfinished])).contains("not led as wanted"));
    }

    #[test]
    fn nothing_measured_is_said() {
        assert!(in_words(&report(Vec::new())).contains("write gap    nothing measured"));
        assert!(in_json(&report(Vec::new()))["frozen_ms"].is_null());
    }
}
