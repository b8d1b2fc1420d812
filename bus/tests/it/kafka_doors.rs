//! Apache Kafka behind TLS and passwords: the bus through such a door, and what is said when it does not open.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::BusError;
use bus::kafka::{KafkaConfig, KafkaSasl, KafkaTls, SaslMechanism};
use bus::testing::scripted::{Action, Scripted, scripted};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use service::clock::SimulatedClock;
use service::config::Secret;
use service::readiness::Readiness;
use tempfile::TempDir;
use test_servers::{KafkaDoor, KafkaOfMine, KafkaServer, own_servers_wanted, unique_prefix};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::kafka::{Kafka, Place, config};
use crate::kafka_tokens;
use crate::suite::{self, Harness, Running, caught_up, eventually, key, publish, start, texts};

/// How long a start that cannot succeed may take at most.
const BOUND: Duration = Duration::from_secs(20);

/// The broker, and the files with which its doors are opened.
pub(crate) struct Guarded {
    pub(crate) broker: KafkaOfMine,
    pub(crate) files: TempDir,
}

/// Each has a certificate of our authority.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Through {
    /// Passwords, under the name of this machine.
    Passwords = 0,
    /// The same, under another name.
    AnotherName = 1,
    /// Certificates.
    Certificates = 2,
    /// Passwords, asked for again every other second.
    AskedAgain = 3,
    /// Tokens.
    Tokens = 4,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "authority");
    params.distinguished_name = name;
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes key and certificate, for Kafka in one file, for us in two.
fn certify(authority: &CertifiedIssuer<'static, KeyPair>, names: &[&str], folder: &Path, file: &str) -> PathBuf {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, authority).unwrap();
    let both = folder.join(format!("{file}.both.pem"));
    std::fs::write(&both, format!("{}{}", key.serialize_pem(), certificate.pem())).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), certificate.pem()).unwrap();
    both
}

impl Guarded {
    async fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let folder = files.path();
        let ours = authority();
        std::fs::write(folder.join("ca.pem"), ours.pem()).unwrap();
        std::fs::write(folder.join("another-ca.pem"), authority().pem()).unwrap();
        let here = certify(&ours, &["127.0.0.1", "localhost"], folder, "here");
        let elsewhere = certify(&ours, &["kafka.example.com"], folder, "elsewhere");
        certify(&ours, &["flywheel"], folder, "own");
        let tls = |file: &Path| {
            vec![("ssl.keystore.type", "PEM".to_owned()), ("ssl.keystore.location", file.display().to_string())]
        };
        let passwords = |file: &Path| {
            let mut settings = tls(file);
            settings.push(("sasl.enabled.mechanisms", "SCRAM-SHA-512".to_owned()));
            let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
            settings.push(("scram-sha-512.sasl.jaas.config", login.to_owned()));
            KafkaDoor { protocol: "SASL_SSL", settings }
        };
        let mut certificates = KafkaDoor { protocol: "SSL", settings: tls(&here) };
        certificates.settings.extend([
            ("ssl.client.auth", "required".to_owned()),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", folder.join("ca.pem").display().to_string()),
        ]);
        let mut asked_again = passwords(&here);
        asked_again.settings.push(("connections.max.reauth.ms", "2000".to_owned()));
        let key_set = folder.join("keys.json");
        std::fs::write(&key_set, kafka_tokens::key_set()).unwrap();
        let mut tokens = KafkaDoor { protocol: "SASL_SSL", settings: tls(&here) };
        let package = "org.apache.kafka.common.security.oauthbearer";
        tokens.settings.extend([
            ("sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()),
            // No connection lasts longer than the token that it was opened with.
            ("connections.max.reauth.ms", "3600000".to_owned()),
            ("oauthbearer.sasl.jaas.config", format!("{package}.OAuthBearerLoginModule required;")),
            (
                "oauthbearer.sasl.server.callback.handler.class",
                format!("{package}.OAuthBearerValidatorCallbackHandler"),
            ),
            ("oauthbearer.sasl.oauthbearer.jwks.endpoint.url", format!("file://{}", key_set.display())),
            ("oauthbearer.sasl.oauthbearer.expected.audience", kafka_tokens::AUDIENCE.to_owned()),
        ]);
        let allowed = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{}", key_set.display());
        let doors = vec![passwords(&here), passwords(&elsewhere), certificates, asked_again, tokens];
        let broker = test_servers::kafka_with_doors(doors, vec![allowed]).await;
        Self { broker, files }
    }

