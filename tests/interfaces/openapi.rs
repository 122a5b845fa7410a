//! The OpenAPI document: valid, and true: what it describes is served, and what is served it describes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Cluster, PATIENCE, Spec, http};
use crate::python::python;

const METHODS: [&str; 4] = ["get", "put", "post", "delete"];

async fn document(cluster: &Cluster) -> Value {
    let answer = http(Method::GET, &cluster.api("/openapi.json")).await.unwrap();
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

/// Where a port that the document names is in this cluster.
fn base(cluster: &Cluster, server: &Value) -> String {
    match server["description"].as_str() {
        Some("API port of the gateway") => cluster.api(""),
        Some("monitoring port of the gateway") => cluster.monitoring(""),
        Some("monitoring port of a broker") => format!("http://127.0.0.1:{}", cluster.ports.brokers[0].1),
        other => panic!("{other:?} is no port"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_route_answers_with_the_documented_methods_and_no_others() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let document = document(&cluster).await;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let documented: BTreeSet<String> =
            METHODS.iter().filter(|m| item[**m].is_object()).map(|m| m.to_uppercase()).collect();
        let path = path.replace(['{', '}'], "");
        for server in item["servers"].as_array().unwrap() {
            // A method that nothing has: the router names those that it has, and nothing happens.
            let url = format!("{}{path}", base(&cluster, server));
            let answer = http(Method::PATCH, &url).await.unwrap();
            assert_eq!(answer.status, 405, "{url} is not served: {}", answer.text());
            let served: BTreeSet<String> = answer
                .header("allow")
                .unwrap_or_default()
                .split(',')
                .map(|method| method.trim().to_owned())
                .filter(|method| !method.is_empty() && method != "HEAD")
                .collect();
            assert_eq!(served, documented, "{url}");
            asked += 1;
        }
    }
    assert!(asked > 20, "only {asked} routes were found");
    let page = http(Method::GET, &cluster.api("/openapi")).await.unwrap();
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("<code>/v1/records/{key}</code>"));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The paths that a source file gives to routers, with its constants filled in.
fn routes(source: &str) -> Vec<String> {
    let constants: BTreeMap<&str, &str> = source
        .lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once("const ")?.1.split_once(": &str = \"")?;
            Some((name, value.strip_suffix("\";")?))
        })
        .collect();
    let given = source.split(".route(").skip(1);
    given
        .filter_map(|call| {
            let first = call.trim_start().split(',').next()?.trim();
            match first.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(path) => Some(path.to_owned()),
                None => constants.get(first).map(|path| (*path).to_owned()),
            }
        })
        .map(|path| path.replace("{*", "{"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_in_the_sources_is_documented() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let document = document(&cluster).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    for folder in ["gateway/src", "broker/src"] {
        for file in sources(&root.join(folder)) {
            found.extend(routes(&std::fs::read_to_string(file).unwrap()));
        }
    }
    assert!(found.contains("/cluster/v2/rebalance") && found.contains("/metrics"), "{found:?}");
    let undocumented: Vec<&String> =
        found.iter().filter(|path| document["paths"][path.as_str()].is_null()).collect();
    assert!(undocumented.is_empty(), "describe these in crates/gateway/src/openapi.json: {undocumented:?}");
}

#[test]
fn routes_are_found_in_sources() {
    let source = "const A: &str = \"/a\";\nRouter::new().route(A, get(a)).route(\n\"/b/{*key}\",\nget(b))\nself.route(request)";
    assert_eq!(routes(source), ["/a", "/b/{key}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_of_openapi_documents_has_nothing_to_say() {
    let Some(python) = python() else { return };
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    let good = document(&cluster).await;
    let mut bad = good.clone();
    bad["paths"]["/openapi"]["get"]["responses"] = Value::Null;
    for (document, valid) in [(good, true), (bad, false)] {
        std::fs::write(&file, document.to_string()).unwrap();
        let run = Command::new(&python)
            .args(["-m", "openapi_spec_validator", "--schema", "3.1"])
            .arg(&file)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
        assert_eq!(output.status.success(), valid, "{output:?}");
    }
}
