//! `flywheel doctor` on the parts of a production platform: what it says of real servers, and that a platform lives on
//! the very rights that it prints.

use serde_json::{Value, json};
use sqlx::Executor as _;
use test_servers::{KafkaRight, KafkaServer, S3Bucket, kafka, kafka_allow, s3_bucket, servers_wanted, unique_prefix};

use crate::audit;
use crate::doctor::{told, verdicts};
use crate::harness::{Place, Said, edits, until};
use crate::s3;

/// A section for a broker that everybody may enter.
fn log_section(bootstrap: &str, prefix: &str) -> String {
    format!(
        "[bus]\nkind = \"kafka\"\nprefix = \"{prefix}\"\n[bus.kafka]\nbootstrap_servers = \"{bootstrap}\"\n\
         replication = 1\nsingle_broker = true\nrequest_timeout_ms = 15000\n"
    )
}

fn database_section(url: &str) -> String {
    format!("[database]\nkind = \"postgresql\"\nurl = \"{url}\"\nmax_connections = 4\n")
}

/// The checks that did not go well.
fn wrong(said: &Said) -> Vec<(String, String)> {
    verdicts(said).into_iter().filter(|(_, verdict)| verdict != "ok").collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(check, verdict)| ((*check).to_owned(), (*verdict).to_owned())).collect()
}

/// One broker is a platform's own choice, and a warning nevertheless.
const ONE_BROKER: (&str, &str) = ("kafka.brokers", "warning");

async fn run(url: &str, statements: String) {
    let pool = migrations::connect(url, 1).await.unwrap();
    pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statements))).await.unwrap();
    pool.close().await;
}

/// The rights that are printed for Kafka.
fn kafka_rights(printed: &Value) -> Vec<KafkaRight> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut rights = Vec::new();
    for right in printed["kafka"]["rights"].as_array().unwrap() {
        for operation in right["operations"].as_array().unwrap() {
            rights.push(KafkaRight {
                principal: text(&printed["kafka"]["principal"]),
                resource: text(&right["resource"]),
                name: text(&right["name"]),
                is_prefix: right["pattern"] == "prefixed",
                operation: text(operation),
            });
        }
    }
    if let Ok(left_out) = std::env::var("LEAVE_OUT") {
        rights.retain(|right: &KafkaRight| {
            !format!("{} {} {}", right.operation, right.resource, right.name).contains(&left_out)
        });
    }
    rights
}

/// Something is said about everything under a prefix, and about the cluster: what is not allowed there is forbidden.
fn nothing_else(prefix: &str) -> Vec<KafkaRight> {
    let of = |resource: &str, name: &str, is_prefix| KafkaRight {
        principal: "User:nobody".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        is_prefix,
        operation: "Describe".to_owned(),
    };
    vec![
        of("topic", prefix, true),
        of("group", prefix, true),
        of("transactional-id", prefix, true),
        of("cluster", "kafka-cluster", false),
    ]
}

