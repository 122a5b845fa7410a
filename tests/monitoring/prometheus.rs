//! Prometheus and promtool, as Debian's package `prometheus` installs them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use http::Method;
use serde_json::Value;

use crate::harness::{ClusterPorts, http, wait_until};
use crate::read;

const REQUIRE: &str = "EVENKEEL_REQUIRE_PROMETHEUS";
/// Fast, so that a story is told in seconds.
const SCRAPE_INTERVAL: &str = "500ms";

/// Whether the program is there. Where it is not, the test is to be skipped, and says so past what captures output;
/// with `EVENKEEL_REQUIRE_PROMETHEUS` it fails.
pub fn installed(program: &str) -> bool {
    if Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let remedy = "install Debian's package `prometheus`";
    assert!(
        std::env::var_os(REQUIRE).is_none(),
        "{program} is not installed, and {REQUIRE} is set: {remedy}"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}: {program} is not installed; {remedy}\n");
    false
}

/// Runs promtool, with something on its standard input.
pub fn promtool(args: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // promtool may write before it has read everything.
    let writer = std::thread::spawn(move || {
        // It may also end early; then its output tells why.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// A running Prometheus with our configuration. Dropping it kills it.
pub struct Prometheus {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Prometheus {
    /// Starts it on the cluster with `deploy/prometheus.yml`, but for addresses and times.
    pub async fn start(folder: &Path, port: u16, cluster: &ClusterPorts) -> Self {
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, configuration(cluster)).unwrap();
        let log = folder.join("prometheus.log");
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let prometheus = Self { child, url: format!("http://127.0.0.1:{port}"), log };
        wait_until("Prometheus to be ready", async || {
            let answer = http(Method::GET, &format!("{}/-/ready", prometheus.url)).await?;
            if answer.status.is_success() { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        prometheus
    }

    /// The result of an instant query: each sample's labels and value.
    pub async fn query(&self, query: &str) -> Result<Vec<(Value, f64)>, String> {
        let answer = self.get(&format!("/api/v1/query?query={}", percent_encoded(query))).await;
        let answer = answer.map_err(|error| format!("{query}: {error}"))?;
        let samples = answer["data"]["result"].as_array().ok_or_else(|| format!("{query}: {answer}"))?;
        let value = |sample: &Value| sample["value"][1].as_str().and_then(|value| value.parse().ok());
        let sample = |sample: &Value| Some((sample["metric"].clone(), value(sample)?));
        Ok(samples.iter().filter_map(sample).collect())
    }

    /// Every rule as Prometheus has understood it.
    pub async fn rules(&self) -> Result<Vec<Value>, String> {
        let answer = self.get("/api/v1/rules").await?;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        Ok(groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default()).collect())
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = http(Method::GET, &format!("{}{path}", self.url)).await?;
        let json = answer.json();
        if json["status"] == "success" { Ok(json) } else { Err(json.to_string()) }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- prometheus\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// Where operators put what Prometheus shows to brokers and gateways.
const CREDENTIALS: &str = "/etc/prometheus/evenkeel";

/// What operators install, with replacements. That each finds its place shows that the file is still the same.
fn installed_configuration(replacements: &[(&str, &str)]) -> String {
    let mut text = read("deploy/prometheus.yml");
    let rules = crate::at_root("dashboards/rules");
    let rules = ("../dashboards/rules", &*rules.display().to_string());
    for (from, to) in replacements.iter().chain([&rules]) {
        assert!(text.contains(from), "{from} is not in deploy/prometheus.yml");
        text = text.replace(from, to);
    }
    text
}

/// Writes it, and the credentials that it names, into a folder; returns its path.
pub fn write_installed_configuration(folder: &Path) -> PathBuf {
    for name in ["ca.crt", "prometheus.token"] {
        std::fs::write(folder.join(name), "").unwrap();
    }
    let path = folder.join("prometheus.yml");
    std::fs::write(&path, installed_configuration(&[(CREDENTIALS, folder.to_str().unwrap())])).unwrap();
    path
}

/// What operators install, on this cluster, which asks nobody who they are.
fn configuration(cluster: &ClusterPorts) -> String {
    let mut text = installed_configuration(&[
        ("scheme: https", "scheme: http"),
        ("    tls_config: { ca_file: /etc/prometheus/evenkeel/ca.crt }\n", ""),
        ("    authorization: { credentials_file: /etc/prometheus/evenkeel/prometheus.token }\n", ""),
    ]);
    let mut replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in deploy/prometheus.yml");
        text = text.replace(from, to);
    };
    for (node, (_, monitoring)) in cluster.brokers.iter().enumerate() {
        replace(&format!("broker-{node}.example.net:9600"), &format!("127.0.0.1:{monitoring}"));
    }
    for (index, [.., monitoring]) in cluster.gateways.iter().enumerate() {
        replace(&format!("gateway-{index}.example.net:9600"), &format!("127.0.0.1:{monitoring}"));
    }
    replace("scrape_interval: 5s", &format!("scrape_interval: {SCRAPE_INTERVAL}"));
    replace("evaluation_interval: 5s", &format!("evaluation_interval: {SCRAPE_INTERVAL}"));
    text
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
