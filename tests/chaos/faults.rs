//! Does to the cluster what the schedule says, and undoes it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::cluster::{BROKERS, Cluster, GATEWAYS, broker_host, gateway_host};
use crate::harness::{PATIENCE, evenkeel};
use crate::nemesis::{Event, Fault, SegmentChoice, Ways};
use crate::network::End;

/// A broker has this long to go on by itself when there is room on its disk again; then its operator starts it anew.
const DISK_SETTLE: Duration = Duration::from_secs(3);
/// Bytes at a segment's beginning that are left alone: what is wrong there says which file it is, not what it holds.
const SEGMENT_HEADER_BYTES: usize = 64;

/// What a fault's failover figures count for; `None` for faults that are no single failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    BrokerKilled,
    BrokerPaused,
    BrokerCutOff,
    GatewayKilled,
    GatewayPausedOrCutOff,
}

impl Category {
    pub fn of(fault: Fault) -> Option<Self> {
        match fault {
            Fault::KillBroker(_) => Some(Self::BrokerKilled),
            Fault::PauseBroker(_) => Some(Self::BrokerPaused),
            Fault::CutFromBrokers(..) | Fault::Isolate(..) | Fault::CutBrokers(..) => {
                Some(Self::BrokerCutOff)
            }
            Fault::KillGateway(_) => Some(Self::GatewayKilled),
            Fault::PauseGateway(_) | Fault::CutClients(..) | Fault::CutGateway { .. } => {
                Some(Self::GatewayPausedOrCutOff)
            }
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::BrokerKilled => "broker killed (-9)",
            Self::BrokerPaused => "broker paused",
            Self::BrokerCutOff => "broker cut off, one-way or both",
            Self::GatewayKilled => "gateway killed (-9)",
            Self::GatewayPausedOrCutOff => "gateway paused or cut off",
        }
    }

    /// What must not be exceeded by more than one in a hundred.
    pub fn p99_goal(self) -> Duration {
        match self {
            Self::BrokerKilled | Self::GatewayKilled => Duration::from_secs(1),
            Self::BrokerPaused | Self::BrokerCutOff | Self::GatewayPausedOrCutOff => Duration::from_secs(3),
        }
    }

    /// Whose partitions' writes wait; `None` for all.
    pub fn broker(fault: Fault) -> Option<usize> {
        match fault {
            Fault::KillBroker(broker)
            | Fault::PauseBroker(broker)
            | Fault::CutFromBrokers(broker, _)
            | Fault::CutBrokers(broker, ..)
            | Fault::Isolate(broker, _)
            | Fault::CutGateway { broker, .. } => Some(broker),
            _ => None,
        }
    }
}

/// Cuts a host's ways from and to others.
fn cut(cluster: &Cluster, victim: usize, others: impl IntoIterator<Item = End>, ways: Ways) {
    let victim = End::Host(victim);
    for other in others.into_iter().filter(|other| *other != victim) {
        if ways != Ways::In {
            cluster.network.cut(victim, other);
        }
        if ways != Ways::Out {
            cluster.network.cut(other, victim);
        }
    }
}

fn broker_ends() -> impl Iterator<Item = End> {
    (0..BROKERS).map(|broker| End::Host(broker_host(broker)))
}

fn all_ends() -> impl Iterator<Item = End> {
    let gateways = (0..GATEWAYS).map(|gateway| End::Host(gateway_host(gateway)));
    broker_ends().chain(gateways).chain([End::Here])
}

