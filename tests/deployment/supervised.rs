//! The processes tell systemd how they are.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, reserve_ports};

/// Systemd's side of one process.
struct Supervised {
    socket: UnixDatagram,
    child: Child,
    /// Of the socket and of the broker's data.
    _folder: tempfile::TempDir,
}

impl Supervised {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(args)
            .current_dir(folder.path())
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", Duration::from_millis(300).as_micros().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { socket, child, _folder: folder }
    }

    /// Reads until a message has the line; panics when nothing is told for long.
    fn wait_for(&self, wanted: &str) {
        let mut buffer = [0; 1024];
        loop {
            let count = self.socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{wanted} was not told: {error}");
            });
            let told = std::str::from_utf8(&buffer[..count]).unwrap();
            if told.lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    fn tells_its_whole_life(mut self) {
        self.wait_for("STATUS=starting: replaying what is on disk");
        self.wait_for("READY=1");
        for _ in 0..3 {
            self.wait_for("WATCHDOG=1");
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.wait_for("STOPPING=1");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_gateway_without_any_broker_is_ready_and_makes_progress() {
    let [port, api, monitoring] = reserve_ports::<3>().map(|port| port.to_string());
    let gateway = Supervised::start(&[
        "gateway",
        "--cluster-brokers",
        "0=127.0.0.1:1",
        "--network-port",
        &port,
        "--network-api-port",
        &api,
        "--network-monitoring-port",
        &monitoring,
    ]);
    gateway.tells_its_whole_life();
}

#[test]
fn a_broker_without_quorum_is_ready_and_makes_progress() {
    let [port, monitoring] = reserve_ports::<2>();
    let brokers = format!("0=127.0.0.1:{port},1=127.0.0.1:1,2=127.0.0.1:2");
    let broker = Supervised::start(&[
        "broker",
        "--cluster-brokers",
        &brokers,
        "--network-port",
        &port.to_string(),
        "--network-monitoring-port",
        &monitoring.to_string(),
    ]);
    broker.tells_its_whole_life();
}
