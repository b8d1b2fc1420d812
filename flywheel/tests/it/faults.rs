//! The wheel on its three real servers, several processes of each service, under constant load, while services and
//! servers are killed at random moments, and the connections between them are cut, slowed, reset and left dead. Then
//! the load ends, everything is concluded, and the audit must find nothing: whatever was acknowledged is there, once,
//! and what was made of it is what a replay makes of it that nobody disturbs.
//!
//! All the time a version is on trial, judged by what developers do, so that the audit finds a rollout and its
//! evidence. It is a copy of the base: nothing is trained here, since on the two cores of everything else a run would
//! take longer than the test. The full turn of `deployment.rs` is about a version that was trained, and ends with an
//! audit too.
//!
//! `FAULTS_SECONDS` says for how long, or `FAULTS_KILLS` until how many kills; `FAULTS_SEED` gives other moments.
//! `FAULTS_REPORT` names a file for what each fault did (`benchmarks/run faults` prints it).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use service::clock::real_now;
use test_servers::{Proxy, Stream, Toxic};

use crate::audit;
use crate::fleet::{Crowd, Fleet, Servers, key_file, settled};
use crate::harness::{Place, own};
use crate::load::{Promised, person};
use crate::trial::Trial;

const SEED: u64 = 4;
const DEVELOPERS: usize = 3;
/// Most events that are acknowledged between two faults, and how long that may take.
const LIFE: usize = 40;
const LONGEST_LIFE: Duration = Duration::from_secs(6);
/// How long a server stays down, or a connection bad, in milliseconds.
const DOWN_MS: std::ops::Range<u64> = 100..2_500;
/// How late an answer comes over a slow connection, and how soon a bad one is reset.
const LATE: Duration = Duration::from_millis(250);
/// The number of the only broker.
const BROKER: i32 = 1;
/// How long a service stays down.
const RESTART_MS: std::ops::Range<u64> = 0..1_000;
/// A door that stays closed for longer after a fault is a fault of ours.
const LONGEST_STALL: Duration = Duration::from_secs(60);

/// Something that is done to the wheel and undone again. Every fault of the schedule is one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A process of a service, by its place in the fleet.
    KillService(usize),
    KillBroker,
    KillDatabase,
    KillGateway,
    /// Every connection to one of the servers, or of the other services to the registries.
    Connections(To, Trouble),
}

/// Whose connections are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Broker,
    Database,
    Gateway,
    Registry,
}

impl To {
    const ALL: [Self; 4] = [Self::Broker, Self::Database, Self::Gateway, Self::Registry];

    fn proxies(self, servers: &Servers) -> &[Proxy] {
        let one = match self {
            Self::Broker => &servers.to_kafka,
            Self::Database => &servers.to_postgresql,
            Self::Gateway => &servers.to_s3,
            Self::Registry => return &servers.to_registries,
        };
        std::slice::from_ref(one)
    }
}

/// What is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// They end, and no new ones are taken.
    Cut,
    /// Every answer comes late.
    Slow,
    /// They are reset shortly after they have begun.
    Reset,
    /// They stay, and nothing arrives.
    BlackHole,
}

impl Trouble {
    const ALL: [Self; 4] = [Self::Cut, Self::Slow, Self::Reset, Self::BlackHole];

    fn begin(self, proxy: &Proxy) {
        match self {
            Self::Cut => proxy.cut(),
            Self::Slow => proxy.spoil(Stream::ToClient, Toxic::Latency(LATE)),
            Self::Reset => proxy.spoil(Stream::ToServer, Toxic::Reset(LATE)),
            Self::BlackHole => proxy.spoil(Stream::ToClient, Toxic::BlackHole),
        }
    }

    fn end(self, proxy: &Proxy) {
        match self {
            Self::Cut => proxy.mend(),
            Self::Slow | Self::Reset | Self::BlackHole => proxy.heal(),
        }
    }
}

impl Fault {
    /// The faults among which the schedule chooses, each with its weight: a service is hit as often as a server.
    fn all(fleet: &Fleet<'_>) -> Vec<(Self, u32)> {
        let services = (0..fleet.services().len()).map(|index| (Self::KillService(index), 2));
        let servers = [(Self::KillBroker, 4), (Self::KillDatabase, 4), (Self::KillGateway, 2)];
        let troubles = |to| Trouble::ALL.map(|trouble| (Self::Connections(to, trouble), 1));
        services.chain(servers).chain(To::ALL.into_iter().flat_map(troubles)).collect()
    }

