//! The image, and the cluster of the compose file on a real Docker engine.
//!
//! Where no engine answers there is nothing to ask, and the test says so.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output};

use http::Method;
use serde_json::Value;

use crate::harness::{http, wait_until};
use crate::tools::{answers, at_root, command, installed, output, run, skip, static_binary};

const IMAGE_BYTES_MAX: u64 = 64 << 20;
const SERVICES: [&str; 4] = ["broker-0", "broker-1", "broker-2", "gateway"];
const COMPOSE_REMEDY: &str = "install Debian's package `docker-compose`";
const WRITES_PER_STEP: usize = 10;

fn engine_answers() -> bool {
    let answers = answers("docker", &["version"]);
    if !answers {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(std::io::stderr(), "\n!!! {test}: no Docker engine answers, so it is left out\n");
    }
    answers
}

/// `docker compose`, or the program that was there before it.
fn compose_program() -> Option<Vec<&'static str>> {
    let known: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    let found = known.into_iter().find(|words| {
        let args: Vec<&str> = words[1..].iter().copied().chain(["version"]).collect();
        answers(words[0], &args)
    });
    if found.is_none() {
        skip("there is no docker compose", COMPOSE_REMEDY);
    }
    found.map(<[&str]>::to_vec)
}

fn docker<const N: usize>(args: [&str; N]) -> Command {
    command("docker", args)
}

