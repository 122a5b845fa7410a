//! The listeners of brokers and gateways: connections bounded, guarded and encrypted ([`Connections`]), and HTTP/1 with what
//! a plain `axum::serve` lacks: time-outs for a request's headers and body, and a drain that lets requests under way finish.
//! [`guarded`] asks who calls, `problem` gives errors one shape.

mod bodies;
mod connections;
mod guarded;
mod health;
mod problem;
mod query;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use evenkeel_security::Acceptor;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::TcpListener;
use tower::ServiceExt;

pub use connections::{Connection, Connections, PrefaceInTime, Socket, listen};
pub use guarded::guarded;
pub use health::Health;
pub use problem::{Shape, problem, problem_with, with_errors};
pub use query::switch;

/// Also how long an idle connection is kept.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: usize = 1_024;

/// Serves until `stopping`, then until every connection has finished its request. Requests carry their
/// [`evenkeel_security::Connection`] among their extensions.
pub async fn serve(
    listener: TcpListener,
    acceptor: Acceptor,
    routes: Router,
    stopping: impl Future<Output = ()>,
) {
    let mut stopping = std::pin::pin!(stopping);
    let routes = routes.layer(axum::middleware::from_fn(bodies::read_in_time));
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(listener, CONNECTIONS_MAX);
    loop {
        let socket = tokio::select! {
            biased;
            () = &mut stopping => break,
            socket = connections.accept() => socket,
        };
        let (watcher, acceptor, routes) = (graceful.watcher(), acceptor.clone(), routes.clone());
        tokio::spawn(async move {
            // Who is not let in has been told by the acceptor.
            if let Ok(connection) = socket.admit(&acceptor).await {
                serve_connection(connection, routes, watcher).await;
            }
        });
    }
    drop(connections);
    graceful.shutdown().await;
}

async fn serve_connection(connection: Connection, routes: Router, watcher: Watcher) {
    let known = Arc::clone(connection.known());
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&known));
        routes.clone().oneshot(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(connection), answer);
    if let Err(error) = watcher.watch(served).await {
        tracing::debug!("HTTP connection: {error}");
    }
}
