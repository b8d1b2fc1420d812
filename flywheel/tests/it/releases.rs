//! This release and the one before it, together: a platform is upgraded process by process under load and taken back
//! again, each time by SIGKILL, so that either release goes on with the partitions and the state, in the log and on the
//! disk, that the other one leaves behind; and either asks the other. Then everything that was acknowledged must be there,
//! once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use events::{PreferencePair, topics};
use service::clock::real_now;
use service::lease::LeaseStore;

use crate::fleet::{Crowd, Fleet, Servers, key_file, settled};
use crate::harness::{LIMIT, Place, finished, own};
use crate::load::person;
use crate::{audit, replay};

const DEVELOPERS: usize = 4;
/// Events that are acknowledged in each phase.
const LIFE: usize = 60;
/// `bus.partitions` where nothing else is said.
const PARTITIONS: usize = 4;
/// Whose work is shared among processes by leases, called as their steps are.
const SHARED: [&str; 2] = [anonymizer::STEP, labeler::step::STEP];
/// What a step has handled.
const HANDLED: &str = "flywheel_bus_step_inputs_total";
/// What a registry has told a serving, which asks for it all the time, and the orchestrator, when it starts.
const ASKED: &str = "flywheel_registry_requests_total{method=\"list_models\",code=\"ok\"}";

/// How far the platform is upgraded.
struct Phase {
    name: &'static str,
    /// Whether a process is of this release, by service and number. All others are of the one before.
    is_ours: fn(&str, usize) -> bool,
}

/// Each step has a process that stays from one phase to the next, and takes over from the one that does not. In both
/// halves there are registries, ingests and servings of either release, and each serving asks the registry of the other
/// one; the orchestrator of this release asks that of the one before in the first, and the other way round in the
/// second.
const PHASES: [Phase; 5] = [
    Phase { name: "the release before", is_ours: |_, _| false },
    Phase {
        name: "half upgraded",
        is_ours: |service, number| match service {
            "orchestrator" => true,
            "serving" => number == 1,
            _ => number == 2,
        },
    },
    Phase { name: "upgraded", is_ours: |_, _| true },
    Phase {
        name: "half taken back",
        is_ours: |service, number| match service {
            "orchestrator" => false,
            "registry" | "ingest" => number == 1,
            _ => number == 2,
        },
    },
    Phase { name: "taken back", is_ours: |_, _| false },
];
/// The phase in which everything is concluded.
const LAST: usize = 1;

impl Phase {
    /// What a process is.
    fn program(&self, service: &str, number: usize, before: &Path) -> PathBuf {
        if (self.is_ours)(service, number) { own().to_owned() } else { before.to_owned() }
    }
}

/// Waits until so many processes have all partitions of a step among them.
async fn shared_by(processes: usize, step: &str, fleet: &mut Fleet<'_>, leases: &LeaseStore) {
    let partitions = format!("bus/{step}.changelog.v1/partition/");
    fleet
        .until(&format!("all partitions of the {step} to be had by {processes}"), || async {
            let Ok(held) = leases.held(&partitions).await else { return false };
            let count = held.len();
            let mut holders: Vec<String> = held.into_iter().map(|lease| lease.holder).collect();
            holders.sort_unstable();
            holders.dedup();
            (count, holders.len()) == (PARTITIONS, processes)
        })
        .await;
}

/// Kills every process that is of the other release in this phase. Others take over what it shared with them; then it
/// comes again.
async fn enter(phase: &Phase, fleet: &mut Fleet<'_>, leases: &LeaseStore, before: &Path) {
    let mut changed = Vec::new();
    for (index, (service, number, is)) in fleet.programs().into_iter().enumerate() {
        let becomes = phase.program(service, number, before);
        if becomes != is {
            changed.push((index, service, becomes));
        }
    }
    for (index, ..) in &changed {
        fleet.take_away(*index);
    }
    let (stand_in, alone): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(_, service, _)| SHARED.contains(service));
    // Whoever works knocks at the doors until they open.
    for (index, _, program) in &alone {
        fleet.bring_back(*index, program);
    }
    for step in SHARED {
        shared_by(1, step, fleet, leases).await;
    }
    for (index, _, program) in &stand_in {
        fleet.bring_back(*index, program);
    }
    fleet.ready().await;
}