    /// One for all tests of this file: it ends with the process.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Guarded> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.files.path().join(name))
    }

    fn sasl(&self, password: &str) -> KafkaSasl {
        let (mechanism, username) = (Some(SaslMechanism::ScramSha512), self.broker.user.to_owned());
        KafkaSasl { mechanism, username, password: Some(Secret::new(password)), ..KafkaSasl::default() }
    }

    /// Enters as the door wants it.
    pub(crate) fn config(&self, through: Through, prefix: &str) -> KafkaConfig {
        let sasl = match through {
            Through::Certificates => KafkaSasl::default(),
            Through::Tokens => KafkaSasl { mechanism: Some(SaslMechanism::OauthBearer), ..KafkaSasl::default() },
            _ => self.sasl(self.broker.password),
        };
        let tls = KafkaTls { enabled: true, ca_file: self.file("ca.pem"), ..KafkaTls::default() };
        let address = &self.broker.doors[through as usize];
        KafkaConfig { tls, sasl, request_timeout_ms: 5_000, ..config(address, prefix) }
    }

    /// The bus through a door.
    async fn bus(&self, through: Through) -> Kafka {
        let server = KafkaServer { bootstrap: self.broker.bootstrap.clone(), guarded: None };
        Kafka::entering(server, |prefix| self.config(through, prefix)).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_works_by_passwords_within_tls() {
    if own_servers_wanted() {
        let guarded = Guarded::shared().await;
        suite::publishes_and_tails_in_order(guarded.bus(Through::Passwords).await).await;
        suite::a_step_handles_each_record_once_over_restarts(guarded.bus(Through::Passwords).await).await;
        suite::control_records_apply_where_they_stand(guarded.bus(Through::Passwords).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_works_by_a_certificate_of_ours() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let server = KafkaServer { bootstrap: guarded.broker.bootstrap.clone(), guarded: None };
    let kafka = Kafka::entering(server, |prefix| {
        let mut config = guarded.config(Through::Certificates, prefix);
        config.tls.certificate_file = guarded.file("own.pem");
        config.tls.key_file = guarded.file("own.key");
        config
    });
    suite::publishes_and_tails_in_order(kafka.await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_that_does_not_open_is_told_in_one_sentence_and_in_time() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let place = Place::new().await;
    let good = |through| guarded.config(through, &unique_prefix());
    let change = |through, change: &dyn Fn(&mut KafkaConfig)| {
        let mut config = good(through);
        change(&mut config);
        config
    };
    let plain_text = KafkaTls::default();
    let nobody = KafkaSasl::default();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let cases = [
        ("wrong password", change(Through::Passwords, &|config| config.sasl = guarded.sasl("wrong"))),
        ("unknown user", change(Through::Passwords, &|config| config.sasl.username = "nobody".into())),
        (
            "unknown mechanism",
            change(Through::Passwords, &|config| {
                config.sasl.mechanism = Some(SaslMechanism::Plain);
            }),
        ),
        ("no user", change(Through::Passwords, &|config| config.sasl = nobody.clone())),
        (
            "unknown authority",
            change(Through::Passwords, &|config| {
                config.tls.ca_file = guarded.file("another-ca.pem");
            }),
        ),
        ("authorities of the system", change(Through::Passwords, &|config| config.tls.ca_file = None)),
        ("another name", good(Through::AnotherName)),
        ("plain text", change(Through::Passwords, &|config| config.tls = plain_text.clone())),
        ("no certificate", good(Through::Certificates)),
        (
            "a certificate of another authority",
            change(Through::Certificates, &|config| {
                config.tls.certificate_file = guarded.file("stranger.pem");
                config.tls.key_file = guarded.file("stranger.key");
            }),
        ),
        (
            "TLS where there is none",
            change(Through::Passwords, &|config| {
                config.bootstrap_servers = guarded.broker.bootstrap.clone();
            }),
        ),
        ("nobody there", change(Through::Passwords, &|config| config.bootstrap_servers = free.clone())),
        (
            "no such host",
            change(Through::Passwords, &|config| {
                config.bootstrap_servers = "kafka.invalid:9092".to_owned();
            }),
        ),
        (
            "no key",
            change(Through::Certificates, &|config| {
                config.tls.certificate_file = guarded.file("own.pem");
                config.tls.key_file = guarded.file("ca.pem");
            }),
        ),
        ("no such file", change(Through::Passwords, &|config| config.tls.ca_file = guarded.file("absent.pem"))),
    ];
    certify(&authority(), &["flywheel"], guarded.files.path(), "stranger");
    let mut told = String::new();
    for (case, config) in cases {
        let begun = Instant::now();
        let address = config.bootstrap_servers.clone();
        let refused = place.open("refused", config, &SimulatedClock::new(start())).await.map(drop).unwrap_err();
        assert!(begun.elapsed() < BOUND, "{case}: {:?}", begun.elapsed());
        let folder = guarded.files.path().display().to_string();
        let sentence = refused.to_string().replace(&address, "HOST:PORT").replace(&folder, "FOLDER");
        assert!(!sentence.contains('\n') && !sentence.contains("wrong\""), "{case}: {sentence}");
        writeln!(told, "{case}: {sentence}").unwrap();
    }
    insta::assert_snapshot!(told, @r"
    wrong password: HOST:PORT does not let user `flywheel-test` in, who tries by SCRAM-SHA-512 with `bus.kafka.sasl.password`: Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512
    unknown user: HOST:PORT does not let user `nobody` in, who tries by SCRAM-SHA-512 with `bus.kafka.sasl.password`: Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512
    unknown mechanism: HOST:PORT does not know PLAIN, as `bus.kafka.sasl.mechanism` says, but SCRAM-SHA-512
    no user: the log's storage failed: the Kafka brokers do not answer: HOST:PORT ends the connection at once, and may want a user (`bus.kafka.sasl.mechanism`)
    unknown authority: the certificate of HOST:PORT is not to be trusted: no authority in `bus.kafka.tls.ca_file` vouches for it, or it is not for the name 127.0.0.1, or its time is over
    authorities of the system: the certificate of HOST:PORT is not to be trusted: no authority of this system vouches for it (`bus.kafka.tls.ca_file` names others), or it is not for the name 127.0.0.1, or its time is over
    another name: the certificate of HOST:PORT is not to be trusted: no authority in `bus.kafka.tls.ca_file` vouches for it, or it is not for the name 127.0.0.1, or its time is over
    plain text: the log's storage failed: the Kafka brokers do not answer: HOST:PORT ends the connection at once, and may want TLS (`bus.kafka.tls.enabled` = true)
    no certificate: HOST:PORT wants a certificate of ours, and `bus.kafka.tls.certificate_file` names none
    a certificate of another authority: HOST:PORT does not accept the certificate in `bus.kafka.tls.certificate_file`
    TLS where there is none: the log's storage failed: the Kafka brokers do not answer: HOST:PORT ends the connection at once, and may not speak TLS (`bus.kafka.tls.enabled` = false)
    nobody there: the log's storage failed: the Kafka brokers do not answer: nothing listens at HOST:PORT
    no such host: the log's storage failed: the Kafka brokers do not answer: there is no host of the name in HOST:PORT
    no key: `bus.kafka.tls.key_file`: FOLDER/ca.pem holds no private key in PEM
    no such file: `bus.kafka.tls.ca_file`: FOLDER/absent.pem can not be read: No such file or directory (os error 2)
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_becomes_wrong_is_told_and_the_bus_goes_on_when_it_is_right_again() {
    if !own_servers_wanted() {
        return;
    }
    let guarded = Guarded::shared().await;
    let set = |password: &'static str| async move {
        tokio::task::spawn_blocking(move || guarded.broker.set_password("rotating", password)).await.unwrap();
    };
    set("one").await;
    let server = KafkaServer { bootstrap: guarded.broker.bootstrap.clone(), guarded: None };
    let kafka = Kafka::entering(server, |prefix| KafkaConfig {
        sasl: KafkaSasl { username: "rotating".to_owned(), ..guarded.sasl("one") },
        ..guarded.config(Through::AskedAgain, prefix)
    });
    let kafka = kafka.await;
    let bus = kafka.bus();
    suite::topics(&*bus, 1).await;
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let watching = tokio::spawn(bus::watch::watch(Arc::clone(&bus), readiness.clone(), stop.clone()));
    let running = Running::start(&bus, &Scripted::new("out"));
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    caught_up(&*bus).await;
    assert!(readiness.is_ready());

    set("two").await;
    eventually("readiness goes", || async {
        let waiting = readiness.waiting_for();
        if waiting == ["log"] { Ok(()) } else { Err(waiting) }
    })
    .await;
    let refused = eventually("a typed error", || async {
        match bus.end_positions("in").await {
            Err(BusError::NotAdmitted(sentence)) => Ok(sentence),
            other => Err(other),
        }
    })
    .await;
    assert!(refused.contains("does not let user `rotating` in"), "{refused}");
    // Each of its clients is told by itself, and the last one that was is heard.
    let checked = bus.check().await;
    assert!(
        matches!(&checked, Err(BusError::NotAdmitted(refused)) if refused.contains("user `rotating`")),
        "{checked:?}"
    );

    set("one").await;
    eventually("readiness comes back", || async { if readiness.is_ready() { Ok(()) } else { Err(bus.check().await) } })
        .await;
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    caught_up(&*bus).await;
    running.stop().await;
    assert_eq!(texts(&*bus).await.len(), 2);
    stop.cancel();
    watching.await.unwrap();
}
