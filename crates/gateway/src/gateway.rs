//! The gateway process: binds its three listeners, wires everything together, serves, and stops in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_http_server::Connections;
use evenkeel_protocol::gateway_protocol::gateway_server::GatewayServer;
use evenkeel_protocol::v1::cluster_server::ClusterServer;
use evenkeel_protocol::v1::records_server::{Records, RecordsServer};
use evenkeel_protocol::{Dialer, FILE_DESCRIPTOR_SET};
use evenkeel_security::{ClusterRole, GrpcGuard, Security};
use evenkeel_supervision::Progress;
use evenkeel_traces::TraceLayer;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access;
use crate::audit::Audit;
use crate::automatic_runner::AutomaticRebalancer;
use crate::broker_link::BrokerLinks;
use crate::byte_budget::ByteBudget;
use crate::cluster::TopologyService;
use crate::drain_keeper::Drains;
use crate::esc_runner::EscOwnership;
use crate::http::{HttpState, api_routes, monitoring_routes};
use crate::intake::Intake;
use crate::leaderships::Leaderships;
use crate::metric_definitions::{RecorderError, UPKEEP_INTERVAL, install_recorder};
use crate::options::{Options, OptionsError, bound};
use crate::rebalance_runner::Rebalancer;
use crate::records::RecordsService;
use crate::records_http::RecordsHttp;
use crate::system_gauges;
use crate::system_store::SystemStore;
use crate::topology::{SharedTopology, Topology};
use crate::topology_feed;
use crate::topology_stream_http::TopologyStreams;
use crate::trace_names;
use crate::watchers::Watchers;
use crate::writes::Router;

/// How long requests under way may take once the gateway is asked to stop.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How long NOT_SERVING is shown before health watches are ended, which would otherwise hold the drain up.
const NOT_SERVING_SHOWN: Duration = Duration::from_secs(1);
/// Statuses that may wait to be merged.
const TOPOLOGY_EVENTS_MAX: usize = 1_024;
/// Room beside the payload in a message, and for requests that exceed a limit by little: they get our error
/// with its details and not the transport's.
const MESSAGE_BYTES_MARGIN: usize = 12 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Requests and watches that one client connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 16_384;
/// Requests that their clients gave up before they were looked at; more of them end the connection. After a pause there are
/// as many as clients sent and gave up meanwhile.
const RESET_STREAMS_MAX: usize = 1_024;
/// Clients that vanished, or stopped in the middle of a header, are noticed within two of these.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Bytes of requests that are not whole yet, or not yet looked at.
const INTAKE_BYTES_MAX: usize = 256 << 20;

/// Services whose health is reported; the empty name stands for the whole gateway.
const HEALTH_NAMES: [&str; 4] =
    ["", "evenkeel.v1.Records", "evenkeel.v1.Cluster", "gateway_protocol.Gateway"];

/// Why a gateway did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A setting cannot work.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A listener could not be bound.
    #[error("{key} = {value}: {source}; {remedy}")]
    Bind {
        /// Dotted path of the setting.
        key: &'static str,
        /// The address that was asked for.
        value: String,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Metrics cannot be recorded.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] evenkeel_traces::StartError),
    /// gRPC reflection could not be built from the compiled descriptors.
    #[error("gRPC reflection: {0}; this build is broken, report it")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error("gRPC server: {0}; restart the gateway")]
    Grpc(#[from] tonic::transport::Error),
}

/// Where a gateway listens; differs from its options when a port was 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// gRPC.
    pub grpc: SocketAddr,
    /// HTTP API.
    pub api: SocketAddr,
    /// Monitoring and actuator.
    pub monitoring: SocketAddr,
}

