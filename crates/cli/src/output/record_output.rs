//! How records are shown: readable keys and values, or JSON that loses nothing.

use evenkeel_protocol::v1::Record;
use serde_json::{Map, Value, json};

/// Longest piece of a value in a table.
const VALUE_CHARS_MAX: usize = 60;

/// Text as it is; other bytes as hexadecimal with a leading 0x.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => format!("0x{}", hex(bytes)),
    }
}

/// The same, cut to fit into a table.
pub fn shortened(bytes: &[u8]) -> String {
    let text = readable(bytes);
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `key` and `value` when they are text, else `key_hex` and `value_hex`.
pub fn record_json(record: &Record) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, bytes) in [("key", &record.key), ("value", &record.value)] {
        match std::str::from_utf8(bytes) {
            Ok(text) => object.insert(name.to_owned(), json!(text)),
            Err(_) => object.insert(format!("{name}_hex"), json!(hex(bytes))),
        };
    }
    object.insert("version".into(), json!(record.version));
    object.insert("position".into(), json!(record.position));
    object.insert("partition_id".into(), json!(record.partition_id));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_text_and_bytes_as_hexadecimal() {
        assert_eq!(readable("größe 1".as_bytes()), "größe 1");
        assert_eq!(readable(b"a\nb"), "a\\nb");
        assert_eq!(readable(&[0xff, 0x00]), "0xff00");
        assert_eq!(shortened("ü".repeat(70).as_bytes()).chars().count(), VALUE_CHARS_MAX + 1);
    }

    #[test]
    fn json_keeps_bytes_that_are_no_text() {
        let record = Record { key: "k".into(), value: vec![0xff].into(), version: 2, ..Default::default() };
        let text = Value::Object(record_json(&record)).to_string();
        assert_eq!(text, r#"{"key":"k","partition_id":0,"position":0,"value_hex":"ff","version":2}"#);
    }
}
