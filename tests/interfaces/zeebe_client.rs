//! A Zeebe user's whole story with the client that they have: count leaders per broker, kill one, count; it returns and
//! leads nothing; rebalance, and count as in the beginning.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use http::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::harness::{Cluster, PATIENCE, Spec, http, wait_until};
use crate::python::{file, python};

/// One pyzeebe client on one channel.
struct Pyzeebe {
    _child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Pyzeebe {
    fn connect(python: &Path, gateway_port: u16) -> Self {
        let mut child = Command::new(python)
            .arg(file("topology.py"))
            .arg(format!("127.0.0.1:{gateway_port}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let questions = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, questions, answers }
    }

    async fn ask(&mut self, question: &str) -> Result<Value, String> {
        self.questions.write_all(format!("{question}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await.expect("pyzeebe answers");
        let answer: Value = serde_json::from_str(&line.unwrap().expect("pyzeebe goes on")).unwrap();
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer),
        }
    }
}

/// Leaders per broker, as a person would count them.
fn leaders(topology: &Value) -> BTreeMap<u64, usize> {
    let brokers = topology["brokers"].as_array().unwrap();
    let leads = |broker: &Value| {
        broker["partitions"].as_array().unwrap().iter().filter(|p| p["role"] == "leader").count()
    };
    brokers.iter().map(|broker| (broker["nodeId"].as_u64().unwrap(), leads(broker))).collect()
}

/// Waits until pyzeebe counts this, and until `/v2/topology` shows the very same.
async fn counted(pyzeebe: &mut Pyzeebe, cluster: &Cluster, what: &str, expected: &[(u64, usize)]) -> Value {
    let expected: BTreeMap<u64, usize> = expected.iter().copied().collect();
    wait_until(what, async || {
        let shown = pyzeebe.ask("topology").await?;
        if leaders(&shown) != expected {
            return Err(format!("{:?} instead of {expected:?}", leaders(&shown)));
        }
        let rest = http(Method::GET, &cluster.api("/v2/topology")).await?.json();
        if rest == shown { Ok(shown) } else { Err(format!("pyzeebe {shown}, but /v2/topology {rest}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn zeebes_python_client_sees_leaders_go_and_come_home() {
    let Some(python) = python() else { return };
    let mut cluster = Cluster::start_balanced(Spec::new(3, 6)).await;
    let mut pyzeebe = Pyzeebe::connect(&python, cluster.ports.gateways[0][0]);

    let balanced = [(0, 2), (1, 2), (2, 2)];
    let first = counted(&mut pyzeebe, &cluster, "two leaders on each broker", &balanced).await;
    assert_eq!((&first["clusterSize"], &first["partitionsCount"]), (&3.into(), &6.into()));
    assert_eq!(
        (&first["replicationFactor"], &first["gatewayVersion"]),
        (&3.into(), &env!("CARGO_PKG_VERSION").into())
    );
    for broker in first["brokers"].as_array().unwrap() {
        let partitions = broker["partitions"].as_array().unwrap();
        assert_eq!(partitions.len(), 6, "{broker}");
        assert!(partitions.iter().all(|partition| partition["health"] == "healthy"), "{broker}");
    }
    assert_eq!(pyzeebe.ask("healthcheck").await.unwrap()["serving"], true);

    cluster.kill(1);
    let abandoned = cluster.wait_until_abandoned(1).await;
    let led_by = |node| abandoned.partitions.iter().filter(|p| p.leader == Some(node)).count();
    // As in Zeebe, a broker that cannot be reached is not listed.
    let survivors = [(0, led_by(0)), (2, led_by(2))];
    counted(&mut pyzeebe, &cluster, "the survivors leading everything", &survivors).await;
    assert_eq!(survivors.iter().map(|(_, leads)| leads).sum::<usize>(), 6);

    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    let returned = [survivors[0], (1, 0), survivors[1]];
    counted(&mut pyzeebe, &cluster, "the returned broker leading nothing", &returned).await;

    // As in Zeebe: 200 without a body; what came of it is seen in the topology.
    let answer = cluster.rebalance().await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    counted(&mut pyzeebe, &cluster, "two leaders on each broker again", &balanced).await;

    drop(pyzeebe);
    let mut again = Pyzeebe::connect(&python, cluster.ports.gateways[0][0]);
    counted(&mut again, &cluster, "the same on a new channel", &balanced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_zeebe_has_and_evenkeel_has_not_is_unimplemented_by_name() {
    let Some(python) = python() else { return };
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let script = "import asyncio, sys\n\
        from pyzeebe import ZeebeClient, create_insecure_channel\n\
        async def main():\n\
        \x20   client = ZeebeClient(create_insecure_channel(grpc_address=sys.argv[1]), max_connection_retries=0)\n\
        \x20   try:\n\
        \x20       await client.run_process('nothing')\n\
        \x20   except Exception as error:\n\
        \x20       print(type(error).__name__, error)\n\
        asyncio.run(main())\n";
    let gateway = format!("127.0.0.1:{}", cluster.ports.gateways[0][0]);
    let run = Command::new(python).args(["-c", script, &gateway]).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("UNIMPLEMENTED") || said.contains("Unimplemented"), "{said}{output:?}");
}
