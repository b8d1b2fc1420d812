//! Tokens for OAUTHBEARER: from a file that something else keeps fresh, or from an endpoint that gives them for the
//! credentials of a client.
//!
//! A client of the brokers asks for a token when it is made, and again before the token ends. It asks where nothing may
//! wait, so what it is given is kept here, and renewed by the handle (`keeper.rs`) well before its end. Clients that
//! nobody polls do not ask; they are given each new token (`client.rs`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use parking_lot::Mutex;
use serde::Deserialize;
use service::config::Secret;

use super::config::{KafkaConfig, KafkaOauth, SaslMechanism};
use super::web::{Web, basic, encoded};
use crate::error::BusError;

/// How long a token is taken to last that does not say so.
const UNSAID: Duration = Duration::from_secs(300);
/// A token is renewed when this part of its time is over.
const RENEWED_AFTER: f64 = 0.7;
/// A file is read that often.
const READ_EVERY: Duration = Duration::from_secs(1);
/// An endpoint that did not give a token is asked that often.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// What is shown to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: Secret,
    /// Who we are: for the client's own log.
    pub(super) principal: String,
    pub(super) ends: SystemTime,
}

impl Token {
    /// Milliseconds since 1970.
    pub(super) fn ends_ms(&self) -> i64 {
        let since_1970 = self.ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
    }
}

enum Source {
    File(PathBuf),
    Endpoint { web: Box<Web>, url: String, client_id: String, client_secret: Secret, scope: Option<String> },
}

/// The token of now, and where the next one comes from.
pub(super) struct Tokens {
    source: Source,
    state: Mutex<State>,
}

struct State {
    token: Option<Token>,
    /// Why the last attempt to get one failed.
    failure: Option<String>,
    next_attempt: SystemTime,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// None, when we do not enter by tokens.
    pub(super) fn of(config: &KafkaConfig) -> Result<Option<Arc<Self>>, BusError> {
        if config.sasl.mechanism != Some(SaslMechanism::OauthBearer) {
            return Ok(None);
        }
        let KafkaOauth { token_file, token_endpoint_url, client_id, client_secret, scope, ca_file } =
            &config.sasl.oauth;
        let source = match (token_file, token_endpoint_url) {
            (Some(file), _) => Source::File(file.clone()),
            (None, url) => {
                let timeout = Duration::from_millis(config.request_timeout_ms);
                let web = Web::new(ca_file.as_deref(), timeout)
                    .map(Box::new)
                    .map_err(|why| BusError::Invalid(format!("`bus.kafka.sasl.oauth.ca_file`: {why}")))?;
                let (url, client_id) = (url.clone().unwrap_or_default(), client_id.clone());
                let client_secret = client_secret.clone().unwrap_or_default();
                Source::Endpoint { web, url, client_id, client_secret, scope: scope.clone() }
            }
        };
        let state = State { token: None, failure: None, next_attempt: SystemTime::UNIX_EPOCH };
        Ok(Some(Arc::new(Self { source, state: Mutex::new(state) })))
    }

    /// The token of now.
    ///
    /// # Errors
    /// There is none that still lasts: the sentence says why.
    pub(super) fn current(&self) -> Result<Token, String> {
        let state = self.state.lock();
        match (&state.token, &state.failure) {
            (Some(token), _) if token.ends > SystemTime::now() => Ok(token.clone()),
            (_, Some(failure)) => Err(failure.clone()),
            (_, None) => Err("no token was asked for yet".to_owned()),
        }
    }

    /// Gets another token when it is time to; whether there is a new one.
    ///
    /// # Errors
    /// There is none to be had, and the one that is there does not last: the sentence says why.
    pub(super) async fn renew(&self) -> Result<bool, String> {
        let begun = SystemTime::now();
        if self.state.lock().next_attempt > begun {
            return Ok(false);
        }
        let got = self.get().await;
        let mut state = self.state.lock();
        match got {
            Ok(token) => {
                let is_new = state.token.as_ref() != Some(&token);
                let lasts = token.ends.duration_since(begun).unwrap_or_default();
                state.next_attempt = match self.source {
                    Source::File(_) => begun + READ_EVERY,
                    Source::Endpoint { .. } => begun + lasts.mul_f64(RENEWED_AFTER),
                };
                state.token = Some(token);
                state.failure = None;
                Ok(is_new)
            }
            Err(why) => {
                state.next_attempt = match self.source {
                    Source::File(_) => begun + READ_EVERY,
                    Source::Endpoint { .. } => begun + ASK_EVERY,
                };
                let lasts = state.token.as_ref().is_some_and(|token| token.ends > SystemTime::now());
                if state.failure.as_ref() != Some(&why) {
                    tracing::warn!(lasts, "no new token for the Kafka brokers: {why}");
                }
                state.failure = Some(why.clone());
                if lasts { Ok(false) } else { Err(why) }
            }
        }
    }