    const fn is_kill(self) -> bool {
        !matches!(self, Self::Connections(..))
    }

    /// As the report calls it.
    fn name(self, fleet: &Fleet<'_>) -> String {
        match self {
            Self::KillService(index) => format!("kill {}", fleet.services()[index]),
            Self::KillBroker => "kill the broker".to_owned(),
            Self::KillDatabase => "kill PostgreSQL".to_owned(),
            Self::KillGateway => "kill the S3 gateway".to_owned(),
            Self::Connections(to, trouble) => {
                let to = match to {
                    To::Broker => "the broker",
                    To::Database => "PostgreSQL",
                    To::Gateway => "the S3 gateway",
                    To::Registry => "the registries",
                };
                match trouble {
                    Trouble::Cut => format!("cut connections to {to}"),
                    Trouble::Slow => format!("slow connections to {to}"),
                    Trouble::Reset => format!("reset connections to {to}"),
                    Trouble::BlackHole => format!("black-hole connections to {to}"),
                }
            }
        }
    }

    /// Does it and undoes it; services are kept up meanwhile. False: there was nothing to be done.
    async fn strike(self, fleet: &mut Fleet<'_>, servers: &mut Servers, random: &mut ChaCha8Rng) -> bool {
        let down = Duration::from_millis(random.random_range(DOWN_MS));
        match self {
            Self::KillService(index) => {
                return fleet.kill(index, Duration::from_millis(random.random_range(RESTART_MS)));
            }
            Self::KillBroker => servers.kafka.kill(BROKER),
            Self::KillDatabase => servers.postgresql.kill(),
            Self::KillGateway => servers.s3.kill(),
            Self::Connections(to, trouble) => to.proxies(servers).iter().for_each(|proxy| trouble.begin(proxy)),
        }
        let begun = Instant::now();
        while begun.elapsed() < down {
            fleet.keep_up();
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        match self {
            Self::KillService(_) => {}
            Self::KillBroker => servers.kafka.start_again(BROKER).await,
            Self::KillDatabase => servers.postgresql.start_again().await,
            Self::KillGateway => servers.s3.start_again().await,
            Self::Connections(to, trouble) => to.proxies(servers).iter().for_each(|proxy| trouble.end(proxy)),
        }
        true
    }
}

/// When a schedule is over.
#[derive(Debug, Clone, Copy)]
enum Extent {
    Time(Duration),
    Kills(usize),
}

impl Extent {
    fn of_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        match number("FAULTS_KILLS") {
            Some(kills) => Self::Kills(kills),
            None => Self::Time(Duration::from_secs(number("FAULTS_SECONDS").unwrap_or(300) as u64)),
        }
    }

    fn is_over(self, begun: Instant, kills: usize) -> bool {
        match self {
            Self::Time(time) => begun.elapsed() >= time,
            Self::Kills(most) => kills >= most,
        }
    }
}

