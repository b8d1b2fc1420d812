//! The way of a request to the upstream, and of its answer back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use axum::response::IntoResponse;
use bytes::Bytes;
use events::{IdSource, Sha256Digest};
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use metrics::{counter, histogram};
use service::clock::SharedClock;
use service::problem::{Problem, unknown_method};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ServingConfig;
use crate::door::Door;
use crate::error::ServingError;
use crate::exposure::ExposureQueue;
use crate::outgoing::{Client, Outgoing};
use crate::proxy::body::{AnswerBody, RequestBody, RequestCopy, Tap};
use crate::proxy::config::Upstream;
use crate::proxy::copy::{Budget, Copying, Missed};
use crate::proxy::failure::{broke_off, late, problem_of};
use crate::proxy::headers;
use crate::proxy::memory::{Caller, Memory};
use crate::proxy::recorder::{Exchange, Recorder, TapQueue, Tapped, Tapping, became};
use crate::proxy::tabby::has_select_kind;
use crate::proxy::tunnel::{self, Wanted};
use crate::target::{Target, has_user};

/// Within which time a connection that was given up already shows that it was. What takes longer reached the upstream.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// What the proxy stands on.
pub(crate) struct ProxyDeps<'a> {
    pub(crate) config: &'a ServingConfig,
    pub(crate) door: Arc<Door>,
    pub(crate) exposures: ExposureQueue,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) stop: CancellationToken,
}

/// The door in front of the upstream.
pub(crate) struct Proxy {
    target: Target,
    client: Client,
    /// The same, with a new connection for each request.
    anew: Client,
    host: Option<HeaderValue>,
    /// How this process names itself on the way.
    via: HeaderValue,
    answer_timeout: Duration,
    idle_timeout: Duration,
    places: Arc<Semaphore>,
    tunnels: TaskTracker,
    taps: Taps,
    recording: TaskTracker,
    /// Ends tunnels and recording.
    stop: CancellationToken,
}

/// What taps share.
#[derive(Clone)]
struct Taps {
    queue: TapQueue,
    budget: Arc<Budget>,
    body_bytes: usize,
    clock: SharedClock,
}

impl Taps {
    fn copying(&self) -> Copying {
        Copying::new(&self.budget, self.body_bytes)
    }
}

impl Proxy {
    /// Opens the way, and begins to record.
    pub(crate) fn start(upstream: Upstream, deps: ProxyDeps<'_>) -> Result<Self, ServingError> {
        let Upstream { config, target, tenant } = upstream;
        config.validate()?;
        let (queue, receiver) = TapQueue::new(config.record_queue);
        let recorder = Recorder {
            tenant,
            door: deps.door,
            exposures: deps.exposures,
            ids: deps.ids,
            openai: config.openai_model().unwrap_or_else(|| config.model.clone()),
            tabby: config.model.clone(),
            memory: Memory::new(config.remembered_completions),
            timeout: Duration::from_millis(deps.config.authentication_timeout_ms),
            drain: Duration::from_millis(deps.config.drain_ms),
            began: Instant::now(),
            secret: None,
            secret_failed: None,
        };
        let outgoing = Outgoing {
            section: "upstream",
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            pool_idle: Duration::from_millis(config.pool_idle_ms),
            pool_connections: config.pool_connections,
            is_encrypted: target.is_encrypted(),
            ca_file: config.ca_file.as_deref(),
        };
        let client = outgoing.client()?;
        let anew = Outgoing { pool_connections: 0, ..outgoing }.client()?;
        let recording = TaskTracker::new();
        recording.spawn(recorder.run(receiver, deps.stop.clone()));
        recording.close();
        Ok(Self {
            client,
            anew,
            target,
            host: config.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            via: via(),
            answer_timeout: Duration::from_millis(config.answer_timeout_ms),
            idle_timeout: Duration::from_millis(config.idle_timeout_ms),
            places: Arc::new(Semaphore::new(config.tunnels)),
            tunnels: TaskTracker::new(),
            taps: Taps {
                queue,
                budget: Budget::new(config.record_bytes),
                body_bytes: config.max_body_bytes,
                clock: deps.clock,
            },
            recording,
            stop: deps.stop,
        })
    }

    /// Ends tunnels, and records what was tapped, within the drain period.
    pub(crate) async fn finish(&self) {
        self.stop.cancel();
        self.tunnels.close();
        self.tunnels.wait().await;
        self.recording.wait().await;
    }

