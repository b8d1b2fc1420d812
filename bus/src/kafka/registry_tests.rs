//! The wire format, without a registry to ask; and what a registry is asked.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::kafka::config::KafkaSchemaRegistry;

/// Schemas as if these numbers had been registered.
fn registered(numbers: &[(&'static str, Fingerprint, u32)]) -> Schemas {
    let mut config = KafkaConfig::default();
    // Nothing listens there: whatever is asked for has no answer.
    config.schema_registry.url = Some("http://127.0.0.1:1/apis/ccompat/v7/".to_owned());
    config.request_timeout_ms = 100;
    Schemas {
        registry: Registry::of(&config).unwrap(),
        numbers: numbers.iter().map(|(topic, fingerprint, number)| ((*topic, *fingerprint), *number)).collect(),
        fingerprints: RwLock::new(numbers.iter().map(|(_, fingerprint, number)| (*number, *fingerprint)).collect()),
    }
}

fn none() -> Schemas {
    Schemas { registry: None, numbers: HashMap::new(), fingerprints: RwLock::default() }
}

const ONE: Fingerprint = [1; 8];

/// A registry that answers everything so, and the first lines of what it is asked.
async fn answering(status: &'static str, body: &'static str) -> (KafkaConfig, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = KafkaConfig::default();
    config.schema_registry.url = Some(format!("http://{}/apis", listener.local_addr().unwrap()));
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut head = Vec::new();
            while head.last().is_none_or(|line: &String| !line.trim_end().is_empty()) {
                let mut line = String::new();
                if stream.read_line(&mut line).await.is_ok_and(|read| read > 0) { head.push(line) } else { break }
            }
            let length = head
                .iter()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok());
            let mut request = vec![0; length.unwrap_or(0)];
            if head.is_empty() || stream.read_exact(&mut request).await.is_err() {
                continue;
            }
            heard.lock().push(head.remove(0));
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            // Whoever asked may be gone.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (config, asked)
}

#[test]
fn a_value_stands_at_the_brokers_as_confluent_readers_want_it() {
    let schemas = registered(&[(topics::TELEMETRY_RAW, ONE, 0x0102_0304)]);
    let value = with_fingerprint(ONE, b"datum");
    assert_eq!(&value[..], b"\xC3\x01\x01\x01\x01\x01\x01\x01\x01\x01datum");
    let written = schemas.outgoing(topics::TELEMETRY_RAW, &value).unwrap();
    assert_eq!(&written[..], b"\x00\x01\x02\x03\x04datum");
    assert_eq!(schemas.incoming(topics::TELEMETRY_RAW, written), Ok(value.clone()));
    // From before there was a registry.
    assert_eq!(schemas.incoming(topics::TELEMETRY_RAW, value.clone()), Ok(value.clone()));
    // Numbers belong to a subject, and so to a topic.
    assert!(matches!(schemas.outgoing(topics::TELEMETRY_CLEAN, &value), Err(BusError::Invalid(_))));
}

#[test]
fn what_is_none_of_ours_stays_as_it_is() {
    let schemas = registered(&[(topics::TELEMETRY_RAW, ONE, 7)]);
    for (topic, value) in [("in", &b"\x00\x00\x00\x00\x07datum"[..]), (topics::TELEMETRY_RAW, b"\x00"), ("in", b"")] {
        let value = Bytes::copy_from_slice(value);
        assert_eq!(schemas.outgoing(topic, &value), Ok(value.clone()));
        assert_eq!(schemas.incoming(topic, value.clone()), Ok(value));
    }
    let confusing = Bytes::from_static(b"\x00\x00\x00\x00\x07datum");
    assert!(matches!(schemas.outgoing(topics::TELEMETRY_RAW, &confusing), Err(BusError::Invalid(_))));
    let unregistered = with_fingerprint([2; 8], b"datum");
    assert!(matches!(schemas.outgoing(topics::TELEMETRY_RAW, &unregistered), Err(BusError::Invalid(_))));
}

#[tokio::test]
async fn a_number_that_nobody_can_explain_waits() {
    let value = Bytes::from_static(b"\x00\x00\x00\x00\x07datum");
    let with = registered(&[]);
    assert_eq!(with.incoming(topics::TELEMETRY_RAW, value), Err(7));
    let why = with.ask(topics::TELEMETRY_RAW, 7).await.unwrap_err();
    assert!(matches!(&why, BusError::SchemaUnavailable { schema: 7, .. }) && why.may_pass(), "{why}");
    insta::assert_snapshot!(why.to_string().replace(|digit: char| digit.is_ascii_digit(), "N"), @"a value of telemetry.raw.vN has schema N, and its reader waits for it: the schema registry http://NNN.N.N.N:N/apis/ccompat/vN can not be used: Connection refused (os error NNN)");
    let without = none().ask(topics::TELEMETRY_RAW, 7).await.unwrap_err();
    insta::assert_snapshot!(without, @"a value of telemetry.raw.v1 has schema 7, and its reader waits for it: `bus.kafka.schema_registry.url` names no registry to ask");
}

#[tokio::test]
async fn whoever_looks_registers_nothing_and_lacks_nothing_that_is_not_there() {
    let (config, asked) = answering("404 Not Found", r#"{"error_code":40403,"message":"there is none"}"#).await;
    let schemas = Schemas::open(&config, Opened::ToLook).await.unwrap();
    let looked = std::mem::take(&mut *asked.lock());
    let is_looked_up = |line: &String| line.starts_with("POST /apis/subjects/") && line.contains("-value HTTP");
    assert!(looked.len() >= topics::ALL.len() && looked.iter().all(is_looked_up), "{looked:?}");
    let value = with_fingerprint(*RawEvent::schemas()[0].rabin_fingerprint(), b"datum");
    assert!(matches!(schemas.outgoing(topics::TELEMETRY_RAW, &value), Err(BusError::Invalid(_))));

    let refused = Schemas::open(&config, Opened::ToWork).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("takes no schemas there"), "{refused}");
    assert!(asked.lock()[0].contains("-value/versions HTTP"), "{asked:?}");
    let looks_up = KafkaConfig {
        schema_registry: KafkaSchemaRegistry { register: false, ..config.schema_registry.clone() },
        ..config
    };
    let refused = Schemas::open(&looks_up, Opened::ToWork).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("does not know the schema of telemetry.raw.v1-value (there is none)"), "{refused}");
}

