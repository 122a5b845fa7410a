//! The listening side: handshakes, bounded in time, and who is let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::dial::classify;
use crate::link::Link;
use crate::metric_definitions;
use crate::security::Current;
use crate::tls::Material;

/// Who has not finished the handshake by then is dropped.
const HANDSHAKE_MS_MAX: u64 = 5_000;
/// What a refused connection may still send, and for how long.
const LINGER_BYTES_MAX: usize = 64 << 10;
const LINGER_MS_MAX: u64 = 500;
/// Refused connections are told this often at most; a metric counts all.
const TELL_INTERVAL_S: u64 = 10;

/// What a listener is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    GrpcClients,
    HttpClients,
    /// Brokers and gateways, and nobody else.
    Peers,
}

impl Audience {
    fn config(self, material: &Material) -> &Arc<ServerConfig> {
        match self {
            Self::GrpcClients => &material.grpc,
            Self::HttpClients => &material.http,
            Self::Peers => &material.peers,
        }
    }
}

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// TLS could not be agreed on, or the certificate is not accepted.
    #[error("TLS handshake: {0}")]
    Handshake(String),
    /// The other end was too slow.
    #[error("TLS handshake: not finished within {HANDSHAKE_MS_MAX} ms")]
    TooSlow,
    /// A certificate of the cluster's authority, but of nobody who has business here.
    #[error(
        "the certificate of {0} names neither a broker nor a gateway; only these may use this port: issue one with \
         `evenkeel tls issue --role broker|gateway`"
    )]
    NotAPeer(String),
}

impl AcceptError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::TooSlow => "too_slow",
            Self::NotAPeer(_) => "not_a_peer",
        }
    }
}

/// Takes the connections of one listener. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    tls: Option<(Arc<Current>, Audience)>,
    /// Seconds since `started`, plus one, when a refusal was told last.
    told: Arc<AtomicU64>,
    started: Instant,
}

impl Acceptor {
    pub(crate) fn new(tls: Option<(Arc<Current>, Audience)>) -> Self {
        Self { tls, told: Arc::new(AtomicU64::new(0)), started: Instant::now() }
    }

    /// Without TLS.
    #[must_use]
    pub fn plain() -> Self {
        Self::new(None)
    }

    /// Whether nobody is asked for anything.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Makes a link of a new socket. Takes no longer than the bound for handshakes.
    ///
    /// # Errors
    /// When the other end is not let in; it has been counted and, now and then, told.
    pub async fn accept(&self, stream: TcpStream, source: SocketAddr) -> Result<Link, AcceptError> {
        let Some((current, audience)) = &self.tls else { return Ok(Link::plain(stream, Some(source))) };
        let accepted = handshake(&current.material(), *audience, stream, source).await;
        if let Err(error) = &accepted {
            metric_definitions::connections_refused(error.reason()).increment(1);
            self.tell(source, error);
        }
        accepted
    }

    fn tell(&self, source: SocketAddr, error: &AcceptError) {
        let now = self.started.elapsed().as_secs() + 1;
        let last = self.told.load(Ordering::Relaxed);
        let due = last == 0 || now >= last + TELL_INTERVAL_S;
        if due && self.told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(%source, "connection refused: {error}");
        } else {
            tracing::debug!(%source, "connection refused: {error}");
        }
    }
}

/// Reads what still comes before closing: closed at once, a connection with unread bytes is reset, and the other end would
/// lose the alert that tells it why.
async fn linger(mut stream: TcpStream) {
    let mut sink = [0; 4096];
    let mut left = LINGER_BYTES_MAX;
    let read_on = async {
        stream.shutdown().await?;
        while left > 0 {
            match stream.read(&mut sink).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // However it ends, the connection is closed then.
    let _ = timeout(Duration::from_millis(LINGER_MS_MAX), read_on).await;
}

async fn handshake(
    material: &Material,
    audience: Audience,
    stream: TcpStream,
    source: SocketAddr,
) -> Result<Link, AcceptError> {
    let acceptor = TlsAcceptor::from(Arc::clone(audience.config(material)));
    let accepting = acceptor.accept(stream).into_fallible();
    let stream = match timeout(Duration::from_millis(HANDSHAKE_MS_MAX), accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, stream))) => {
            linger(stream).await;
            let problem = classify(&error).map_or_else(|| error.to_string(), |problem| problem.sentence);
            return Err(AcceptError::Handshake(problem));
        }
        Err(_) => return Err(AcceptError::TooSlow),
    };
    let link = Link::tls(TlsStream::Server(stream), Some(source));
    if let Audience::Peers = audience {
        let certificate = link.connection().certificate.as_ref();
        if certificate.and_then(|certificate| certificate.cluster_role()).is_none() {
            let name = certificate.map(|certificate| certificate.name.clone()).unwrap_or_default();
            return Err(AcceptError::NotAPeer(name));
        }
    }
    Ok(link)
}
