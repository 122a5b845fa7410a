//! `evenkeel audit`: what operators did, the newest first.

use clap::Args;
use comfy_table::Table;
use serde::Deserialize;

use crate::cluster::connection::Connection;
use crate::output::format::Output;
use crate::output::outcome::{Failure, print};
use crate::output::tables::table;

#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Entries to show, the newest; the cluster keeps 1,000
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// table tells a person, json prints one object
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// One thing that was done, or refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditEntry {
    pub at: String,
    pub who: String,
    pub source: Option<String>,
    pub action: String,
    pub target: Option<String>,
    pub outcome: String,
    pub rebalance_id: Option<u64>,
    pub detail: Option<String>,
}

pub async fn run(args: AuditArgs, connection: &Connection) -> Result<(), Failure> {
    let (entries, raw) = connection.cluster_api()?.audit(args.limit).await?;
    match args.output {
        Output::Table | Output::Wide => print(shown(&entries)),
        data => data.print(raw),
    }
}

fn shown(entries: &[AuditEntry]) -> Table {
    let mut rows = table(["when", "who", "from", "what", "on", "outcome", "run", "why"]);
    for entry in entries {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        rows.add_row([
            entry.at.clone(),
            entry.who.clone(),
            or_dash(&entry.source),
            entry.action.clone(),
            or_dash(&entry.target),
            entry.outcome.clone(),
            or_dash(&entry.rebalance_id.map(|id| id.to_string())),
            or_dash(&entry.detail),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_a_line() {
        let text = r#"[{"number":2,"at":"2026-01-01T00:00:02.000Z","who":"ops","source":"10.0.0.1:4711","action":"drain",
            "target":"broker 1","outcome":"done","rebalanceId":null,"detail":null},
            {"number":1,"at":"2026-01-01T00:00:01.000Z","who":"anonymous","action":"rebalance","outcome":"started",
            "rebalanceId":7}]"#;
        let entries: Vec<AuditEntry> = serde_json::from_str(text).unwrap();
        let expected = "\
╭──────────────────────────┬───────────┬───────────────┬───────────┬──────────┬─────────┬─────┬─────╮
│ when                     ┆ who       ┆ from          ┆ what      ┆ on       ┆ outcome ┆ run ┆ why │
╞══════════════════════════╪═══════════╪═══════════════╪═══════════╪══════════╪═════════╪═════╪═════╡
│ 2026-01-01T00:00:02.000Z ┆ ops       ┆ 10.0.0.1:4711 ┆ drain     ┆ broker 1 ┆ done    ┆ -   ┆ -   │
│ 2026-01-01T00:00:01.000Z ┆ anonymous ┆ -             ┆ rebalance ┆ -        ┆ started ┆ 7   ┆ -   │
╰──────────────────────────┴───────────┴───────────────┴───────────┴──────────┴─────────┴─────┴─────╯";
        assert_eq!(shown(&entries).to_string(), expected);
    }
}
