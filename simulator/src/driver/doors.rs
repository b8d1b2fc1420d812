//! HTTP clients of the two doors.

use super::client::{HttpAnswer, HttpClient, HttpError};
use super::sse::SseReader;
use bytes::Bytes;
use events::vocabulary::Decision;
use events::wire::{
    ActionEvent, ClientEvent, EndEvent, EventStatus, SuggestionRequest, TelemetryAnswer, TelemetryBatch,
};
use hyper::StatusCode;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the doors are, and the limits of a client.
#[derive(Clone)]
pub struct DoorSettings {
    /// Base address of serving, like `http://127.0.0.1:7070`; with `https` in a build with the cargo feature
    /// `production`.
    pub serving: String,
    /// Base address of ingest.
    pub ingest: String,
    /// PEM: authorities one of which has signed the certificates at `https` addresses; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// API key that may ask for suggestions.
    pub suggestion_key: String,
    /// API key that may report.
    pub telemetry_key: String,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Tries of a request that a door could not take or serve just then.
    pub attempts: u32,
    /// Most bytes of one answer.
    pub answer_bytes: usize,
}

impl DoorSettings {
    /// Doors at these addresses, one key for both.
    #[must_use]
    pub fn new(serving: impl Into<String>, ingest: impl Into<String>, key: impl Into<String>) -> Self {
        let key = key.into();
        Self {
            serving: serving.into().trim_end_matches('/').to_owned(),
            ingest: ingest.into().trim_end_matches('/').to_owned(),
            ca_file: None,
            suggestion_key: key.clone(),
            telemetry_key: key,
            timeout: Duration::from_secs(20),
            attempts: 6,
            answer_bytes: 1 << 20,
        }
    }
}

impl std::fmt::Debug for DoorSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DoorSettings")
            .field("serving", &self.serving)
            .field("ingest", &self.ingest)
            .finish_non_exhaustive()
    }
}

/// A request that came to nothing. Never holds text of a document.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Settings with which no door can be reached.
    #[error(transparent)]
    Settings(HttpError),
    /// No answer.
    #[error("{door} does not answer")]
    Transport {
        /// `serving` or `ingest`.
        door: &'static str,
        /// Why.
        source: HttpError,
    },
    /// An answer that refuses.
    #[error("{door} answered {status} ({code})")]
    Refused {
        /// `serving` or `ingest`.
        door: &'static str,
        /// HTTP status.
        status: StatusCode,
        /// Stable code of the problem, or empty.
        code: String,
    },
    /// An answer that is not what the wire format says.
    #[error("the answer of {door} is malformed: {reason}")]
    Malformed {
        /// `serving` or `ingest`.
        door: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The door refused one event for good.
    #[error("ingest refused event {sequence} ({code})")]
    EventRefused {
        /// The event.
        sequence: u64,
        /// Stable code.
        code: String,
    },
}

/// What serving answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// In served order.
    pub actions: Vec<ActionEvent>,
    /// The decision and its receipt.
    pub end: EndEvent,
    /// From the request to the first complete action.
    pub first_action: Option<Duration>,
    /// From the request to the end.
    pub total: Duration,
}

#[derive(Deserialize, Default)]
struct ProblemCode {
    #[serde(default)]
    code: String,
}

/// A client of both doors; cheap to clone, connections are shared.
#[derive(Debug, Clone)]
pub struct Doors {
    client: HttpClient,
    settings: DoorSettings,
}

const SERVING: &str = "serving";
const INGEST: &str = "ingest";

impl Doors {
    /// A client with these settings.
    ///
    /// # Errors
    /// An address that is none, or authorities that cannot be used.
    pub fn new(settings: DoorSettings) -> Result<Self, DriverError> {
        let addresses = [settings.serving.as_str(), settings.ingest.as_str()];
        let client = HttpClient::new(&addresses, settings.ca_file.as_deref(), settings.timeout);
        Ok(Self { client: client.map_err(DriverError::Settings)?, settings })
    }

    /// Asks whether somebody is at both doors; what they answer does not matter.
    ///
    /// # Errors
    /// The first door that does not answer.
    pub async fn knock(&self) -> Result<(), DriverError> {
        for (door, address) in [(SERVING, &self.settings.serving), (INGEST, &self.settings.ingest)] {
            let answered = self.client.get(&format!("{address}/")).await;
            answered.map_err(|source| DriverError::Transport { door, source })?;
        }
        Ok(())
    }

