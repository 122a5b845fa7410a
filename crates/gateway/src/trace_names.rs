//! What requests are called in traces, and which are none's business: probes, reflection, and the console's files.

use axum::extract::MatchedPath;
use axum::http::{Extensions, Method, Uri};

/// A gRPC call, as OpenTelemetry's conventions want it: `package.Service/Method`. Writes on a stream are traced each by itself.
pub(crate) fn grpc(_: &Method, uri: &Uri, _: &Extensions) -> Option<String> {
    let call = uri.path().trim_start_matches('/');
    let is_ours = call.starts_with("evenkeel.v1.") || call.starts_with("gateway_protocol.");
    (is_ours && uri.path() != crate::access::WRITE_STREAM).then(|| call.to_owned())
}

/// An HTTP request: its method and its route, never a key.
pub(crate) fn http(method: &Method, _: &Uri, extensions: &Extensions) -> Option<String> {
    let route = extensions.get::<MatchedPath>()?.as_str();
    let is_ours = ["/v1/", "/v2/", "/cluster/", "/ESCManager/", "/actuator/rebalance", "/actuator/exporting"]
        .iter()
        .any(|begin| route.starts_with(begin));
    is_ours.then(|| format!("{method} {route}"))
}
