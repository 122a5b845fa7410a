//! A configuration that cannot work stops the start with exit code 2 and one line that says what to change.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use evenkeel_protocol::v1::Consistency;
use toml::{Table, Value};

use crate::harness::{
    Cluster, ClusterPorts, PATIENT_STAGGER, Secured, Spec, evenkeel, fixed_partitions, reserve_ports, set,
    wait_until,
};

/// A node's configuration that works.
fn broker_config(folder: &Path) -> Table {
    let ports = ClusterPorts {
        brokers: vec![(); 3].into_iter().map(|()| reserve_ports().into()).collect(),
        gateways: vec![],
    };
    Spec::new(3, 2).broker_config(0, &ports, &folder.join("data"))
}

fn gateway_config() -> Table {
    let ports = ClusterPorts { brokers: vec![reserve_ports().into()], gateways: vec![reserve_ports()] };
    Spec::new(1, 1).gateway_config(0, &ports)
}

/// Runs the process, which must refuse; returns its one line.
async fn refusal(command: &str, config: &Table, flags: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, config.to_string()).unwrap();
    let args = [command, "--config", file.to_str().unwrap()];
    let output = evenkeel(args.iter().chain(flags).copied()).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    let errors: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
    let [error] = errors[..] else { panic!("not one line: {told}") };
    assert_eq!(told.lines().last(), Some(&*format!("error: {error}")), "{told}");
    error.to_owned()
}

