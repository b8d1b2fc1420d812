//! Doors that speak TLS themselves: which settings make one, and that neither a change of its files nor a peer that
//! misbehaves disturbs anybody else.

use std::path::PathBuf;

use service::config::Invalid;
use service::http::{HttpConfig, bind};
use service::tls::TlsConfig;

fn tls(certificate_file: Option<&str>, key_file: Option<&str>) -> TlsConfig {
    TlsConfig { certificate_file: certificate_file.map(PathBuf::from), key_file: key_file.map(PathBuf::from) }
}

/// What the check of the settings says; opening the door says it too.
async fn refusal(config: HttpConfig) -> String {
    let Invalid { key, expected } = config.validate("ingest.http").unwrap_err();
    let sentence = bind("ingest", &config).await.unwrap_err().to_string();
    assert_eq!(sentence, format!("ingest: `{}`: expected {expected}", key.replace(".http", "")));
    format!("`{key}`: expected {expected}")
}

#[cfg(not(feature = "production"))]
#[tokio::test]
async fn a_build_without_tls_says_so_and_opens_no_door() {
    let config = HttpConfig { tls: tls(None, Some("door.key")), ..HttpConfig::default() };
    insta::assert_snapshot!(refusal(config).await, @"`ingest.http.tls.key_file`: expected none: TLS on our own doors needs the cargo feature `production`, which this build does not have");
}

#[cfg(feature = "production")]
mod production {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rcgen::{CertifiedKey, KeyPair};
    use service::http::serve;
    use service::metrics;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::database::eventually;

    /// Longest wait for an answer.
    const LIMIT: Duration = Duration::from_secs(30);

    fn certificate() -> CertifiedKey<KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    /// A directory with the two files of a door.
    struct Files {
        directory: TempDir,
    }

    impl Files {
        fn of(certificate: &CertifiedKey<KeyPair>) -> Self {
            let files = Self { directory: tempfile::tempdir().unwrap() };
            files.put(certificate);
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// Each file is replaced whole, as whoever renews certificates should do it.
        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path("new"), text).unwrap();
            std::fs::rename(self.path("new"), self.path(name)).unwrap();
        }

        fn put(&self, certificate: &CertifiedKey<KeyPair>) {
            self.write("door.pem", &certificate.cert.pem());
            self.write("door.key", &certificate.signing_key.serialize_pem());
        }

        fn config(&self) -> HttpConfig {
            let tls =
                TlsConfig { certificate_file: Some(self.path("door.pem")), key_file: Some(self.path("door.key")) };
            HttpConfig { tls, ..HttpConfig::default() }
        }