/// The section of a user of Kafka, with the password in a file.
fn user_section(place: &Place, server: &KafkaServer, prefix: &str) -> Option<String> {
    let (user, password, address) = server.guarded.as_ref()?;
    let file = place.path().join("kafka-password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    Some(format!(
        "{}[bus.kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = \"{user}\"\npassword_file = \"{}\"\n",
        log_section(address, prefix),
        file.display()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_lives_on_the_rights_that_are_printed() {
    if !servers_wanted() {
        return;
    }
    let (place, prefix, server) = (Place::new(""), unique_prefix(), kafka().await);
    let Some(log) = user_section(&place, &server, &prefix) else { return };
    let bucket = s3::section(&s3_bucket().await, place.path());
    let owner_url = test_servers::postgresql_database().await;
    let role = format!("serves_{}", owner_url.rsplit_once('/').unwrap().1);
    place.configure(&format!("{}{log}{bucket}", database_section(&owner_url)));
    assert_eq!(place.say(&["migrate"]).code, Some(0));

    let grants = place.say(&["doctor", "--print-acls=postgresql", "--role", &role, "--migrating-role", "postgres"]);
    assert_eq!(grants.code, Some(0), "{grants:?}");
    run(&owner_url, format!("CREATE ROLE \"{role}\" LOGIN")).await;
    let role_url = owner_url.replacen("://postgres@", &format!("://{role}@"), 1);
    place.configure(&format!("{}{log}{bucket}", database_section(&role_url)));
    kafka_allow(&server.bootstrap, nothing_else(&prefix)).await;
    // Forbidding takes a moment to reach the broker.
    until("the brokers to forbid what was not allowed", || async {
        let said = place.say(&["doctor", "--json", "--timeout", "20"]);
        assert!(told(&said, "database.schema").0.starts_with("the role may not see"), "{said:?}");
        assert!(told(&said, "database.rights").0.contains("lacks SELECT on _sqlx_migrations"), "{said:?}");
        told(&said, "kafka.topics").0.contains("may not create it").then_some(())
    })
    .await;
    let said = place.say(&["doctor", "--json", "--timeout", "20"]);
    assert!(said.code == Some(2) && told(&said, "kafka.rights").0.contains("Read on group"), "{said:?}");
    assert!(told(&said, "kafka.transactions").0.contains("may not use transactional ids"), "{said:?}");

    run(&owner_url, grants.stdout).await;
    let printed = place.say(&["doctor", "--print-acls", "--json"]).json();
    kafka_allow(&server.bootstrap, kafka_rights(&printed)).await;
    until("the rights to reach the broker", || async {
        let said = place.say(&["doctor", "--json", "--timeout", "20"]);
        (wrong(&said) == pairs(&[ONE_BROKER])).then_some(())
    })
    .await;
    let before = place.say(&["doctor", "--json", "--timeout", "20"]);
    assert!(told(&before, "kafka.topics").0.contains("9 topics are not there yet, and can be made"), "{before:?}");
    assert!(told(&before, "clock.database").0.contains("within"), "{before:?}");
    assert!(told(&before, "clock.bucket").0.contains("within"), "{before:?}");
    assert!(told(&before, "bucket.objects").0.contains("can be put"), "{before:?}");

    // Everything that a platform does without training.
    let running = place.up().await;
    let key = place.key();
    assert_eq!(place.report(&key, &edits(1..=3)).await.status().as_u16(), 200);
    place.ask(&key, "fn total(&self) {}\n").await;
    for command in [
        &["consent", "ceiling", "code"][..],
        &["consent", "set", "ada", "code"],
        &["repositories", "allow", "*"],
        &["repositories", "deny", "a/b"],
        &["dead-letters", "list"],
        &["models", "list"],
        &["rollout", "list"],
        &["keys", "create", "--json"],
    ] {
        let said = place.say(command);
        assert_eq!(said.code, Some(0), "{command:?}: {said:?}");
    }
    let pool = migrations::connect(&role_url, 1).await.unwrap();
    until("the outbox to be relayed", || async {
        let waiting: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox").fetch_one(&pool).await.ok()?;
        (waiting == 0).then_some(())
    })
    .await;
    until("the ledger", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"] == 3).then_some(())
    })
    .await;
    until("both steps to have their state in Kafka", || async {
        let said = place.say(&["doctor", "--json", "--timeout", "20"]);
        told(&said, "kafka.topics").0.starts_with("9 of 9 topics are there").then_some(())
    })
    .await;
    // What looks at the platform needs no more than that, either.
    audit::consistent(&place);
    let after = place.say(&["doctor", "--json", "--timeout", "20"]);
    assert_eq!(wrong(&after), pairs(&[ONE_BROKER]), "{after:?}");
    assert_eq!(told(&after, "kafka.version").0, "the brokers know what is needed, which came with Kafka 2.5");
    assert!(told(&after, "kafka.rights").0.contains("9 topics"), "{after:?}");
    assert!(!running.stderr().to_lowercase().contains("authorization"), "{}", running.stderr());
    assert_eq!(running.stop().await, Some(0));

    // Other numbers of partitions, and a topic that somebody else changed.
    let other = place.say(&["doctor", "--json", "--timeout", "20", "--set", "bus.partitions=8"]);
    assert!(told(&other, "kafka.topics").0.ends_with("has 4 partitions, and 8 are expected"), "{other:?}");
    let other = place.say(&["doctor", "--json", "--timeout", "20", "--set", "bus.raw_hours=30"]);
    assert_eq!(
        told(&other, "kafka.topics").0,
        format!("topic {prefix}telemetry.raw.v1 has retention.ms = 86400000, not 108000000")
    );
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_servers_is_told_side_by_side() {
    if !servers_wanted() {
        return;
    }
    let (place, good) = (Place::new(""), s3_bucket().await);
    let url = test_servers::postgresql_database().await;
    let missing = S3Bucket { bucket: format!("{}-missing", good.bucket), ..good.clone() };
    let bucket = s3::section(&missing, place.path());
    let registries = "[bus.kafka.schema_registry]\nurl = \"http://127.0.0.1:1/apis\"\n\
                      [registry]\naddress = \"http://127.0.0.1:1\"\n";
    place.configure(&format!("{}{}{registries}{bucket}", database_section(&url), log_section("127.0.0.1:1", "p.")));
    let said = place.say(&["doctor", "--json"]);
    let expected = [
        ("database.schema", "failed"),
        ("kafka.addresses", "failed"),
        ("kafka.schemas", "failed"),
        ("bucket.objects", "failed"),
        ("registry.address", "warning"),
    ];
    assert_eq!((said.code, wrong(&said)), (Some(2), pairs(&expected)), "{said:?}");
    assert_eq!(told(&said, "database.schema").1, "run `flywheel migrate`, as the role that owns the tables");
    assert!(told(&said, "kafka.addresses").0.starts_with("no broker listens at 127.0.0.1:1 ("), "{said:?}");
    let (says, advice) = told(&said, "kafka.schemas");
    assert!(
        says.starts_with("the schema registry http://127.0.0.1:1/apis can not be used: Connection refused"),
        "{says}"
    );
    assert!(advice.starts_with("check `bus.kafka.schema_registry.url`"), "{advice}");
    assert!(
        told(&said, "registry.address").0.starts_with("http://127.0.0.1:1: the registry cannot be reached"),
        "{said:?}"
    );
    let (says, advice) = told(&said, "bucket.objects");
    assert!(says.contains(&format!("bucket {} does not exist", missing.bucket)), "{said:?}");
    assert_eq!(advice, "create it, or name the right one");
    assert!(!place.data().exists(), "doctor makes nothing");

    // A user that is unknown, a wrong password, and a store that nobody answers at.
    let server = kafka().await;
    let stranger = url.replacen("://postgres@", "://nobody_of_that_name:hush@", 1);
    let nowhere = S3Bucket { endpoint: "http://127.0.0.1:1".to_owned(), ..good };
    let bucket = s3::section(&nowhere, place.path());
    let Some(log) = user_section(&place, &server, "p.") else { return };
    std::fs::write(place.path().join("kafka-password"), "hush").unwrap();
    place.configure(&format!("{}{log}{bucket}", database_section(&stranger)));
    let said = place.say(&["doctor", "--json"]);
    let expected = [("database.reach", "failed"), ("kafka.entry", "failed"), ("bucket.objects", "failed")];
    assert_eq!((said.code, wrong(&said)), (Some(2), pairs(&expected)), "{said:?}");
    assert!(told(&said, "database.reach").0.contains("refuses the user or the password"), "{said:?}");
    let (says, advice) = told(&said, "kafka.entry");
    let (user, _, address) = server.guarded.as_ref().unwrap();
    insta::assert_snapshot!(says.replace(address, "HOST:PORT").replace(user, "USER"), @"HOST:PORT does not let user `USER` in, who tries by SCRAM-SHA-512 with `bus.kafka.sasl.password`: Authentication failed during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512");
    insta::assert_snapshot!(advice, @"check `bus.kafka.tls` and `bus.kafka.sasl`, and that brokers can be reached under the addresses that they advertise");
    assert!(told(&said, "bucket.objects").0.contains("can not be reached"), "{said:?}");
    assert!(!said.stdout.contains("hush"), "{said:?}");
}

#[test]
fn rights_are_printed_as_tools_take_them() {
    let place = Place::new("");
    place.configure(&format!(
        "{}[bus.kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = \"fly\"\npassword = \"p\"\n{}[artifacts]\n\
         kind = \"s3\"\n[artifacts.s3]\nbucket = \"models\"\nprefix = \"a\"\nregion = \"eu-central-1\"\n",
        log_section("kafka-1:9092,kafka-2:9092", "acme."),
        database_section("postgres://serves:hush@db:5432/fly"),
    ));
    let said = place.say(&["doctor", "--print-acls"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    insta::assert_snapshot!("rights", said.stdout);
    let only = place.say(&["doctor", "--print-acls=s3"]);
    let policy: Value = serde_json::from_str(&only.stdout).unwrap();
    assert_eq!(policy["Statement"][1]["Resource"], json!(["arn:aws:s3:::models"]));
    let other = place.say(&["doctor", "--print-acls=kafka", "--principal", "User:CN=flywheel,O=acme"]);
    assert!(other.stdout.contains("--allow-principal User:CN=flywheel,O=acme"), "{other:?}");
}

#[test]
fn certificates_that_end_are_told() {
    let place = Place::new("");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut wanted = rcgen::CertificateParams::new(vec!["flywheel.example.com".to_owned()]).unwrap();
    (wanted.not_before, wanted.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let certificate = wanted.self_signed(&key).unwrap();
    let (pem, key_file) = (place.path().join("door.pem"), place.path().join("door.key"));
    std::fs::write(&pem, certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let files = format!("certificate_file = \"{}\"\nkey_file = \"{}\"\n", pem.display(), key_file.display());
    place.configure(&format!("[ingest.http.tls]\n{files}"));
    let said = place.say(&["doctor", "--json"]);
    assert_eq!(wrong(&said), pairs(&[("doors.ingest", "failed")]), "{said:?}");
    assert!(said.stdout.contains("has expired"), "{said:?}");
    std::fs::remove_file(&key_file).unwrap();
    let said = place.say(&["doctor", "--json"]);
    assert!(told(&said, "doors.ingest").0.contains("`tls.key_file`: cannot read"), "{said:?}");
}
