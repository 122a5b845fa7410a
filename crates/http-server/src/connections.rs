//! Accepted connections, bounded and guarded: as many as there is room for, each of which has to say something soon.
//!
//! What a peer can hold is bounded here before any protocol is spoken. More connections than there is room for wait in
//! the listener's backlog. One that does not send its first bytes in time is dropped, and so is one whose peer does
//! not take what it is sent: a peer that vanished would hold its place for the quarter of an hour that TCP tries.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use evenkeel_security::{AcceptError, Acceptor, Link};
use futures::future::ready;
use futures::{Stream, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// A peer that has not acknowledged what it was sent for this long is gone.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);
/// Pause after a failed accept: out of file descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The beginning of every HTTP/2 connection, which a gRPC client sends first.
const HTTP2_PREFACE_BYTES: usize = 24;
/// A client has this long to begin to speak HTTP/2.
const HTTP2_PREFACE_WAIT_MAX: Duration = Duration::from_secs(10);
/// TLS handshakes under way at once; more connections wait in the backlog.
const HANDSHAKES_MAX: usize = 256;

/// Connections that wait to be accepted. With fewer, a thousand clients that connect at once overrun it, and the kernel
/// resets some of them; Linux cuts this to `net.core.somaxconn`, 4,096 by default.
const BACKLOG_MAX: u32 = 4_096;

/// Listens at the first of a host's addresses that can be had.
///
/// # Errors
/// That of the last address: taken, not of this machine, or not allowed.
pub async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        let listened =
            if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.and_then(|socket| {
                // A restarted process takes its port back while old connections linger.
                socket.set_reuseaddr(true)?;
                socket.bind(address)?;
                socket.listen(BACKLOG_MAX)
            });
        match listened {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A listener with room for so many connections.
#[derive(Debug)]
pub struct Connections {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

/// Somebody who has connected and was not asked anything yet.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    source: SocketAddr,
    place: OwnedSemaphorePermit,
}

impl Socket {
    /// A connection of it, after the TLS handshake where there is one.
    ///
    /// # Errors
    /// When the acceptor does not let it in.
    pub async fn admit(self, acceptor: &Acceptor) -> Result<Connection, AcceptError> {
        let link = acceptor.accept(self.stream, self.source).await?;
        Ok(Connection { link, _place: self.place })
    }
}

/// A connection and its place among the others, which is free again when this is dropped.
pub struct Connection {
    link: Link,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// What is known about the other end.
    #[must_use]
    pub fn known(&self) -> &Arc<evenkeel_security::Connection> {
        self.link.connection()
    }
}

impl Connections {
    /// Accepts at most `connections_max` at once.
    #[must_use]
    pub fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))) }
    }

    /// The next connection, once there is room for it. Failures to accept are logged and waited out.
    pub async fn accept(&self) -> Socket {
        loop {
            match self.try_accept().await {
                Ok(socket) => return socket,
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn try_accept(&self) -> io::Result<Socket> {
        let place = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, source) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        Ok(Socket { stream, source, place })
    }

    /// Every connection that the acceptor lets in, each bound to begin to speak HTTP/2 in time; for a gRPC server.
    pub fn http2(self, acceptor: Acceptor) -> impl Stream<Item = io::Result<PrefaceInTime<Connection>>> {
        let sockets = futures::stream::unfold(self, |connections| async move {
            let socket = connections.accept().await;
            Some((socket, connections))
        });
        let is_plain = acceptor.is_plain();
        let admitted = sockets.map(move |socket| {
            let acceptor = acceptor.clone();
            async move { socket.admit(&acceptor).await }
        });
        let admitted = match is_plain {
            true => admitted.then(|admitted| admitted).boxed(),
            // Who is slow with its handshake holds nobody else up.
            false => admitted.buffer_unordered(HANDSHAKES_MAX).boxed(),
        };
        admitted
            .filter_map(|admitted| ready(admitted.ok().map(|connection| Ok(PrefaceInTime::new(connection)))))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.link.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<evenkeel_security::Connection>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.link.connect_info()
    }
}

/// Fails the first read of an HTTP/2 connection whose client does not begin it in time: the server's own keepalive
/// only begins behind it.
#[derive(Debug)]
pub struct PrefaceInTime<IO> {
    io: IO,
    /// `None` once the client has sent its part.
    until: Option<Pin<Box<Sleep>>>,
    bytes_to_come: usize,
}

impl<IO> PrefaceInTime<IO> {
    /// The client's time begins now.
    pub fn new(io: IO) -> Self {
        Self::within(io, HTTP2_PREFACE_WAIT_MAX)
    }

    fn within(io: IO, wait_max: Duration) -> Self {
        let until = Some(Box::pin(tokio::time::sleep(wait_max)));
        Self { io, until, bytes_to_come: HTTP2_PREFACE_BYTES }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for PrefaceInTime<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            tracing::debug!("a client that did not begin to speak HTTP/2 is dropped");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        if self.until.is_some() {
            self.bytes_to_come = self.bytes_to_come.saturating_sub(buf.filled().len() - before);
            if self.bytes_to_come == 0 {
                self.until = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PrefaceInTime<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: Connected> Connected for PrefaceInTime<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_that_stops_within_the_preface_is_dropped_and_one_that_sent_it_may_be_silent() {
        const WAIT_MAX: Duration = Duration::from_millis(50);
        for (sent, kept) in [(0, false), (HTTP2_PREFACE_BYTES - 1, false), (HTTP2_PREFACE_BYTES, true)] {
            let (mut client, server) = tokio::io::duplex(64);
            let mut server = PrefaceInTime::within(server, WAIT_MAX);
            client.write_all(&vec![b'x'; sent]).await.unwrap();
            let mut read = [0; 64];
            if sent > 0 {
                assert_eq!(server.read(&mut read).await.unwrap(), sent);
            }
            let silent = tokio::time::timeout(WAIT_MAX * 4, server.read(&mut read)).await;
            match silent {
                Err(_) => assert!(kept, "{sent} bytes"),
                Ok(ended) => {
                    assert!(!kept, "{sent} bytes");
                    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_until_another_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(listener, 1);
        let (_first, _second) =
            (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let held = connections.accept().await;
        assert!(futures::FutureExt::now_or_never(connections.accept()).is_none());
        drop(held);
        connections.accept().await;
    }
}
