//! A network of namespaces on this machine: each process in one of its own, all on one bridge, every way of which can be
//! cut alone.
//!
//! ```text
//!   this process, 10.x.y.1 ── bridge ──┬── broker 0, 10.x.y.10      a cut is a packet filter (nftables) in a namespace:
//!                                      ├── broker 1, 10.x.y.11      what it drops leaves no trace, as on a real network
//!                                      └── gateway 0, …
//! ```
//!
//! The bridge has a namespace of its own too: this machine's own filters have no say there.
//!
//! Needs root, iproute2 and nftables. Whatever a killed run has left behind is removed by the next one.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Begins the names of namespaces; the id of the process that made them follows.
const NAME: &str = "evenkeel-";
const FIRST_HOST: u8 = 10;
const SUBNET_ATTEMPTS_MAX: usize = 20;
/// The filter in each namespace: what comes from, and what goes to, these addresses is dropped.
const FILTER: &str = "table ip chaos {
    set from { type ipv4_addr; }
    set to { type ipv4_addr; }
    chain in { type filter hook input priority 0; ip saddr @from drop; }
    chain out { type filter hook output priority 0; ip daddr @to drop; }
}";

/// One end of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// This process and its clients.
    Here,
    /// By number.
    Host(usize),
}

/// Removes itself when dropped.
pub struct Network {
    id: u32,
    subnet: [u8; 2],
    hosts: usize,
}

fn run(words: &[&str]) -> Result<(), String> {
    run_with_input(words, "")
}

fn run_with_input(words: &[&str], input: &str) -> Result<(), String> {
    use std::io::Write as _;
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", words.join(" "));
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| failed(&error))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(&String::from_utf8_lossy(&output.stderr).trim()))
}

impl Network {
    /// Makes a network with so many hosts; an error says why this machine has none.
    pub fn make(hosts: usize) -> Result<Self, String> {
        remove_left_behind();
        let id = std::process::id();
        let mut last = String::new();
        for _ in 0..SUBNET_ATTEMPTS_MAX {
            let network =
                Self { id, subnet: [rand::random_range(64..250), rand::random_range(0..250)], hosts };
            match network.set_up() {
                Ok(()) => return Ok(network),
                // Dropped, and so undone; the subnet may be somebody else's.
                Err(error) => last = error,
            }
            if !last.contains("File exists") {
                break;
            }
        }
        Err(last)
    }

    fn set_up(&self) -> Result<(), String> {
        let (switch, own, here) =
            (self.switch(), self.own_device(), format!("{}/24", self.address(End::Here)));
        let at_switch = |words: &[&str]| run(&[&["ip", "-n", &switch], words].concat());
        run(&["ip", "netns", "add", &switch])?;
        at_switch(&["link", "add", "bridge0", "type", "bridge"])?;
        at_switch(&["link", "set", "bridge0", "up"])?;
        run(&["ip", "link", "add", &own, "type", "veth", "peer", "name", "here", "netns", &switch])?;
        run(&["ip", "address", "add", &here, "dev", &own])?;
        run(&["ip", "link", "set", &own, "up"])?;
        at_switch(&["link", "set", "here", "master", "bridge0", "up"])?;
        for host in 0..self.hosts {
            let (namespace, port) = (self.namespace(host), format!("host{host}"));
            let address = format!("{}/24", self.address(End::Host(host)));
            let inside = |words: &[&str]| run(&[&["ip", "-n", &namespace], words].concat());
            run(&["ip", "netns", "add", &namespace])?;
            at_switch(&["link", "add", &port, "type", "veth", "peer", "name", "net0", "netns", &namespace])?;
            at_switch(&["link", "set", &port, "master", "bridge0", "up"])?;
            inside(&["link", "set", "lo", "up"])?;
            inside(&["address", "add", &address, "dev", "net0"])?;
            inside(&["link", "set", "net0", "up"])?;
            run_with_input(&["ip", "netns", "exec", &namespace, "nft", "-f", "-"], FILTER)?;
        }
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{NAME}{}-switch", self.id)
    }

    /// This process's end.
    fn own_device(&self) -> String {
        format!("ek{}", self.id)
    }

    fn namespace(&self, host: usize) -> String {
        format!("{NAME}{}-{host}", self.id)
    }

    pub fn address(&self, end: End) -> Ipv4Addr {
        let [a, b] = self.subnet;
        let last = match end {
            End::Here => 1,
            End::Host(host) => FIRST_HOST + u8::try_from(host).unwrap(),
        };
        Ipv4Addr::new(10, a, b, last)
    }

    /// What has to stand before a command for it to run on this host.
    pub fn on_host(&self, host: usize) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.namespace(host)].map(OsString::from).to_vec()
    }

    /// From now on nothing gets from the one end to the other; the way back is not touched.
    pub fn cut(&self, from: End, to: End) {
        // At the receiver, except that this process's own namespace is left alone.
        let (at, set, address) = match (from, to) {
            (_, End::Host(host)) => (host, "from", self.address(from)),
            (End::Host(host), End::Here) => (host, "to", self.address(to)),
            (End::Here, End::Here) => return,
        };
        self.filter(at, &format!("add element ip chaos {set} {{ {address} }}"));
    }

    /// Every way is open again.
    pub fn heal(&self) {
        for host in 0..self.hosts {
            self.filter(host, "flush set ip chaos from; flush set ip chaos to");
        }
    }

    fn filter(&self, host: usize, command: &str) {
        run(&["ip", "netns", "exec", &self.namespace(host), "nft", command]).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = run(&["ip", "netns", "delete", &self.namespace(host)]);
        }
        // Both ends of a pair of devices go together, but a namespace outlives its name for a moment.
        let _ = run(&["ip", "link", "delete", &self.own_device()]);
        let _ = run(&["ip", "netns", "delete", &self.switch()]);
    }
}

/// Removes the networks of processes that are no more.
fn remove_left_behind() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for name in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        let Some((id, _)) = name.strip_prefix(NAME).and_then(|rest| rest.split_once('-')) else { continue };
        if id.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(id).exists() {
            let _ = run(&["ip", "netns", "delete", name]);
            let _ = run(&["ip", "link", "delete", &format!("ek{id}")]);
        }
    }
}
