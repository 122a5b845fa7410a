//! What tools without our files ask a gateway: which services there are, whether they serve, and what an error means.

use evenkeel_protocol::v1::{GetRequest, ListRequest, PutRequest};
use futures::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::harness::{Harness, put};

const SERVICES: [&str; 3] = ["evenkeel.v1.Records", "evenkeel.v1.Cluster", "gateway_protocol.Gateway"];

#[tokio::test]
async fn reflection_names_every_service_in_both_versions() {
    let harness = Harness::start(1).await;
    let named_v1 = {
        use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::v1::{
            ServerReflectionRequest, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        };
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let mut client = ServerReflectionClient::new(harness.channel.clone());
        let answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
        let answer = answers.into_inner().next().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{answer:?}");
        };
        list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
    };
    let named_v1alpha = {
        use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::v1alpha::{
            ServerReflectionRequest, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        };
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let mut client = ServerReflectionClient::new(harness.channel.clone());
        let answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
        let answer = answers.into_inner().next().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("{answer:?}");
        };
        list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
    };
    for named in [named_v1, named_v1alpha] {
        for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
            assert!(named.iter().any(|name| name == service), "{service} is not among {named:?}");
        }
    }
    harness.stop().await;
}

#[tokio::test]
async fn each_service_has_a_health_of_its_name_and_others_have_none() {
    let harness = Harness::start(1).await;
    let mut health = HealthClient::new(harness.channel.clone());
    for service in SERVICES.iter().chain(&[""]) {
        let asked = HealthCheckRequest { service: (*service).to_owned() };
        let status = health.check(asked).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "nobody.Knows".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    harness.stop().await;
}

#[tokio::test]
async fn errors_say_which_field_is_wrong_and_when_to_come_back() {
    let harness = Harness::with_options(1, |options| {
        options.routing.park_timeout = std::time::Duration::from_millis(50);
    })
    .await;
    let mut records = harness.records();
    let bad_fields = [
        (records.put(PutRequest::default()).await.unwrap_err(), "key", "EMPTY_KEY"),
        (records.get(GetRequest::default()).await.unwrap_err(), "key", "EMPTY_KEY"),
        (
            records.list(ListRequest { page_size: -1, ..Default::default() }).await.unwrap_err(),
            "page_size",
            "BAD_PAGE_SIZE",
        ),
    ];
    for (status, field, reason) in bad_fields {
        assert_eq!(status.code(), Code::InvalidArgument);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("evenkeel", reason));
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 1, "{status:?}");
        assert_eq!(violations[0].field, field);
        assert!(status.get_details_retry_info().is_none(), "the same would be wrong again");
    }

    harness.cluster.set_leader(1, None);
    harness.until_leader(1, None).await;
    let away = records.put(put(&harness.key(1, 1), "v")).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "{away:?}");
    assert_eq!(away.get_details_error_info().unwrap().reason, "NO_LEADER");
    assert!(away.get_details_retry_info().unwrap().retry_delay.is_some_and(|delay| !delay.is_zero()));
    harness.stop().await;
}
