//! The connections to every known gateway, and whose turn it is.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tonic::transport::{Channel, Endpoint};

use crate::error::ClientError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Large enough that one connection carries many 1 MiB values at once.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Gateways {
    addresses: Vec<String>,
    /// `connections[gateway][i]`: each reconnects by itself.
    connections: Vec<Vec<Channel>>,
    turn: AtomicUsize,
}

/// Where a call is: it keeps its connection until an attempt fails, then goes to the next gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    gateway: usize,
    connection: usize,
}

impl Gateways {
    /// Opens nothing yet; connections open when used. Must run inside a tokio runtime.
    pub(crate) fn new(addresses: &[String], connections_per_gateway: usize) -> Result<Self, ClientError> {
        if addresses.is_empty() {
            return Err(ClientError::BadAddress {
                address: String::new(),
                detail: "no gateway given".into(),
            });
        }
        let mut connections = Vec::with_capacity(addresses.len());
        for address in addresses {
            let endpoint = endpoint(address)?;
            connections.push((0..connections_per_gateway.max(1)).map(|_| endpoint.connect_lazy()).collect());
        }
        Ok(Self { addresses: addresses.to_vec(), connections, turn: AtomicUsize::new(0) })
    }

    /// Returns once any gateway accepts a connection, or says why none does.
    pub(crate) async fn probe(&self) -> Result<(), ClientError> {
        let mut attempts: FuturesUnordered<_> = self
            .addresses
            .iter()
            .map(
                |address| async move { endpoint(address)?.connect().await.map_err(|e| self.unreachable(&e)) },
            )
            .collect();
        let mut last = None;
        while let Some(result) = attempts.next().await {
            match result {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.unreachable(&"no gateway given")))
    }

    fn unreachable(&self, error: &(impl std::fmt::Debug + ?Sized)) -> ClientError {
        ClientError::Unreachable { addresses: self.addresses.join(", "), detail: connection_detail(error) }
    }

    pub(crate) fn first(&self) -> Route {
        let turn = self.turn.fetch_add(1, Relaxed);
        Route { gateway: turn % self.connections.len(), connection: turn / self.connections.len() }
    }

    pub(crate) fn next(&self, route: Route) -> Route {
        Route { gateway: (route.gateway + 1) % self.connections.len(), connection: route.connection }
    }

    pub(crate) fn channel(&self, route: Route) -> Channel {
        let connections = &self.connections[route.gateway % self.connections.len()];
        connections[route.connection % connections.len()].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.len()
    }
}

fn endpoint(address: &str) -> Result<Endpoint, ClientError> {
    let bad =
        |detail: &str| ClientError::BadAddress { address: address.to_owned(), detail: detail.to_owned() };
    let host_and_port = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    if host_and_port.contains("://") {
        return Err(bad("only http:// is supported"));
    }
    match host_and_port.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {}
        _ => return Err(bad("host or port is missing")),
    }
    let endpoint =
        Endpoint::from_shared(format!("http://{host_and_port}")).map_err(|e| bad(&e.to_string()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

/// The innermost cause ("Connection refused (os error 111)"), which is the one that helps.
fn connection_detail(error: &(impl std::fmt::Debug + ?Sized)) -> String {
    let text = format!("{error:?}");
    for known in ["Connection refused", "No route to host", "timed out", "failed to lookup address"] {
        if text.contains(known) {
            return known.to_lowercase();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_take_turns_and_failures_move_on() {
        let addresses = ["a:1", "b:2", "c:3"].map(str::to_owned);
        let gateways = Gateways::new(&addresses, 2).unwrap();
        let turns: Vec<usize> = (0..4).map(|_| gateways.first().gateway).collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        let mut route = gateways.first();
        let mut seen = vec![route.gateway];
        for _ in 1..gateways.count() {
            route = gateways.next(route);
            seen.push(route.gateway);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_bad_address_is_named() {
        for bad in ["", "localhost", "localhost:", ":26500", "localhost:0", "localhost:99999", "https://a:1"]
        {
            let error = Gateways::new(&[bad.to_owned()], 1).unwrap_err();
            assert!(matches!(&error, ClientError::BadAddress { address, .. } if address == bad), "{error}");
        }
        for good in ["localhost:1", "http://127.0.0.1:26500/", "[::1]:26500"] {
            Gateways::new(&[good.to_owned()], 1).unwrap();
        }
    }

    #[tokio::test]
    async fn an_unreachable_gateway_is_reported_with_its_cause() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let gateways = Gateways::new(&[format!("127.0.0.1:{port}")], 1).unwrap();
        let text = gateways.probe().await.unwrap_err().to_string();
        assert!(text.contains("connection refused") && text.contains("evenkeel dev"), "{text}");
    }
}
