//! Who is let in: encrypted clusters, mutual certificates inside, tokens and roles outside, and certificates that change
//! or expire while everything runs.

use evenkeel_client::{Client, ClientError, ClientTls, Options};
use evenkeel_protocol::v1::records_client::RecordsClient;
use evenkeel_protocol::v1::{Consistency, GetRequest, PutRequest};
use evenkeel_security::{Certificate, Dialer, Shown};
use http::{Method, StatusCode};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::{ADMIN, Cluster, READER, Secured, Spec, WRITER, evenkeel, wait_until};

/// A channel to a port, whatever TLS it is dialled with.
fn channel(dialer: &Dialer, port: u16) -> Channel {
    let url = format!("{}://127.0.0.1:{port}", dialer.scheme());
    dialer.channel(&Endpoint::from_shared(url).unwrap())
}

fn with_token<M>(secured: &Secured, name: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", secured.token(name).header().clone());
    request
}

fn reason(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() }
}

fn get(key: &'static str) -> GetRequest {
    GetRequest { key: key.into(), ..GetRequest::default() }
}

/// Runs a command against the cluster; its exit code and what it told.
async fn command(cluster: &Cluster, words: &[&str], credentials: &[&str]) -> (i32, String) {
    let [grpc, api, monitoring] = cluster.ports.gateways[0];
    let (gateway, api, monitoring) = (
        format!("localhost:{grpc}"),
        format!("https://localhost:{api}"),
        format!("https://localhost:{monitoring}"),
    );
    let place = ["--gateway", &gateway, "--api", &api, "--monitoring", &monitoring];
    let output = evenkeel(words.iter().chain(&place).chain(credentials).copied()).await;
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), told.into_owned())
}

