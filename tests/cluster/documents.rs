//! What the documents show at a prompt is run, on clusters of `evenkeel dev`, and answers as they say.
//!
//! Numbers, addresses and identifiers differ from machine to machine and stand for any other; every other word must be there, in
//! its order. Of JSON the names of fields are compared: all of them, or, where the page leaves some out with `…`, those that it shows.
//!
//! A page tells one story. On a busy machine a leader may move by itself, and the cluster has another one: then the page is begun
//! anew, on a new cluster.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::dev_cluster::announcement;
use crate::harness::{PATIENCE, PATIENT_LEASE, PATIENT_STAGGER, Process, wait_until};
use crate::readme::{page_text, parts};

/// How often a page is begun.
const BEGINNINGS_MAX: u32 = 3;
/// For how long what only looks may look again.
const LOOKING_MAX: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Commands that are not run, by how they begin, and why.
const LEFT_OUT: [(&str, &str); 7] = [
    ("evenkeel dev ", "the story's cluster is one already"),
    ("cargo ", "the demo is a step of .ci/run by itself"),
    ("evenkeel bench", "docs/performance.md measures for minutes; the README's is run"),
    ("evenkeel rebalance --pause-budget 5ms", "what a transfer takes is up to the machine"),
    ("curl -sN -H 'Accept: text/event-stream'", "has no end; tests/interfaces reads such a stream"),
    ("curl -sN localhost:8080/cluster/v2/rebalance/2/events", "of a run that has ended there are no more"),
    ("evenkeel gateway --cluster-brokers 0=10.0.0.1:26501", "tests/cluster/security.rs starts it"),
];

/// A command as a page shows it, and what is shown below it.
struct Shown {
    page: &'static str,
    command: String,
    output: Vec<String>,
}

/// Everything that a page shows at a prompt, in its order.
fn shown_in(page: &'static str) -> Vec<Shown> {
    let text = page_text(page);
    let mut all: Vec<Shown> = Vec::new();
    for block in parts(&text).filter_map(|(is_code, part)| part.strip_prefix("console\n").filter(|_| is_code))
    {
        for line in block.lines() {
            match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(command), _) => {
                    all.push(Shown { page, command: command.to_owned(), output: Vec::new() });
                }
                (None, Some(shown)) => shown.output.push(line.to_owned()),
                (None, None) => panic!("{page}: {line:?} stands before any command"),
            }
        }
    }
    assert!(!all.is_empty(), "{page} shows no command");
    all
}

/// A cluster as the documents have it: three brokers, twelve partitions.
struct Tour {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    /// What the documents say, and what it is here.
    here: Vec<(String, String)>,
    _dev: Process,
}

