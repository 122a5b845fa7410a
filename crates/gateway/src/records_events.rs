//! Changes of records as server-sent events.
//!
//! ```text
//! id: 1:17,2:40         resume with this as Last-Event-ID
//! event: put            or delete
//! data: {"key":"a","value":"1","version":1,"position":17,"partitionId":1}
//!
//! event: error          the last one: what a problem would say
//! data: {"reason":"SLOW_WATCHER","detail":"…"}
//! ```
//!
//! An event's id tells how far the stream has got in all partitions, and is left out until it has begun in all of them: who
//! resumes misses nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use evenkeel_protocol::v1::records_server::Records;
use evenkeel_protocol::v1::{WatchRequest, WatchResponse, watch_event};
use futures::{Stream, StreamExt};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status};

use crate::grpc_problem;
use crate::records_http::{Parameters, RecordsHttp};
use crate::records_json::{Place, deleted_json, record_json};

const LAST_EVENT_ID: &str = "last-event-id";
/// So that proxies do not take a stream without changes for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long an answer waits for word of all partitions: until then what is wrong is told by its status.
const BEGINNING_WAIT_MAX: Duration = Duration::from_secs(2);
/// Messages that wait for the last partition to begin.
const BEGINNING_MESSAGES_MAX: usize = 64;

type Changes = <crate::records::RecordsService as Records>::WatchStream;

/// Whether a request to list records is one to watch them.
pub(crate) fn are_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"))
}

/// Streams the changes of keys with a prefix, after `Last-Event-ID` or from now on.
pub(crate) async fn watch(records: &RecordsHttp, uri: &Uri, headers: &HeaderMap) -> Response {
    match begin(records, uri, headers).await {
        Ok(stream) => {
            let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
            Sse::new(stream.events()).keep_alive(keep_alive).into_response()
        }
        Err(status) => grpc_problem::response(&status, uri),
    }
}

async fn begin(records: &RecordsHttp, uri: &Uri, headers: &HeaderMap) -> Result<EventStream, Status> {
    // Browsers cannot set the header of the first request.
    let parameters = Parameters::of(uri, &["prefix", "lastEventId"])?;
    let given = match headers.get(LAST_EVENT_ID) {
        Some(value) => value.as_bytes().to_vec(),
        None => parameters.bytes("lastEventId").to_vec(),
    };
    let place = Place::parse(&String::from_utf8_lossy(&given))?;
    let request =
        WatchRequest { prefix: parameters.bytes("prefix"), partition_ids: Vec::new(), after: place.after() };
    let service = records.service();
    let changes = service.watch(Request::new(request)).await?.into_inner();
    let partitions = service.partitions_known();
    let mut stream = EventStream { changes: Some(changes), place, partitions, waiting: VecDeque::new() };
    let until = Instant::now() + BEGINNING_WAIT_MAX;
    let mut begun = std::collections::BTreeSet::new();
    let mut messages = 0;
    while begun.len() < partitions && messages < BEGINNING_MESSAGES_MAX {
        let Some(changes) = &mut stream.changes else { break };
        match timeout_at(until, changes.next()).await {
            Ok(Some(Ok(message))) => {
                begun.insert(message.partition_id);
                messages += 1;
                stream.take_in(message);
            }
            Ok(Some(Err(status))) => return Err(status),
            Ok(None) => stream.changes = None,
            Err(_) => break,
        }
    }
    // Whoever connects sees that the stream has begun, and where.
    stream.waiting.push_front(Event::default().comment("watching"));
    Ok(stream)
}

struct EventStream {
    /// `None` after their end.
    changes: Option<Changes>,
    place: Place,
    partitions: usize,
    waiting: VecDeque<Event>,
}

impl EventStream {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut this| async move {
            loop {
                if let Some(event) = this.waiting.pop_front() {
                    return Some((Ok(event), this));
                }
                match this.changes.as_mut()?.next().await {
                    Some(Ok(message)) => this.take_in(message),
                    Some(Err(status)) => {
                        this.waiting.push_back(last_word(&status));
                        this.changes = None;
                    }
                    None => return None,
                }
            }
        })
    }

    fn take_in(&mut self, message: WatchResponse) {
        let WatchResponse { partition_id, events, position } = message;
        let mut events = events.into_iter().peekable();
        if events.peek().is_none() {
            self.place.reach(partition_id, position);
            // Without data it is no event, but the client remembers the id.
            self.waiting.extend(self.id().map(|id| Event::default().id(id)));
            return;
        }
        while let Some(event) = events.next() {
            let Some(record) = &event.record else { continue };
            let next = events.peek().and_then(|next| next.record.as_ref()).map(|next| next.position);
            let reached = match next {
                None => position,
                // A batch: whoever resumes in its middle gets all of it.
                Some(next) if next == record.position => record.position.saturating_sub(1),
                Some(_) => record.position,
            };
            self.place.reach(partition_id, reached);
            let shown = match event.kind() {
                watch_event::Kind::Delete => shown("delete", &deleted_json(record)),
                _ => shown("put", &record_json(record)),
            };
            self.waiting.push_back(match self.id() {
                Some(id) => shown.id(id),
                None => shown,
            });
        }
    }

    fn id(&self) -> Option<String> {
        (self.place.partitions() >= self.partitions).then(|| self.place.text())
    }
}

fn shown(name: &str, data: &serde_json::Value) -> Event {
    // JSON without line breaks, which is all that server-sent events ask of data.
    Event::default().event(name).data(data.to_string())
}

fn last_word(status: &Status) -> Event {
    let mut problem = grpc_problem::members(status);
    problem["detail"] = json!(status.message());
    shown("error", &problem)
}
