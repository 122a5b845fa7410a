//! What the script beside this needs to know of the machine and of the cluster that `evenkeel dev` started.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::Value;

/// Below the range that systems hand out to outgoing connections: none takes a port before its server does.
const PORTS: std::ops::Range<u16> = 10_240..32_000;
const ATTEMPTS_PER_PORT_MAX: usize = 200;

/// Different ports that nothing listens on.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut found = BTreeSet::new();
    for _ in 0..count * ATTEMPTS_PER_PORT_MAX {
        if found.len() == count {
            break;
        }
        let port = rand::random_range(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.insert(port);
        }
    }
    if found.len() < count {
        bail!("only {} of {count} ports are free", found.len());
    }
    Ok(found.into_iter().collect())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Fact {
    /// host:port of the gateway
    Gateway,
    /// URL of its API
    Api,
    /// Process ids of gateway and brokers, comma-separated
    Pids,
}

/// A fact of what `evenkeel dev --output json` printed.
pub fn of_dev(file: &Path, fact: Fact) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let cluster: Value = serde_json::from_str(&text)?;
    told(&cluster, fact).with_context(|| format!("{fact:?} is not in {text}"))
}

fn told(cluster: &Value, fact: Fact) -> Option<String> {
    let gateway = &cluster["gateway"];
    match fact {
        Fact::Gateway => gateway["grpc"].as_str().map(str::to_owned),
        Fact::Api => {
            let address = gateway["api"].as_str()?;
            Some(if address.contains("://") { address.to_owned() } else { format!("http://{address}") })
        }
        Fact::Pids => {
            let brokers = cluster["brokers"].as_array()?;
            let pids =
                brokers.iter().chain([gateway]).map(|member| Some(member["pid"].as_u64()?.to_string()));
            Some(pids.collect::<Option<Vec<_>>>()?.join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_description_is_understood() {
        let cluster = serde_json::json!({
            "gateway": {"pid": 3, "grpc": "127.0.0.1:1", "api": "127.0.0.1:2"},
            "brokers": [{"pid": 1}, {"pid": 2}],
        });
        let facts = [Fact::Gateway, Fact::Api, Fact::Pids].map(|fact| told(&cluster, fact).unwrap());
        assert_eq!(facts, ["127.0.0.1:1", "http://127.0.0.1:2", "1,2,3"]);
        assert_eq!(told(&Value::Null, Fact::Pids), None);
        assert_eq!(free_ports(3).unwrap().len(), 3);
    }
}