    /// Asks for a suggestion and reads the answer to its end.
    ///
    /// # Errors
    /// When serving does not answer, refuses, or answers something else than the wire format.
    pub async fn suggest(&self, request: &SuggestionRequest) -> Result<Answer, DriverError> {
        let url = format!("{}/v1/suggestions", self.settings.serving);
        let start = Instant::now();
        let mut response = self.post(SERVING, &url, &self.settings.suggestion_key, request).await?;
        let (mut reader, mut actions, mut first_action, mut bytes) = (SseReader::default(), Vec::new(), None, 0);
        let lost = |source| DriverError::Transport { door: SERVING, source };
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            bytes += chunk.len();
            if bytes > self.settings.answer_bytes {
                return Err(malformed(SERVING, "longer than the limit"));
            }
            for event in reader.push(&chunk) {
                match event.name.as_str() {
                    "action" => {
                        first_action = first_action.or_else(|| Some(start.elapsed()));
                        actions.push(parsed::<ActionEvent>(&event.data)?);
                    }
                    "end" => {
                        return Ok(Answer { actions, end: parsed(&event.data)?, first_action, total: start.elapsed() });
                    }
                    "error" => {
                        let code = serde_json::from_str::<ProblemCode>(&event.data).unwrap_or_default().code;
                        return Err(DriverError::Refused { door: SERVING, status: StatusCode::OK, code });
                    }
                    // Later versions may say more.
                    _ => {}
                }
            }
        }
        Err(malformed(SERVING, "it ended before its end event"))
    }

    /// Reports events of one session. Events that the door could not take just then are sent again, unchanged.
    ///
    /// # Errors
    /// When ingest does not answer, or refuses the batch or one of its events.
    pub async fn report(
        &self,
        person: &str,
        session_id: events::SessionId,
        reported: &[ClientEvent],
    ) -> Result<(), DriverError> {
        let mut events = reported.to_vec();
        for attempt in 0..self.settings.attempts.max(1) {
            if events.is_empty() {
                return Ok(());
            }
            wait_before(attempt).await;
            let batch = TelemetryBatch {
                person: person.to_owned(),
                session_id,
                offset_encoding: events::OffsetEncoding::Utf8,
                events,
            };
            let url = format!("{}/v1/telemetry", self.settings.ingest);
            let mut response = self.post(INGEST, &url, &self.settings.telemetry_key, &batch).await?;
            let body = response.whole(self.settings.answer_bytes).await;
            let body = body.map_err(|source| DriverError::Transport { door: INGEST, source })?;
            let body = body.ok_or_else(|| malformed(INGEST, "longer than the limit"))?;
            let answer: TelemetryAnswer =
                serde_json::from_slice(&body).map_err(|error| malformed(INGEST, &error.to_string()))?;
            if answer.results.len() != batch.events.len() {
                return Err(malformed(INGEST, "not one result per event"));
            }
            events = Vec::new();
            for (event, result) in batch.events.into_iter().zip(answer.results) {
                match result.status {
                    EventStatus::Admitted | EventStatus::Filtered => {}
                    EventStatus::Unavailable => events.push(event),
                    EventStatus::Refused => {
                        return Err(DriverError::EventRefused {
                            sequence: event.sequence,
                            code: result.code.unwrap_or_default(),
                        });
                    }
                }
            }
        }
        if events.is_empty() {
            Ok(())
        } else {
            Err(DriverError::Refused {
                door: INGEST,
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "unavailable".to_owned(),
            })
        }
    }

    /// Sends one JSON body; a door that is busy, or takes no connection, is asked again, within bounds.
    async fn post(
        &self,
        door: &'static str,
        url: &str,
        key: &str,
        body: &(impl serde::Serialize + Sync),
    ) -> Result<HttpAnswer, DriverError> {
        let transport = |source| DriverError::Transport { door, source };
        let body = serde_json::to_vec(body).map_err(|error| transport(HttpError::Written(error.to_string())))?;
        let body = Bytes::from(body);
        let mut attempt = 0;
        loop {
            wait_before(attempt).await;
            attempt += 1;
            let is_last = attempt >= self.settings.attempts;
            let mut response = match self.client.post(url, key, body.clone()).await {
                Err(error) if error.is_unconnected() && !is_last => continue,
                response => response.map_err(transport)?,
            };
            let status = response.status;
            if status.is_success() {
                return Ok(response);
            }
            let is_busy = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
            if !is_busy || is_last {
                let said = response.whole(self.settings.answer_bytes).await.ok().flatten().unwrap_or_default();
                let code = serde_json::from_slice::<ProblemCode>(&said).unwrap_or_default().code;
                return Err(DriverError::Refused { door, status, code });
            }
        }
    }
}

/// Doubling pauses from 25 ms; none before the first try.
async fn wait_before(attempt: u32) {
    if attempt > 0 {
        tokio::time::sleep(Duration::from_millis(25 << attempt.min(6))).await;
    }
}

fn malformed(door: &'static str, reason: &str) -> DriverError {
    DriverError::Malformed { door, reason: reason.to_owned() }
}

fn parsed<T: for<'de> Deserialize<'de>>(data: &str) -> Result<T, DriverError> {
    // Only the place and kind of the fault: serde may quote what it read.
    serde_json::from_str(data)
        .map_err(|error| malformed(SERVING, &format!("{:?} at column {}", error.classify(), error.column())))
}

impl Answer {
    /// Whether serving decided to show something.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.end.decision == Decision::Shown && !self.actions.is_empty()
    }
}