/// A gateway whose listeners are bound.
pub struct Gateway {
    options: Options,
    security: Security,
    grpc: TcpListener,
    api: TcpListener,
    monitoring: TcpListener,
    addresses: Addresses,
    progress: Progress,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Runs a gateway until `shutdown`, then drains it; `progress` shows how it is meanwhile.
///
/// # Errors
/// When the options cannot work or a listener cannot be bound; later only when the gRPC server fails.
pub async fn run(
    options: Options,
    progress: Progress,
    shutdown: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let mut gateway = Gateway::bind(options).await?;
    gateway.progress = progress;
    let traces = &gateway.options.traces;
    let service = evenkeel_traces::Service {
        name: "evenkeel-gateway",
        version: env!("CARGO_PKG_VERSION"),
        instance: gateway.addresses.grpc.to_string(),
    };
    evenkeel_traces::start(&traces.destination(), traces.sample_ratio, service)?;
    let served = gateway.serve(shutdown).await;
    // What it waits for is another thread of this process; its only failure would be a panic there.
    let _ = tokio::task::spawn_blocking(evenkeel_traces::finish).await;
    served
}

impl Gateway {
    /// Checks the options and binds all listeners.
    ///
    /// # Errors
    /// When the options cannot work or a listener cannot be bound.
    pub async fn bind(options: Options) -> Result<Self, GatewayError> {
        options.validate()?;
        let security =
            Security::load(options.security()?, ClusterRole::Gateway).map_err(OptionsError::from)?;
        let network = &options.network;
        let (grpc, grpc_at) = listen("network.port", &network.host, network.port).await?;
        let (api, api_at) = listen("network.api_port", &network.host, network.api_port).await?;
        let (monitoring, monitoring_at) =
            listen("network.monitoring_port", &network.host, network.monitoring_port).await?;
        tracing::info!("gRPC listens on {grpc_at}");
        tracing::info!("HTTP API listens on {api_at}");
        tracing::info!("monitoring listens on {monitoring_at}");
        let addresses = Addresses { grpc: grpc_at, api: api_at, monitoring: monitoring_at };
        Ok(Self { options, security, grpc, api, monitoring, addresses, progress: Progress::new() })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Serves until `shutdown`, then drains: health says NOT_SERVING, requests under way finish, at most 10 s.
    ///
    /// # Errors
    /// When metrics or reflection cannot be set up, or the gRPC server fails.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), GatewayError> {
        let Self { options, security, grpc, api, monitoring, progress, .. } = self;
        let prometheus = install_recorder()?;
        let stopping = CancellationToken::new();
        let secured = security.dialer();
        let dialer = Dialer::new(move |endpoint| secured.channel(&endpoint));
        let mut wired = Wired::start(&options, &dialer, prometheus, stopping.clone(), progress.clone())?;
        let topology = wired.http.topology.clone();
        let upkeep = &mut wired.upkeep;
        upkeep.spawn(security.clone().keep_fresh());

        let (health, health_service) = tonic_health::server::health_reporter();
        upkeep.spawn(report_health(health.clone(), topology.clone(), stopping.clone()));
        let drained_metrics = wired.http.prometheus.clone();
        upkeep.spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                tick.tick().await;
                drained_metrics.run_upkeep();
            }
        });

        let message_bytes_max = wired.message_bytes_max;
        let gatekeeper = RecordsService::gatekeeper(wired.router);
        let intake = Arc::new(ByteBudget::new(INTAKE_BYTES_MAX.max(2 * message_bytes_max)));
        let records = RecordsServer::from_arc(wired.records)
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max);
        let shown = || TopologyService::new(topology.clone(), wired.watchers.clone(), stopping.clone());
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        // What grpcurl and others asked for before version 1 was there.
        let reflection_v1alpha = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1alpha()?;
        let grpc_server = Server::builder()
            .max_concurrent_streams(Some(STREAMS_PER_CONNECTION_MAX))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS_MAX))
            .layer(TraceLayer::new(trace_names::grpc))
            .layer(GrpcGuard::new(security.guard(), access::grpc_need).with_admissions(access::stays_open))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(reflection_v1alpha)
            .add_service(Intake::new(records, Arc::clone(&intake)).guarded(gatekeeper))
            .add_service(Intake::new(ClusterServer::new(shown()), Arc::clone(&intake)))
            .add_service(Intake::new(GatewayServer::new(shown()), intake))
            .serve_with_incoming_shutdown(
                Connections::new(grpc, bound(options.limits.connections_max)).http2(security.grpc()),
                stopping.clone().cancelled_owned(),
            );

        let state = wired.http;
        let runs = wired.runs;
        let mut servers = JoinSet::new();
        servers.spawn(async { grpc_server.await.map_err(GatewayError::from) });
        let guarded = |routes| evenkeel_http_server::guarded(routes, security.guard(), access::http_need);
        let api_server = evenkeel_http_server::serve(
            api,
            security.http(),
            guarded(api_routes(state.clone())),
            stopping.clone().cancelled_owned(),
        );
        servers.spawn(async {
            api_server.await;
            Ok(())
        });
        // Health and metrics are shown until everything else has drained.
        let drained_all = CancellationToken::new();
        let monitoring_server = tokio::spawn(evenkeel_http_server::serve(
            monitoring,
            security.http(),
            guarded(monitoring_routes(state)),
            drained_all.clone().cancelled_owned(),
        ));

        progress.start();
        let early = tokio::select! {
            () = shutdown => None,
            // None ends before it is asked to, unless it failed.
            ended = servers.join_next() => ended,
        };
        tracing::info!("stopping: requests under way may finish");
        stopping.cancel();
        runs.close();
        let drained = async {
            let mut outcome = Ok(());
            while let Some(ended) = servers.join_next().await {
                outcome = outcome.and(ended.unwrap_or(Ok(())));
            }
            runs.wait().await;
            drained_all.cancel();
            // Its only failure would be a panic, which has been reported.
            let _ = monitoring_server.await;
            outcome
        };
        let outcome = tokio::time::timeout(DRAIN_MAX, drained).await.unwrap_or_else(|_| {
            tracing::warn!("requests still under way after {} s are cut off", DRAIN_MAX.as_secs());
            Ok(())
        });
        early.and_then(Result::ok).unwrap_or(Ok(())).and(outcome)
    }
}

