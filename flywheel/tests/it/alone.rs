//! Every service in a process of its own, on one machine and one local log: a suggestion becomes telemetry becomes a
//! pair.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use service::clock::real_now;
use tokio_util::sync::CancellationToken;

use crate::harness::{Place, client, edits, until};
use crate::load::{self, Promised, person, work};
use crate::replay;

const SERVICES: [&str; 6] = ["registry", "ingest", "anonymizer", "labeler", "orchestrator", "serving"];

/// A clock that is so far ahead.
fn ahead(hours: u64) -> String {
    let factor = 60;
    let elapsed = Duration::from_secs(hours * 3600) / (factor - 1);
    let start_micros = real_now().as_micros() - i64::try_from(elapsed.as_micros()).unwrap();
    format!(
        "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {start_micros}\nfactor = {factor}\n\
         [bus.local]\nretention_interval_ms = 20\n"
    )
}

/// The editors' door without anything behind it, for longer than raw records are kept.
#[tokio::test(flavor = "multi_thread")]
async fn ingest_alone_for_a_day_refuses_and_loses_nothing() {
    let place = Place::new(&ahead(0));
    let mut key = None;
    let hours = [(0, 200), (19, 503), (30, 503)];
    for (sequence, (hours, expected)) in (1..).zip(hours) {
        place.configure(&ahead(hours));
        let mut running = place.start(&["ingest"]);
        running.said("ingest: http://127.0.0.1:").await;
        let key = key
            .get_or_insert_with(|| place.say(&["keys", "create", "--json"]).json()["key"].as_str().unwrap().to_owned());
        let answer = place.report(key, &edits([sequence])).await;
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(status, expected, "after {hours} h: {body}");
        assert!(status == 200 || body.contains("backlog"), "{body}");
        assert_eq!(running.stop().await, Some(0));
    }
    // Everything else comes, and finds what was acknowledged.
    let running = place.up().await;
    let status = until("the ledger", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"] == 1).then_some(status)
    })
    .await;
    assert_eq!(status["ledger"]["balanced"], true, "{status}");
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_their_own_turn_a_suggestion_into_a_pair() {
    let started = real_now();
    // The same start in all processes, so that all agree on the time.
    let place = Place::new(&format!(
        "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {}\nfactor = 60\n\
         [labeler.lake]\npart_age_ms = 200\n",
        started.as_micros()
    ));
    // All at once: whoever comes first makes the files, nobody waits for another.
    let mut running: Vec<_> = SERVICES
        .iter()
        .map(|service| (*service, place.start(&[service, "--set", "admin.listen=127.0.0.1:0"])))
        .collect();
    for (service, process) in &mut running {
        process.said(&format!("admin-{service}: http://")).await;
        let text = process.stdout();
        let admin = text.lines().find_map(|line| line.strip_prefix(&format!("admin-{service}: "))).unwrap().to_owned();
        let client = client();
        until(&format!("{service} to be ready"), || async {
            let answer = client.get(format!("{admin}/readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }
    let status = place.say(&["status", "--json"]).json();
    assert_eq!(status["running"], true);
    // The log knows every step and sink.
    let stages: Vec<&str> =
        status["backlog"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["anonymizer", "labeler", "lake", "ledger", "tally"], "{status}");
    for door in ["serving", "ingest", "registry", "admin-labeler", "admin-anonymizer", "admin-orchestrator"] {
        assert!(status["doors"][door].is_string(), "{door}: {status}");
    }
    assert_eq!(status["versions"][0]["version"], 1, "the orchestrator registers the base: {status}");

    place.agree([person(0)]).await;
    let key = place.say(&["keys", "create", "--json"]).json()["key"].as_str().unwrap().to_owned();
    let pool = place.database().await;
    let doors = load::doors(place.ports.serving, place.ports.ingest, &key);
    let (promised, enough) = (Arc::new(Mutex::new(Promised::default())), CancellationToken::new());
    let working = tokio::spawn(work(0, doors, Arc::new(load::plan(1)), started, promised.clone(), enough.clone()));
    until("a pair in the lake", || async {
        let pairs: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM lake_parts").fetch_one(&pool).await.ok()?;
        (pairs > 0).then_some(())
    })
    .await;
    enough.cancel();
    working.await.unwrap();
    let status = place.say(&["status", "--json"]).json();
    assert_eq!(status["ledger"]["balanced"], true, "{status}");
    assert!(status["ledger"]["exposed"].as_u64().unwrap() > 0, "{status}");
    for (service, process) in running {
        assert_eq!(process.stop().await, Some(0), "{service}");
    }
    assert!(!replay::pairs(replay::open(&place.data()).as_ref()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_answers_when_log_database_and_registry_are_gone() {
    let place = Place::new("");
    let running = place.up().await;
    let key = place.key();
    let question = "let sum = cart.total();\n";
    // A key that serving has seen, and a routing that it has followed.
    assert!(place.ask(&key, question).await.contains("\"model_version\":1"));
    assert_eq!(running.stop().await, Some(0));
    // Where files were, nothing can be opened any more.
    for name in ["bus.sqlite", "flywheel.sqlite"] {
        let path = place.data().join(name);
        std::fs::rename(&path, place.data().join(format!("{name}.away"))).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let refused = place.say(&["ingest"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let mut serving = place.start(&["serving"]);
    serving.said("serving: http://").await;
    let answer = place.ask(&key, question).await;
    assert!(answer.contains("\"model_version\":1"), "{answer}");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_is_refused_where_a_service_runs() {
    let place = Place::new("");
    let mut ingest = place.start(&["ingest"]);
    ingest.said("ingest: http://").await;
    assert!(place.say(&["up"]).sentence().contains("is in use by another flywheel"));
    assert_eq!(ingest.stop().await, Some(0));
}
