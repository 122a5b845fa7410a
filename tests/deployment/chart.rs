//! The Helm chart: linted, rendered, validated, and what comes out keeps its promises.

use std::collections::BTreeMap;
use std::path::PathBuf;

use evenkeel_settings::Settings;
use serde_json::Value;

use crate::tools::{answers, at_root, command, run, skip};

/// Python with `helm-python-sdk` and `kubernetes-validate`.
const PYTHON: &str = "EVENKEEL_HELM_PYTHON";
/// The oldest that the chart takes, and the newest.
const KUBERNETES_VERSIONS: [&str; 2] = ["1.28", "1.34"];
/// What a broker takes at most between the request to stop and its end, and what `pre-stop` takes beyond its time.
const STOP_SECONDS_MAX: u64 = 20;
pub const PRE_STOP_EXTRA_SECONDS: u64 = 5;

type Objects = BTreeMap<String, Vec<Value>>;

fn rendered(version: &str) -> Option<Objects> {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".into());
    if !answers(&python, &["-c", "import helm_python, kubernetes_validate"]) {
        let remedy = format!(
            "install helm-python-sdk and kubernetes-validate from PyPI, and name that Python in {PYTHON}"
        );
        skip(&format!("{python} has no helm_python or no kubernetes_validate"), &remedy);
        return None;
    }
    let script: PathBuf = at_root("tests/deployment/chart.py");
    let output = run(command(python, [script, at_root("deploy/helm/evenkeel")]).arg(version));
    Some(serde_json::from_str(&output).unwrap())
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects.iter().filter(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    match (found.next(), found.next()) {
        (Some(object), None) => object,
        _ => panic!("not just one {kind} {name}"),
    }
}

#[test]
fn the_chart_is_valid_for_the_oldest_and_the_newest_kubernetes() {
    for version in KUBERNETES_VERSIONS {
        let Some(cases) = rendered(version) else { return };
        assert_eq!(cases.len(), 4);
        assert!(cases["everything"].len() > 10, "{}", cases["everything"].len());
    }
}

#[test]
fn the_processes_take_the_configuration_that_the_chart_writes() {
    let Some(cases) = rendered(KUBERNETES_VERSIONS[1]) else { return };
    for (name, objects) in &cases {
        let files = &find(objects, "ConfigMap", "test-evenkeel")["data"];
        let set = find(objects, "StatefulSet", "test-evenkeel-broker");
        let brokers = container(set)["env"].as_array().unwrap().iter();
        let brokers =
            brokers.clone().find(|variable| variable["name"] == "EVENKEEL_CLUSTER_BROKERS").unwrap();
        let brokers: Vec<String> = brokers["value"].as_str().unwrap().split(',').map(str::to_owned).collect();
        let mut broker: evenkeel_broker::Options =
            toml::from_str(files["broker.toml"].as_str().unwrap()).unwrap();
        let mut gateway: evenkeel_gateway::Options =
            toml::from_str(files["gateway.toml"].as_str().unwrap()).unwrap();
        broker.cluster.brokers.clone_from(&brokers);
        gateway.cluster.brokers.clone_from(&brokers);
        for node in 0..set["spec"]["replicas"].as_u64().unwrap() {
            broker.cluster.node_id = node;
            broker.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        gateway.validate().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(gateway.contacts().unwrap().len(), brokers.len());
        assert_eq!(broker.network.insecure, name == "insecure");
    }
    // The variable that carries the ordinal is the setting's own.
    assert!(evenkeel_broker::Options::DOCS.iter().any(|(key, _)| *key == "cluster.node_id"));
}

fn container(set: &Value) -> &Value {
    &set["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn brokers_start_together_are_spread_and_are_given_the_time_that_they_need_to_stop() {
    let Some(cases) = rendered(KUBERNETES_VERSIONS[1]) else { return };
    for objects in cases.values() {
        let set = find(objects, "StatefulSet", "test-evenkeel-broker");
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(set["spec"]["podManagementPolicy"], "Parallel");
        let node_id = &container(set)["env"][0];
        assert_eq!(node_id["name"], "EVENKEEL_CLUSTER_NODE_ID");
        assert_eq!(
            node_id["valueFrom"]["fieldRef"]["fieldPath"],
            "metadata.labels['apps.kubernetes.io/pod-index']"
        );
        let hook = container(set)["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
        assert_eq!(
            (&hook[0], &hook[1], &hook[2]),
            (&"/evenkeel".into(), &"pre-stop".into(), &"--for-at-most".into())
        );
        // Where no gateway tells the restart risk, the pod itself is asked.
        let variables = container(set)["env"].as_array().unwrap();
        let own = variables.iter().find(|v| v["name"] == "EVENKEEL_CLI_PRE_STOP_BROKER_MONITORING").unwrap();
        let host = "//$(POD_NAME).test-evenkeel-broker.store.svc.cluster.local:9600";
        assert!(own["value"].as_str().unwrap().ends_with(host), "{own}");
        let drain = humantime::parse_duration(hook[3].as_str().unwrap()).unwrap().as_secs();
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > drain + PRE_STOP_EXTRA_SECONDS + STOP_SECONDS_MAX, "{grace} s for {drain} s");
        let keys: Vec<&Value> =
            pod["topologySpreadConstraints"].as_array().unwrap().iter().map(|c| &c["topologyKey"]).collect();
        assert_eq!(keys, ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
        // Brokers that are not ready become ready by each other.
        let headless = &find(objects, "Service", "test-evenkeel-broker")["spec"];
        assert_eq!(
            (&headless["clusterIP"], &headless["publishNotReadyAddresses"]),
            (&"None".into(), &true.into())
        );
        let budget = &find(objects, "PodDisruptionBudget", "test-evenkeel-broker")["spec"];
        assert_eq!(budget["maxUnavailable"], 1);
        assert_eq!(budget["selector"], set["spec"]["selector"]);
    }
}

#[test]
fn pods_keep_to_the_restricted_standard_with_a_read_only_root_and_ask_the_right_probes() {
    let Some(cases) = rendered(KUBERNETES_VERSIONS[1]) else { return };
    for objects in cases.values() {
        for (kind, name) in [("StatefulSet", "test-evenkeel-broker"), ("Deployment", "test-evenkeel-gateway")]
        {
            let set = find(objects, kind, name);
            let pod = &set["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            let security = &container(set)["securityContext"];
            assert_eq!(security["readOnlyRootFilesystem"], true);
            assert_eq!(security["allowPrivilegeEscalation"], false);
            assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
            for group in ["startup", "readiness", "liveness"] {
                let probe = &container(set)[format!("{group}Probe")]["httpGet"];
                assert_eq!(probe["path"], format!("/actuator/health/{group}"));
            }
        }
    }
}

#[test]
fn rules_and_dashboard_are_those_of_the_repository() {
    let Some(cases) = rendered(KUBERNETES_VERSIONS[1]) else { return };
    let objects = &cases["everything"];
    for (name, wanted) in [("alerts", 10), ("recording", 3)] {
        let text = std::fs::read_to_string(at_root(&format!("dashboards/rules/{name}.yml"))).unwrap();
        let rules = text.lines().filter(|line| line.trim_start().starts_with("expr:")).count();
        let groups = &find(objects, "PrometheusRule", &format!("test-evenkeel-{name}"))["spec"]["groups"];
        let rendered: usize =
            groups.as_array().unwrap().iter().map(|group| group["rules"].as_array().unwrap().len()).sum();
        assert_eq!(rendered, rules, "{name}");
        assert!(rendered >= wanted, "{name}: {rendered}");
    }
    let alerts = &find(objects, "PrometheusRule", "test-evenkeel-alerts")["spec"]["groups"][0]["rules"];
    for alert in alerts.as_array().unwrap() {
        let page = format!("https://wiki.example.com/evenkeel/{}.md", alert["alert"].as_str().unwrap());
        assert_eq!(alert["annotations"]["runbook_url"], page);
    }
    let dashboard = &find(objects, "ConfigMap", "test-evenkeel-dashboard")["data"]["evenkeel.json"];
    let file = std::fs::read_to_string(at_root("dashboards/evenkeel.json")).unwrap();
    assert_eq!(dashboard.as_str(), Some(file.as_str()));
}