    /// The upstream's answer, or why there is none.
    pub(crate) async fn forward(&self, request: Request) -> Response<Body> {
        let answered = self.pass(request).await;
        let code = answered.as_ref().map_or_else(Problem::code, |_| "ok");
        counter!("flywheel_serving_upstream_requests_total", "code" => code).increment(1);
        answered.unwrap_or_else(IntoResponse::into_response)
    }

    async fn pass(&self, mut request: Request) -> Result<Response<Body>, Problem> {
        let began = Instant::now();
        let Some(uri) = self.target.uri(request.uri()) else {
            // Nothing but CONNECT asks for no path.
            return Err(unknown_method().await);
        };
        if headers::is_ours(request.headers(), &self.via) {
            let title = "The server behind this one is this one";
            return Err(Problem::new(StatusCode::LOOP_DETECTED, "upstream_loop", title));
        }
        let tap = RequestTap::of(&request, &self.taps, began);
        let wanted = self.wanted(&mut request)?;
        let host = self.host_of(&request);
        let (head, body) = request.into_parts();
        // What asks for an answer and changes nothing may be asked again: nobody is told more than once what was done.
        let is_question = match &tap {
            Some(tap) => tap.tapping == Tapping::Completion,
            None => matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) && body.is_end_stream(),
        };
        let (mut tap, body) = match tap {
            Some(tap) => {
                let (body, copy) = RequestBody::copied(body, self.taps.copying());
                (Some((tap, copy)), Body::new(body))
            }
            None => (None, body),
        };
        let mut asked = Request::new(());
        *asked.method_mut() = head.method;
        *asked.uri_mut() = uri;
        *asked.version_mut() = Version::HTTP_11;
        *asked.headers_mut() = head.headers;
        headers::make_ours(asked.headers_mut(), &self.via);
        if head.version == Version::HTTP_2 {
            headers::join_cookies(asked.headers_mut());
        }
        if let Some(host) = host {
            asked.headers_mut().insert(HOST, host);
        }
        if let Some(wanted) = &wanted {
            headers::set_upgrade(asked.headers_mut(), wanted.protocol.clone());
        }

        let again = (is_question && wanted.is_none()).then(|| asked.clone());
        let asked = asked.map(|()| body);
        let answered = tokio::time::timeout(self.answer_timeout, async {
            match (self.client.request(asked).await, again) {
                (Err(error), Some(again)) if broke_off(&error) && began.elapsed() < GIVEN_UP => {
                    let Some(body) = self.body_again(tap.as_mut()) else { return Err(error) };
                    tracing::debug!(%error, "asking again over a new connection");
                    self.anew.request(again.map(|()| body)).await
                }
                (answered, _) => answered,
            }
        })
        .await;
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the upstream gave no answer");
                return Err(problem_of(&error));
            }
            Err(_) => return Err(late("no answer in time")),
        };
        histogram!("flywheel_serving_upstream_first_byte_seconds").record(began.elapsed());
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(wanted) = wanted else {
                let title = "The server behind this one speaks of another protocol unasked";
                return Err(Problem::new(StatusCode::BAD_GATEWAY, "upstream_failed", title));
            };
            return Ok(tunnel::join(wanted, answer, &self.tunnels, &self.stop));
        }
        Ok(self.hand_on(answer, tap))
    }

    /// The body of a request once more; none when the upstream did not have all of it, or it was not copied.
    fn body_again(&self, tap: Option<&mut (RequestTap, RequestCopy)>) -> Option<Body> {
        let Some((_, copy)) = tap else { return Some(Body::empty()) };
        let copied = copy.try_recv().ok()?.ok()?;
        let bytes = Bytes::copy_from_slice(copied.bytes());
        // Its room is the next copy's.
        drop(copied);
        let (body, again) = RequestBody::copied(Body::from(bytes), self.taps.copying());
        *copy = again;
        Some(Body::new(body))
    }

    /// What the client wants its connection to become, and a place for that.
    fn wanted(&self, request: &mut Request) -> Result<Option<Wanted>, Problem> {
        if request.version() != Version::HTTP_11 {
            return Ok(None);
        }
        let Some(protocol) = headers::upgrade(request.headers()) else { return Ok(None) };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Problem::unavailable("tunnels_full", "as many connections as allowed are upgraded", Duration::from_secs(1))
        })?;
        Ok(Some(Wanted { protocol, client: hyper::upgrade::on(request), place }))
    }

    /// Whom the upstream is told that the client asked: the configured name, or what the client said. HTTP/2 says it in
    /// the address.
    fn host_of(&self, request: &Request) -> Option<HeaderValue> {
        let asked = || {
            let authority = request.uri().authority().filter(|authority| !has_user(authority))?;
            HeaderValue::from_str(authority.as_str()).ok()
        };
        self.host.clone().or_else(asked)
    }

    fn hand_on(&self, answer: Response<Incoming>, tap: Option<(RequestTap, RequestCopy)>) -> Response<Body> {
        let (mut head, body) = answer.into_parts();
        let tap = tap.and_then(|(tap, copy)| tap.answered(&self.taps, head.status, &head.headers, copy));
        headers::strip(&mut head.headers);
        let has_length = head.headers.contains_key(CONTENT_LENGTH);
        let body = AnswerBody::new(body, has_length, self.idle_timeout, tap);
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        // Words of the upstream's own; nothing else of its connection concerns ours.
        if let Some(reason) = head.extensions.remove::<ReasonPhrase>() {
            response.extensions_mut().insert(reason);
        }
        response
    }
}

