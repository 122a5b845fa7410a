//! Ports of this machine that nobody listens on.
//!
//! The processes bind their ports themselves, so a port can only be found free, not held. Ports that the system
//! gives to outgoing connections are avoided: a broker that is killed must find its port free again.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex};

const ATTEMPTS_MAX: usize = 10_000;
const LOWEST: u16 = 10_240;
/// Where Linux begins to take outgoing ports from, unless told otherwise.
const OUTGOING_FROM_DEFAULT: u16 = 32_768;

/// Every port given out in this process, so that clusters beside each other do not collide.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

static OUTGOING_FROM: LazyLock<u16> = LazyLock::new(|| {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|port| port.parse().ok());
    first.filter(|port| *port > LOWEST + 1000).unwrap_or(OUTGOING_FROM_DEFAULT)
});

/// A port for one listener.
pub fn reserve_port() -> u16 {
    let mut given = GIVEN.lock().unwrap();
    for _ in 0..ATTEMPTS_MAX {
        let port = rand::random_range(LOWEST..*OUTGOING_FROM);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port found in {ATTEMPTS_MAX} attempts");
}

/// `N` different ports.
pub fn reserve_ports<const N: usize>() -> [u16; N] {
    std::array::from_fn(|_| reserve_port())
}