/// Everything goes on, and every process has a part in it.
async fn goes_on(phase: &Phase, fleet: &mut Fleet<'_>, leases: &LeaseStore, crowd: &Crowd) {
    for step in SHARED {
        shared_by(2, step, fleet, leases).await;
    }
    assert!(fleet.acknowledged(LIFE, LIMIT, crowd).await, "{}: events are not acknowledged", phase.name);
    for (index, service) in fleet.services().into_iter().enumerate() {
        if SHARED.contains(&service) {
            fleet.until_counts(index, HANDLED).await;
        } else if service == "registry" {
            fleet.until_counts(index, ASKED).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_and_the_one_before_work_together_and_take_over_from_each_other() {
    if !test_servers::full_wanted() || !test_servers::own_servers_wanted() {
        return;
    }
    let Some(toxiproxy) = test_servers::toxiproxy().await else { return };
    let before = test_servers::previous_release();
    let (place, started) = (Place::new(""), real_now());
    let servers = Servers::start(&toxiproxy, &place).await;
    servers.configure(&place, started, Duration::ZERO);
    let say_before = |arguments: &[&str]| finished(place.command_of(&before, &place.data(), arguments));
    let versions = [say_before(&["--version"]), place.say(&["--version"])].map(|said| said.stdout);
    assert_ne!(versions[0], versions[1], "{} is of this release", before.display());

    assert_eq!(say_before(&["keys", "master", &key_file(&place)]).code, Some(0));
    assert_eq!(say_before(&["migrate"]).code, Some(0));
    let programs = |phase: usize| {
        let before = before.clone();
        move |service: &str, number: usize| PHASES[phase].program(service, number, &before)
    };
    let mut fleet = Fleet::start_of(&place, &servers, programs(0)).await;
    // First of all that this release does, while the services of the one before go on.
    let migrated = place.say(&["migrate"]);
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let pool = migrations::connect(&servers.database, 2).await.unwrap();
    let leases = LeaseStore::new(pool.clone());
    place.agree_in(&pool, (0..DEVELOPERS).map(person)).await;
    let crowd = Crowd::begin(&place, &servers, DEVELOPERS, started);
    goes_on(&PHASES[0], &mut fleet, &leases, &crowd).await;
    for phase in &PHASES[1..] {
        enter(phase, &mut fleet, &leases, &before).await;
        goes_on(phase, &mut fleet, &leases, &crowd).await;
    }
    // The release before also tells what this one has written.
    let status = say_before(&["status", "--json"]).json();
    assert_eq!(status["ledger"]["balanced"], true, "{status}");
    let promised = crowd.end().await;
    // The others lose partitions to each other, and may begin anew.
    let mut ended = fleet.stop().await;
    ended.retain(|(service, _)| !SHARED.contains(service));
    assert!(ended.is_empty(), "no service may end because others are of another release: {ended:?}");

    let (report, _) = settled(&place, &servers, (started, &pool), &promised, programs(LAST)).await;
    // None may be there twice, or say what the release before can not read: nobody has said that it is gone for good.
    let log = servers.log().await;
    assert!(!replay::pairs(&log).await.is_empty());
    let pairs: Vec<PreferencePair> = replay::values(&log, topics::PREFERENCE_PAIRS).await;
    assert!(pairs.iter().all(|pair| !pair.off_policy));
    assert!(replay::outcomes(&log).await.values().all(|outcome| outcome.detail.is_none()));
    // A release that scrubs or labels otherwise than the one before can not replay what that one wrote (docs/audit.md).
    for (name, check) in audit::checks(&report) {
        let count = |field: &str| check[field].as_u64().unwrap();
        let reasons: Vec<&String> = check["reasons"].as_object().unwrap().keys().collect();
        assert!(reasons.iter().all(|reason| *reason == "depends_on_time"), "{name}: {report}");
        assert!(count("not_covered") * 5 <= count("checked"), "{name}: {report}");
    }
}
