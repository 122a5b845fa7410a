//! One connection: its bytes, encrypted or not, and what is known about its other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderValue;
use hyper_util::client::legacy::connect::{Connected as HyperConnected, Connection as HyperConnection};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use crate::caller::Caller;
use crate::certificate::Certificate;
use crate::dial::{TlsProblem, tls_problem};
use crate::tokens::Tokens;

/// What is known about the other end of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Its address; none of a test's.
    pub source: Option<SocketAddr>,
    /// What it has proved to hold.
    pub certificate: Option<Certificate>,
    /// The last token that came over it, so that a client's many requests are looked up once.
    pub(crate) known: Mutex<Option<KnownToken>>,
}

pub(crate) struct KnownToken {
    pub(crate) header: HeaderValue,
    /// Among these it was found: they are replaced when their file changes.
    pub(crate) among: Arc<Tokens>,
    pub(crate) caller: Arc<Caller>,
}

impl std::fmt::Debug for KnownToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownToken").field("caller", &self.caller).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(source: Option<SocketAddr>, certificate: Option<Certificate>) -> Self {
        Self { source, certificate, known: Mutex::new(None) }
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection to read from and write to.
pub struct Link {
    io: Io,
    connection: Arc<Connection>,
    /// Told whether the other end lets us in, which TLS 1.3 tells with the first bytes read only.
    witness: Option<Arc<Refusal>>,
}

/// Why the other end did not let a client in, when it was about trust.
pub(crate) type Refusal = Mutex<Option<TlsProblem>>;

impl Link {
    pub(crate) fn plain(stream: TcpStream, source: Option<SocketAddr>) -> Self {
        Self { io: Io::Plain(stream), connection: Arc::new(Connection::new(source, None)), witness: None }
    }

    /// Reads the certificate that the other end has shown, if any.
    pub(crate) fn tls(stream: TlsStream<TcpStream>, source: Option<SocketAddr>) -> Self {
        let shown = match &stream {
            TlsStream::Client(stream) => stream.get_ref().1.peer_certificates(),
            TlsStream::Server(stream) => stream.get_ref().1.peer_certificates(),
        };
        let certificate = shown.and_then(|chain| Certificate::parse(chain.first()?).ok());
        let connection = Arc::new(Connection::new(source, certificate));
        Self { io: Io::Tls(Box::new(stream)), connection, witness: None }
    }

    /// What is known about the other end.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Tells `refusal` how the first read ends.
    pub(crate) fn witnessed_by(mut self, refusal: Arc<Refusal>) -> Self {
        self.witness = Some(refusal);
        self
    }

    fn io(self: Pin<&mut Self>) -> &mut Io {
        &mut self.get_mut().io
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buffer),
        };
        if let (Poll::Ready(read), Some(refusal)) = (&read, &self.witness) {
            let problem = read.as_ref().err().and_then(|error| tls_problem(error));
            *refusal.lock() = problem.filter(|problem| problem.is_about_trust);
            self.witness = None;
        }
        read
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.io() {
            Io::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.io() {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io() {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io() {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Every gRPC request carries its connection among its extensions.
impl Connected for Link {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.connection)
    }
}

impl HyperConnection for Link {
    fn connected(&self) -> HyperConnected {
        HyperConnected::new()
    }
}
