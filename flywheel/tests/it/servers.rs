//! Every service in processes of their own on Apache Kafka, PostgreSQL and an S3 server, two of those that share work:
//! a suggestion becomes telemetry becomes a pair, also when one of two is killed in the middle.

use std::sync::Arc;

use bus::kafka::{KafkaBus, KafkaConfig};
use parking_lot::Mutex;
use service::clock::{RealClock, real_now};
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::harness::{Place, Running, client, until};
use crate::load::{self, Promised, person, work};
use crate::{audit, replay, s3};

/// A place on the three servers, with sections of its own; none when this run uses no servers.
pub(crate) async fn place(sections: &str) -> Option<(Place, AnyPool, KafkaConfig)> {
    if !test_servers::servers_wanted() {
        return None;
    }
    let place = Place::new("");
    let (url, broker) = (test_servers::postgresql_database().await, test_servers::kafka().await.bootstrap);
    let (prefix, bucket) = (test_servers::unique_prefix(), s3::section(&test_servers::s3_bucket().await, place.path()));
    // What machines share beside servers.
    let key = place.path().join("master.key").display().to_string();
    place.configure(&format!(
        "[bus]\nkind = \"kafka\"\nprefix = \"{prefix}\"\npartitions = 2\n\
         [bus.kafka]\nbootstrap_servers = \"{broker}\"\nreplication = 1\nsingle_broker = true\nlease_ms = 3000\n\
         [database]\nkind = \"postgresql\"\nurl = \"{url}\"\n[keys]\nmaster_key_file = \"{key}\"\n{bucket}{sections}"
    ));
    assert_eq!(place.say(&["keys", "master", &key]).code, Some(0));
    assert_eq!(place.say(&["migrate"]).code, Some(0));
    let pool = migrations::connect(&url, 2).await.unwrap();
    let kafka = KafkaConfig {
        prefix,
        bootstrap_servers: broker,
        replication: 1,
        single_broker: true,
        ..KafkaConfig::default()
    };
    Some((place, pool, kafka))
}

/// Starts a service of its own on a machine of its own, and waits until it is ready.
pub(crate) async fn service(place: &Place, service: &str, machine: &str) -> Running {
    let registry = format!("registry.address=http://127.0.0.1:{}", place.ports.registry);
    let settings = ["--set", "admin.listen=127.0.0.1:0", "--set", &registry];
    let mut running = place.start_on(&place.path().join(machine), &[&[service][..], &settings].concat());
    running.said(&format!("admin-{service}: http://")).await;
    let text = running.stdout();
    let admin = text.lines().find_map(|line| line.strip_prefix(&format!("admin-{service}: "))).unwrap().to_owned();
    let client = client();
    until(&format!("{service} to be ready"), || async {
        let answer = client.get(format!("{admin}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn services_on_servers_turn_suggestions_into_pairs_and_outlive_a_kill() {
    let started = real_now();
    let clock = format!(
        "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {}\nfactor = 60\n\
         [labeler.lake]\npart_age_ms = 200\n",
        started.as_micros()
    );
    let Some((place, pool, kafka)) = place(&clock).await else { return };
    let mut running = Vec::new();
    for name in ["registry", "ingest", "orchestrator", "serving", "anonymizer", "labeler"] {
        running.push((name, service(&place, name, name).await));
    }
    let mut second = Vec::new();
    for name in ["anonymizer", "labeler"] {
        second.push(service(&place, name, &format!("second-{name}")).await);
    }
    place.agree_in(&pool, (0..3).map(person)).await;
    let key = place.say(&["keys", "create", "--json"]).json()["key"].as_str().unwrap().to_owned();
    let (promised, enough) = (Arc::new(Mutex::new(Promised::default())), CancellationToken::new());
    let plan = Arc::new(load::plan(3));
    let working: Vec<_> = (0..3)
        .map(|number| {
            let doors = load::doors(place.ports.serving, place.ports.ingest, &key);
            tokio::spawn(work(number, doors, Arc::clone(&plan), started, promised.clone(), enough.clone()))
        })
        .collect();
    let more_than = async |what: &str, least: i64| {
        until(what, || async {
            let count = "SELECT CAST(COALESCE(SUM(pairs), 0) AS BIGINT) FROM lake_parts";
            let pairs: i64 = sqlx::query_scalar(count).fetch_one(&pool).await.ok()?;
            (pairs > least).then_some(pairs)
        })
        .await
    };
    let before = more_than("a pair in the lake", 0).await;
    // The machines that share the work with others are gone, without a word.
    drop(second);
    more_than("pairs after a kill", before).await;
    enough.cancel();
    for working in working {
        working.await.unwrap();
    }
    let status = until("the ledger to have everything", || async {
        let status = place.say(&["status", "--json"]).json();
        let ledger = &status["ledger"];
        (ledger["pending"] == 0 && ledger["balanced"] == true && ledger["clean"].as_u64() > Some(0)).then_some(status)
    })
    .await;
    assert_eq!(status["dead_letters"], 0, "{status}");
    let bus = KafkaBus::open(kafka, RealClock::shared(), None).await.unwrap();
    // Each of them asserts that nothing is there twice.
    assert!(!replay::pairs(&bus).await.is_empty());
    assert!(!replay::outcomes(&bus).await.is_empty());
    let accounts = replay::accounts(&bus).await;
    for event in &promised.lock().events {
        assert!(accounts.admitted.contains(event) || accounts.filtered_at_door.contains(event), "{event} is lost");
    }
    for event in accounts.admitted.iter().chain(&accounts.exposed) {
        let decided = accounts.decided.get(event).map_or(0, Vec::len);
        assert_eq!(decided, 1, "{event} was decided {decided} times");
    }
    // The platform runs, and is audited; and once more when it stands still.
    audit::consistent(&place);
    for (name, process) in running {
        assert_eq!(process.stop().await, Some(0), "{name}");
    }
    let report = audit::consistent(&place);
    for (check, found) in audit::checks(&report) {
        let is_of_a_rollout = ["registry: rollouts", "registry: evidence"].contains(&check.as_str());
        let may_be_none = is_of_a_rollout || check == "quarantined events";
        assert!(may_be_none || found["checked"].as_u64() > Some(0), "{check}: {report}");
    }
}
