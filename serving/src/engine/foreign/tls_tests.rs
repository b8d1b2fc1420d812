//! An engine that speaks TLS.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::testing::{Act, FakeEngine};
use super::*;

/// Speaks TLS before an engine that does not. Returns where, and the certificate.
async fn with_tls(engine: &FakeEngine) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let tls = tls.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let (acceptor, engine) = (TlsAcceptor::from(Arc::new(tls)), engine.address);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A peer that does not trust us goes away here.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect(engine).await.unwrap();
                let _either_may_close_first = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (format!("https://localhost:{port}"), made.cert.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_asked_by_tls_when_it_is_trusted() {
    let engine = FakeEngine::start(|_| Act::Write(&["get_name()"])).await;
    let (urls, certificate) = with_tls(&engine).await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let another = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    // Nothing is late here.
    let minute = 60_000;
    let config = |ca_file| EngineConfig {
        urls: urls.clone(),
        ca_file: Some(ca_file),
        connect_timeout_ms: minute,
        first_byte_timeout_ms: minute,
        idle_timeout_ms: minute,
        ..EngineConfig::default()
    };
    let question = || Bytes::from(json!({ "max_tokens": 1 }).to_string());
    for (authority, is_trusted) in [(certificate, true), (another.cert.pem(), false)] {
        let asked = ForeignEngine::new("big", &config(write("authority.pem", &authority))).unwrap();
        let answer = asked.ask(&asked.addresses[0], question(), |_| false).await;
        let outcome = answer.map(|written| written.text().to_owned());
        assert_eq!(outcome, if is_trusted { Ok("a".to_owned()) } else { Err(Failure::Unreachable) });
    }
    let refused = ForeignEngine::new("big", &config(write("empty.pem", ""))).err().unwrap().to_string();
    assert!(refused.contains("serving.engines.big") && refused.contains("no certificate"), "{refused}");
}
