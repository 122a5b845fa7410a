//! JSON Lines: one object a line, one of its fields being the key.

use std::io::{BufRead, Read};

use bytes::Bytes;
use serde_json::Value;

/// A line beyond this is no record of any cluster, and must not fill the memory.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Field names that an error lists.
const FIELDS_SHOWN_MAX: usize = 12;

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    pub key: Bytes,
    /// The line as it is, without surrounding white space.
    pub value: Bytes,
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("line {number}: not JSON: {detail}")]
    NotJson { number: u64, detail: String },
    #[error("line {number}: not a JSON object")]
    NotAnObject { number: u64 },
    #[error("line {number}: no field {field:?}; it has {fields}")]
    NoKey { number: u64, field: String, fields: String },
    #[error("line {number}: field {field:?} is {found}; a key is a text that is not empty, or a number")]
    BadKey { number: u64, field: String, found: String },
    #[error("line {number}: longer than {LINE_BYTES_MAX} bytes")]
    TooLong { number: u64 },
    #[error("line {number}: cannot be read: {detail}")]
    Unreadable { number: u64, detail: String },
}

/// Reads lines one by one; empty lines are nothing.
#[derive(Debug)]
pub struct JsonLines<R> {
    input: R,
    key_field: String,
    number: u64,
    buffer: Vec<u8>,
    broken: bool,
}

impl<R: BufRead> JsonLines<R> {
    pub fn new(input: R, key_field: &str) -> Self {
        Self { input, key_field: key_field.to_owned(), number: 0, buffer: Vec::new(), broken: false }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Line, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.broken {
            self.number += 1;
            self.buffer.clear();
            match self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.buffer) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => {
                    self.broken = true;
                    return Some(Err(LineError::Unreadable {
                        number: self.number,
                        detail: error.to_string(),
                    }));
                }
            }
            if self.buffer.len() as u64 == LINE_BYTES_MAX && !self.buffer.ends_with(b"\n") {
                self.broken = true;
                return Some(Err(LineError::TooLong { number: self.number }));
            }
            let text = self.buffer.trim_ascii();
            if !text.is_empty() {
                return Some(parse(self.number, text, &self.key_field));
            }
        }
        None
    }
}

fn parse(number: u64, text: &[u8], field: &str) -> Result<Line, LineError> {
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| LineError::NotJson { number, detail: error.to_string() })?;
    let Value::Object(object) = value else {
        return Err(LineError::NotAnObject { number });
    };
    let bad_key =
        |found: &str| LineError::BadKey { number, field: field.to_owned(), found: found.to_owned() };
    let key = match object.get(field) {
        None => {
            let fields: Vec<&str> = object.keys().map(String::as_str).take(FIELDS_SHOWN_MAX).collect();
            let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
            return Err(LineError::NoKey { number, field: field.to_owned(), fields });
        }
        Some(Value::String(text)) if text.is_empty() => return Err(bad_key("empty")),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Null) => return Err(bad_key("null")),
        Some(Value::Bool(_)) => return Err(bad_key("true or false")),
        Some(Value::Array(_)) => return Err(bad_key("a list")),
        Some(Value::Object(_)) => return Err(bad_key("an object")),
    };
    Ok(Line { number, key: key.into(), value: Bytes::copy_from_slice(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Line, String>> {
        JsonLines::new(text.as_bytes(), "id").map(|line| line.map_err(|error| error.to_string())).collect()
    }

    fn line(number: u64, key: &str, value: &str) -> Result<Line, String> {
        Ok(Line { number, key: Bytes::from(key.to_owned()), value: Bytes::from(value.to_owned()) })
    }

    #[test]
    fn texts_and_numbers_are_keys_and_lines_are_values() {
        let text = "{\"id\":\"a\",\"n\":1}\r\n\n  {\"id\":7}  \n{\"id\":-1.5}";
        assert_eq!(
            read(text),
            [
                line(1, "a", "{\"id\":\"a\",\"n\":1}"),
                line(3, "7", "{\"id\":7}"),
                line(4, "-1.5", "{\"id\":-1.5}")
            ]
        );
    }

    #[test]
    fn bad_lines_are_named_and_reading_goes_on() {
        let errors = [
            ("{", "line 1: not JSON: EOF while parsing an object at line 1 column 1"),
            ("[1]", "line 1: not a JSON object"),
            ("{\"name\":1,\"x\":2}", "line 1: no field \"id\"; it has name, x"),
            ("{\"id\":null}", "line 1: field \"id\" is null; a key is a text that is not empty, or a number"),
            (
                "{\"id\":\"\"}",
                "line 1: field \"id\" is empty; a key is a text that is not empty, or a number",
            ),
        ];
        for (bad, expected) in errors {
            let text = format!("{bad}\n{{\"id\":1}}\n");
            assert_eq!(read(&text), [Err(expected.to_owned()), line(2, "1", "{\"id\":1}")], "{bad}");
        }
    }
}
