//! A partition's changes as lines of JSON, which is what every exporter sends.
//!
//! ```text
//! {"type":"put","partitionId":1,"position":17,"version":1,"key":"a","value":"1"}
//! {"type":"delete","partitionId":1,"position":18,"version":1,"key":"a"}
//! {"type":"gap","partitionId":1,"afterPosition":18,"firstPosition":900}
//! ```
//!
//! Keys and values that are not UTF-8 are in `keyBase64` and `valueBase64`. A *gap* says that changes were not kept long
//! enough: what lies between is lost to this exporter.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use evenkeel_protocol::v1::{WatchEvent, watch_event};
use evenkeel_protocol::{PartitionId, Position};
use serde_json::{Map, Value, json};

/// Lines that go together, in order.
#[derive(Clone, Debug)]
pub struct Batch {
    pub partition: PartitionId,
    /// Position of the first line.
    pub first: Position,
    /// Everything up to here is in this batch or those before.
    pub up_to: Position,
    /// Each line with its line feed.
    pub lines: Bytes,
    pub count: usize,
}

/// The lines of these changes; `None` when there are none.
pub fn batch(partition: PartitionId, events: &[WatchEvent], up_to: Position) -> Option<Batch> {
    let first = events.first()?.record.as_ref().map_or(up_to.0, |record| record.position);
    let mut lines = BytesMut::new();
    for event in events {
        put_line(&mut lines, &line(partition, event));
    }
    Some(Batch { partition, first: Position(first), up_to, lines: lines.freeze(), count: events.len() })
}

/// The one line that says what was lost.
pub fn gap(partition: PartitionId, after: Position, first: Position) -> Batch {
    let mut lines = BytesMut::new();
    let told = json!({
        "type": "gap", "partitionId": partition.0, "afterPosition": after.0, "firstPosition": first.0,
    });
    put_line(&mut lines, &told);
    let up_to = Position(first.0.saturating_sub(1));
    Batch { partition, first: Position(after.0 + 1), up_to, lines: lines.freeze(), count: 1 }
}

fn put_line(lines: &mut BytesMut, line: &Value) {
    lines.put_slice(line.to_string().as_bytes());
    lines.put_u8(b'\n');
}

fn line(partition: PartitionId, event: &WatchEvent) -> Value {
    let deleted = event.kind() == watch_event::Kind::Delete;
    let mut line = Map::new();
    line.insert("type".to_owned(), json!(if deleted { "delete" } else { "put" }));
    line.insert("partitionId".to_owned(), json!(partition.0));
    if let Some(record) = &event.record {
        line.insert("position".to_owned(), json!(record.position));
        line.insert("version".to_owned(), json!(record.version));
        show_bytes(&mut line, "key", &record.key);
        if !deleted {
            show_bytes(&mut line, "value", &record.value);
        }
    }
    Value::Object(line)
}

fn show_bytes(line: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line.insert(name.to_owned(), json!(text)),
        Err(_) => line.insert(format!("{name}Base64"), json!(STANDARD.encode(bytes))),
    };
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::v1::Record;

    use super::*;

    #[test]
    fn each_change_is_one_line_and_a_gap_is_told() {
        let event = |kind: watch_event::Kind, key: &'static [u8], position| WatchEvent {
            kind: kind.into(),
            record: Some(Record {
                key: Bytes::from_static(key),
                value: Bytes::from_static(b"a\nb"),
                version: 1,
                position,
                partition_id: 1,
            }),
        };
        let events = [event(watch_event::Kind::Put, b"\xff", 7), event(watch_event::Kind::Delete, b"k", 8)];
        let batch = batch(PartitionId(1), &events, Position(9)).unwrap();
        assert_eq!((batch.first, batch.up_to, batch.count), (Position(7), Position(9), 2));
        let text = std::str::from_utf8(&batch.lines).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let put = json!({"type": "put", "partitionId": 1, "position": 7, "version": 1, "keyBase64": "/w==", "value": "a\nb"});
        let delete = json!({"type": "delete", "partitionId": 1, "position": 8, "version": 1, "key": "k"});
        assert_eq!(lines, [put, delete]);
        assert!(super::batch(PartitionId(1), &[], Position(9)).is_none());
        let gap = gap(PartitionId(1), Position(3), Position(9));
        assert_eq!((gap.first, gap.up_to, gap.count), (Position(4), Position(8), 1));
    }
}
