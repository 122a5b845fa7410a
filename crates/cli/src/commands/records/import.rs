//! `evenkeel import`: JSON Lines into records, resumable without any bookkeeping beside the cluster's own.
//!
//! The cluster itself is the record of progress. A line is written under the condition that its key does not
//! exist yet; where the record is there already, it is read: the same value means that an earlier run wrote it,
//! and nothing is written. So an importer that was killed at any moment, even with writes under way whose answers
//! it never saw, is resumed by running it again: every record is written once and keeps version 1. Reruns are
//! cheap: once a line turns out to be there, the next ones are read first and written only when they are missing.
//!
//! A record with another value is updated, under the condition that its version is still the one that was read.
//! A file is read twice: the first pass finds bad lines before anything is written, and the last line of each
//! key; only that one is imported, so keys that occur twice do not overwrite each other at every rerun. Standard
//! input can be read only once: there, repeated keys are written in order.
//!
//! Each key has one writer, which waits for one answer after the other. All of them share one stream to the cluster.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use clap::Args;
use evenkeel_client::{Client, Condition, Pipeline};
use evenkeel_protocol::v1::Consistency;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::cluster::connection::Connection;
use crate::commands::records::json_lines::{JsonLines, Line, LineError};
use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::output::record_output::readable;

/// Lines that wait for one writer.
const QUEUE_LINES_MAX: usize = 16;
/// How often a record may change under an update before somebody else evidently writes it all the time.
const CONTENDED_ATTEMPTS_MAX: u32 = 10;

#[derive(Args, Debug)]
pub struct ImportArgs {
    /// JSON Lines file; - reads standard input
    file: String,
    /// Field that holds the key, a text or a number
    #[arg(long, value_name = "FIELD")]
    key: String,
    /// Leave out lines that are no records, instead of stopping at the first
    #[arg(long)]
    skip_bad: bool,
    /// Writes under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What became of the lines.
#[derive(Debug, Default)]
pub struct Tally {
    pub written: AtomicU64,
    pub already_there: AtomicU64,
    pub updated: AtomicU64,
    pub replaced_by_later_line: AtomicU64,
    pub skipped: AtomicU64,
}

impl Tally {
    fn summary(&self) -> String {
        let [written, there, updated, replaced, skipped] = self.counts();
        let mut text = format!("{written} written, {there} already there, {updated} updated");
        for (count, what) in
            [(replaced, "replaced by a later line with the same key"), (skipped, "bad lines skipped")]
        {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }

    fn counts(&self) -> [u64; 5] {
        [&self.written, &self.already_there, &self.updated, &self.replaced_by_later_line, &self.skipped]
            .map(|count| count.load(Relaxed))
    }
}

pub async fn run(args: ImportArgs, connection: &Connection) -> Result<(), Failure> {
    let client = connection.client_for(usize::from(args.in_flight)).await?;
    let bar = ProgressBar::no_length();
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} lines  {per_sec}  {elapsed} of {duration}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    let job = Job {
        key_field: args.key,
        skip_bad: args.skip_bad,
        writers: usize::from(args.in_flight),
        bar: bar.clone(),
        tally: Arc::default(),
    };
    let result = match args.file.as_str() {
        "-" => job.stream(&client, BufReader::new(std::io::stdin()), None).await,
        file => job.file(&client, Path::new(file)).await,
    };
    bar.finish_and_clear();
    if let Err(mut failure) = result {
        failure.message = format!(
            "{}; so far: {}. The same command goes on from here: nothing is written twice",
            failure.message,
            job.tally.summary()
        );
        return Err(failure);
    }
    match args.output {
        Output::Table | Output::Wide => print(job.tally.summary()),
        data => {
            let [written, there, updated, replaced, skipped] = job.tally.counts();
            data.print(json!({"written": written, "already_there": there, "updated": updated,
                         "replaced_by_later_line": replaced, "skipped": skipped}))
        }
    }
}

/// An import of one input.
#[derive(Debug)]
pub struct Job {
    pub key_field: String,
    pub skip_bad: bool,
    pub writers: usize,
    pub bar: ProgressBar,
    pub tally: Arc<Tally>,
}

/// Which line of each key counts: the key's hash to the line's number. 128 bits, so that two keys never meet.
type LastLines = HashMap<u128, u64>;

impl Job {
    /// Imports a file: looks through all of it first.
    pub async fn file(&self, client: &Client, path: &Path) -> Result<(), Failure> {
        let open = || {
            let file = File::open(path);
            file.map(BufReader::new).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
        };
        let mut last = LastLines::new();
        let mut lines = 0;
        for line in JsonLines::new(open()?, &self.key_field) {
            match line {
                Ok(line) => {
                    last.insert(xxh3_128(&line.key), line.number);
                    lines += 1;
                }
                // Counted when it is met again.
                Err(error) if self.skip_bad && !fatal(&error) => {}
                Err(error) => return Err(bad_line(&path.display().to_string(), &error)),
            }
        }
        self.bar.set_length(lines);
        self.stream(client, open()?, Some(last)).await
    }

