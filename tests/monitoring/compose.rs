//! Prometheus and Grafana of `deploy/compose/compose.yml`: what is mounted is there, and they find it where it is mounted.
//!
//! Their images are not pulled for that: a registry cannot be reached from everywhere.

use std::path::Path;

use crate::prometheus::{installed, promtool};
use crate::{at_root, read};

const COMPOSE: &str = "deploy/compose/compose.yml";
const PROMETHEUS: &str = "deploy/compose/prometheus.yml";
const PROCESSES: [&str; 4] = ["broker-0", "broker-1", "broker-2", "gateway"];

/// The lines of one service, by the indentation of its name.
fn service(name: &str) -> String {
    let text = read(COMPOSE);
    let services =
        text.split("\nservices:\n").nth(1).unwrap().split("\nnetworks:\n").next().unwrap().to_owned();
    let (_, rest) =
        services.split_once(&format!("  {name}:\n")).unwrap_or_else(|| panic!("no service {name}"));
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.collect::<Vec<_>>().join("\n")
}

/// Files of the repository that a service is given, from where and to where.
fn mounted(name: &str) -> Vec<(String, String)> {
    let of_file = |line: &str| {
        let (from, rest) = line.trim().strip_prefix("- .")?.split_once(':')?;
        let to = rest.strip_suffix(":ro").unwrap_or_else(|| panic!("{line}: could be written to"));
        Some((format!("deploy/compose/.{from}"), to.to_owned()))
    };
    service(name).lines().filter_map(of_file).collect()
}

fn folder_of(path: &str) -> &str {
    Path::new(path).parent().unwrap().to_str().unwrap()
}

/// Where a service is given this file.
fn place_of(name: &str, file: &str) -> String {
    let wanted = at_root(file);
    let found = mounted(name).into_iter().find(|(from, _)| at_root(from) == wanted);
    found.unwrap_or_else(|| panic!("{name} is not given {file}")).1
}

#[test]
fn every_service_has_a_health_check_and_is_given_files_that_are_there() {
    for name in ["prometheus", "grafana"] {
        assert!(service(name).contains("healthcheck:"), "{name}");
        assert!(!mounted(name).is_empty(), "{name} is given no file");
        // Panics where one is not there: the engine would make a folder of that name.
        mounted(name).iter().for_each(|(from, _)| drop(at_root(from)));
    }
    for name in PROCESSES {
        assert!(service(name).contains("<<: *process"), "{name}");
    }
    assert!(read(COMPOSE).contains(r#"test: ["CMD", "/evenkeel", "probe", "http"]"#));
}

#[test]
fn prometheus_scrapes_every_process_and_reads_the_rules() {
    let text = read(PROMETHEUS);
    for name in PROCESSES {
        assert!(text.contains(&format!("targets: [\"{name}:9600\"]")), "{name} is not scraped");
    }
    let rules = text.split("rule_files: [").nth(1).unwrap().split(']').next().unwrap();
    for file in ["alerts.yml", "recording.yml"] {
        let place = place_of("prometheus", &format!("dashboards/rules/{file}"));
        assert_eq!(rules, format!("{}/*.yml", folder_of(&place)), "{file}");
    }
    assert_eq!(place_of("prometheus", PROMETHEUS), "/etc/prometheus/prometheus.yml");
    if !installed("promtool") {
        return;
    }
    let here = tempfile::tempdir().unwrap();
    let config = here.path().join("prometheus.yml");
    let text = text.replace(rules, &format!("{}/*.yml", at_root("dashboards/rules").display()));
    std::fs::write(&config, text).unwrap();
    let output = promtool(&["check", "config", config.to_str().unwrap()], "");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("2 rule files found"), "{output:?}");
}

#[test]
fn grafana_finds_prometheus_and_the_dashboard() {
    let source = read("deploy/compose/datasource.yml");
    assert!(source.contains("url: http://prometheus:9090\n"), "{source}");
    // As often as it scrapes: what a rate is taken over follows from it.
    let interval = read(PROMETHEUS)
        .lines()
        .find_map(|line| line.trim().strip_prefix("scrape_interval: ").map(str::to_owned));
    assert!(source.contains(&format!("timeInterval: {}\n", interval.unwrap())), "{source}");
    let provisioned = "/etc/grafana/provisioning";
    assert_eq!(
        folder_of(&place_of("grafana", "deploy/compose/datasource.yml")),
        format!("{provisioned}/datasources")
    );
    let provider = "dashboards/provisioning/dashboards/evenkeel.yml";
    assert_eq!(folder_of(&place_of("grafana", provider)), format!("{provisioned}/dashboards"));
    let dashboard = place_of("grafana", "dashboards/evenkeel.json");
    assert!(read(provider).contains(&format!("path: {}\n", folder_of(&dashboard))), "{dashboard}");
    assert!(service("grafana").contains(&format!("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: {dashboard}")));
}
