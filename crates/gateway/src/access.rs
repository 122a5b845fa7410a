//! Which role each request to a gateway takes. Pure. What is not named takes the most.

use axum::http::Method;
use evenkeel_security::{Need, Role};

/// The call whose request is a stream.
pub(crate) const WRITE_STREAM: &str = "/evenkeel.v1.Records/WriteStream";
/// Calls that change records.
const WRITES: [&str; 4] = ["Put", "Delete", "Batch", "WriteStream"];

/// What a gRPC call takes, from its path `/package.Service/Method`.
pub(crate) fn grpc_need(path: &str) -> Need {
    let Some((service, method)) = path.trim_start_matches('/').split_once('/') else {
        return Need::Role(Role::Operate);
    };
    match service {
        "grpc.health.v1.Health" => Need::Nothing,
        "evenkeel.v1.Records" if WRITES.contains(&method) => Need::Role(Role::Write),
        "evenkeel.v1.Records"
        | "evenkeel.v1.Cluster"
        | "gateway_protocol.Gateway"
        | "grpc.reflection.v1.ServerReflection"
        | "grpc.reflection.v1alpha.ServerReflection" => Need::Role(Role::Read),
        _ => Need::Role(Role::Operate),
    }
}

/// Whether a call carries requests for as long as it is open, each of which takes what the call took.
pub(crate) fn stays_open(path: &str) -> bool {
    path == WRITE_STREAM
}

/// What a request to the API or the monitoring port takes. Probes have no credentials, and health tells nothing that is
/// worth hiding.
pub(crate) fn http_need(method: &Method, path: &str) -> Need {
    let looks = matches!(*method, Method::GET | Method::HEAD);
    match path {
        _ if looks && (path == "/actuator/health" || path.starts_with("/actuator/health/")) => Need::Nothing,
        // Neither tells anything of the cluster: the console then asks for a token.
        _ if looks && (path == "/" || path.starts_with("/console/")) => Need::Nothing,
        "/cluster/v2/audit" => Need::Role(Role::Operate),
        _ if looks => Need::Role(Role::Read),
        _ if path.starts_with("/v1/records/") => Need::Role(Role::Write),
        _ => Need::Role(Role::Operate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Need = Need::Role(Role::Read);
    const WRITE: Need = Need::Role(Role::Write);
    const OPERATE: Need = Need::Role(Role::Operate);

    #[test]
    fn every_call_takes_the_least_role_that_it_can() {
        let table = [
            ("/grpc.health.v1.Health/Check", Need::Nothing),
            ("/evenkeel.v1.Records/Get", READ),
            ("/evenkeel.v1.Records/List", READ),
            ("/evenkeel.v1.Records/Watch", READ),
            ("/evenkeel.v1.Records/Put", WRITE),
            ("/evenkeel.v1.Records/Delete", WRITE),
            ("/evenkeel.v1.Records/Batch", WRITE),
            ("/evenkeel.v1.Records/WriteStream", WRITE),
            ("/evenkeel.v1.Cluster/WatchTopology", READ),
            ("/gateway_protocol.Gateway/Topology", READ),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", READ),
            ("/somebody.else/Anything", OPERATE),
            ("/", OPERATE),
            ("", OPERATE),
        ];
        for (path, need) in table {
            assert_eq!(grpc_need(path), need, "{path}");
        }
    }

    #[test]
    fn looking_takes_read_and_acting_takes_operate() {
        let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
        let table = [
            (&get, "/actuator/health", Need::Nothing),
            (&get, "/actuator/health/readiness", Need::Nothing),
            (&post, "/actuator/health", OPERATE),
            (&get, "/actuator/healthy", READ),
            (&get, "/actuator/prometheus", READ),
            (&get, "/", Need::Nothing),
            (&get, "/console/console.css", Need::Nothing),
            (&get, "/console", READ),
            (&post, "/", OPERATE),
            (&get, "/cluster/v2/topology/events", READ),
            (&get, "/cluster/v2/partitions/1", READ),
            (&get, "/cluster/v2/brokers/1", READ),
            (&get, "/v2/topology", READ),
            (&get, "/cluster/v2/rebalance/history", READ),
            (&get, "/ESCManager/internal/ownership", READ),
            (&get, "/cluster/v2/audit", OPERATE),
            (&post, "/actuator/rebalance", OPERATE),
            (&post, "/cluster/v2/rebalance", OPERATE),
            (&delete, "/cluster/v2/rebalance/3", OPERATE),
            (&put, "/cluster/v2/brokers/1/drain", OPERATE),
            (&put, "/ESCManager/internal/ownership/rebalance", OPERATE),
            (&put, "/v1/records/k", WRITE),
            (&delete, "/v1/records/k", WRITE),
            (&put, "/v1/records", OPERATE),
            (&get, "/v1/records/k", READ),
            (&get, "/v1/records", READ),
            (&get, "/openapi.json", READ),
        ];
        for (method, path, need) in table {
            assert_eq!(http_need(method, path), need, "{method} {path}");
        }
    }
}