impl Tour {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        // The machine may be busy: leaders are left in peace, and the best replica stands for election first.
        let patience = [("EVENKEEL_RAFT_LEASE", PATIENT_LEASE), ("EVENKEEL_RAFT_STAGGER", PATIENT_STAGGER)];
        let args = ["dev", "--ports", "auto", "--output", "json", "--data-dir"].map(OsString::from);
        let args = args.into_iter().chain([data.clone().into_os_string()]);
        let settings = patience.iter().map(|(name, value)| format!("{name}={value}").into());
        let launcher = [OsString::from("env")].into_iter().chain(settings).collect();
        let mut dev = Process::start_under(launcher, "dev", args, &folder.path().join("dev.log"));
        let told = announcement(&mut dev).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let [grpc, api, monitoring] = ["grpc", "api", "monitoring"].map(|name| text(&told["gateway"][name]));
        let mut here = vec![
            ("target/release/evenkeel".to_owned(), env!("CARGO_BIN_EXE_evenkeel").to_owned()),
            ("/tmp/evenkeel".to_owned(), data.to_str().unwrap().to_owned()),
            ("localhost:8080".to_owned(), host_of(&api)),
            ("localhost:9600".to_owned(), host_of(&monitoring)),
        ];
        for (node, broker) in told["brokers"].as_array().unwrap().iter().enumerate() {
            here.push((format!("localhost:961{node}"), host_of(&text(&broker["monitoring"]))));
        }
        let path = Path::new(env!("CARGO_BIN_EXE_evenkeel")).parent().unwrap().display();
        let path = format!("{path}:{}", std::env::var("PATH").unwrap());
        let patience = patience.map(|(name, value)| (name, value.to_owned()));
        let addresses = [
            ("PATH", path),
            ("EVENKEEL_GATEWAY", grpc),
            ("EVENKEEL_API", api),
            ("EVENKEEL_MONITORING", monitoring),
        ];
        let variables = addresses.into_iter().chain(patience).collect();
        Self { folder, variables, here, _dev: dev }
    }

    fn as_here(&self, text: &str) -> String {
        self.here.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    /// Runs it in a shell, beside the files that `dev` wrote; answers whether it succeeded, and all that it said.
    async fn run(&self, command: &str) -> (bool, String) {
        let command = self.as_here(command);
        // What goes on in the background says nothing more here.
        let command = match command.strip_suffix('&') {
            Some(background) => format!("{background} > background.log 2>&1 &"),
            None => format!("{{ {command}; }} 2>&1"),
        };
        let mut shell = tokio::process::Command::new("sh");
        shell.args(["-c", &command]).current_dir(self.folder.path().join("data"));
        shell.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = shell.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output.unwrap_or_else(|_| panic!("{command} still runs after {PATIENCE:?}")).unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs what the story needs between two commands of a page.
    async fn prepare(&self, command: &str) {
        let (well, said) = self.run(command).await;
        assert!(well, "{command}: {said}");
    }

    /// What is led elsewhere than it should be, without anybody having failed.
    async fn unbalance(&self) {
        self.prepare("evenkeel drain 1 --wait && evenkeel undrain 1").await;
    }

    /// Kills broker 1, which leads something, and waits until others do.
    async fn lose_broker_1(&self) {
        self.prepare("kill -9 $(cat broker-1.pid)").await;
        wait_until("others to lead what broker 1 led", async || {
            let (_, said) = self.run("evenkeel status").await;
            if said.contains("not on their primary: start broker 1") { Ok(()) } else { Err(said) }
        })
        .await;
    }

    /// Runs a command of a page, which must answer as the page says. What only looks may have to look again.
    async fn try_out(&self, shown: &Shown) -> Result<(), String> {
        let Shown { page, command, output } = shown;
        let expected: Vec<String> = output.iter().map(|line| self.as_here(line)).collect();
        let attempt = async || {
            let (well, said) = self.run(command).await;
            let failure = expected.iter().any(|line| line.starts_with("error: "));
            let missing = missing(&expected, &said);
            if well != failure && missing.is_none() {
                return Ok(());
            }
            // What has happened to this cluster so far.
            let (_, before) = self.run("evenkeel rebalance history; evenkeel audit; evenkeel status").await;
            Err(format!(
                "{page}: $ {command}\nsucceeded: {well}, missing: {missing:?}, said:\n{said}\n{before}"
            ))
        };
        // On a busy machine one ownership rebalance may leave something to the next: who has to catch up first stays as it is.
        let until_nothing_is_left =
            expected.iter().any(|line| line.contains("No configs found for rebalance."));
        let may_look_again = only_looks(command) || until_nothing_is_left;
        let deadline = Instant::now() + LOOKING_MAX;
        loop {
            let tried = attempt().await;
            if tried.is_ok() || !may_look_again || Instant::now() >= deadline {
                return tried;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Has a page's story told on a cluster of its own, and again on another one if it did not go as shown.
async fn goes_as_shown(story: impl AsyncFn(&Tour) -> Result<(), String>) {
    let mut failed = Vec::new();
    for _ in 0..BEGINNINGS_MAX {
        let tour = Tour::start().await;
        match story(&tour).await {
            Ok(()) => return,
            Err(error) => failed.push(error),
        }
    }
    panic!("{}", failed.join("\n\n"));
}

impl Drop for Tour {
    fn drop(&mut self) {
        // What the documents' commands started is not `dev`'s to stop.
        for node in 0..3 {
            let file = self.folder.path().join(format!("data/broker-{node}.pid"));
            let pid = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It may have ended already.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn host_of(url: &str) -> String {
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

fn only_looks(command: &str) -> bool {
    let looks =
        ["evenkeel status", "evenkeel get", "evenkeel rebalance --dry-run", "curl -s localhost", "curl -s '"];
    looks.iter().any(|look| command.starts_with(look))
}

fn is_left_out(command: &str) -> bool {
    LEFT_OUT.iter().any(|(begin, _)| command.starts_with(begin)) && !command.contains("broker-1.pid")
}

/// The first line that is expected and not said.
fn missing<'a>(expected: &'a [String], said: &str) -> Option<&'a str> {
    let mut lines = said.lines().map(as_on_a_terminal).map(|line| skeleton(&line));
    for line in expected.iter().filter(|line| !line.is_empty() && *line != "…") {
        let found = if line.contains("{\"") {
            let (wanted, there) = (fields(line), fields(said));
            if line.contains('…') { wanted.is_subset(&there) } else { wanted == there }
        } else {
            let wanted = skeleton(line);
            // Frames of tables are as wide as what is in them.
            wanted.is_empty() || lines.any(|line| line == wanted)
        };
        if !found {
            return Some(line);
        }
    }
    None
}

/// Progress is JSON where nobody looks on, with the line that a terminal shows in it.
fn as_on_a_terminal(line: &str) -> String {
    let progress = serde_json::from_str::<Value>(line).ok().filter(|value| value["progress"].is_string());
    progress.and_then(|value| value["text"].as_str().map(str::to_owned)).unwrap_or_else(|| line.to_owned())
}

/// The line with `#` for whatever is a number, an address, a time or an identifier, and one space between words.
fn skeleton(line: &str) -> String {
    if let Some(cells) = line.strip_prefix('│') {
        // Which of two brokers took over is up to them; a row has the same cells.
        let mut cells: Vec<String> = cells.split(['┆', '│']).map(skeleton).collect();
        cells.sort();
        return cells.join(" ").trim().to_owned();
    }
    let frame = |c: char| ('\u{2500}'..='\u{257f}').contains(&c);
    let of_word = |c: char| c.is_ascii_alphanumeric() || ".:-".contains(c);
    let (mut told, mut word) = (String::new(), String::new());
    for c in line.chars().chain([' ']) {
        if of_word(c) {
            word.push(c);
            continue;
        }
        let varies = word.contains(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_hexdigit() || ".:-TZ".contains(c));
        told.push_str(if varies { "#" } else { &word });
        word.clear();
        told.push(if frame(c) { ' ' } else { c });
    }
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names of fields in JSON that may have been cut.
fn fields(text: &str) -> BTreeSet<String> {
    let quoted: Vec<&str> = text.split('"').collect();
    let names = quoted.windows(2).skip(1).step_by(2).filter(|pair| pair[1].starts_with(':'));
    names.map(|pair| skeleton(pair[0])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_tour_goes_as_it_says() {
    goes_as_shown(async |tour| {
        let mut run = 0;
        for shown in shown_in("README.md").iter().filter(|shown| !is_left_out(&shown.command)) {
            match shown.command.as_str() {
                // The page's leader of partition 5, of the two that may be.
                command if command.starts_with("curl -s localhost:9610") => {
                    tour.prepare("evenkeel partitions transfer 5 --to 0").await;
                }
                // The page's reader has seen the lag go.
                command if command.starts_with("curl -i -X POST") => {
                    tour.prepare("evenkeel probe restart 1 --wait --recovered").await;
                }
                _ => {}
            }
            tour.try_out(shown).await?;
            run += 1;
        }
        assert!(run > 10, "only {run} commands were run");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_on_operations_shows_goes_as_it_says() {
    goes_as_shown(async |tour| {
        for shown in shown_in("docs/operations.md").iter().filter(|shown| !is_left_out(&shown.command)) {
            match shown.command.as_str() {
                "evenkeel status" => tour.lose_broker_1().await,
                "evenkeel rebalance --dry-run" => {
                    tour.prepare("evenkeel broker --config broker-1.toml --pid-file broker-1.pid &").await;
                    tour.prepare("evenkeel probe restart 1 --wait --recovered").await;
                    // The page's run is the second.
                    tour.prepare("evenkeel rebalance").await;
                    tour.unbalance().await;
                }
                _ => {}
            }
            tour.try_out(shown).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pages_on_settings_and_on_trouble_show_goes_as_they_say() {
    goes_as_shown(async |tour| {
        let pages = ["docs/configuration.md", "docs/troubleshooting.md"].map(shown_in);
        for shown in pages.iter().flatten() {
            match shown.command.as_str() {
                "evenkeel rebalance" => tour.lose_broker_1().await,
                command if command.starts_with("evenkeel broker rebuild") => {
                    // Until it has ended and been waited for, the folder is its own.
                    tour.prepare(
                        "p=$(cat broker-0.pid); kill -9 $p; while kill -0 $p 2>&-; do sleep 0.01; done",
                    )
                    .await;
                }
                _ => {}
            }
            tour.try_out(shown).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_on_the_api_shows_goes_as_it_says() {
    goes_as_shown(async |tour| {
        tour.prepare("evenkeel pause").await;
        for shown in shown_in("docs/api.md").iter().filter(|shown| !is_left_out(&shown.command)) {
            match shown.command.as_str() {
                command if command.contains("/v1/records/lights/kitchen --data-binary") => {
                    tour.prepare("evenkeel resume").await;
                }
                "curl -s localhost:8080/cluster/v2/rebalance/2" => {
                    tour.unbalance().await;
                    tour.prepare("evenkeel rebalance").await;
                }
                _ if shown.output[0].contains("previous_configs_count") => {
                    tour.prepare("for i in 1 2 3 4 5 6 7 8 9; do evenkeel put order-$i paid; done").await;
                    tour.unbalance().await;
                }
                "curl -i -X POST localhost:9600/actuator/rebalance" => {
                    tour.prepare("evenkeel resume").await;
                    tour.unbalance().await;
                }
                _ => {}
            }
            tour.try_out(shown).await?;
        }
        Ok(())
    })
    .await;
}

#[test]
fn what_varies_is_any_other_and_every_other_word_must_be_there() {
    assert_eq!(skeleton("│ 1 ┆ LEADER (3)  ┆ 127.0.0.1:26510 │"), "# # LEADER (#)");
    assert_eq!(skeleton("plan f1b42f7de36374cd, p50 3.43 ms"), "plan #, p50 # ms");
    assert_eq!(skeleton("╭────┬───╮"), "");
    let expected = ["a 1".to_owned(), "…".to_owned(), r#"{"b":1,"c":{"d":2}}"#.to_owned()];
    assert_eq!(missing(&expected, "x\na 2\n{\"b\":5,\"c\":{\"d\":6}}"), None);
    assert_eq!(missing(&expected, "x\na 2\n{\"b\":5}"), Some(expected[2].as_str()));
    assert_eq!(missing(&expected, "{\"b\":5,\"c\":{\"d\":6},\"e\":0}\na 2"), Some(expected[2].as_str()));
    assert_eq!(missing(&[r#"{"b":1,…}"#.to_owned()], r#"{"a":0,"b":1}"#), None);
}