    /// Imports what `input` holds; with `last`, only each key's last line.
    pub async fn stream(
        &self,
        client: &Client,
        input: impl BufRead + Send + 'static,
        last: Option<LastLines>,
    ) -> Result<(), Failure> {
        let look_first = Arc::new(AtomicBool::new(false));
        let pipeline = client.pipeline(self.writers);
        let mut writers = JoinSet::new();
        let mut queues = Vec::with_capacity(self.writers);
        for _ in 0..self.writers.max(1) {
            let (queue, lines) = mpsc::channel(QUEUE_LINES_MAX);
            queues.push(queue);
            let writer = Writer {
                client: client.clone(),
                pipeline: pipeline.clone(),
                look_first: Arc::clone(&look_first),
                tally: Arc::clone(&self.tally),
                bar: self.bar.clone(),
            };
            writers.spawn(writer.write(lines));
        }
        let lines = JsonLines::new(input, &self.key_field);
        let (skip_bad, tally, bar) = (self.skip_bad, Arc::clone(&self.tally), self.bar.clone());
        let (tell_end, reader) = oneshot::channel();
        // A thread of its own: one that waits for standard input must not keep the program from ending.
        std::thread::spawn(move || {
            let _ = tell_end.send(read(lines, last, queues, skip_bad, &tally, &bar));
        });
        // Whichever fails first ends the others: a writer that ends closes its queue, and the reader's end closes
        // all of them.
        let mut failure = None;
        while let Some(result) = writers.join_next().await {
            let result = result.map_err(|error| Failure::new(1, format!("a writer stopped: {error}")));
            if let Err(error) = result.and_then(|result| result) {
                failure.get_or_insert(error);
                writers.abort_all();
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => reader.await.map_err(|_| Failure::new(1, "the reader stopped"))?,
        }
    }
}

/// Later lines cannot be read either.
fn fatal(error: &LineError) -> bool {
    matches!(error, LineError::TooLong { .. } | LineError::Unreadable { .. })
}

fn bad_line(input: &str, error: &LineError) -> Failure {
    Failure::new(1, format!("{input}: {error}; correct it, or leave such lines out with --skip-bad"))
}

/// Gives each line to the writer of its key, so that writes of one key stay in order.
fn read(
    lines: JsonLines<impl BufRead>,
    last: Option<LastLines>,
    queues: Vec<mpsc::Sender<Line>>,
    skip_bad: bool,
    tally: &Tally,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    for line in lines {
        let line = match line {
            Ok(line) => line,
            Err(error) if skip_bad && !fatal(&error) => {
                tally.skipped.fetch_add(1, Relaxed);
                bar.suspend(|| note(format_args!("skipped {error}")));
                continue;
            }
            Err(error) => return Err(bad_line("standard input", &error)),
        };
        let is_last = last.as_ref().is_none_or(|last| last.get(&xxh3_128(&line.key)) == Some(&line.number));
        if !is_last {
            tally.replaced_by_later_line.fetch_add(1, Relaxed);
            bar.inc(1);
            continue;
        }
        let writer = (xxh3_64(&line.key) % queues.len() as u64) as usize;
        if queues[writer].blocking_send(line).is_err() {
            // That writer failed, and says why.
            return Ok(());
        }
    }
    Ok(())
}

struct Writer {
    client: Client,
    pipeline: Pipeline,
    /// Lines seem to be there already: reading is cheaper than a write that is refused.
    look_first: Arc<AtomicBool>,
    tally: Arc<Tally>,
    bar: ProgressBar,
}

impl Writer {
    async fn write(self, mut lines: mpsc::Receiver<Line>) -> Result<(), Failure> {
        while let Some(line) = lines.recv().await {
            let number = line.number;
            self.write_line(line).await.map_err(|failure| {
                Failure::new(failure.code, format!("line {number}: {}", failure.message))
            })?;
            self.bar.inc(1);
        }
        Ok(())
    }