fn inspect(kind: &str, what: &str) -> Value {
    let text = run(&mut docker([kind, "inspect", what]));
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// An image of this test's own; dropping it removes it.
struct Image {
    tag: String,
}

impl Image {
    fn build() -> Option<Self> {
        if !installed("readelf", &["--version"], "install Debian's package `binutils`") {
            return None;
        }
        let binary = static_binary()?;
        let tag = format!("evenkeel-test:{}-{}", std::process::id(), rand::random::<u32>());
        let mut build = command(at_root("deploy/image/build.sh"), [binary.as_os_str()]);
        assert_eq!(run(build.arg(&tag)).trim(), tag);
        Some(Self { tag })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It may be in use by what could not be removed; that was told.
        let _ = output(&mut docker(["image", "rm", "--force", &self.tag]));
    }
}

#[test]
fn the_image_is_small_and_runs_as_nobody_in_particular() {
    if !engine_answers() {
        return;
    }
    let Some(image) = Image::build() else { return };
    let shown = inspect("image", &image.tag);
    let bytes = shown["Size"].as_u64().unwrap();
    assert!(bytes < IMAGE_BYTES_MAX, "{bytes}");
    let config = &shown["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["StopSignal"], "SIGTERM");
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD", "/evenkeel", "probe", "http"]));
    for label in ["title", "description", "licenses", "version", "revision", "created"] {
        let label = format!("org.opencontainers.image.{label}");
        assert!(config["Labels"][&label].as_str().is_some_and(|text| !text.is_empty()), "{label}");
    }
    let mut version = docker(["run", "--rm", "--read-only", "--network=none", &image.tag, "--version"]);
    assert!(run(&mut version).starts_with("evenkeel "));
}

/// The cluster part of the compose file, as a project of its own. Dropping it removes containers, network and volumes.
struct Project {
    compose: Vec<&'static str>,
    name: String,
    image: String,
    /// By service; a container keeps its id when it is started again.
    containers: BTreeMap<&'static str, String>,
}

impl Project {
    fn up(compose: Vec<&'static str>, image: &Image) -> Self {
        let name = format!("evenkeel-test-{}", std::process::id());
        let mut project = Self { compose, name, image: image.tag.clone(), containers: BTreeMap::new() };
        run(project.compose(&["up", "--detach"]).args(SERVICES));
        for service in SERVICES {
            let id = run(&mut project.compose(&["ps", "--quiet", service]));
            assert!(!id.trim().is_empty(), "{service} has no container");
            project.containers.insert(service, id.trim().to_owned());
        }
        project
    }

    fn compose(&self, args: &[&str]) -> Command {
        let mut compose = command(self.compose[0], &self.compose[1..]);
        compose.args(["--project-name", &self.name, "--file"]).arg(at_root("deploy/compose/compose.yml"));
        // Ports that the system chooses.
        compose
            .env("EVENKEEL_IMAGE", &self.image)
            .env("EVENKEEL_GRPC_PORT", "0")
            .env("EVENKEEL_HTTP_PORT", "0");
        compose.args(args);
        compose
    }

    fn container(&self, service: &str) -> String {
        self.containers[service].clone()
    }

    fn network(&self) -> String {
        format!("{}_cluster", self.name)
    }

    /// Runs the binary within a service's container.
    fn evenkeel(&self, service: &str, args: &[&str]) -> Output {
        let mut exec = docker(["exec", &self.container(service), "/evenkeel"]);
        output(exec.args(args))
    }

    async fn wait_until_healthy(&self, services: &[&str]) {
        for service in services {
            wait_until(&format!("{service} to be healthy"), async || {
                let state = inspect("container", &self.container(service))["State"].clone();
                if state["Health"]["Status"] == "healthy" { Ok(()) } else { Err(state.to_string()) }
            })
            .await;
        }
    }

    /// Writes through the gateway; every write must succeed, whatever was done to a broker.
    fn write(&self, step: &str) {
        for index in 0..WRITES_PER_STEP {
            let written = self.evenkeel("gateway", &["put", &format!("{step}-{index}"), step]);
            assert!(written.status.success(), "{step}-{index}: {written:?}");
        }
    }

    fn check(&self, step: &str) {
        for index in 0..WRITES_PER_STEP {
            let read = self.evenkeel("gateway", &["get", &format!("{step}-{index}")]);
            let value = String::from_utf8_lossy(&read.stdout).into_owned();
            assert!(read.status.success() && value.trim_end() == step, "{step}-{index}: {read:?}");
        }
    }

    /// A broker as the API tells it.
    async fn broker(&self, node: usize) -> Result<Value, String> {
        let address = run(&mut self.compose(&["port", "gateway", "8080"]));
        let answer = http(Method::GET, &format!("http://{}/cluster/v2/brokers", address.trim())).await?;
        Ok(answer.json()["brokers"][node].clone())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = output(&mut self.compose(&["logs", "--tail", "40"]));
            let _ = std::io::stderr().write_all(&logs.stdout);
        }
        let down = output(&mut self.compose(&["down", "--volumes", "--timeout", "1"]));
        if !down.status.success() {
            let _ = std::io::stderr().write_all(&down.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_files_cluster_survives_a_cut_network_and_a_killed_broker() {
    if !engine_answers() {
        return;
    }
    let Some(compose) = compose_program() else { return };
    let Some(image) = Image::build() else { return };
    let project = Project::up(compose, &image);
    project.wait_until_healthy(&SERVICES).await;
    project.write("healthy");

    let cut = project.container("broker-1");
    run(&mut docker(["network", "disconnect", &project.network(), &cut]));
    project.write("cut");
    // It has no quorum, and it is alive: nobody may start it again for that.
    let url = "http://127.0.0.1:9600/actuator/health/liveness";
    let alive = project.evenkeel("broker-1", &["probe", "http", url]);
    assert!(alive.status.success(), "{alive:?}");
    wait_until("broker-1 not to be ready", async || {
        let ready = project.evenkeel("broker-1", &["probe", "http"]);
        if ready.status.code() == Some(10) { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    run(&mut docker(["network", "connect", "--alias", "broker-1", &project.network(), &cut]));
    project.wait_until_healthy(&["broker-1"]).await;

    run(&mut docker(["kill", &project.container("broker-0")]));
    project.write("killed");
    run(&mut project.compose(&["start", "broker-0"]));
    project.wait_until_healthy(&SERVICES).await;

    // Before broker 2 is stopped its leaderships move away; and the mark is taken back.
    let leaving = ["--api", "http://gateway:8080", "pre-stop", "--broker", "2"];
    let left = project.evenkeel("broker-2", &leaving);
    assert!(left.status.success(), "{left:?}");
    wait_until("broker 2 to lead nothing", async || {
        let broker = project.broker(2).await?;
        let freed = broker["leaders"] == 0 && broker["drained"] == false;
        if freed { Ok(()) } else { Err(broker.to_string()) }
    })
    .await;
    run(&mut project.compose(&["restart", "broker-2"]));
    project.wait_until_healthy(&SERVICES).await;
    let rebalanced = project.evenkeel("gateway", &["rebalance"]);
    assert!(rebalanced.status.success(), "{rebalanced:?}");
    for step in ["healthy", "cut", "killed"] {
        project.check(step);
    }
}