/// What one kind of fault did.
#[derive(Debug, Default)]
struct Effect {
    /// Until ingest acknowledged the next event.
    stalls: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_there_twice_when_services_and_servers_are_killed() {
    if !test_servers::own_servers_wanted() {
        return;
    }
    let Some(toxiproxy) = test_servers::toxiproxy().await else { return };
    let seed = std::env::var("FAULTS_SEED").ok().map_or(SEED, |text| text.parse().expect("a number"));
    let (extent, mut random) = (Extent::of_environment(), ChaCha8Rng::seed_from_u64(seed));
    let (place, started) = (Place::new(""), real_now());
    let mut servers = Servers::start(&toxiproxy, &place).await;
    servers.configure(&place, started, Duration::ZERO);
    assert_eq!(place.say(&["keys", "master", &key_file(&place)]).code, Some(0));
    assert_eq!(place.say(&["migrate"]).code, Some(0));
    let mut fleet = Fleet::start(&place, &servers).await;
    let pool = migrations::connect(&servers.database, 2).await.unwrap();
    place.agree_in(&pool, (0..DEVELOPERS).map(person)).await;

    let trial = Trial::begin(&place, &servers, &fleet).await;

    let crowd = Crowd::begin(&place, &servers, DEVELOPERS, started);
    assert!(fleet.acknowledged(LIFE, LONGEST_STALL, &crowd).await, "the load never began");

    let (begun, mut faults, mut kills) = (Instant::now(), 0, 0);
    let mut effects: BTreeMap<String, Effect> = BTreeMap::new();
    let all = Fault::all(&fleet);
    let weights: u32 = all.iter().map(|(_, weight)| weight).sum();
    // Every process once, and from then on what chance says.
    let mut certain = (0..fleet.services().len()).map(Fault::KillService);
    while !extent.is_over(begun, kills) {
        // A fault may come before the one before it has healed.
        fleet.acknowledged(random.random_range(0..=LIFE), LONGEST_LIFE, &crowd).await;
        let mut left = random.random_range(0..weights);
        let chosen = all.iter().find(|(_, weight)| {
            let is_it = left < *weight;
            left = left.saturating_sub(*weight);
            is_it
        });
        let (by_chance, _) = *chosen.unwrap();
        let fault = certain.next().unwrap_or(by_chance);
        let (name, since) = (fault.name(&fleet), Instant::now());
        if !fault.strike(&mut fleet, &mut servers, &mut random).await {
            continue;
        }
        faults += 1;
        kills += usize::from(fault.is_kill());
        let goes_on = fleet.acknowledged(1, LONGEST_STALL, &crowd).await;
        assert!(goes_on, "{name} (fault {faults} of seed {seed}): nothing is acknowledged for {LONGEST_STALL:?}");
        effects.entry(name).or_default().stalls.push(since.elapsed());
    }
    fleet.ready().await;
    trial.judged(&mut fleet, &pool).await;
    assert!(fleet.acknowledged(LIFE, LONGEST_STALL, &crowd).await, "the load does not go on");
    trial.end(&place);
    let promised = crowd.end().await;
    let ended_alone = fleet.stop().await;

    let (report, audited) = settled(&place, &servers, (started, &pool), &promised, |_, _| own().to_owned()).await;
    report_on(&report, kills, &effects, &promised, &ended_alone, audited);
    most_is_covered(&report);
}

/// Only when records were under way for long the log does not say what must come of them: that is rare here. How often
/// an outcome was under way for longer than the judgement of its block waits is up to the faults.
fn most_is_covered(report: &Value) {
    for (name, check) in audit::checks(report) {
        let count = |field: &str| check[field].as_u64().unwrap();
        let (reason, share) =
            if name == "registry: evidence" { ("outcomes_came_later", 1) } else { ("depends_on_time", 20) };
        let reasons = check["reasons"].as_object().unwrap();
        assert!(reasons.keys().all(|found| found == reason), "{name}: {report}");
        assert!(count("not_covered") * share <= count("checked"), "{name}: {report}");
    }
    let judged = |name: &str| audit::checks(report)[name]["checked"].as_u64().unwrap();
    assert!(judged("preference pairs") >= 10, "too few pairs to say anything: {report}");
    for name in ["registry: rollouts", "registry: evidence"] {
        assert!(judged(name) > 0, "{name}: {report}");
    }
}

/// What the faults did, for `benchmarks/run faults`.
fn report_on(
    report: &Value,
    kills: usize,
    effects: &BTreeMap<String, Effect>,
    promised: &Promised,
    ended_alone: &[(&'static str, String)],
    audited: Duration,
) {
    let Ok(file) = std::env::var("FAULTS_REPORT") else { return };
    let rows = effects.iter().map(|(name, effect)| {
        let mut stalls = effect.stalls.clone();
        stalls.sort_unstable();
        let seconds = |at: usize| stalls[at].as_secs_f64();
        json!({
            "fault": name, "times": stalls.len(), "median_stall_seconds": seconds(stalls.len() / 2),
            "longest_stall_seconds": seconds(stalls.len() - 1),
        })
    });
    let text = json!({
        "faults": rows.collect::<Vec<_>>(),
        "kills": kills,
        "acknowledged_events": promised.events.len(),
        "repeated_requests": promised.repeated,
        "ended_by_themselves": ended_alone.len(),
        "audit_seconds": audited.as_secs_f64(),
        "audit": report,
    });
    std::fs::write(file, serde_json::to_string_pretty(&text).unwrap()).unwrap();
}
