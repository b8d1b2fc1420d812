//! Apache Kafka behind tokens (OAUTHBEARER): from a file that is kept fresh, and from an endpoint over TLS.
//!
//! The broker judges tokens with its own validator, by a set of keys. Tokens last some seconds here, and a connection no
//! longer than the token it was opened with: what is not renewed is noticed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bus::kafka::{KafkaConfig, KafkaOauth, KafkaUse};
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{BusError, Retention, TopicSpec};
use hmac::{Hmac, KeyInit as _, Mac as _};
use service::clock::SimulatedClock;
use service::config::Secret;
use service::finding::Verdict;
use service::readiness::Readiness;
use test_servers::{KafkaServer, own_servers_wanted, unique_prefix};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use crate::kafka::{Kafka, Place};
use crate::kafka_doors::{Guarded, Through};
use crate::suite::{Harness, Running, caught_up, eventually, key, publish, start, texts, topics};

/// For whom tokens are made.
pub(crate) const AUDIENCE: &str = "kafka";
const KEY: [u8; 32] = [7; 32];
/// How long a token lasts.
const LASTS: Duration = Duration::from_secs(12);

/// What the broker judges tokens by.
pub(crate) fn key_set() -> String {
    let key = URL_SAFE_NO_PAD.encode(KEY);
    format!(r#"{{"keys":[{{"kty":"oct","kid":"one","alg":"HS256","use":"sig","k":"{key}"}}]}}"#)
}

fn token(key: &[u8], lasts: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let (from, to) = (now.as_secs(), (now + lasts).as_secs());
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"one","typ":"JWT"}"#);
    let claims = format!(r#"{{"sub":"flywheel","aud":"{AUDIENCE}","scope":"kafka","iat":{from},"exp":{to}}}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn server(guarded: &Guarded) -> KafkaServer {
    KafkaServer { bootstrap: guarded.broker.bootstrap.clone(), guarded: None }
}

fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// Everything that a bus does, for as long as several tokens last: questions, administration, publishing, a step.
async fn works_over_several_tokens(kafka: &Kafka) {
    let bus = kafka.bus();
    topics(&*bus, 1).await;
    let running = Running::start(&bus, &Scripted::new("out"));
    let begun = Instant::now();
    let mut published = 0;
    while begun.elapsed() < LASTS * 5 / 2 {
        publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
        published += 1;
        bus.end_positions("in").await.unwrap();
        bus.check().await.unwrap();
        bus.create_topics(&[TopicSpec::new(format!("t{published}"), 1, Retention::default())]).await.unwrap();
        tokio::time::sleep(LASTS / 24).await;
    }
    caught_up(&*bus).await;
    running.stop().await;
    assert_eq!(texts(&*bus).await.len(), published);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_works_by_tokens_of_a_file_that_is_kept_fresh() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let file = guarded.file("token").unwrap();
    put(&file, &token(&KEY, LASTS));
    let stop = CancellationToken::new();
    let fresh = tokio::spawn({
        let (stop, file) = (stop.clone(), file.clone());
        async move {
            while stop.run_until_cancelled(tokio::time::sleep(LASTS / 3)).await.is_some() {
                put(&file, &token(&KEY, LASTS));
            }
        }
    });
    let kafka = Kafka::entering(server(guarded), |prefix| {
        let mut config = guarded.config(Through::Tokens, prefix);
        config.sasl.oauth.token_file = Some(file.clone());
        config
    });
    works_over_several_tokens(&kafka.await).await;
    stop.cancel();
    fresh.await.unwrap();
}

/// Gives tokens over TLS to who shows the right secret, as long as `open` is not zero.
struct Endpoint {
    url: String,
    open: Arc<AtomicU32>,
    given: Arc<AtomicU32>,
}

impl Endpoint {
    async fn start(guarded: &Guarded) -> Self {
        let chain = CertificateDer::pem_file_iter(guarded.file("here.pem").unwrap()).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(guarded.file("here.key").unwrap()).unwrap();
        let tls = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/realm/token", listener.local_addr().unwrap());
        let (open, given) = (Arc::new(AtomicU32::new(1)), Arc::new(AtomicU32::new(0)));
        tokio::spawn({
            let (open, given) = (Arc::clone(&open), Arc::clone(&given));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                    let mut request = String::new();
                    while !request.ends_with("&scope=kafka%20all") {
                        let mut buffer = [0; 1024];
                        match stream.read(&mut buffer).await {
                            Ok(0) | Err(_) => break,
                            Ok(read) => request.push_str(std::str::from_utf8(&buffer[..read]).unwrap()),
                        }
                    }
                    let shown = format!("authorization: Basic {}\r\n", STANDARD.encode("flywheel:s%3A1"));
                    let is_right = request.starts_with("POST /realm/token ")
                        && request.contains(&shown)
                        && request.contains("grant_type=client_credentials");
                    let (status, body) = if open.load(Ordering::SeqCst) == 0 {
                        ("503 Service Unavailable", String::new())
                    } else if is_right {
                        given.fetch_add(1, Ordering::SeqCst);
                        let token = token(&KEY, LASTS);
                        ("200 OK", format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":12}}"#))
                    } else {
                        ("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned())
                    };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                    if stream.write_all(answer.as_bytes()).await.is_ok() {
                        // Whoever asked may be gone.
                        let _ = stream.shutdown().await;
                    }
                }
            }
        });
        Self { url, open, given }
    }

    fn config(&self, guarded: &Guarded, prefix: &str) -> KafkaConfig {
        let mut config = guarded.config(Through::Tokens, prefix);
        config.sasl.oauth = KafkaOauth {
            token_endpoint_url: Some(self.url.clone()),
            client_id: "flywheel".to_owned(),
            client_secret: Some(Secret::new("s:1\n")),
            scope: Some("kafka all".to_owned()),
            ca_file: guarded.file("ca.pem"),
            token_file: None,
        };
        config
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_works_by_tokens_of_an_endpoint() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let endpoint = Endpoint::start(guarded).await;
    let kafka = Kafka::entering(server(guarded), |prefix| endpoint.config(guarded, prefix)).await;
    works_over_several_tokens(&kafka).await;
    assert!(endpoint.given.load(Ordering::SeqCst) >= 6, "two handles, three tokens each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_new_tokens_it_is_told_and_with_new_ones_it_goes_on() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let endpoint = Endpoint::start(guarded).await;
    let kafka = Kafka::entering(server(guarded), |prefix| endpoint.config(guarded, prefix)).await;
    let bus = kafka.bus();
    topics(&*bus, 1).await;
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let watching = tokio::spawn(bus::watch::watch(Arc::clone(&bus), readiness.clone(), stop.clone()));
    endpoint.open.store(0, Ordering::SeqCst);
    eventually("readiness goes", || async {
        let waiting = readiness.waiting_for();
        if waiting == ["log"] { Ok(()) } else { Err(waiting) }
    })
    .await;
    let refused = eventually("a typed error", || async {
        match bus.check().await {
            Err(BusError::NotAdmitted(sentence)) => Ok(sentence),
            other => Err(other),
        }
    })
    .await;
    assert!(refused.contains("token"), "{refused}");
    endpoint.open.store(1, Ordering::SeqCst);
    eventually("readiness comes back", || async { if readiness.is_ready() { Ok(()) } else { Err(bus.check().await) } })
        .await;
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    stop.cancel();
    watching.await.unwrap();
}

/// Whoever looks at everything enters as the bus does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_enters_by_tokens_and_says_when_there_is_none() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let endpoint = Endpoint::start(guarded).await;
    let good = endpoint.config(guarded, &unique_prefix());
    let findings = bus::kafka::look(&good, &KafkaUse::default(), Duration::from_secs(10)).await;
    for check in ["kafka.token", "kafka.entry", "kafka.version", "kafka.transactions"] {
        let found = findings.iter().find(|found| found.check == check);
        assert!(found.is_some_and(|found| found.verdict == Verdict::Ok), "{check}: {findings:?}");
    }
    let mut wrong = good;
    wrong.sasl.oauth.client_secret = Some(Secret::new("wrong"));
    let findings = bus::kafka::look(&wrong, &KafkaUse::default(), Duration::from_secs(10)).await;
    let told: Vec<String> = findings
        .iter()
        .filter(|found| found.verdict == Verdict::Failed)
        .map(|found| format!("{}: {} -> {}", found.check, found.says, found.advice.as_deref().unwrap_or_default()))
        .collect();
    let told = told.join("\n").replace(&endpoint.url, "URL");
    insta::assert_snapshot!(told, @"kafka.token: the token endpoint URL gives client `flywheel` no token: 401 (invalid_client) -> correct `[bus.kafka.sasl.oauth]`, or ask whoever runs the token endpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_open_nothing_are_told_in_one_sentence() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let endpoint = Endpoint::start(guarded).await;
    let place = Place::new().await;
    let files = tempfile::tempdir().unwrap();
    let in_file = |name: &str, text: &str| {
        let file = files.path().join(name);
        put(&file, text);
        let mut config = guarded.config(Through::Tokens, &unique_prefix());
        config.sasl.oauth.token_file = Some(file);
        config
    };
    let asked = |change: &dyn Fn(&mut KafkaOauth)| {
        let mut config = endpoint.config(guarded, &unique_prefix());
        change(&mut config.sasl.oauth);
        config
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let cases = [
        ("signed by somebody else", in_file("stranger", &token(&[9; 32], LASTS))),
        ("no token", in_file("empty", "\n")),
        ("ended", in_file("ended", &token(&KEY, Duration::ZERO))),
        ("wrong secret", asked(&|oauth| oauth.client_secret = Some(Secret::new("wrong")))),
        ("nobody there", asked(&|oauth| oauth.token_endpoint_url = Some(format!("https://{free}/realm/token")))),
        ("unknown authority", asked(&|oauth| oauth.ca_file = guarded.file("another-ca.pem"))),
        ("no authority", asked(&|oauth| oauth.ca_file = guarded.file("here.key"))),
    ];
    let mut told = Vec::new();
    for (case, config) in cases {
        let address = config.bootstrap_servers.clone();
        let refused = place.open("refused", config, &SimulatedClock::new(start())).await.map(drop).unwrap_err();
        let sentence = [
            (files.path().to_str().unwrap(), "FOLDER"),
            (guarded.files.path().to_str().unwrap(), "FOLDER"),
            (&endpoint.url, "URL"),
            (&address, "HOST:PORT"),
            (&free, "HOST:PORT"),
        ];
        let sentence = sentence.into_iter().fold(refused.to_string(), |text, (from, to)| text.replace(from, to));
        told.push(format!("{case}: {sentence}"));
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    signed by somebody else: HOST:PORT does not accept our token: {"status":"invalid_token"}
    no token: `bus.kafka.sasl.oauth.token_file`: FOLDER/empty holds no token
    ended: `bus.kafka.sasl.oauth.token_file`: FOLDER/ended holds a token that has ended
    wrong secret: the token endpoint URL gives client `flywheel` no token: 401 (invalid_client)
    nobody there: the token endpoint https://HOST:PORT/realm/token can not be used: Connection refused (os error 111)
    unknown authority: the token endpoint URL can not be used: invalid peer certificate: BadSignature
    no authority: `bus.kafka.sasl.oauth.ca_file`: FOLDER/here.key can not be used: it holds no certificate in PEM
    "#);
}
