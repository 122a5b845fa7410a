//! The listeners of brokers and gateways: connections bounded and guarded ([`Connections`]), and HTTP/1 with what a plain
//! `axum::serve` lacks: time-outs for a request's headers and body, and a drain that lets requests under way finish.
//! `problem` gives errors one shape.

mod bodies;
mod connections;
mod problem;

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

pub use connections::{Connection, Connections, PrefaceInTime};
pub use problem::{Shape, problem, problem_with, with_errors};

/// Also how long an idle connection is kept.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: usize = 1_024;

/// Serves until `stopping`, then until every connection has finished its request.
pub async fn serve(listener: TcpListener, routes: Router, stopping: impl Future<Output = ()>) {
    let mut stopping = std::pin::pin!(stopping);
    let routes = routes.layer(axum::middleware::from_fn(bodies::read_in_time));
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(listener, CONNECTIONS_MAX);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = connections.accept() => accepted,
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            .serve_connection(TokioIo::new(accepted), TowerToHyperService::new(routes.clone()));
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!("HTTP connection: {error}");
            }
        });
    }
    drop(connections);
    graceful.shutdown().await;
}