    async fn write_line(&self, line: Line) -> Result<(), Failure> {
        let mut look = self.look_first.load(Relaxed);
        for _ in 0..CONTENDED_ATTEMPTS_MAX {
            let current =
                if look { self.client.get(line.key.clone(), Consistency::Linearizable).await? } else { None };
            let (condition, tally) = match &current {
                Some(record) if record.value == line.value => {
                    self.look_first.store(true, Relaxed);
                    self.tally.already_there.fetch_add(1, Relaxed);
                    return Ok(());
                }
                Some(record) => (Condition::VersionEquals(record.version), &self.tally.updated),
                None => {
                    if look {
                        self.look_first.store(false, Relaxed);
                    }
                    (Condition::MustNotExist, &self.tally.written)
                }
            };
            match self.pipeline.put(line.key.clone(), line.value.clone(), Some(condition)).await {
                Ok(_) => {
                    tally.fetch_add(1, Relaxed);
                    return Ok(());
                }
                Err(error) if error.is_precondition_failed() => look = true,
                Err(error) => return Err(error.into()),
            }
        }
        let key = readable(&line.key);
        Err(Failure::new(1, format!("{key:?} keeps changing while it is imported; stop its other writers")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::cluster::fake_gateway::FakeGateway;

    fn job(skip_bad: bool) -> Job {
        Job {
            key_field: "id".into(),
            skip_bad,
            writers: 4,
            bar: ProgressBar::hidden(),
            tally: Arc::default(),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn numbered(count: u32) -> String {
        (0..count).map(|n| format!("{{\"id\":{n}}}\n")).collect()
    }

    async fn import(gateway: &FakeGateway, text: &str) -> (Result<(), Failure>, [u64; 5]) {
        let job = job(false);
        let result = job.file(&gateway.client().await, file(text).path()).await;
        (result, job.tally.counts())
    }

    fn versions(gateway: &FakeGateway) -> Vec<u64> {
        gateway.records.lock().values().map(|record| record.version).collect()
    }

    #[tokio::test]
    async fn an_import_that_broke_off_goes_on_and_writes_nothing_twice() {
        let gateway = FakeGateway::default();
        gateway.break_at.store(120, Relaxed);
        let (result, _) = import(&gateway, &numbered(300)).await;
        assert!(result.unwrap_err().message.contains("broken on demand"));
        let there = gateway.records.lock().len();
        assert!((1..300).contains(&there), "{there}");
        let (result, [written, already_there, ..]) = import(&gateway, &numbered(300)).await;
        result.unwrap();
        assert_eq!((written + already_there, already_there), (300, there as u64));
        assert_eq!(versions(&gateway), [1; 300]);
    }

    #[tokio::test]
    async fn a_second_import_reads_instead_of_writing() {
        let gateway = FakeGateway::default();
        import(&gateway, &numbered(200)).await.0.unwrap();
        assert_eq!(gateway.puts.load(Relaxed), 200);
        let (result, counts) = import(&gateway, &numbered(200)).await;
        result.unwrap();
        assert_eq!(counts, [0, 200, 0, 0, 0]);
        // Each writer may try one write before the first line turns out to be there.
        assert!(gateway.puts.load(Relaxed) <= 204 + 4);
    }

    #[tokio::test]
    async fn the_last_line_of_a_key_counts_and_only_that_is_written() {
        let gateway = FakeGateway::default();
        let text = "{\"id\":1,\"v\":\"old\"}\n{\"id\":2}\n{\"id\":1,\"v\":\"new\"}\n";
        for counts in [[2, 0, 0, 1, 0], [0, 2, 0, 1, 0]] {
            let (result, found) = import(&gateway, text).await;
            result.unwrap();
            assert_eq!(found, counts);
        }
        assert_eq!(versions(&gateway), [1, 1]);
        assert_eq!(gateway.records.lock()[&b"1"[..]].value, "{\"id\":1,\"v\":\"new\"}");
    }

    #[tokio::test]
    async fn a_changed_line_updates_its_record() {
        let gateway = FakeGateway::default();
        import(&gateway, "{\"id\":1,\"v\":1}\n{\"id\":2}\n").await.0.unwrap();
        let (result, counts) = import(&gateway, "{\"id\":1,\"v\":2}\n{\"id\":2}\n").await;
        result.unwrap();
        assert_eq!(counts, [0, 1, 1, 0, 0]);
        assert_eq!(versions(&gateway), [2, 1]);
    }

    #[tokio::test]
    async fn a_bad_line_is_found_before_anything_is_written() {
        let gateway = FakeGateway::default();
        let text = "{\"id\":1}\n{\"id\":2}\nnonsense\n";
        let (result, _) = import(&gateway, text).await;
        let failure = result.unwrap_err();
        assert!(failure.message.contains("line 3: not JSON"), "{failure}");
        assert!(gateway.records.lock().is_empty());
        let job = job(true);
        job.file(&gateway.client().await, file(text).path()).await.unwrap();
        assert_eq!(job.tally.counts(), [2, 0, 0, 0, 1]);
    }

    #[tokio::test]
    async fn standard_input_is_written_in_order() {
        let gateway = FakeGateway::default();
        let text = "{\"id\":1,\"v\":1}\n{\"id\":1,\"v\":2}\n{\"id\":1,\"v\":3}\n".as_bytes();
        job(false).stream(&gateway.client().await, text, None).await.unwrap();
        assert_eq!(gateway.records.lock()[&b"1"[..]].value, "{\"id\":1,\"v\":3}");
    }
}
