//! Traces: a request's way through gateway, leader and followers, as a collector receives it.

use std::collections::BTreeSet;

use evenkeel_collector::{Collector, Span};
use http::Method;

use crate::harness::{Cluster, Spec, evenkeel_with, send, wait_until};

const CALLER: &str = "b7ad6b7169203331";

/// A trace of its own for each letter.
fn trace_id(letter: char) -> String {
    letter.to_string().repeat(32)
}

fn traceparent(letter: char, flags: &str) -> String {
    format!("00-{}-{CALLER}-{flags}", trace_id(letter))
}

async fn traced_cluster(sample_ratio: f64) -> (Collector, Cluster) {
    let (collector, at) = Collector::start().await.unwrap();
    let endpoint = format!("http://{at}");
    let spec = Spec::new(3, 2)
        .broker("traces.endpoint", endpoint.clone())
        .gateway("traces.endpoint", endpoint)
        .gateway("traces.sample_ratio", sample_ratio);
    (collector, Cluster::start_balanced(spec).await)
}

async fn spans(collector: &Collector, trace_id: &str, count: usize) -> Vec<Span> {
    wait_until(&format!("{count} spans of trace {trace_id}"), async || {
        let spans = collector.trace(trace_id);
        if spans.len() >= count { Ok(()) } else { Err(format!("{spans:#?}")) }
    })
    .await;
    collector.trace(trace_id)
}

/// One span by name whose parent is this one.
fn below<'a>(spans: &'a [Span], parent: &str, name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent == parent && span.name == name).collect()
}

/// The gateway's span below the caller's, the leader's below that, the followers' below that; and nothing else.
fn assert_is_one_write(spans: &[Span], parent: &str, name: &str) {
    let [gateway] = below(spans, parent, name)[..] else { panic!("{spans:#?}") };
    assert_eq!(gateway.service, "evenkeel-gateway");
    let [leader] = below(spans, &gateway.span_id, "lead")[..] else { panic!("{spans:#?}") };
    let followers = below(spans, &leader.span_id, "follow");
    let brokers: BTreeSet<&str> =
        followers.iter().chain([&leader]).map(|span| span.instance.as_str()).collect();
    assert_eq!(brokers, ["0", "1", "2"].into(), "{spans:#?}");
    assert!(followers.iter().chain([&leader]).all(|span| span.service == "evenkeel-broker"));
    assert_eq!(spans.len(), 4, "{spans:#?}");
    assert!(gateway.began <= leader.began && leader.ended <= gateway.ended, "{spans:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_write_is_one_trace_from_its_caller_to_every_follower() {
    let (collector, cluster) = traced_cluster(0.0).await;
    let gateway = format!("127.0.0.1:{}", cluster.ports.gateways[0][0]);

    // Whoever does not sample, and whoever has no trace, leaves none.
    let url = cluster.api("/v1/records/a");
    let put = |headers: Vec<(&'static str, String)>| {
        let url = url.clone();
        async move {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = send(Method::PUT, &url, &headers, "1".to_owned()).await.unwrap();
            assert!(answer.status.is_success(), "{}", answer.text());
        }
    };
    put(vec![]).await;
    put(vec![("traceparent", traceparent('c', "00"))]).await;
    put(vec![("traceparent", "no trace".to_owned())]).await;

    put(vec![("traceparent", traceparent('a', "01"))]).await;
    let over_http = spans(&collector, &trace_id('a'), 4).await;
    assert_is_one_write(&over_http, CALLER, "PUT /v1/records/{*key}");

    // The command line is part of the trace that it is run in; gRPC carries it.
    let environment = [("TRACEPARENT", traceparent('b', "01"))];
    let written = evenkeel_with(&environment, ["put", "b", "2", "--gateway", &gateway]).await;
    assert!(written.status.success(), "{written:?}");
    let over_grpc = spans(&collector, &trace_id('b'), 4).await;
    assert_is_one_write(&over_grpc, CALLER, "evenkeel.v1.Records/Put");

    let environment = [("TRACEPARENT", traceparent('d', "01"))];
    let read = evenkeel_with(&environment, ["get", "b", "--gateway", &gateway]).await;
    assert_eq!(read.stdout, b"2");
    let read = spans(&collector, &trace_id('d'), 2).await;
    let [asked] = below(&read, CALLER, "evenkeel.v1.Records/Get")[..] else { panic!("{read:#?}") };
    let [_] = below(&read, &asked.span_id, "evenkeel.internal.v1.Broker/Get")[..] else {
        panic!("{read:#?}")
    };

    let known = [trace_id('a'), trace_id('b'), trace_id('d')];
    let others: Vec<_> =
        collector.spans().into_iter().filter(|span| !known.contains(&span.trace_id)).collect();
    assert_eq!(others, [], "not sampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_write_of_a_stream_is_a_trace_by_itself() {
    let (collector, cluster) = traced_cluster(1.0).await;
    let pipeline = cluster.client().pipeline(8);
    pipeline.put("streamed", "1", None).await.unwrap();
    const NAME: &str = "evenkeel.v1.Records/WriteStream write";
    let of_stream = || collector.spans().into_iter().find(|span| span.name == NAME);
    wait_until("the write's own span", async || of_stream().map(drop).ok_or("none".to_owned())).await;
    let trace = of_stream().unwrap().trace_id;
    assert_is_one_write(&spans(&collector, &trace, 4).await, "", NAME);
}