/// Carries a fault out and undoes it; the cluster heals afterwards.
pub async fn carry_out(cluster: &mut Cluster, event: Event, random: &mut StdRng) {
    let lasts = event.lasts;
    match event.fault {
        Fault::KillBroker(broker) => {
            cluster.brokers[broker].kill();
            sleep(lasts).await;
            cluster.restart_broker(broker);
        }
        Fault::KillTwoBrokers(spared) => {
            let killed: Vec<usize> = (0..BROKERS).filter(|broker| *broker != spared).collect();
            for broker in &killed {
                cluster.brokers[*broker].kill();
            }
            sleep(lasts).await;
            for broker in killed {
                cluster.restart_broker(broker);
            }
        }
        Fault::KillGateway(gateway) => {
            cluster.gateways[gateway].kill();
            sleep(lasts).await;
            cluster.gateways[gateway].restart();
        }
        Fault::PauseBroker(broker) => {
            cluster.brokers[broker].signal(Signal::STOP);
            sleep(lasts).await;
            cluster.brokers[broker].signal(Signal::CONT);
        }
        Fault::PauseGateway(gateway) => {
            cluster.gateways[gateway].signal(Signal::STOP);
            sleep(lasts).await;
            cluster.gateways[gateway].signal(Signal::CONT);
        }
        Fault::CutFromBrokers(broker, ways) => {
            cut(cluster, broker_host(broker), broker_ends(), ways);
            sleep(lasts).await;
        }
        Fault::Isolate(broker, ways) => {
            cut(cluster, broker_host(broker), all_ends(), ways);
            sleep(lasts).await;
        }
        Fault::CutBrokers(broker, other, ways) => {
            cut(cluster, broker_host(broker), [End::Host(broker_host(other))], ways);
            sleep(lasts).await;
        }
        Fault::CutGateway { gateway, broker, ways } => {
            cut(cluster, gateway_host(gateway), [End::Host(broker_host(broker))], ways);
            sleep(lasts).await;
        }
        Fault::CutClients(gateway, ways) => {
            cut(cluster, gateway_host(gateway), [End::Here], ways);
            sleep(lasts).await;
        }
        Fault::FillDisk(broker) => {
            cluster.fill_disk(broker);
            sleep(lasts).await;
            cluster.free_disk(broker);
            restart_unless_it_goes_on(cluster, broker).await;
        }
        Fault::FlipBit(broker, choice) => flip_bit(cluster, broker, choice, random).await,
        Fault::RestartAll => {
            for process in cluster.brokers.iter_mut().chain(&mut cluster.gateways) {
                process.kill();
            }
            for process in cluster.brokers.iter_mut().chain(&mut cluster.gateways) {
                process.restart();
            }
        }
        Fault::RollBrokers => {
            for broker in 0..BROKERS {
                Cluster::stop(&mut cluster.brokers[broker]).await;
                cluster.restart_broker(broker);
                cluster.wait_until_healthy().await;
                cluster.wait_until_caught_up().await;
            }
        }
        Fault::RollGateways => {
            for gateway in 0..GATEWAYS {
                Cluster::stop(&mut cluster.gateways[gateway]).await;
                cluster.gateways[gateway].restart();
                cluster.wait_until_healthy().await;
            }
        }
    }
    cluster.network.heal();
}

/// A broker may have ended, or some of its replicas.
async fn restart_unless_it_goes_on(cluster: &mut Cluster, broker: usize) {
    let deadline = Instant::now() + DISK_SETTLE;
    while cluster.brokers[broker].is_running() && cluster.has_dead_replicas(broker).await {
        if Instant::now() > deadline {
            println!("          broker {broker} does not go on with room on its disk: killed");
            cluster.brokers[broker].kill();
        }
        sleep(Duration::from_millis(50)).await;
    }
    cluster.restart_broker(broker);
}

/// The log's segments, the active one last.
fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("log")).unwrap();
    let mut segments: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    segments.sort();
    segments
}

/// The command that a refusal to start names, without the program.
fn advice(told: &str) -> Option<&str> {
    let (_, rest) = told.rsplit_once("`evenkeel ")?;
    Some(rest.split_once('`')?.0)
}

/// Kills a broker, flips a bit in a segment, and sees it refuse to start with the file's name. Then either follows the advice
/// that it gives, and has what is damaged fetched from the other brokers, or puts the bit back as it was. A segment's last
/// write is left alone: nothing tells it from a torn one.
async fn flip_bit(cluster: &mut Cluster, broker: usize, choice: SegmentChoice, random: &mut StdRng) {
    cluster.brokers[broker].kill();
    let segments = segments(&cluster.data_directory(broker));
    let (active, sealed) = segments.split_last().unwrap();
    let segment = match choice {
        SegmentChoice::Sealed if !sealed.is_empty() => &sealed[random.random_range(0..sealed.len())],
        _ => active,
    };
    let intact = std::fs::read(segment).unwrap();
    let Some(end) = evenkeel_raft_storage::last_write(&intact).filter(|end| *end > SEGMENT_HEADER_BYTES)
    else {
        return cluster.restart_broker(broker);
    };
    let at = random.random_range(SEGMENT_HEADER_BYTES..end);
    let mut damaged = intact.clone();
    damaged[at] ^= 1 << random.random_range(0..8);
    std::fs::write(segment, &damaged).unwrap();
    let told_before = cluster.brokers[broker].log().len();
    cluster.restart_broker(broker);
    let deadline = Instant::now() + PATIENCE;
    while cluster.brokers[broker].is_running() {
        assert!(
            Instant::now() < deadline,
            "broker {broker} runs although bit of byte {at} of {} is wrong",
            segment.display()
        );
        sleep(Duration::from_millis(20)).await;
    }
    let log = cluster.brokers[broker].log();
    let told = &log[told_before..];
    let name = segment.file_name().unwrap().to_string_lossy();
    assert!(
        told.contains(&*name) && told.contains("corrupt"),
        "byte {at} of {name} is wrong; the broker said:\n{told}"
    );
    match advice(told) {
        Some(command) if random.random_bool(0.5) => {
            let file = cluster.config_file(broker).display().to_string();
            let words =
                command.split(' ').map(|word| if word == "FILE" { file.clone() } else { word.to_owned() });
            let output = evenkeel(words).await;
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
            println!("          after `{command}`");
        }
        _ => std::fs::write(segment, &intact).unwrap(),
    }
    cluster.restart_broker(broker);
}