#[tokio::test]
async fn what_keeps_us_from_a_registry_is_told_with_what_to_do() {
    let mut told = Vec::new();
    for (status, body) in [
        ("200 OK", r#"["p.telemetry.raw.v1-value","theirs"]"#),
        ("200 OK", "<html>welcome</html>"),
        ("401 Unauthorized", r#"{"error_code":401,"message":"who are you?"}"#),
        ("404 Not Found", "<html>nothing</html>"),
        ("503 Service Unavailable", ""),
    ] {
        let (config, asked) = answering(status, body).await;
        let registry = Registry::of(&config).unwrap().unwrap();
        let said = match registry.subjects("p.").await {
            Ok(subjects) => subjects.join(", "),
            Err((says, advice)) => format!("{says} -> {advice}"),
        };
        told.push(said.replace(config.schema_registry.url.as_ref().unwrap(), "URL"));
        assert_eq!(*asked.lock(), ["GET /apis/subjects?subjectPrefix=p. HTTP/1.1\r\n"], "it is asked once");
    }
    insta::assert_snapshot!(told.join("\n"), @r"
    p.telemetry.raw.v1-value, theirs
    the schema registry URL answers without a list of subjects -> check the path in `bus.kafka.schema_registry.url`
    the schema registry URL does not let us in (who are you?) -> check `bus.kafka.schema_registry.username` and `bus.kafka.schema_registry.password`
    the schema registry URL takes no schemas there -> check the path in `bus.kafka.schema_registry.url`
    the schema registry URL answers 503 -> look whether it is well
    ");
}

#[test]
fn every_topic_of_ours_has_a_schema_and_no_other() {
    for topic in topics::ALL {
        assert!(!schemas_of(topic).is_empty(), "{topic}");
    }
    assert!(schemas_of("anonymizer.changelog.v1").is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_is_written_is_read_again(number in any::<u32>(), datum in proptest::collection::vec(any::<u8>(), 0..64)) {
        let schemas = registered(&[(topics::PREFERENCE_PAIRS, ONE, number)]);
        let value = with_fingerprint(ONE, &datum);
        let written = schemas.outgoing(topics::PREFERENCE_PAIRS, &value).unwrap();
        prop_assert_eq!(schemas.incoming(topics::PREFERENCE_PAIRS, written), Ok(value));
    }
}