/// What a gateway consists of, apart from its listeners.
struct Wired {
    records: Arc<RecordsService>,
    watchers: Watchers,
    router: Arc<Router>,
    http: HttpState,
    runs: TaskTracker,
    message_bytes_max: usize,
    /// Ends with this.
    upkeep: JoinSet<()>,
}

impl Wired {
    fn start(
        options: &Options,
        dialer: &Dialer,
        prometheus: PrometheusHandle,
        stopping: CancellationToken,
        progress: Progress,
    ) -> Result<Self, GatewayError> {
        let runs = TaskTracker::new();
        let mut upkeep = JoinSet::new();
        let contacts = options.contacts()?;
        let message_bytes_max = bound(options.limits.batch_bytes_max)
            + bound(options.limits.key_bytes_max)
            + MESSAGE_BYTES_MARGIN;
        let (publish, topology) = watch::channel(SharedTopology::new(Topology::default()));
        let (events, received) = mpsc::channel(TOPOLOGY_EVENTS_MAX);
        let links = BrokerLinks::start(&contacts, dialer, message_bytes_max, &events)?;
        drop(events);
        upkeep.spawn(topology_feed::run(contacts, received, publish, progress.clone()));
        let router = Arc::new(Router::new(options, topology.clone(), links));
        let rebalancer = Rebalancer::new(Arc::clone(&router), runs.clone(), stopping.clone());
        upkeep.spawn(rebalancer.clone().watch_over());
        let (audit, audit_writer) = Audit::new(SystemStore::new(Arc::clone(&router)));
        upkeep.spawn(audit_writer.run());
        let drains = Drains::new(Arc::clone(&router), rebalancer.clone(), audit.clone(), stopping.clone());
        upkeep.spawn(drains.clone().keep());
        let automatic = AutomaticRebalancer::new(
            options.rebalance.clone(),
            rebalancer.clone(),
            audit.clone(),
            topology.clone(),
            stopping.clone(),
        );
        upkeep.spawn(async move {
            if let Err(error) = automatic.run().await {
                tracing::error!("automatic rebalancing: {error}");
            }
        });
        upkeep.spawn(system_gauges::run(
            SystemStore::new(Arc::clone(&router)),
            rebalancer.clone(),
            topology.clone(),
            stopping.clone(),
        ));
        let ownership = EscOwnership::new(Arc::clone(&router), rebalancer.clone(), runs.clone());
        let watchers = Watchers::new(bound(options.limits.watchers_max));
        let records = RecordsService::new(options, Arc::clone(&router), watchers.clone(), stopping.clone());
        let leaderships = Leaderships::default();
        upkeep.spawn(leaderships.clone().follow(topology.clone()));
        let topology_streams = TopologyStreams::default();
        let records = Arc::new(records);
        let records_http =
            RecordsHttp::new(Arc::clone(&records), RecordsService::gatekeeper(Arc::clone(&router)));
        let http = HttpState {
            topology,
            rebalancer,
            drains,
            ownership,
            records: records_http,
            audit,
            router: Arc::clone(&router),
            leaderships,
            topology_streams,
            prometheus,
            stopping,
            progress,
        };
        Ok(Self { records, watchers, router, http, runs, message_bytes_max, upkeep })
    }
}

