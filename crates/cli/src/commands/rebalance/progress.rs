//! How far a run is, on standard error: a bar on a terminal, a JSON object a line elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cluster::cluster_api::RunPartition;
use crate::commands::rebalance::follow::Watcher;
use crate::commands::rebalance::report::{counted, partition_line};
use crate::output::outcome::note;

/// How often the time on the bar goes on.
const BAR_TICK: Duration = Duration::from_millis(100);

/// Progress as it happens.
pub struct Live {
    bar: Option<ProgressBar>,
    results: BTreeMap<String, u64>,
}

impl Live {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {pos}/{len} partitions  {elapsed}  {msg}")
            {
                bar.set_style(style);
            }
            bar.enable_steady_tick(BAR_TICK);
            bar
        });
        Self { bar, results: BTreeMap::new() }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watcher for Live {
    fn partition_done(&mut self, partition: &RunPartition, done: usize, all: usize) {
        let result = partition.result.clone().unwrap_or_default();
        *self.results.entry(result).or_default() += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
                bar.set_message(counted(&self.results));
            }
            None => note(json!({
                "progress": "rebalance",
                "done": done,
                "all": all,
                "partitionId": partition.partition_id,
                "result": partition.result,
                "from": partition.from,
                "to": partition.to,
                "gapMs": partition.gap_ms,
                "text": partition_line(partition, done, all),
            })),
        }
    }
}
