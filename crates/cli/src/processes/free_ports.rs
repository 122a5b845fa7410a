//! Free TCP ports on this machine, for clusters that must not get in each other's way.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::bail;

/// Below the range that systems hand out to outgoing connections, so that none takes a port between the check
/// and the moment a process listens on it.
const RANGE: std::ops::Range<u16> = 10_240..32_000;
const ATTEMPTS_PER_PORT_MAX: usize = 200;

/// Whether something could listen on this port of the loopback interface now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// This many different ports that nothing listens on.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut found = BTreeSet::new();
    for _ in 0..count.saturating_mul(ATTEMPTS_PER_PORT_MAX) {
        if found.len() == count {
            break;
        }
        let port = rand::random_range(RANGE);
        if is_free(port) {
            found.insert(port);
        }
    }
    if found.len() < count {
        bail!("found only {} of {count} free ports in {RANGE:?}; stop some listening processes", found.len());
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_free() {
        let ports = free_ports(20).unwrap();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 20);
        assert!(ports.iter().all(|port| is_free(*port)));
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
