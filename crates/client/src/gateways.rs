//! The connections to every known gateway, and whose turn it is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use evenkeel_security::{Dialer, TlsProblem, is_loopback, tls_problem};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tonic::transport::{Channel, Endpoint};

use crate::error::ClientError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A gateway that was silent, broke off or reached no leader is asked after all others for this long.
const AVOIDED: Duration = Duration::from_secs(5);
/// Large enough that one connection carries many 1 MiB values at once.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Gateways {
    addresses: Vec<String>,
    endpoints: Vec<Endpoint>,
    dialer: Dialer,
    /// `connections[gateway][i]`: each reconnects by itself.
    connections: Vec<Vec<Channel>>,
    turn: AtomicUsize,
    /// Until when each gateway is avoided, in milliseconds since `began`.
    avoided_until_ms: Vec<AtomicU64>,
    began: Instant,
}

/// Where a call is: it keeps its connection until an attempt fails, then goes to the next gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    gateway: usize,
    connection: usize,
}

impl Gateways {
    /// Opens nothing yet; connections open when used. Must run inside a tokio runtime.
    pub(crate) fn new(
        addresses: &[String],
        connections_per_gateway: usize,
        dialer: &Dialer,
        sends_token: bool,
    ) -> Result<Self, ClientError> {
        if addresses.is_empty() {
            return Err(ClientError::BadAddress {
                address: String::new(),
                detail: "no gateway given".into(),
            });
        }
        let endpoints = addresses.iter().map(|address| endpoint(address, dialer, sends_token));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let connections = endpoints
            .iter()
            .map(|endpoint| (0..connections_per_gateway.max(1)).map(|_| dialer.channel(endpoint)).collect());
        let connections = connections.collect();
        let avoided_until_ms = addresses.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            addresses: addresses.to_vec(),
            endpoints,
            dialer: dialer.clone(),
            connections,
            turn: AtomicUsize::new(0),
            avoided_until_ms,
            began: Instant::now(),
        })
    }

    /// Returns once any gateway accepts a connection, or says why none does.
    pub(crate) async fn probe(&self) -> Result<(), ClientError> {
        let mut attempts: FuturesUnordered<_> = self
            .endpoints
            .iter()
            .map(|endpoint| async move {
                self.dialer.connected(endpoint).await.map_err(|error| self.not_connected(&error))
            })
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

    fn not_connected(&self, error: &tonic::transport::Error) -> ClientError {
        match tls_problem(error) {
            Some(problem) if problem.is_about_trust => {
                ClientError::NotTrusted { call: "connect", detail: problem.sentence }
            }
            Some(problem) => {
                ClientError::Unreachable { addresses: self.addresses.join(", "), detail: problem.sentence }
            }
            None => self.unreachable(error),
        }
    }

    fn unreachable(&self, error: &(impl std::fmt::Debug + ?Sized)) -> ClientError {
        ClientError::Unreachable { addresses: self.addresses.join(", "), detail: connection_detail(error) }
    }

    /// Why no gateway lets this client in, when that is so.
    pub(crate) fn refusal(&self) -> Option<TlsProblem> {
        self.dialer.refusal()
    }

    pub(crate) fn first(&self) -> Route {
        let turn = self.turn.fetch_add(1, Relaxed);
        let gateway = self.preferred_from(turn % self.connections.len());
        Route { gateway, connection: turn / self.connections.len() }
    }

    pub(crate) fn next(&self, route: Route) -> Route {
        let gateway = self.preferred_from((route.gateway + 1) % self.connections.len());
        Route { gateway, connection: route.connection }
    }

    /// The gateway whose turn it is, or the next one that is not avoided.
    fn preferred_from(&self, turn: usize) -> usize {
        let now_ms = self.now_ms();
        let in_turn = (0..self.connections.len()).map(|step| (turn + step) % self.connections.len());
        let is_preferred = |gateway: &usize| self.avoided_until_ms[*gateway].load(Relaxed) <= now_ms;
        in_turn.clone().find(is_preferred).unwrap_or(turn)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It did not do what it was asked, and another might.
    pub(crate) fn failed(&self, route: Route) {
        let until_ms = self.now_ms() + AVOIDED.as_millis() as u64;
        self.avoided_until_ms[route.gateway % self.connections.len()].store(until_ms, Relaxed);
    }

    /// It answered.
    pub(crate) fn answered(&self, route: Route) {
        let avoided = &self.avoided_until_ms[route.gateway % self.connections.len()];
        if avoided.load(Relaxed) != 0 {
            avoided.store(0, Relaxed);
        }
    }

    pub(crate) fn channel(&self, route: Route) -> Channel {
        let connections = &self.connections[route.gateway % self.connections.len()];
        connections[route.connection % connections.len()].clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.connections.len()
    }
}

fn endpoint(address: &str, dialer: &Dialer, sends_token: bool) -> Result<Endpoint, ClientError> {
    let bad =
        |detail: &str| ClientError::BadAddress { address: address.to_owned(), detail: detail.to_owned() };
    let (scheme, host_and_port) = match address.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(bad("only http:// and https:// are supported")),
        None => (dialer.scheme(), address),
    };
    if scheme == "https" && dialer.scheme() == "http" {
        return Err(bad("https:// needs to know whom to trust: give the authority's file with --ca"));
    }
    let host_and_port = host_and_port.trim_end_matches('/');
    let host = match host_and_port.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => host,
        _ => return Err(bad("host or port is missing")),
    };
    if sends_token && scheme == "http" && !is_loopback(host) {
        return Err(bad("the token would be sent unencrypted to another machine: encrypt with --ca"));
    }
    let endpoint =
        Endpoint::from_shared(format!("{scheme}://{host_and_port}")).map_err(|e| bad(&e.to_string()))?;
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
        let gateways = Gateways::new(&addresses, 2, &Dialer::plain(), false).unwrap();
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
    async fn a_gateway_that_failed_is_asked_after_the_others_until_it_answers() {
        let addresses = ["a:1", "b:2", "c:3"].map(str::to_owned);
        let gateways = Gateways::new(&addresses, 1, &Dialer::plain(), false).unwrap();
        let first = gateways.first();
        gateways.failed(first);
        let asked = |count| (0..count).map(|_| gateways.first().gateway).collect::<Vec<_>>();
        assert!(!asked(6).contains(&first.gateway));
        assert_ne!(gateways.next(gateways.next(first)).gateway, first.gateway);
        gateways.answered(first);
        assert!(asked(3).contains(&first.gateway));
        // Where all have failed, they take turns again.
        for _ in 0..3 {
            gateways.failed(gateways.first());
        }
        let mut all = asked(3);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_bad_address_is_named() {
        for bad in ["", "localhost", "localhost:", ":26500", "localhost:0", "localhost:99999", "https://a:1"]
        {
            let error = Gateways::new(&[bad.to_owned()], 1, &Dialer::plain(), false).unwrap_err();
            assert!(matches!(&error, ClientError::BadAddress { address, .. } if address == bad), "{error}");
        }
        for good in ["localhost:1", "http://127.0.0.1:26500/", "[::1]:26500"] {
            Gateways::new(&[good.to_owned()], 1, &Dialer::plain(), false).unwrap();
        }
        let sending = |address: &str| Gateways::new(&[address.to_owned()], 1, &Dialer::plain(), true);
        assert!(sending("10.0.0.1:1").unwrap_err().to_string().contains("unencrypted"));
        assert!(sending("localhost:1").is_ok() && sending("[::1]:1").is_ok());
    }

    #[tokio::test]
    async fn an_unreachable_gateway_is_reported_with_its_cause() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let gateways = Gateways::new(&[format!("127.0.0.1:{port}")], 1, &Dialer::plain(), false).unwrap();
        let text = gateways.probe().await.unwrap_err().to_string();
        assert!(text.contains("connection refused") && text.contains("evenkeel dev"), "{text}");
    }
}
