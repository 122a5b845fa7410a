//! The table: medians over rounds, and ours as a multiple of theirs.

use std::collections::BTreeMap;

use anyhow::Context;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::load::{Measured, Peer};

type Row = (&'static str, fn(&Measured) -> Option<f64>, usize);

/// Name, value, digits behind the point.
const ROWS: [Row; 9] = [
    ("writes/s", |m| Some(m.writes_per_s), 0),
    ("p50 ms", |m| Some(m.p50_ms), 2),
    ("p99 ms", |m| Some(m.p99_ms), 2),
    ("failed", |m| Some(m.failed as f64), 0),
    ("servers' CPU per write, µs", |m| Some(m.cpu_us_per_write), 1),
    ("bytes written per byte stored", |m| Some(m.bytes_written_per_byte), 2),
    ("rounds in which some leaders stayed", |m| Some(f64::from(!m.moved.as_ref()?.complete)), 0),
    ("failed while leaders move", |m| Some(m.moved.as_ref()?.failed as f64), 0),
    ("longest gap while leaders move, ms", |m| Some(m.moved.as_ref()?.longest_gap_ms), 1),
];

const NOTES: &str = "\
Medians over rounds. evenkeel/X is our figure divided by theirs.
evenkeel and etcd acknowledge when a majority has synced the write to disk. NATS JetStream does not sync each write: it
acknowledges when a majority has it in memory, and syncs every two minutes by default; a power cut may take acknowledged writes.
Leaders that move: etcd one, NATS one for each stream, evenkeel all partitions. CPU and bytes are those of all servers, our gateway
with them; the loader shares the machine. What stores nothing is one server that answers etcd's calls at once: what calls alone
cost, over a connection for each client; evenkeel's clients share connections. Failed are those that a client was told of: evenkeel's gateway parks and
replays what a move delays, the others' clients are told.";

/// A table for each number of clients.
pub fn table(lines: &str) -> anyhow::Result<String> {
    let mut runs: BTreeMap<usize, BTreeMap<Peer, Vec<Measured>>> = BTreeMap::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let measured: Measured = serde_json::from_str(line).with_context(|| line.to_owned())?;
        runs.entry(measured.clients).or_default().entry(measured.peer).or_default().push(measured);
    }
    let mut text = String::new();
    for (clients, peers) in runs {
        let rounds = peers.values().map(Vec::len).max().unwrap_or(0);
        let bytes = peers.values().flatten().next().map_or(0, |measured| measured.value_bytes);
        text.push_str(&format!("{clients} clients, {bytes}-byte values, {rounds} rounds\n\n"));
        text.push_str(&of_peers(&peers));
        text.push_str("\n\n");
    }
    Ok(text + NOTES)
}

fn of_peers(peers: &BTreeMap<Peer, Vec<Measured>>) -> String {
    let columns: Vec<Peer> = peers.keys().copied().collect();
    let theirs: Vec<Peer> = columns
        .iter()
        .copied()
        .filter(|peer| matches!(peer, Peer::Etcd | Peer::Nats | Peer::Nothing))
        .collect();
    let ours = if peers.contains_key(&Peer::Evenkeel) { Peer::Evenkeel } else { Peer::EvenkeelStreamed };
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    let names = columns.iter().map(|peer| name(*peer).to_owned());
    let ratios = theirs.iter().map(|peer| format!("{}/{}", name(ours), name(*peer)));
    table.set_header(std::iter::once(String::new()).chain(names).chain(ratios));
    for (title, value, digits) in ROWS {
        let summary: fn(Vec<f64>) -> Option<f64> = if title.starts_with("rounds") { sum } else { median };
        let of = |peer: Peer| summary(peers.get(&peer)?.iter().filter_map(value).collect());
        if columns.iter().all(|peer| of(*peer).is_none()) {
            continue;
        }
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"));
        let values = columns.iter().map(|peer| shown(of(*peer)));
        let ratios = theirs.iter().map(|peer| match (of(ours), of(*peer)) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2} ×", ours / theirs),
            _ => "–".to_owned(),
        });
        table.add_row(std::iter::once(title.to_owned()).chain(values).chain(ratios));
    }
    table.to_string()
}

fn name(peer: Peer) -> &'static str {
    match peer {
        Peer::Evenkeel => "evenkeel",
        Peer::EvenkeelStreamed => "evenkeel, streamed",
        Peer::Etcd => "etcd",
        Peer::Nats => "NATS R3, not synced",
        Peer::Nothing => "nothing stored",
    }
}

fn sum(values: Vec<f64>) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Moved;

    fn measured(peer: Peer, writes_per_s: f64) -> String {
        let moved = Some(Moved { complete: true, failed: 2, longest_gap_ms: 10.0 });
        serde_json::to_string(&Measured {
            peer,
            clients: 64,
            value_bytes: 256,
            writes_per_s,
            p50_ms: 1.0,
            p99_ms: 2.0,
            failed: 0,
            cpu_us_per_write: 30.0,
            bytes_written_per_byte: 4.0,
            moved,
        })
        .unwrap()
    }

    #[test]
    fn rounds_become_medians_and_medians_ratios() {
        let lines: Vec<String> =
            [(Peer::Evenkeel, 900.0), (Peer::Evenkeel, 1_000.0), (Peer::Evenkeel, 5_000.0)]
                .into_iter()
                .chain([(Peer::Etcd, 200.0), (Peer::Nats, 500.0)])
                .map(|(peer, writes)| measured(peer, writes))
                .collect();
        let table = table(&lines.join("\n")).unwrap();
        let row = table.lines().find(|line| line.contains("writes/s")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells, ["", "writes/s", "1000", "200", "500", "5.00 ×", "2.00 ×", ""]);
        assert!(
            table.contains("64 clients, 256-byte values, 3 rounds")
                && table.contains("does not sync each write")
        );
    }

    #[test]
    fn a_line_that_is_no_result_is_shown() {
        assert!(format!("{:#}", table("nonsense").unwrap_err()).contains("nonsense"));
    }
}
