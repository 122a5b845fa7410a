//! Records, page tokens and places in a watch as JSON and URLs carry them.
//!
//! Keys and values are bytes. What is UTF-8 is shown as text, in `key` and `value`; anything else in Base64, in
//! `keyBase64` and `valueBase64`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use evenkeel_protocol::v1::{PartitionPosition, Record};
use serde_json::{Map, Value, json};

use crate::refusals::Refusal;

/// A record, with its value.
pub(crate) fn record_json(record: &Record) -> Value {
    let mut shown = Map::new();
    show_bytes(&mut shown, "key", &record.key);
    show_bytes(&mut shown, "value", &record.value);
    describe(shown, record)
}

/// A record that is no more.
pub(crate) fn deleted_json(record: &Record) -> Value {
    let mut shown = Map::new();
    show_bytes(&mut shown, "key", &record.key);
    describe(shown, record)
}

fn describe(mut shown: Map<String, Value>, record: &Record) -> Value {
    shown.insert("version".to_owned(), json!(record.version));
    shown.insert("position".to_owned(), json!(record.position));
    shown.insert("partitionId".to_owned(), json!(record.partition_id));
    Value::Object(shown)
}

fn show_bytes(shown: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => shown.insert(name.to_owned(), json!(text)),
        Err(_) => shown.insert(format!("{name}Base64"), json!(STANDARD.encode(bytes))),
    };
}

/// A page token as text; `None` for the empty one, after which nothing follows.
pub(crate) fn token_text(token: &[u8]) -> Option<String> {
    (!token.is_empty()).then(|| URL_SAFE_NO_PAD.encode(token))
}

/// The page token in such a text.
pub(crate) fn page_token(text: &[u8]) -> Result<Bytes, Refusal> {
    URL_SAFE_NO_PAD.decode(text).map(Bytes::from).map_err(|_| {
        let problem =
            "pageToken is not the nextPageToken of a page; leave it out to begin with the first page";
        Refusal::invalid("BAD_PAGE_TOKEN", "pageToken", problem)
    })
}

/// How far a watcher has got in each partition: the id of a server-sent event, `PARTITION:POSITION,…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(BTreeMap<u32, u64>);

impl Place {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let mut place = BTreeMap::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let parsed = part.split_once(':').and_then(|(p, at)| Some((p.parse().ok()?, at.parse().ok()?)));
            let Some((partition, position)) = parsed else {
                let problem = format!(
                    "Last-Event-ID: {part:?} is not PARTITION:POSITION; send the id of an event as it was, or none"
                );
                return Err(Refusal::invalid("BAD_AFTER", "Last-Event-ID", problem));
            };
            place.insert(partition, position);
        }
        Ok(Self(place))
    }

    pub(crate) fn after(&self) -> Vec<PartitionPosition> {
        let position = |(partition, position): (&u32, &u64)| PartitionPosition {
            partition_id: *partition,
            position: *position,
        };
        self.0.iter().map(position).collect()
    }

    pub(crate) fn reach(&mut self, partition: u32, position: u64) {
        self.0.insert(partition, position);
    }

    pub(crate) fn partitions(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn text(&self) -> String {
        let parts: Vec<String> =
            self.0.iter().map(|(partition, position)| format!("{partition}:{position}")).collect();
        parts.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_text_and_other_bytes_in_base64() {
        let record = Record {
            key: Bytes::from_static(b"a"),
            value: Bytes::from_static(b"\xff"),
            version: 3,
            position: 9,
            partition_id: 2,
        };
        let expected =
            json!({"key": "a", "valueBase64": "/w==", "version": 3, "position": 9, "partitionId": 2});
        assert_eq!(record_json(&record), expected);
    }

    #[test]
    fn tokens_and_places_come_back_as_they_went() {
        assert_eq!(token_text(b""), None);
        assert_eq!(page_token(token_text(b"\x01k?").unwrap().as_bytes()), Ok(Bytes::from_static(b"\x01k?")));
        assert!(page_token(b"not base64!").is_err());
        let mut place = Place::parse("2:7").unwrap();
        place.reach(1, 5);
        assert_eq!(place.text(), "1:5,2:7");
        assert_eq!(Place::parse("1:5,2:7"), Ok(place));
        for wrong in ["x", "1", "1:", ":1", "1:2:3", "1:-2"] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }
}
