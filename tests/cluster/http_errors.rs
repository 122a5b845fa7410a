//! Whatever goes wrong over HTTP is told in the shape of the port, with what to do about it.

use http::Method;

use crate::harness::{Answer, Cluster, Spec, send};

/// Above the 2 MiB that a request may have.
const TOO_LARGE_BYTES: usize = (2 << 20) + 1;

/// RFC 9457.
fn assert_problem(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    let body = answer.json();
    assert_eq!(body["status"], status, "{what}: {body}");
    for member in ["type", "title", "detail", "instance"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: {member} in {body}");
    }
    // The thing, and then what to do.
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains("; ") || detail.contains(": "), "{what}: {body}");
}

/// ESC's shape.
fn assert_esc_error(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    let body = answer.json();
    assert_eq!(body.as_object().unwrap().len(), 1, "{what}: {body}");
    assert_eq!(body["error"]["error_code"], status, "{what}: {body}");
    assert!(
        body["error"]["error_message"].as_str().is_some_and(|text| text.contains("; ")),
        "{what}: {body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_shape_of_their_port_whoever_finds_them() {
    let cluster = Cluster::start(Spec::new(1, 1)).await;
    let broker = format!("http://127.0.0.1:{}", cluster.ports.brokers[0].1);
    let api = |path: &str| cluster.api(path);
    let monitoring = |path: &str| cluster.monitoring(path);
    let large = "x".repeat(TOO_LARGE_BYTES);
    let cases = [
        (Method::GET, api("/nothing"), "", 404),
        (Method::GET, api("/cluster/v2/rebalance/99"), "", 404),
        (Method::GET, api("/cluster/v2/rebalance/one"), "", 404),
        (Method::GET, api("/cluster/v2/rebalance/%ff"), "", 400),
        (Method::PUT, api("/cluster/v2/brokers/7/drain"), "", 404),
        (Method::PUT, api("/cluster/v2/brokers/%ff/drain"), "", 400),
        (Method::PATCH, api("/cluster/v2/rebalance"), "", 405),
        (Method::POST, api("/v2/topology"), "", 405),
        (Method::POST, api("/cluster/v2/rebalance"), "{", 400),
        (Method::POST, api("/cluster/v2/rebalance"), "\u{0}", 400),
        (Method::POST, api("/cluster/v2/rebalance?dryRun=perhaps"), "", 400),
        (Method::POST, api("/cluster/v2/rebalance"), &large, 413),
        (Method::GET, monitoring("/nothing"), "", 404),
        (Method::GET, monitoring("/actuator/rebalance"), "", 405),
        (Method::POST, monitoring("/metrics"), "", 405),
        (Method::GET, format!("{broker}/nothing"), "", 404),
        (Method::POST, format!("{broker}/actuator/rebalance"), "", 404),
        (Method::POST, format!("{broker}/actuator/health"), "", 405),
    ];
    for (method, url, body, status) in cases {
        let answer = send(method.clone(), &url, &[], body.to_owned()).await.unwrap();
        assert_problem(&answer, status, &format!("{method} {url}"));
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{method} {url}: {:?}", answer.headers);
        }
    }
    let esc = [
        (Method::GET, "/ESCManager/internal/nothing", 404),
        (Method::POST, "/ESCManager/internal/ownership/rebalance", 405),
        (Method::GET, "/ESCManager/internal/ownership/pause", 405),
    ];
    for (method, path, status) in esc {
        let answer = send(method.clone(), &api(path), &[], String::new()).await.unwrap();
        assert_esc_error(&answer, status, &format!("{method} {path}"));
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{method} {path}: {:?}", answer.headers);
        }
    }
    // Zeebe's contract knows no error.
    let answer = send(Method::POST, &monitoring("/actuator/rebalance"), &[], "{".to_owned()).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
}
