//! Reads server-sent events (`text/event-stream`) out of pieces that are cut anywhere. Pure.

/// One event with data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEvent {
    /// `message` when the server gave none.
    pub name: String,
    pub data: String,
}

/// An event grew beyond what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {EVENT_BYTES_MAX} bytes")]
pub struct EventTooLarge;

/// A run of 10,000 partitions fits.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What has come and is no whole event yet.
#[derive(Debug, Default)]
pub struct ServerEvents {
    /// A line without its end.
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
}

impl ServerEvents {
    /// Takes the next piece in and answers the events that it completes.
    pub fn take(&mut self, piece: &[u8]) -> Result<Vec<ServerEvent>, EventTooLarge> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(EventTooLarge);
            }
            if self.line.pop_if(|byte| *byte == b'\n').is_some() {
                self.line.pop_if(|byte| *byte == b'\r');
                let line = std::mem::take(&mut self.line);
                events.extend(self.take_line(&String::from_utf8_lossy(&line)));
            }
        }
        Ok(events)
    }

    /// An empty line ends the event; a line that begins with a colon only keeps the connection alive.
    fn take_line(&mut self, line: &str) -> Option<ServerEvent> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return std::mem::take(&mut self.has_data).then_some(ServerEvent { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> ServerEvent {
        ServerEvent { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_whole_wherever_the_pieces_are_cut() {
        let text = ": hello\n\nevent: partition\ndata: {\"a\":\"ü\"}\n\nid: 4\r\nevent:finished\r\ndata: 1\r\ndata: 2\r\n\r\n\
                    data:x\n\nevent: without data\n\nevent: cut off\ndata: never";
        let expected =
            [event("partition", "{\"a\":\"ü\"}"), event("finished", "1\n2"), event("message", "x")];
        for size in 1..=text.len() {
            let mut events = ServerEvents::default();
            let pieces = text.as_bytes().chunks(size);
            let found: Vec<_> = pieces.flat_map(|piece| events.take(piece).unwrap()).collect();
            assert_eq!(found, expected, "pieces of {size} bytes");
        }
    }

    #[test]
    fn an_event_without_end_is_given_up() {
        let mut events = ServerEvents::default();
        let piece = vec![b'x'; EVENT_BYTES_MAX / 4];
        let results: Vec<bool> = (0..5).map(|_| events.take(&piece).is_ok()).collect();
        assert_eq!(results, [true, true, true, true, false]);
    }
}
