//! Every service in processes of their own on Apache Kafka, PostgreSQL and an S3 server, two of those that share work,
//! a door or a lead: a suggestion becomes telemetry becomes a pair, also when one of each two is killed in the middle.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::kafka::{KafkaBus, KafkaConfig};
use model_registry::reconciler::RolloutReconciler;
use parking_lot::Mutex;
use service::clock::{RealClock, real_now};
use service::lease::LeaseStore;
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::fleet::count;
use crate::harness::{Place, Ports, Running, client, until};
use crate::load::{self, Promised, person, work_at};
use crate::{audit, replay, s3};

/// Every process. A registry comes first, since others ask it.
const PROCESSES: [(&str, usize); 10] = [
    ("registry", 1),
    ("registry", 2),
    ("ingest", 1),
    ("ingest", 2),
    ("anonymizer", 1),
    ("anonymizer", 2),
    ("labeler", 1),
    ("labeler", 2),
    ("orchestrator", 1),
    ("serving", 2),
];

/// A process of a service, and where it tells how it is.
struct Process {
    running: Running,
    admin: String,
}

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

/// Starts a service on a machine of its own, where its door and the registry that it asks are at these ports, and waits
/// until it is ready.
async fn service(place: &Place, service: &str, machine: &str, ports: Ports) -> Process {
    let Ports { registry, ingest, serving, .. } = ports;
    let settings = [
        "admin.listen=127.0.0.1:0".to_owned(),
        format!("registry.address=http://127.0.0.1:{registry}"),
        format!("registry.http.listen=127.0.0.1:{registry}"),
        format!("ingest.http.listen=127.0.0.1:{ingest}"),
        format!("serving.http.listen=127.0.0.1:{serving}"),
    ];
    let mut arguments = vec![service];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
    let mut running = place.start_on(&place.path().join(machine), &arguments);
    running.said(&format!("admin-{service}: http://")).await;
    let text = running.stdout();
    let admin = text.lines().find_map(|line| line.strip_prefix(&format!("admin-{service}: "))).unwrap().to_owned();
    let client = client();
    until(&format!("{service} to be ready"), || async {
        let answer = client.get(format!("{admin}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    Process { running, admin }
}

/// On which machine the registry is that leads; none: it is gone.
async fn leader(leases: &LeaseStore, processes: &BTreeMap<String, Process>) -> Option<String> {
    let held = leases.held(RolloutReconciler::LEASE).await.ok()?;
    // `registry/PROCESS/...`
    let lead: u32 = held.first()?.holder.split('/').nth(1)?.parse().ok()?;
    processes.iter().find(|(_, process)| process.running.id() == lead).map(|(machine, _)| machine.clone())
}

/// How often a registry has looked after rollouts.
async fn looks(registry: &Process) -> u64 {
    let answer = client().get(format!("{}/metrics", registry.admin)).send().await.unwrap();
    count(&answer.text().await.unwrap(), "flywheel_service_activations_total{reconciler=\"rollouts\"")
}

/// One of two registries looks after rollouts, and the other one does not. Returns on which machine the one is.
async fn one_leads(leases: &LeaseStore, processes: &BTreeMap<String, Process>) -> String {
    let machine = until("a registry to lead", || leader(leases, processes)).await;
    let leads = &processes[&machine];
    let idle = &processes[if machine == "registry-1" { "registry-2" } else { "registry-1" }];
    let before = (looks(leads).await, looks(idle).await);
    until("the one that leads to look", || async { (looks(leads).await >= before.0 + 2).then_some(()) }).await;
    let after = (leader(leases, processes).await, looks(idle).await);
    assert_eq!((after.0.as_ref(), after.1), (Some(&machine), before.1), "another one looks too");
    machine
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
    let (second, leases) = (Ports::free(), LeaseStore::new(pool.clone()));
    let ports = |number: usize| if number == 1 { place.ports } else { second };
    let mut processes = BTreeMap::new();
    for (name, number) in PROCESSES {
        let machine = format!("{name}-{number}");
        let process = service(&place, name, &machine, ports(number)).await;
        processes.insert(machine, process);
    }
    let leading = one_leads(&leases, &processes).await;
    place.agree_in(&pool, (0..3).map(person)).await;
    let key = place.say(&["keys", "create", "--json"]).json()["key"].as_str().unwrap().to_owned();
    let (promised, enough) = (Arc::new(Mutex::new(Promised::default())), CancellationToken::new());
    let plan = Arc::new(load::plan(3));
    let working: Vec<_> = (0..3)
        .map(|number| {
            let doors = [place.ports.ingest, second.ingest].map(|ingest| load::doors(second.serving, ingest, &key));
            let (plan, promised, enough) = (Arc::clone(&plan), Arc::clone(&promised), enough.clone());
            tokio::spawn(work_at(number, doors.to_vec(), plan, started, promised, enough))
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
    // One machine of each two is gone, without a word.
    for machine in [leading.as_str(), "ingest-2", "anonymizer-2", "labeler-2"] {
        processes.remove(machine).unwrap().running.kill();
    }
    more_than("pairs after a kill", before).await;
    let successor = until("the other registry to lead", || leader(&leases, &processes)).await;
    // The one that comes again follows.
    let number = if leading == "registry-1" { 1 } else { 2 };
    let again = service(&place, "registry", &leading, ports(number)).await;
    processes.insert(leading, again);
    assert_eq!(one_leads(&leases, &processes).await, successor);
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
    for (machine, process) in processes {
        assert_eq!(process.running.stop().await, Some(0), "{machine}");
    }
    let report = audit::consistent(&place);
    for (check, found) in audit::checks(&report) {
        let is_of_a_rollout = ["registry: rollouts", "registry: evidence"].contains(&check.as_str());
        let may_be_none = is_of_a_rollout || check == "quarantined events";
        assert!(may_be_none || found["checked"].as_u64() > Some(0), "{check}: {report}");
    }
}