        /// A sentence without the path of this machine's temporary directory.
        fn without_directory(&self, sentence: &str) -> String {
            sentence.replace(self.directory.path().to_str().unwrap(), "DIRECTORY")
        }
    }

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Server {
        async fn start(door: &str, config: HttpConfig) -> Self {
            let listener = bind(door, &config).await.unwrap();
            let address = listener.local_addr().unwrap();
            let stop = CancellationToken::new();
            let version = |request: Request| async move { format!("{:?}", request.version()) };
            let router = Router::new().route("/version", get(version));
            let task = tokio::spawn({
                let stop = stop.clone();
                async move { serve(listener, router, &config, stop).await }
            });
            Self { address, stop, task }
        }

        async fn stop(self) {
            self.stop.cancel();
            tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap();
        }

        /// A new connection of a client that trusts `certificate`, and has never been here.
        async fn connect(
            &self,
            certificate: &CertifiedKey<KeyPair>,
            protocol: &str,
        ) -> std::io::Result<TlsStream<TcpStream>> {
            let mut roots = RootCertStore::empty();
            roots.add(certificate.cert.der().clone()).unwrap();
            let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            let mut config = builder.with_root_certificates(roots).with_no_client_auth();
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            let stream = TcpStream::connect(self.address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream).await
        }

        async fn is_served(&self, certificate: &CertifiedKey<KeyPair>) -> bool {
            self.connect(certificate, "http/1.1").await.is_ok()
        }
    }

    type Http1 = hyper::client::conn::http1::SendRequest<Body>;

    async fn http1(stream: TlsStream<TcpStream>) -> Http1 {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn text(response: hyper::Response<hyper::body::Incoming>) -> String {
        let bytes = axum::body::to_bytes(Body::new(response.into_body()), 1024).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    async fn ask(sender: &mut Http1) -> String {
        let request = hyper::Request::get("/version").header("host", "localhost").body(Body::empty()).unwrap();
        sender.ready().await.unwrap();
        text(tokio::time::timeout(LIMIT, sender.send_request(request)).await.unwrap().unwrap()).await
    }

    #[tokio::test]
    async fn both_protocols_are_spoken_and_the_expiry_is_told() {
        let handle = metrics::install().unwrap();
        let certificate = certificate();
        let files = Files::of(&certificate);
        let server = Server::start("both", files.config()).await;
        let stream = server.connect(&certificate, "http/1.1").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(ask(&mut http1(stream).await).await, "HTTP/1.1");

        let stream = server.connect(&certificate, "h2").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::get("https://localhost/version").body(Body::empty()).unwrap();
        assert_eq!(text(sender.send_request(request).await.unwrap()).await, "HTTP/2.0");
        drop(sender);

        // The first of January of 4096, which is what these certificates have.
        let expiry = "flywheel_service_tls_certificate_expiry_timestamp_seconds{door=\"both\"} 67090118400";
        assert!(handle.render().lines().any(|line| line == expiry), "{}", handle.render());
        server.stop().await;
    }

    #[tokio::test]
    async fn a_new_certificate_is_served_to_new_connections_and_a_broken_one_to_nobody() {
        let handle = metrics::install().unwrap();
        let failures = || handle.counter("flywheel_service_tls_reload_failures_total", &[("door", "renewed")]);
        let (first, second) = (certificate(), certificate());
        let files = Files::of(&first);
        let server = Server::start("renewed", files.config()).await;
        let mut standing = http1(server.connect(&first, "http/1.1").await.unwrap()).await;
        assert_eq!(ask(&mut standing).await, "HTTP/1.1");

        files.write("door.key", "no key at all, and longer than nothing");
        eventually("the broken key is counted", || async { failures() == 1 }).await;
        assert!(server.is_served(&first).await);
        // One of two files is not the other's.
        files.write("door.key", &second.signing_key.serialize_pem());
        eventually("the wrong key is counted", || async { failures() == 2 }).await;
        assert!(server.is_served(&first).await);

        files.put(&second);
        eventually("the new certificate is served", || server.is_served(&second)).await;
        assert!(!server.is_served(&first).await, "the old certificate is served as well");
        assert_eq!(ask(&mut standing).await, "HTTP/1.1", "the connection from before goes on");
        drop(standing);
        server.stop().await;
    }

    #[tokio::test]
    async fn peers_that_stall_or_speak_no_tls_disturb_nobody() {
        let certificate = certificate();
        let files = Files::of(&certificate);
        let server = Server::start("disturbed", files.config()).await;
        // More than there are places for handshakes: the others wait until these are out of patience.
        let mut stalled = Vec::new();
        for number in 0..140 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            if number % 2 == 0 {
                // The beginning of a record whose rest never comes.
                stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
            }
            stalled.push(stream);
        }
        let mut plain = TcpStream::connect(server.address).await.unwrap();
        plain.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let asked = async { ask(&mut http1(server.connect(&certificate, "http/1.1").await.unwrap()).await).await };
        // Sooner than any of the stalled would be let go if nobody waited.
        assert_eq!(tokio::time::timeout(Duration::from_secs(9), asked).await.unwrap(), "HTTP/1.1");

        let mut answer = Vec::new();
        let _closed_or_reset = tokio::time::timeout(LIMIT, plain.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
        for mut stream in stalled {
            let closed = tokio::time::timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
            assert!(closed.is_ok(), "a stalled handshake keeps its connection");
        }
        // Nor does one that has just begun hold up the end.
        let _begun = TcpStream::connect(server.address).await.unwrap();
        server.stop().await;
    }

    #[tokio::test]
    async fn settings_that_make_no_tls_are_refused_in_one_sentence() {
        let at = |tls: TlsConfig| HttpConfig { tls, ..HttpConfig::at("0.0.0.0:0") };
        let both = HttpConfig { tls_terminated: true, ..at(tls(Some("door.pem"), Some("door.key"))) };
        let sentences = [
            refusal(at(tls(Some("door.pem"), None))).await,
            refusal(at(tls(None, Some("door.key")))).await,
            refusal(both).await,
        ];
        insta::assert_snapshot!(sentences.join("\n"), @r"
        `ingest.http.tls.key_file`: expected the file of the private key that belongs to the certificate
        `ingest.http.tls.certificate_file`: expected the file of the certificate that `key_file` belongs to
        `ingest.http.tls_terminated`: expected false while `tls` is set: either this door speaks TLS, or something in front of it does
        ");
        let files = Files::of(&certificate());
        let open_to_all = HttpConfig { listen: "0.0.0.0:0".to_owned(), ..files.config() };
        bind("ingest", &open_to_all).await.unwrap();
    }

    #[tokio::test]
    async fn files_that_make_no_certificate_are_refused_in_one_sentence() {
        let (good, other) = (certificate(), certificate());
        let files = Files::of(&good);
        let mut sentences = Vec::new();
        let mut refused = async |certificate: &str, key: Option<&str>| {
            files.write("door.pem", certificate);
            match key {
                Some(key) => files.write("door.key", key),
                None => std::fs::remove_file(files.path("door.key")).unwrap(),
            }
            let sentence = bind("serving", &files.config()).await.unwrap_err().to_string();
            sentences.push(files.without_directory(&sentence));
        };
        let (certificate, key) = (good.cert.pem(), good.signing_key.serialize_pem());
        let lines = key.lines().count();
        let half: String = key.lines().take(lines - 1).map(|line| format!("{line}\n")).collect();
        refused(&certificate, None).await;
        refused(&certificate, Some("")).await;
        refused(&certificate, Some(&certificate)).await;
        refused(&certificate, Some(&half)).await;
        refused(&certificate, Some(&other.signing_key.serialize_pem())).await;
        refused("", Some(&key)).await;
        refused(&key, Some(&key)).await;
        insta::assert_snapshot!(sentences.join("\n"), @r"
        serving: `tls.key_file`: cannot read DIRECTORY/door.key: No such file or directory (os error 2)
        serving: `tls.key_file`: DIRECTORY/door.key holds no private key in PEM form without a pass phrase
        serving: `tls.key_file`: DIRECTORY/door.key holds no private key in PEM form without a pass phrase
        serving: `tls.key_file`: DIRECTORY/door.key is damaged; expected a private key in PEM form without a pass phrase
        serving: `tls.key_file`: DIRECTORY/door.key is not the key of the certificate in DIRECTORY/door.pem
        serving: `tls.certificate_file`: DIRECTORY/door.pem holds no certificate in PEM form
        serving: `tls.certificate_file`: DIRECTORY/door.pem holds no certificate in PEM form
        ");
        let key_text = key.lines().nth(1).unwrap();
        assert!(sentences.iter().all(|sentence| !sentence.contains(key_text)));
    }
}