/// The certificate that a port shows.
async fn shown(port: u16) -> Vec<u8> {
    let shown = Shown::by_server("127.0.0.1", port).await.unwrap();
    shown.certificates().next().unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_cluster_serves_those_who_may_and_nobody_else() {
    let secured = Secured::new().await;
    let cluster = Cluster::start(Spec::new(3, 2).secured(&secured)).await;
    let client = cluster.client();
    client.put("k", "v", None).await.unwrap();
    assert_eq!(client.get("k", Consistency::Linearizable).await.unwrap().unwrap().value, "v");

    // gRPC: nobody, somebody unknown, somebody who may look only.
    let dialer = secured.tls(None).grpc();
    let mut records = RecordsClient::new(channel(&dialer, cluster.ports.gateways[0][0]));
    let denied = records.get(get("k")).await.unwrap_err();
    assert_eq!(reason(&denied), (Code::Unauthenticated, "NO_CREDENTIALS".into()), "{denied}");
    let mut unknown = Request::new(get("k"));
    unknown.metadata_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    let denied = records.get(unknown).await.unwrap_err();
    assert_eq!(reason(&denied), (Code::Unauthenticated, "UNKNOWN_TOKEN".into()), "{denied}");
    records.get(with_token(&secured, READER, get("k"))).await.unwrap();
    let denied = records.put(with_token(&secured, READER, put("refused"))).await.unwrap_err();
    assert_eq!(reason(&denied), (Code::PermissionDenied, "FORBIDDEN".into()), "{denied}");
    records.put(with_token(&secured, WRITER, put("written"))).await.unwrap();
    assert!(client.get("refused", Consistency::Linearizable).await.unwrap().is_none(), "nothing changed");
    let mut health = tonic_health(&dialer, cluster.ports.gateways[0][0]);
    health.ready().await.unwrap();

    // HTTP on all ports.
    let (rebalance, topology) = (cluster.monitoring("/actuator/rebalance"), cluster.api("/v2/topology"));
    for url in [&topology, &cluster.monitoring("/metrics"), &cluster.api("/nowhere")] {
        let answer = secured.http(Method::GET, url, None).await.unwrap();
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{url}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"evenkeel\""));
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json()["reason"], "NO_CREDENTIALS");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains("Authorization: Bearer"),
            "{}",
            answer.text()
        );
    }
    let answer = secured.http(Method::GET, &topology, Some("Bearer nonsense")).await.unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.header("www-authenticate").unwrap().contains("invalid_token"));
    for path in ["/actuator/health", "/actuator/health/liveness", "/actuator/health/readiness"] {
        let answer = secured.http(Method::GET, &cluster.monitoring(path), None).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    assert_eq!(secured.http_as(READER, Method::GET, &topology).await.unwrap().status, StatusCode::OK);
    for (name, status) in
        [(READER, StatusCode::FORBIDDEN), (WRITER, StatusCode::FORBIDDEN), (ADMIN, StatusCode::OK)]
    {
        let answer = secured.http_as(name, Method::POST, &rebalance).await.unwrap();
        assert_eq!(answer.status, status, "{name}");
        assert_eq!(answer.header("rebalance-status").is_some(), status == StatusCode::OK, "{name}");
    }
    assert_eq!(secured.http(Method::POST, &rebalance, None).await.unwrap().status, StatusCode::UNAUTHORIZED);
    let esc = cluster.api("/ESCManager/internal/ownership/rebalance");
    assert_eq!(secured.http_as(WRITER, Method::PUT, &esc).await.unwrap().status, StatusCode::FORBIDDEN);

    // What operators look at.
    for scrape in [cluster.scrape_broker(1).await.unwrap(), cluster.scrape_gateway(0).await.unwrap()] {
        let expiries = scrape.values("evenkeel_certificate_expiry_timestamp_seconds", &[]);
        assert_eq!(expiries.len(), 2, "its own and the authority's: {expiries:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(expiries.iter().all(|expiry| *expiry > now + 300.0 * 86_400.0), "{expiries:?}");
    }
    let scrape = cluster.scrape_gateway(0).await.unwrap();
    assert!(scrape.sum("evenkeel_requests_denied_total", &[("reason", "FORBIDDEN")]) >= 3.0);

    // Commands tell by their exit code that it is about credentials, and what to do.
    let ca = secured.path("ca.crt");
    let reader = secured.path(&format!("{READER}.token"));
    let admin = secured.path(&format!("{ADMIN}.token"));
    let as_admin = ["--ca", &ca, "--token-file", &admin];
    let as_reader = ["--ca", &ca, "--token-file", &reader];
    assert_eq!(command(&cluster, &["get", "k"], &as_admin).await, (0, "v".into()));
    let (code, told) = command(&cluster, &["get", "k"], &["--ca", &ca]).await;
    assert!(code == 4 && told.contains("--token-file"), "{code}: {told}");
    let (code, told) = command(&cluster, &["get", "k"], &[]).await;
    assert!(code == 3 && told.contains("answers with TLS only") && told.contains("--ca"), "{code}: {told}");
    let (code, told) = command(&cluster, &["put", "k", "w"], &as_reader).await;
    assert!(code == 4 && told.contains("needs write"), "{code}: {told}");
    let (code, told) = command(&cluster, &["rebalance"], &as_reader).await;
    assert!(code == 4 && told.contains("needs operate"), "{code}: {told}");
    let (code, told) = command(&cluster, &["rebalance"], &as_admin).await;
    assert_eq!(code, 0, "{told}");

    // No secret was written anywhere.
    for process in cluster.brokers.iter().chain(&cluster.gateways) {
        let log = process.log();
        for name in [ADMIN, READER, WRITER] {
            assert!(!log.contains(&secured.token_text(name)), "{}", process.name);
        }
        assert!(!log.contains("PRIVATE KEY") && !log.contains("nonsense"), "{}", process.name);
    }
}

/// The service that probes of gRPC ask.
fn tonic_health(dialer: &Dialer, port: u16) -> Health {
    Health(tonic::client::Grpc::new(channel(dialer, port)))
}

struct Health(tonic::client::Grpc<Channel>);

impl Health {
    /// Whether the gateway answers that it serves, to somebody without credentials.
    async fn ready(&mut self) -> Result<(), Status> {
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        self.0.unary(Request::new(()), path, codec).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_let_in_only_brokers_and_gateways_of_their_authority() {
    let (secured, others) = (Secured::new().await, Secured::new().await);
    let cluster = Cluster::start(Spec::new(1, 1).secured(&secured)).await;
    let [grpc, ..] = cluster.ports.gateways[0];
    let (broker, _) = cluster.ports.brokers[0];

    // Somebody who trusts another authority, and somebody without encryption.
    let connect = |tls: Option<ClientTls>| async move {
        let options = Options { tls, ..Options::new([format!("127.0.0.1:{grpc}")]) };
        Client::connect_with(options).await
    };
    let error = connect(Some(others.tls(None))).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotTrusted { .. }), "{error}");
    assert!(error.to_string().contains("not of an authority that is trusted here"), "{error}");
    let ca = others.path("ca.crt");
    let (code, told) = command(&cluster, &["get", "k"], &["--ca", &ca]).await;
    assert!(code == 4 && told.contains("authority"), "{code}: {told}");
    let (code, told) = command(&cluster, &["pause"], &["--ca", &ca]).await;
    assert!(code == 4 && told.contains("authority"), "{code}: {told}");
    let output = evenkeel(["get", "k", "--gateway", "127.0.0.1:1", "--ca", &ca]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(3) && told.contains("refused"), "{told}");

    // At the broker's own port: nobody, a caller of the right authority, a broker of another one.
    secured.run(&["tls", "issue", &secured.path(""), "caller", "--role", "read,write,operate"]).await;
    let attempts = [
        ("no certificate", secured.tls(None)),
        ("a caller", secured.tls(Some("caller"))),
        (
            "another authority",
            ClientTls::load(
                secured.path("ca.crt").as_ref(),
                Some((others.path("broker-0.crt").as_ref(), others.path("broker-0.key").as_ref())),
            )
            .unwrap(),
        ),
    ];
    for (who, tls) in attempts {
        let mut service = broker_service(&tls, broker);
        let refused = service.get(broker_get()).await.unwrap_err();
        // By the connection, not by an answer.
        let codes = [Code::Unavailable, Code::Unknown, Code::Cancelled];
        assert!(codes.contains(&refused.code()), "{who}: {refused:?}");
    }
    // A gateway is let in, but not to replication.
    let gateway = secured.tls(Some("gateway-0"));
    broker_service(&gateway, broker).get(broker_get()).await.unwrap();
    let denied = replicate(&gateway, broker).await.unwrap_err();
    assert_eq!(reason(&denied), (Code::PermissionDenied, "NOT_A_BROKER".into()), "{denied}");
    let peer = replicate(&secured.tls(Some("broker-0")), broker).await;
    assert!(peer.as_ref().err().is_none_or(|status| status.code() != Code::PermissionDenied), "{peer:?}");
    let told = cluster.brokers[0].log();
    assert!(told.contains("connection refused"), "{told}");
    let refused = cluster.scrape_broker(0).await.unwrap();
    assert!(refused.sum("evenkeel_tls_connections_refused_total", &[]) >= 3.0);
}

fn broker_service(
    tls: &ClientTls,
    port: u16,
) -> evenkeel_protocol::internal::v1::broker_client::BrokerClient<Channel> {
    evenkeel_protocol::internal::v1::broker_client::BrokerClient::new(channel(&tls.grpc(), port))
}

fn broker_get() -> evenkeel_protocol::internal::v1::BrokerGetRequest {
    evenkeel_protocol::internal::v1::BrokerGetRequest { partition_id: 1, key: "k".into(), stale: true }
}

/// Opens the exchange that brokers replicate over.
async fn replicate(tls: &ClientTls, port: u16) -> Result<(), Status> {
    let mut raft = evenkeel_protocol::internal::v1::raft_client::RaftClient::new(channel(&tls.grpc(), port));
    raft.exchange(tokio_stream::empty()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_and_tokens_revoked_without_a_restart() {
    let secured = Secured::new().await;
    let spec = Spec::new(3, 1).secured(&secured).gateway("auth.client_certificates", true);
    let mut cluster = Cluster::start(spec).await;
    let client = cluster.client();
    client.put("k", "1", None).await.unwrap();
    let [grpc, api, monitoring] = cluster.ports.gateways[0];
    let (broker, broker_monitoring) = cluster.ports.brokers[0];

    // A file that cannot be used changes nothing.
    let before = shown(grpc).await;
    std::fs::write(secured.path("gateway-0.crt"), "half a certificate").unwrap();
    wait_until("the gateway to tell that its certificate is not usable", async || {
        let log = cluster.gateways[0].log();
        if log.contains("what was read before stays in force") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(shown(grpc).await, before);

    for (name, role, ports) in [
        ("gateway-0", "gateway", vec![grpc, api, monitoring]),
        ("broker-0", "broker", vec![broker, broker_monitoring]),
    ] {
        let folder = secured.path("");
        let hosts = ["--host", "127.0.0.1,localhost", "--replace"];
        secured.run(&[&["tls", "issue", &folder, name, "--role", role][..], &hosts].concat()).await;
        let issued = Shown::by_file(secured.path(&format!("{name}.crt")).as_ref()).unwrap();
        let issued = issued.certificates().next().unwrap().to_vec();
        assert_eq!(Certificate::parse(&issued).unwrap().name, name);
        for port in ports {
            wait_until(&format!("the new certificate of {name} on port {port}"), async || {
                if shown(port).await == issued { Ok(()) } else { Err("the old one".to_owned()) }
            })
            .await;
        }
    }
    // Old connections go on, new ones are made with the new certificates.
    client.put("k", "2", None).await.unwrap();
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_until_caught_up(1).await;
    assert_eq!(cluster.client().get("k", Consistency::Linearizable).await.unwrap().unwrap().value, "2");

    // A token that is removed is refused on connections that used it.
    let dialer = secured.tls(None).grpc();
    let mut records = RecordsClient::new(channel(&dialer, grpc));
    records.put(with_token(&secured, WRITER, put("w"))).await.unwrap();
    secured.remove_token(WRITER);
    wait_until("the removed token to be refused", async || {
        match records.put(with_token(&secured, WRITER, put("w"))).await {
            Err(status) if status.code() == Code::Unauthenticated => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    // A certificate tells who calls, until it expires.
    let folder = secured.path("");
    secured.run(&["tls", "issue", &folder, "brief", "--role", "write", "--valid-for", "3s"]).await;
    let mut brief = RecordsClient::new(channel(&secured.tls(Some("brief")).grpc(), grpc));
    brief.put(put("by-certificate")).await.unwrap();
    wait_until("the certificate to expire", async || {
        let output = evenkeel(["tls", "inspect", &secured.path("brief.crt")]).await;
        if output.status.code() == Some(10) { Ok(()) } else { Err(format!("{:?}", output.status)) }
    })
    .await;
    let denied = brief.put(put("by-certificate")).await.unwrap_err();
    assert_eq!(reason(&denied), (Code::Unauthenticated, "CERTIFICATE_EXPIRED".into()), "{denied}");
    let (ca, certificate, key) =
        (secured.path("ca.crt"), secured.path("brief.crt"), secured.path("brief.key"));
    let credentials = ["--ca", &ca, "--cert", &certificate, "--cert-key", &key];
    for words in [&["get", "k"][..], &["pause"]] {
        // TLS counts in whole seconds: within the last one it still lets the certificate in.
        wait_until("the handshake to be refused", async || {
            let (code, told) = command(&cluster, words, &credentials).await;
            assert!(code == 4 && told.contains("expired"), "{words:?} {code}: {told}");
            if told.contains("tls issue") { Ok(()) } else { Err(told) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_looked_at_in_files_and_on_servers() {
    let secured = Secured::new().await;
    let cluster = Cluster::start(Spec::new(1, 1).secured(&secured)).await;
    let address = format!("localhost:{}", cluster.ports.gateways[0][1]);
    let ca = secured.path("ca.crt");
    for what in [address.as_str(), &secured.path("gateway-0.crt")] {
        let told = secured.run(&["tls", "inspect", what, "--ca", &ca]).await;
        for part in
            ["CN=gateway-0", "localhost, 127.0.0.1", "roles        gateway", "days left", "trusted      by"]
        {
            assert!(told.contains(part), "{part:?} is missing in: {told}");
        }
        let json = secured.run(&["tls", "inspect", what, "--output", "json"]).await;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["certificates"][0]["roles"][0], "gateway");
        assert_eq!(json["certificates"][0]["valid"], true);
    }
    let others = Secured::new().await;
    let output = evenkeel(["tls", "inspect", &address, "--ca", &others.path("ca.crt")]).await;
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stdout).contains("trusted      no"));
    let output = evenkeel(["tls", "inspect", "localhost:1"]).await;
    assert_eq!(output.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_do_is_on_record_with_who_and_from_where() {
    let secured = Secured::new().await;
    let spec = Spec::new(3, 2).gateways(2).secured(&secured);
    let cluster = Cluster::start(spec).await;
    let (ca, token) = (secured.path("ca.crt"), secured.path(&format!("{ADMIN}.token")));
    let as_admin = ["--ca", &ca, "--token-file", &token];
    for (words, code) in [
        (&["pause"][..], 0),
        (&["rebalance"], 3),
        (&["resume"], 0),
        (&["drain", "1"], 0),
        (&["undrain", "1"], 0),
    ] {
        let (ended, told) = command(&cluster, words, &as_admin).await;
        assert_eq!(ended, code, "{words:?}: {told}");
    }
    let unknown = cluster.api("/cluster/v2/brokers/9/drain");
    let unknown = secured.http_as(ADMIN, Method::PUT, &unknown).await.unwrap();
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let answer =
        secured.http_as(ADMIN, Method::POST, &cluster.monitoring("/actuator/rebalance")).await.unwrap();
    let status = answer.header("rebalance-status").unwrap().to_owned();
    let refused = secured.http_as(READER, Method::POST, &cluster.monitoring("/actuator/rebalance")).await;
    assert_eq!(refused.unwrap().status, StatusCode::FORBIDDEN);

    let (code, told) = command(&cluster, &["audit", "--output", "json"], &as_admin).await;
    assert_eq!(code, 0, "{told}");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    let text = |entry: &serde_json::Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    // `drain` asks again as long as a run stands in its way.
    let found: Vec<[String; 3]> = entries
        .iter()
        .rev()
        .map(|entry| ["action", "target", "outcome"].map(|name| text(entry, name)))
        .filter(|[action, _, outcome]| !(action == "drain" && outcome == "refused (409)"))
        .collect();
    let expected = [
        ["pause", "", "done"],
        ["rebalance", "", "refused (409)"],
        ["resume", "", "done"],
        ["drain", "broker 1", "done"],
        ["undrain", "broker 1", "done"],
        ["drain", "broker 9", "refused (404)"],
        ["rebalance", "", status.as_str()],
    ];
    assert_eq!(found, expected, "{told}");
    let mut numbers: Vec<u64> = entries.iter().map(|entry| entry["number"].as_u64().unwrap()).collect();
    numbers.reverse();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no gaps");
    for entry in &entries {
        assert!(text(entry, "who") == ADMIN && text(entry, "source").starts_with("127.0.0.1:"), "{entry}");
    }
    assert!(told.contains("ownership is paused"), "why it was refused: {told}");

    // The other gateway shows the same, to operators only.
    let [_, api, _] = cluster.ports.gateways[1];
    let url = |query: &str| format!("https://127.0.0.1:{api}/cluster/v2/audit{query}");
    let other = secured.http_as(ADMIN, Method::GET, &url("")).await.unwrap().json();
    assert_eq!(other["entries"].as_array().unwrap(), &entries);
    let one = secured.http_as(ADMIN, Method::GET, &url("?limit=1")).await.unwrap().json();
    assert_eq!(one["entries"].as_array().unwrap()[..], entries[..1]);
    let wrong = secured.http_as(ADMIN, Method::GET, &url("?limit=0")).await.unwrap();
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let reader = secured.http_as(READER, Method::GET, &url("")).await.unwrap();
    assert_eq!(reader.status, StatusCode::FORBIDDEN);
    let (code, table) = command(&cluster, &["audit", "--limit", "2"], &as_admin).await;
    assert!(code == 0 && table.contains("admin") && table.contains("refused (404)"), "{table}");
}