    async fn get(&self) -> Result<Token, String> {
        match &self.source {
            Source::File(file) => {
                let refused = |why: &str| format!("`bus.kafka.sasl.oauth.token_file`: {} {why}", file.display());
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|error| refused(&format!("can not be read: {error}")))?;
                let text = text.trim();
                if text.is_empty() || text.contains(char::is_whitespace) {
                    return Err(refused("holds no token"));
                }
                let token = token(text, None);
                if token.ends <= SystemTime::now() { Err(refused("holds a token that has ended")) } else { Ok(token) }
            }
            Source::Endpoint { web, url, client_id, client_secret, scope } => {
                let mut form = "grant_type=client_credentials".to_owned();
                if let Some(scope) = scope {
                    form.push_str("&scope=");
                    form.push_str(&encoded(scope));
                }
                let secret = client_secret.expose_secret().trim_end_matches(['\r', '\n']);
                // As RFC 6749 has it, both are encoded as in a form before they are joined.
                let request = Request::post(url)
                    .header(AUTHORIZATION, basic(&encoded(client_id), &encoded(secret)))
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::new(Bytes::from(form)));
                let refused = |why: &str| format!("the token endpoint {url} {why}");
                let request = request.map_err(|error| refused(&format!("is no address: {error}")))?;
                let answer = web.send(request).await.map_err(|why| refused(&format!("can not be used: {why}")))?;
                if !answer.status.is_success() {
                    let said = serde_json::from_slice::<Refusal>(&answer.body).map(|refusal| refusal.error);
                    let said = said.map_or_else(|_| String::new(), |said| format!(" ({said})"));
                    let status = answer.status.as_u16();
                    return Err(refused(&format!("gives client `{client_id}` no token: {status}{said}")));
                }
                let granted: Granted =
                    serde_json::from_slice(&answer.body).map_err(|_| refused("answers without a token"))?;
                Ok(token(granted.access_token.expose_secret(), granted.expires_in.map(Duration::from_secs)))
            }
        }
    }
}

/// What an endpoint answers.
#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    expires_in: Option<u64>,
}

/// What it answers when it gives no token.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// What tokens say of themselves that are signed JSON. Whether it is true is for the brokers to judge.
#[derive(Deserialize, Default)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

fn token(text: &str, lasts: Option<Duration>) -> Token {
    let claims = text.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: Claims = claims.and_then(|claims| serde_json::from_slice(&claims).ok()).unwrap_or_default();
    let said = claims.exp.filter(|seconds| *seconds >= 0.0);
    let said = said.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?));
    let ends = said.unwrap_or_else(|| SystemTime::now() + lasts.unwrap_or(UNSAID));
    Token { text: Secret::new(text), principal: claims.sub.unwrap_or_else(|| "flywheel".to_owned()), ends }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn in_file(file: &std::path::Path) -> Tokens {
        let mut config = KafkaConfig::default();
        config.sasl.mechanism = Some(SaslMechanism::OauthBearer);
        config.sasl.oauth.token_file = Some(file.to_owned());
        Arc::into_inner(Tokens::of(&config).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn what_a_token_says_of_itself_is_believed() {
        let said = token(&signed(r#"{"sub":"me","exp":4000000000}"#), Some(Duration::from_secs(5)));
        assert_eq!((said.principal.as_str(), said.ends_ms()), ("me", 4_000_000_000_000));
        let unsaid = token("opaque", Some(Duration::from_secs(3_600)));
        assert_eq!(unsaid.principal, "flywheel");
        assert!(unsaid.ends > SystemTime::now() + Duration::from_secs(3_000));
        assert!(token(&signed(r#"{"exp":-1}"#), None).ends > SystemTime::now());
    }

    #[tokio::test]
    async fn a_file_is_read_again_and_what_it_holds_must_last() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let tokens = in_file(&file);
        assert!(tokens.current().is_err());
        let why = tokens.renew().await.unwrap_err();
        assert!(why.starts_with("`bus.kafka.sasl.oauth.token_file`: ") && why.contains("can not be read"), "{why}");
        assert_eq!(tokens.current(), Err(why));
        let again = || tokens.state.lock().next_attempt = SystemTime::UNIX_EPOCH;
        for (text, expected) in [("two words", "holds no token"), (&signed(r#"{"exp":1}"#), "has ended")] {
            std::fs::write(&file, text).unwrap();
            again();
            assert!(tokens.renew().await.unwrap_err().contains(expected), "{text}");
        }
        let one = signed(r#"{"sub":"one","exp":4000000000}"#);
        std::fs::write(&file, format!("{one}\n")).unwrap();
        assert_eq!(tokens.renew().await, Ok(false), "it is not time yet");
        again();
        assert_eq!(tokens.renew().await, Ok(true));
        assert_eq!(tokens.current().unwrap().text, Secret::new(one));
        again();
        assert_eq!(tokens.renew().await, Ok(false), "it is the same");
        // One that lasts is kept while there is no other.
        std::fs::remove_file(&file).unwrap();
        again();
        assert_eq!(tokens.renew().await, Ok(false));
        assert_eq!(tokens.current().unwrap().principal, "one");
    }
}
