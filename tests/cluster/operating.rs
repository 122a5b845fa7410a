//! The command line as operators and their scripts use it: documents, exit codes, contexts, archives.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::Value;

use crate::harness::{Cluster, Process, Spec, evenkeel, reserve_ports, wait_until};

struct Operator {
    place: Vec<String>,
}

impl Operator {
    fn of(cluster: &Cluster) -> Self {
        let gateway = format!("127.0.0.1:{}", cluster.ports.gateways[0][0]);
        let words =
            ["--gateway", &gateway, "--api", &cluster.api(""), "--monitoring", &cluster.monitoring("")]
                .map(str::to_owned);
        Self { place: words.into() }
    }

    async fn run(&self, words: &[&str]) -> Output {
        evenkeel(words.iter().map(|word| (*word).to_owned()).chain(self.place.iter().cloned())).await
    }

    /// What it prints, having ended with this code.
    async fn ends(&self, words: &[&str], code: i32) -> (String, String) {
        let output = self.run(words).await;
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    async fn json(&self, words: &[&str]) -> Value {
        let words = [words, &["--output", "json"]].concat();
        serde_json::from_str(&self.ends(&words, 0).await.0).unwrap()
    }
}

/// The lines of each table are equally long.
fn assert_lines_up(text: &str) {
    let mut tables: Vec<Vec<usize>> = Vec::new();
    for line in text.lines().filter(|line| line.starts_with(['╭', '│', '╞', '╰'])) {
        if line.starts_with('╭') {
            tables.push(Vec::new());
        }
        tables.last_mut().unwrap().push(line.chars().count());
    }
    let even = |widths: &Vec<usize>| widths.len() > 2 && widths.iter().all(|width| *width == widths[0]);
    assert!(!tables.is_empty() && tables.iter().all(even), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_by_exit_codes_and_the_way_back_by_the_next_command() {
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    cluster.wait_until_balanced().await;
    let operator = Operator::of(&cluster);
    operator.ends(&["health", "--balanced", "--wait-healthy"], 0).await;
    let (text, _) =
        operator.ends(&["probe", "restart", "1", "--wait", "--recovered", "--output", "wide"], 0).await;
    assert!(text.contains("broker 1 is safe to restart"), "{text}");
    assert_lines_up(&text);
    let (line, _) = operator.ends(&["check"], 0).await;
    assert!(line.starts_with("EVENKEEL OK - balanced: 1/1/1"), "{line}");

    cluster.kill(0);
    cluster.wait_until_abandoned(0).await;
    let (_, told) = operator.ends(&["health"], 10).await;
    assert!(
        told.contains("degraded: broker 0 does not answer") && told.contains("next: `evenkeel"),
        "{told}"
    );
    operator.ends(&["health", "--wait-healthy", "--for", "100ms"], 5).await;
    operator.ends(&["check"], 1).await;
    operator.ends(&["check", "--format", "json"], 10).await;
    let (text, told) = operator.ends(&["probe", "restart", "1"], 10).await;
    assert!(text.contains("start broker 0 first") && told.contains("--wait"), "{text}{told}");

    cluster.restart(0);
    cluster.wait_until_caught_up(0).await;
    operator.ends(&["health", "--wait-healthy"], 0).await;
    let (_, told) = operator.ends(&["health", "--balanced"], 11).await;
    assert!(told.contains("`evenkeel rebalance`"), "{told}");
    let (gauges, _) = operator.ends(&["check", "--format", "prometheus"], 11).await;
    assert!(gauges.contains("\nevenkeel_check_balanced 0\n"), "{gauges}");

    let explained = operator.json(&["rebalance", "explain"]).await;
    let moving: Vec<&Value> =
        explained.as_array().unwrap().iter().filter(|found| found["decision"] == "move").collect();
    assert_eq!(moving.len(), 1, "{explained}");
    let partition = moving[0]["partitionId"].to_string();
    let (text, _) = operator.ends(&["partitions", "describe", &partition], 0).await;
    assert!(text.contains("not primary") && text.contains("evenkeel rebalance --partition"), "{text}");
    assert_lines_up(&text);
    let misplaced = operator.json(&["partitions", "list", "--misplaced"]).await;
    assert_eq!(misplaced.as_array().map(Vec::len), Some(1), "{misplaced}");

    let (_, told) = operator.ends(&["partitions", "transfer", &partition, "--to", "7"], 2).await;
    assert!(!told.is_empty());
    operator.ends(&["partitions", "transfer", &partition, "--to", "0"], 0).await;
    operator.ends(&["health", "--balanced", "--wait-healthy"], 0).await;
    let (text, _) = operator.ends(&["rebalance", "status"], 0).await;
    assert!(text.contains("TRANSFERRED"), "{text}");
    let history = operator.json(&["rebalance", "history"]).await;
    assert_eq!(history[0]["results"]["TRANSFERRED"], 1, "{history}");
    let (text, _) = operator.ends(&["rebalance", "cancel"], 0).await;
    assert!(text.contains("no rebalance was under way"), "{text}");
    let (_, told) = operator.ends(&["partitions", "describe", "9"], 1).await;
    assert!(told.contains("evenkeel partitions list"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_say_the_same_in_every_shape_and_again_and_again() {
    let cluster = Cluster::start(Spec::new(3, 3)).await;
    cluster.wait_until_balanced().await;
    let operator = Operator::of(&cluster);
    for words in
        [&["status"][..], &["status", "--output", "wide"], &["partitions", "list"], &["top", "--once"]]
    {
        assert_lines_up(&operator.ends(words, 0).await.0);
    }
    let (lines, _) = operator.ends(&["partitions", "list", "--output", "ndjson"], 0).await;
    let ids: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["partition_id"].clone())
        .collect();
    assert_eq!(ids, [1, 2, 3]);
    let (yaml, _) = operator.ends(&["health", "--output", "yaml"], 0).await;
    assert!(yaml.lines().any(|line| line == "healthy: true"), "{yaml}");
    let top = operator.json(&["top", "--once", "--interval", "200ms"]).await;
    assert_eq!(top["brokers"].as_array().map(Vec::len), Some(3), "{top}");

    // Flags by variable, and watching.
    let folder = tempfile::tempdir().unwrap();
    let words = ["status", "--watch"].map(str::to_owned).into_iter().chain(operator.place.iter().cloned());
    let mut watching = Process::start("status", words, &folder.path().join("status.log"));
    watching.kill();
    watching.environment = vec![
        ("EVENKEEL_OUTPUT".to_owned(), "ndjson".into()),
        ("EVENKEEL_CLI_STATUS_INTERVAL".to_owned(), "100ms".into()),
    ];
    watching.restart();
    wait_until("two documents", async || {
        let log = watching.log();
        let documents = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if documents.filter(|document| document["balanced"] == true).count() > 1 { Ok(()) } else { Err(log) }
    })
    .await;
    watching.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_the_step_that_fails_and_packs_no_secret() {
    let cluster = Cluster::start(Spec::new(3, 1)).await;
    cluster.wait_until_balanced().await;
    let operator = Operator::of(&cluster);
    operator.ends(&["health", "--wait-healthy"], 0).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a-very-secret-token-of-mine").unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let bundle = folder.path().join("bundle.tar.gz");
    let words = ["doctor", "--bundle", bundle.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
    let (text, _) = operator.ends(&words, 0).await;
    assert!(text.contains("broker 2 is safe to restart"), "{text}");
    assert_lines_up(&text);
    let file = std::fs::File::open(&bundle).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (path, mut text) = (entry.path().unwrap().display().to_string(), String::new());
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert!(!text.contains("a-very-secret-token-of-mine"), "{path}");
        files.insert(path, text);
    }
    let topology: Value = serde_json::from_str(&files["evenkeel-doctor/topology.json"]).unwrap();
    assert_eq!(topology["brokers"].as_array().map(Vec::len), Some(3), "{topology}");
    assert!(files["evenkeel-doctor/gateway-metrics.txt"].contains("evenkeel_gateway_requests_total"));

    let nobody = format!("127.0.0.1:{}", reserve_ports::<1>()[0]);
    let url = format!("http://{nobody}");
    let words = ["doctor", "--gateway", &nobody, "--api", &url, "--monitoring", &url];
    let output = evenkeel(words).await;
    assert_eq!(output.status.code(), Some(10), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("WRONG") && text.contains("--gateway") && text.contains("--api"), "{text}");
}

/// Runs a command with its own configuration folder.
async fn at_home(home: &std::path::Path, words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_evenkeel");
    let mut command = tokio::process::Command::new(program);
    command
        .args(words)
        .env("XDG_CONFIG_HOME", home)
        .env_remove("EVENKEEL_GATEWAY")
        .env_remove("EVENKEEL_API");
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_stands_for_addresses() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    cluster.wait_until_balanced().await;
    let operator = Operator::of(&cluster);
    let home = tempfile::tempdir().unwrap();
    let place: Vec<&str> = operator.place.iter().map(String::as_str).collect();
    let nobody = format!("127.0.0.1:{}", reserve_ports::<1>()[0]);
    let table: [(Vec<&str>, i32, &str); 9] = [
        (vec!["context", "list"], 0, "context add NAME"),
        ([&["context", "add", "here"][..], &place].concat(), 0, "commands ask it from now on"),
        ([&["context", "add", "here"][..], &place].concat(), 2, "--replace"),
        (vec!["status"], 0, "balanced"),
        (vec!["context", "add", "away", "--gateway", &nobody], 0, "evenkeel context use away"),
        (vec!["get", "k", "--context", "away"], 3, &nobody),
        (vec!["context", "use", "elsewhere"], 2, "away, here"),
        (vec!["context", "list"], 0, "│ *    ┆ here"),
        // What is given counts more.
        ([&["status", "--context", "away"][..], &place].concat(), 0, "balanced"),
    ];
    for (words, code, expected) in table {
        let output = at_home(home.path(), &words).await;
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        assert!(told.contains(expected), "{words:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_and_explained_comes_from_the_program() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("man");
    let bad = home.path().join("bad.toml");
    std::fs::write(&bad, "[cluster]\nnode_id = 9\n").unwrap();
    let bad = bad.to_str().unwrap();
    let table: [(&[&str], i32, &str); 14] = [
        (&["dashboards", "print"], 0, "\"panels\""),
        (&["alerts", "print"], 0, "alert:"),
        (&["alerts", "print", "recording"], 0, "record:"),
        (&["systemd", "print", "broker"], 0, "[Service]"),
        (&["systemd", "print", "gateway"], 0, "[Service]"),
        (&["completion", "bash"], 0, "complete -F"),
        (&["man"], 0, ".TH"),
        (&["man", "--dir", pages.to_str().unwrap()], 0, "man -l"),
        (&["config", "print", "broker"], 0, "[cluster]"),
        (&["config", "print", "gateway", "--config", bad], 2, "cluster.node_id"),
        (&["config", "validate", "broker", "--config", bad], 2, "cluster.node_id"),
        (&["--help"], 0, "10  not healthy, or not safe"),
        (&["rebalnce"], 2, "rebalance"),
        (&["--help"], 0, "EVENKEEL_CLI_REBALANCE_POLICY"),
    ];
    for (words, code, expected) in table {
        let output = at_home(home.path(), words).await;
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        assert!(told.contains(expected), "{words:?}: {told}");
    }
    assert!(pages.join("evenkeel-rebalance-explain.1").is_file());
    let printed = at_home(home.path(), &["config", "print", "gateway"]).await;
    let file = home.path().join("gateway.toml");
    std::fs::write(&file, printed.stdout).unwrap();
    let again =
        at_home(home.path(), &["config", "print", "gateway", "--config", file.to_str().unwrap()]).await;
    assert_eq!(std::fs::read(&file).unwrap(), again.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_on_the_command_line_has_every_command_and_exit_code() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = std::fs::read_to_string(page).unwrap();
    let help = String::from_utf8(evenkeel(["--help"]).await.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> = listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names.iter().filter(|name| **name != "help") {
        assert!(
            page.contains(&format!("`evenkeel {name}")),
            "docs/cli.md does not tell of `evenkeel {name}`"
        );
    }
    let codes = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let codes = codes
        .filter_map(|line| line.trim_start().split_once("  "))
        .filter(|(code, _)| code.parse::<u8>().is_ok());
    let codes: Vec<(&str, &str)> = codes.collect();
    assert_eq!(codes.len(), 10, "{codes:?}");
    for (code, meaning) in codes {
        assert!(
            page.contains(&format!("| {code} | {meaning} |")),
            "docs/cli.md has no row | {code} | {meaning} |"
        );
    }
}