/// A gateway without listeners, for whoever runs it within its own process, as a simulation does.
pub struct InProcess(Wired);

impl InProcess {
    /// Starts it on the current runtime; it ends when dropped.
    ///
    /// # Errors
    /// When the options cannot work.
    pub fn start(options: &Options, dialer: &Dialer) -> Result<Self, GatewayError> {
        options.validate()?;
        let prometheus = PrometheusBuilder::new().build_recorder().handle();
        let (stopping, progress) = (CancellationToken::new(), Progress::new());
        progress.start();
        Wired::start(options, dialer, prometheus, stopping, progress).map(Self)
    }

    /// The service that clients call.
    pub fn records(&self) -> &impl Records {
        &*self.0.records
    }

    /// The routes of the API port.
    pub fn api(&self) -> axum::Router {
        api_routes(self.0.http.clone())
    }

    /// The routes of the monitoring port.
    pub fn monitoring(&self) -> axum::Router {
        monitoring_routes(self.0.http.clone())
    }
}

async fn listen(key: &'static str, host: &str, port: u16) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let failed = |source: std::io::Error| GatewayError::Bind {
        key,
        value: format!("{host}:{port}"),
        remedy: match source.kind() {
            std::io::ErrorKind::AddrInUse => "stop the process that holds the port or choose another one",
            std::io::ErrorKind::PermissionDenied => "choose a port above 1023",
            _ => "set network.host to an address of this machine",
        },
        source,
    };
    let listener = evenkeel_http_server::listen(host.trim_matches(['[', ']']), port).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Serving while a broker can be reached and the gateway is not stopping.
async fn report_health(
    mut health: HealthReporter,
    mut topology: watch::Receiver<SharedTopology>,
    stopping: CancellationToken,
) {
    loop {
        let reachable = topology.borrow_and_update().is_reachable();
        let status = if reachable { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in HEALTH_NAMES {
            health.set_service_status(name, status).await;
        }
        tokio::select! {
            () = stopping.cancelled() => break,
            changed = topology.wait_for(|view| view.is_reachable() != reachable) => {
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    for name in HEALTH_NAMES {
        health.set_service_status(name, ServingStatus::NotServing).await;
    }
    tokio::time::sleep(NOT_SERVING_SHOWN).await;
    for name in HEALTH_NAMES {
        health.clear_service_status(name).await;
    }
}
