//! Server-sent events out of a byte stream, however it is cut.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Collects bytes into events.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    buffer: Vec<u8>,
    name: String,
    data: String,
}

impl SseReader {
    /// Takes bytes in and returns the events that they complete. Bytes that are no UTF-8 are replaced.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<SseEvent> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(event) = self.line(line.trim_end_matches(['\n', '\r'])) {
                events.push(event);
            }
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            return (!data.is_empty()).then_some(SseEvent { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" if self.data.is_empty() => value.clone_into(&mut self.data),
            "data" => {
                self.data.push('\n');
                self.data.push_str(value);
            }
            // Comments keep a connection alive; ids and retry times do not matter here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &str = ": hello\n\nevent: action\ndata: {\"a\": \"é\"}\n\nevent: end\r\ndata: 1\r\ndata: 2\r\n\r\n\
                          event: lost\ndata: x\n";

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_stream_is_cut(cuts in proptest::collection::vec(0_usize..90, 0..8)) {
            let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.min(STREAM.len())).collect();
            places.extend([0, STREAM.len()]);
            places.sort_unstable();
            let mut reader = SseReader::default();
            let mut events = Vec::new();
            for pair in places.windows(2) {
                events.extend(reader.push(&STREAM.as_bytes()[pair[0]..pair[1]]));
            }
            let found: Vec<(&str, &str)> =
                events.iter().map(|event| (event.name.as_str(), event.data.as_str())).collect();
            prop_assert_eq!(found, [("action", "{\"a\": \"é\"}"), ("end", "1\n2")]);
        }
    }
}