/// The line must hold all of these: key, value, remedy.
fn assert_tells(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is missing in: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_refuses_settings_that_cannot_work_and_names_key_value_and_remedy() {
    type Case<'a> = (&'a [(&'a str, Value)], &'a [&'a str]);
    let fixed_scheme = || ("partitioning.scheme", Value::from("fixed"));
    let full: &[&str] = &["0=3", "1=2", "2=1"];
    let cases: [Case<'_>; 13] = [
        (&[("raft.leese", "1s".into())], &["raft.leese", "1s", "did you mean raft.lease?", "config.toml:"]),
        (&[("raft.lease", 5.into())], &["raft.lease", "5", "set something like"]),
        (&[("raft.lease", "soon".into())], &["raft.lease", "soon", "set something like"]),
        (&[("limits.in_flight_writes_max", (-1).into())], &["limits.in_flight_writes_max", "-1", "set"]),
        (&[("raft.snapshot_after_entries", 0.into())], &["raft.snapshot_after_entries", "0", "set 1 to"]),
        (&[("cluster.node_id", 7.into())], &["cluster.node_id", "7", "use an id from that list"]),
        (
            &[("cluster.replication_factor", 4.into())],
            &["cluster.replication_factor", "4", "set at most 3, or add brokers"],
        ),
        (
            &[
                ("cluster.brokers", vec!["0=127.0.0.1:1111", "0=127.0.0.1:2222"].into()),
                ("cluster.replication_factor", 2.into()),
            ],
            &["cluster.brokers", "0=127.0.0.1:2222", "give every broker its own id"],
        ),
        (
            &[fixed_scheme(), ("partitioning.fixed", fixed_partitions(&[full, &["0=3", "1=3", "2=1"]]))],
            &[
                "partition 2",
                "priority 3",
                "broker 0",
                "broker 1",
                "make them different in [[partitioning.fixed]]",
            ],
        ),
        (
            &[fixed_scheme(), ("partitioning.fixed", fixed_partitions(&[full, &["0=3", "1=2"]]))],
            &["partition 2", "2 broker(s)", "list exactly 3 in [[partitioning.fixed]]"],
        ),
        (
            &[fixed_scheme(), ("partitioning.fixed", fixed_partitions(&[full, &["0=3", "0=2", "1=1"]]))],
            &["partition 2", "node 0 is listed twice", "list each broker once in [[partitioning.fixed]]"],
        ),
        (
            &[fixed_scheme(), ("partitioning.fixed", fixed_partitions(&[full, &["0=3", "1=2", "9=1"]]))],
            &["partition 2", "node 9", "use an id from cluster.brokers in [[partitioning.fixed]]"],
        ),
        (
            &[fixed_scheme(), ("partitioning.fixed", fixed_partitions(&[full]))],
            &["partition 2", "add [[partitioning.fixed]] with partition_id = 2"],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (settings, expected) in cases {
        let mut config = broker_config(folder.path());
        for (key, value) in settings {
            set(&mut config, key, value.clone());
        }
        assert_tells(&refusal("broker", &config, &[]).await, expected);
    }
    let line = refusal("broker", &broker_config(folder.path()), &["--cluster-partitions", "0"]).await;
    assert_tells(&line, &["cluster.partitions", "0", "set 1 to"]);
    assert!(!folder.path().join("data").exists(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_refuses_settings_that_cannot_work_and_names_key_value_and_remedy() {
    let cases: [(&str, Value, &[&str]); 6] = [
        ("limits.value_bytes_max", (-1).into(), &["-1", "set 1 to"]),
        ("limits.batch_bytes_max", 9.into(), &["9", "let a batch hold at least one value"]),
        ("cluster.brokers", Vec::<String>::new().into(), &["[]", "NODE_ID=HOST:PORT"]),
        ("cluster.brokers", vec!["0=a:1", "0=b:2"].into(), &["0=b:2", "name every broker once"]),
        ("routing.park_timeout", "0s".into(), &["0s", "set more than 0"]),
        ("routing.park_time", "1s".into(), &["1s", "did you mean routing.park_timeout?"]),
    ];
    for (key, value, expected) in cases {
        let mut config = gateway_config();
        set(&mut config, key, value);
        let line = refusal("gateway", &config, &[]).await;
        assert_tells(&line, &[key]);
        assert_tells(&line, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_others_reach_is_refused_unless_it_is_secured_or_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let secured = Secured::new().await;
    for (command, mut config) in [("broker", broker_config(folder.path())), ("gateway", gateway_config())] {
        set(&mut config, "network.host", "0.0.0.0");
        let line = refusal(command, &config, &[]).await;
        assert_tells(
            &line,
            &["network.host", "0.0.0.0", "without TLS", "tls.certificate_file", "network.insecure = true"],
        );
        let (certificate, key) = (secured.path(&format!("{command}-0.crt")), format!("{command}-0.key"));
        set(&mut config, "tls.certificate_file", certificate.clone());
        set(&mut config, "tls.key_file", secured.path(&key));
        let line = refusal(command, &config, &[]).await;
        assert_tells(&line, &["tls.ca_file", "is missing", "set all three"]);
        set(&mut config, "tls.ca_file", secured.path("ca.crt"));
        let line = refusal(command, &config, &[]).await;
        assert_tells(&line, &["network.host", "0.0.0.0", "without authentication", "auth.tokens_file"]);
        set(&mut config, "auth.tokens_file", secured.path("nowhere"));
        let line = refusal(command, &config, &[]).await;
        assert_tells(&line, &["auth.tokens_file", "nowhere", "No such file", "evenkeel token"]);
        set(&mut config, "auth.tokens_file", secured.path("tokens"));
        set(&mut config, "tls.certificate_file", secured.path("operator.crt"));
        set(&mut config, "tls.key_file", secured.path("operator.key"));
        let line = refusal(command, &config, &[]).await;
        assert_tells(&line, &["tls.certificate_file", "operator.crt", "tls issue --role", command]);
        set(&mut config, "tls.key_file", certificate);
        let line = refusal(command, &config, &[]).await;
        assert_tells(&line, &["tls.key_file", "everybody can read it", "chmod 600"]);
    }
    assert!(!folder.path().join("data").exists(), "nothing was begun");
    let open = Spec::new(1, 1)
        .broker("network.host", "0.0.0.0")
        .broker("network.insecure", true)
        .gateway("network.host", "0.0.0.0")
        .gateway("network.insecure", true);
    Cluster::start(open).await.client().put("k", "v", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    for (command, config, key) in [
        ("broker", broker_config(folder.path()), "network.port"),
        ("broker", broker_config(folder.path()), "network.monitoring_port"),
        ("gateway", gateway_config(), "network.port"),
        ("gateway", gateway_config(), "network.api_port"),
        ("gateway", gateway_config(), "network.monitoring_port"),
    ] {
        let mut config = config;
        set(&mut config, key, i64::from(taken));
        let line = refusal(command, &config, &[]).await;
        assert_tells(&line, &[key, &taken.to_string(), "stop ", "port"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_in_use_or_of_another_node_or_cluster_is_refused() {
    let mut cluster = Cluster::start(Spec::new(3, 1)).await;
    let folder = cluster.data_directory(0).display().to_string();
    let on_other_ports = |node: u64| {
        let ports = ClusterPorts {
            brokers: vec![(); 3].into_iter().map(|()| reserve_ports().into()).collect(),
            gateways: vec![],
        };
        cluster.spec.broker_config(node, &ports, folder.as_ref())
    };
    let (same, other_node, mut other_cluster) = (on_other_ports(0), on_other_ports(1), on_other_ports(0));
    set(&mut other_cluster, "cluster.id", "another");
    let line = refusal("broker", &same, &[]).await;
    assert_tells(&line, &["data.directory", &folder, "locked by a running broker", "stop that broker"]);

    cluster.kill(0);
    let line = refusal("broker", &other_node, &[]).await;
    assert_tells(&line, &["data.directory", &folder, "node 0", "not 1", "give this broker its own folder"]);
    let line = refusal("broker", &other_cluster, &[]).await;
    assert_tells(
        &line,
        &["data.directory", &folder, "\"story\"", "\"another\"", "give this broker its own folder"],
    );

    cluster.restart(0);
    cluster.wait_until_caught_up(0).await;
}

/// The configuration that a broker of this cluster was started with.
fn config_of(cluster: &Cluster, node: usize) -> Table {
    std::fs::read_to_string(config_file(cluster, node)).unwrap().parse().unwrap()
}

fn config_file(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.data_directory(node).with_extension("toml")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_is_not_the_data_folders_is_refused_and_changed_priorities_are_taken() {
    let layout: [&[&str]; 2] = [&["0=2", "1=1"], &["1=2", "2=1"]];
    let spec = Spec::new(3, 2).fixed(&layout).broker("raft.stagger", PATIENT_STAGGER);
    let mut cluster = Cluster::start(spec).await;
    cluster.client().put("k", "v", None).await.unwrap();
    let folder = cluster.data_directory(0).display().to_string();
    cluster.kill(0);

    let given = config_of(&cluster, 0);
    let mut brokers = given["cluster"]["brokers"].as_array().unwrap().clone();
    brokers.push("3=127.0.0.1:1".into());
    let other_sets: [&[&str]; 2] = [&["0=2", "1=1"], &["0=2", "2=1"]];
    type Case<'a> = (&'a [(&'a str, Value)], &'a [&'a str]);
    let cases: [Case<'_>; 5] = [
        (
            &[
                ("cluster.partitions", 4.into()),
                ("partitioning.fixed", fixed_partitions(&[layout, layout].concat())),
            ],
            &["cluster.partitions", "2 partitions, not 4", "set cluster.partitions = 2"],
        ),
        (
            &[("cluster.brokers", brokers.into())],
            &["cluster.brokers = 0, 1, 2, 3", "founded with brokers 0, 1, 2", "name exactly these"],
        ),
        (
            &[
                ("cluster.replication_factor", 1.into()),
                ("partitioning.fixed", fixed_partitions(&[&["0=2"], &["1=2"]])),
            ],
            &["cluster.replication_factor = 1", "founded with 2", "set cluster.replication_factor = 2"],
        ),
        (
            &[("partitioning.fixed", fixed_partitions(&other_sets))],
            &[
                "partitioning.fixed",
                "partition 2 on brokers 0, 2",
                "founded with brokers 1, 2",
                "list those in [[partitioning.fixed]]",
            ],
        ),
        (
            &[("partitioning.fixed", fixed_partitions(&[&["2=2", "1=1"], &["1=2", "2=1"]]))],
            &["partition 1 on brokers 1, 2", "founded with brokers 0, 1"],
        ),
    ];
    for (settings, expected) in cases {
        let mut config = given.clone();
        for (key, value) in settings {
            set(&mut config, key, value.clone());
        }
        let line = refusal("broker", &config, &[]).await;
        assert_tells(&line, expected);
        assert_tells(&line, &[&folder]);
    }

    // A folder that has lost its note of the layout still has the logs.
    std::fs::remove_file(cluster.data_directory(0).join("layout.json")).unwrap();
    let mut config = given.clone();
    set(&mut config, "partitioning.fixed", fixed_partitions(&[&["0=2", "2=1"], &["1=2", "2=1"]]));
    let line = refusal("broker", &config, &[]).await;
    assert_tells(&line, &["partitioning.fixed", "partition 1 on brokers 0, 2", "founded with brokers 0, 1"]);

    // Priorities only order who leads: they are changed on every broker, and nothing else is.
    let mut turned = given;
    set(&mut turned, "partitioning.fixed", fixed_partitions(&[&["0=1", "1=7"], &["1=2", "2=1"]]));
    for node in 0..3 {
        cluster.kill(node);
        set(&mut turned, "cluster.node_id", node as i64);
        let own = config_of(&cluster, node);
        turned.insert("network".into(), own["network"].clone());
        turned.insert("data".into(), own["data"].clone());
        std::fs::write(config_file(&cluster, node), turned.to_string()).unwrap();
    }
    for node in 0..3 {
        cluster.restart(node);
    }
    cluster
        .wait_for("broker 1 to be the primary of partition 1", |view| {
            view.partitions.first().is_some_and(|p| p.primary == Some(1) && p.leader.is_some())
        })
        .await;
    wait_until("the record to be there", async || {
        match cluster.client().get("k", Consistency::Linearizable).await {
            Ok(Some(record)) if record.value == "v" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