/// A name on the way that no other process has.
fn via() -> HeaderValue {
    // What tells processes apart must be random also where ids follow a seed.
    let marks = std::collections::hash_map::RandomState::new();
    let mark = std::hash::BuildHasher::hash_one(&marks, std::process::id());
    HeaderValue::try_from(format!("1.1 flywheel-{mark:016x}")).unwrap_or(HeaderValue::from_static("1.1 flywheel"))
}

/// A tapped request whose answer is awaited.
struct RequestTap {
    tapping: Tapping,
    caller: Caller,
    has_kind: bool,
    began: Instant,
    received_at: events::Timestamp,
}

impl RequestTap {
    /// The tap of a request, if its address has one.
    fn of(request: &Request, taps: &Taps, began: Instant) -> Option<Self> {
        if request.method() != Method::POST {
            return None;
        }
        let tapping = match request.uri().path() {
            "/v1/completions" => Tapping::Completion,
            "/v1/events" => Tapping::Event,
            _ => return None,
        };
        Some(Self {
            tapping,
            caller: caller(request.headers()),
            has_kind: request.uri().query().is_some_and(has_select_kind),
            began,
            received_at: taps.clock.now(),
        })
    }

    /// The upstream answers. What it refused counts for nothing: it alone knows whom to trust. What a client says is
    /// whole by now; for a completion the answer is tapped.
    fn answered(
        self,
        taps: &Taps,
        status: StatusCode,
        headers: &HeaderMap,
        mut request: RequestCopy,
    ) -> Option<Box<dyn Tap>> {
        if !status.is_success() {
            became(self.tapping, "refused");
            return None;
        }
        match self.tapping {
            Tapping::Event => {
                match request.try_recv().unwrap_or(Err(Missed::Unfinished)) {
                    Ok(request) => taps.queue.offer(Tapped {
                        caller: self.caller,
                        at: self.began,
                        received_at: self.received_at,
                        exchange: Exchange::Event { has_kind: self.has_kind, request },
                    }),
                    Err(missed) => became(Tapping::Event, missed.as_str()),
                }
                None
            }
            Tapping::Completion => {
                let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
                let stream = b"text/event-stream";
                let is_stream =
                    content_type.get(..stream.len()).is_some_and(|start| start.eq_ignore_ascii_case(stream));
                Some(Box::new(AnswerTap {
                    taps: taps.clone(),
                    caller: self.caller,
                    is_stream,
                    request,
                    copying: taps.copying(),
                }))
            }
        }
    }
}

/// Who asks: the digest of the credential, as its holder can compute it.
fn caller(headers: &HeaderMap) -> Caller {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let credential = match value.split_first_chunk::<7>() {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case(b"bearer ") => credential,
        _ => value,
    };
    let credential = credential.trim_ascii();
    (!credential.is_empty()).then(|| Sha256Digest::of(credential))
}

/// The tap of a completion's answer.
struct AnswerTap {
    taps: Taps,
    caller: Caller,
    is_stream: bool,
    request: RequestCopy,
    copying: Copying,
}

impl Tap for AnswerTap {
    fn data(&mut self, data: &[u8]) {
        self.copying.push(data);
    }

    fn end(mut self: Box<Self>, whole: bool) {
        let request = self.request.try_recv().unwrap_or(Err(Missed::Unfinished));
        let Self { taps, caller, is_stream, copying, .. } = *self;
        match request.and_then(|request| Ok((request, copying.finish()?))) {
            Ok((request, answer)) => taps.queue.offer(Tapped {
                caller,
                at: Instant::now(),
                received_at: taps.clock.now(),
                exchange: Exchange::Completion { is_stream, is_whole: whole, request, answer },
            }),
            Err(missed) => became(Tapping::Completion, missed.as_str()),
        }
    }
}
