//! A platform of separate processes on servers of its own, kept up as whoever runs it in production does: what ends is
//! started again. There are several of every service but the orchestrator, which has nothing to do here. And the
//! developers who work there.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::{S3Artifacts, S3Config, S3Credentials};
use bus::kafka::{KafkaBus, KafkaConfig};
use events::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use service::clock::{RealClock, real_now};
use sqlx::AnyPool;
use test_servers::{KafkaBrokers, KafkaServer, OwnServer, Proxy, S3Bucket, Toxiproxy};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Place, Ports, Running, client, own, until, until_seen};
use crate::load::{self, Promised, work_at};
use crate::{audit, replay, s3};

/// How many times as fast as the machine's clock the platform's is.
const FACTOR: u32 = 5;
/// How far ahead a last start is: more than lateness, close and every margin together.
const AHEAD: Duration = Duration::from_secs(4 * 3600);
/// Every service, and how many of it. The first process comes first, since others ask it.
const SERVICES: [(&str, usize); 6] =
    [("registry", 2), ("ingest", 2), ("anonymizer", 2), ("labeler", 2), ("orchestrator", 1), ("serving", 2)];
/// Pause before one is started again that ended by itself.
const BACK_OFF: Duration = Duration::from_millis(500);

/// The three real servers, of which this platform is the only user, each behind a proxy.
pub(crate) struct Servers {
    pub(crate) kafka: KafkaBrokers,
    pub(crate) postgresql: OwnServer,
    pub(crate) s3: OwnServer,
    pub(crate) to_kafka: Proxy,
    pub(crate) to_postgresql: Proxy,
    pub(crate) to_s3: Proxy,
    /// Of each registry.
    pub(crate) to_registries: [Proxy; 2],
    /// Doors of the second of each service.
    second: Ports,
    broker: KafkaServer,
    /// Past the proxy.
    pub(crate) database: String,
    database_through: String,
    bucket: S3Bucket,
}

impl Servers {
    pub(crate) async fn start(toxiproxy: &Toxiproxy, place: &Place) -> Self {
        let ((kafka, to_kafka), (postgresql, database), (s3, bucket)) =
            tokio::join!(KafkaBrokers::behind(toxiproxy), OwnServer::postgresql(), OwnServer::s3());
        let (to_postgresql, database_through) = toxiproxy.before_url(&database);
        let (to_s3, endpoint) = toxiproxy.before_url(&bucket.endpoint);
        let second = Ports::free();
        let to_registries =
            [place.ports, second].map(|ports| toxiproxy.before(&format!("127.0.0.1:{}", ports.registry)));
        let (broker, bucket) = (kafka.server(), S3Bucket { endpoint, ..bucket });
        Self {
            kafka,
            postgresql,
            s3,
            to_kafka,
            to_postgresql,
            to_s3,
            to_registries,
            second,
            broker,
            database,
            database_through,
            bucket,
        }
    }

    /// Writes the configuration of a platform on them. Its clock began at `started` and is so far ahead by now, besides
    /// what it has gained by being faster.
    pub(crate) fn configure(&self, place: &Place, started: Timestamp, ahead: Duration) {
        // A faster clock that starts earlier is that far ahead now.
        let (factor, lead) = if ahead.is_zero() { (FACTOR, Duration::ZERO) } else { (60, ahead / 59) };
        let elapsed = Duration::from_micros(u64::try_from(real_now().as_micros() - started.as_micros()).unwrap());
        let start = match ahead.is_zero() {
            true => started.as_micros(),
            false => real_now().as_micros() - i64::try_from((lead + elapsed * FACTOR / 59).as_micros()).unwrap(),
        };
        place.configure(&format!(
            "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {start}\nfactor = {factor}\n\
             [orchestrator]\nenabled = false\n[labeler.lake]\npart_age_ms = 200\n{}",
            self.sections(place)
        ));
    }

    /// The sections of a configuration that put a platform on them.
    fn sections(&self, place: &Place) -> String {
        let (broker, database) = (&self.broker.bootstrap, &self.database_through);
        format!(
            "[bus]\nkind = \"kafka\"\n[bus.kafka]\nbootstrap_servers = \"{broker}\"\nreplication = 1\n\
             single_broker = true\nlease_ms = 2000\n[database]\nkind = \"postgresql\"\nurl = \"{database}\"\n\
             [keys]\nmaster_key_file = \"{}\"\n{}",
            key_file(place),
            s3::section(&self.bucket, place.path())
        )
    }

    /// Where artifacts are, as another process sees it.
    pub(crate) async fn artifacts(&self) -> S3Artifacts {
        let S3Bucket { endpoint, region, bucket, access_key_id, secret_access_key } = self.bucket.clone();
        let config = S3Config {
            endpoint: Some(endpoint),
            region: Some(region),
            prefix: s3::PREFIX.to_owned(),
            credentials: Some(S3Credentials::new(access_key_id, secret_access_key)),
            ..S3Config::new(bucket)
        };
        S3Artifacts::connect(config).await.unwrap()
    }

    /// The log, as another process sees it.
    pub(crate) async fn log(&self) -> KafkaBus {
        let config = KafkaConfig {
            bootstrap_servers: self.broker.bootstrap.clone(),
            replication: 1,
            single_broker: true,
            ..KafkaConfig::default()
        };
        KafkaBus::open(config, RealClock::shared(), None).await.unwrap()
    }
}

/// What machines share beside servers: the key that wraps all others.
pub(crate) fn key_file(place: &Place) -> String {
    place.path().join("master.key").display().to_string()
}

/// Developers who work until they are told to stop.
pub(crate) struct Crowd {
    pub(crate) promised: Arc<Mutex<Promised>>,
    enough: CancellationToken,
    workers: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// So many begin, with a key that opens the doors, and are spread over all of them.
    pub(crate) fn begin(place: &Place, servers: &Servers, developers: usize, started: Timestamp) -> Self {
        let key = place.say(&["keys", "create", "--json"]).json()["key"].as_str().unwrap().to_owned();
        let (promised, enough) = (Arc::new(Mutex::new(Promised::default())), CancellationToken::new());
        let plan = Arc::new(load::plan(developers));
        let workers = (0..developers)
            .map(|developer| {
                let doors = [place.ports, servers.second].map(|ports| load::doors(ports.serving, ports.ingest, &key));
                let (plan, promised, enough) = (Arc::clone(&plan), Arc::clone(&promised), enough.clone());
                tokio::spawn(work_at(developer, doors.to_vec(), plan, started, promised, enough))
            })
            .collect();
        Self { promised, enough, workers }
    }

    /// Everybody plays the last session to its end. Returns what the doors have promised.
    pub(crate) async fn end(self) -> Promised {
        self.enough.cancel();
        for worker in self.workers {
            until("the sessions to end", || async { worker.is_finished().then_some(()) }).await;
            worker.await.unwrap();
        }
        std::mem::take(&mut *self.promised.lock())
    }
}

/// Waits until every stage has concluded everything.
async fn concluded(place: &Place) -> Value {
    until_seen("every stage to conclude", || async {
        let status = place.say(&["status", "--json"]).json();
        let is_done = |stage: &Value| stage["records_behind"] == 0;
        let is_closed = |stage: &Value| stage["stage"] == "labeler" && stage["pending_timers"] == 0;
        let backlog = status["backlog"].as_array();
        let concluded = backlog.is_some_and(|backlog| backlog.iter().all(is_done) && backlog.iter().any(is_closed));
        if status["ledger"]["pending"] == 0 && concluded { Ok(status) } else { Err(status) }
    })
    .await
}

/// Lets a fleet without faults conclude everything that a crowd has left, hours ahead: everything acknowledged is there,
/// once. Answers what the audit says, and how long it took.
pub(crate) async fn settled(
    place: &Place,
    servers: &Servers,
    (started, pool): (Timestamp, &AnyPool),
    promised: &Promised,
    program: impl Fn(&str, usize) -> PathBuf,
) -> (Value, Duration) {
    servers.configure(place, started, AHEAD);
    let fleet = Fleet::start_of(place, servers, program).await;
    let status = concluded(place).await;
    let ended = fleet.stop().await;
    assert!(ended.is_empty(), "without faults every service stays: {ended:?}");
    assert_eq!(
        (&status["ledger"]["balanced"], &status["ledger"]["dead_lettered"]),
        (&true.into(), &0.into()),
        "{status}"
    );
    replay::promises_are_kept(&servers.log().await, pool, promised).await;
    let audited = Instant::now();
    (audit::consistent(place), audited.elapsed())
}

/// What a counter has come to. `series`: its name, and as many of its labels as matter.
pub(crate) fn count(metrics: &str, series: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(series));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// One process of a service.
struct Process {
    service: &'static str,
    /// Among those of the service, counted from 1.
    number: usize,
    /// A data directory of its own, as on a machine of its own.
    machine: PathBuf,
    /// What is said to it beside the configuration that all have.
    settings: Vec<String>,
    /// What is started there.
    program: PathBuf,
    running: Option<Running>,
    /// None: it stays away.
    start_at: Option<Instant>,
    /// What it said last whenever it ended by itself.
    ended_alone: Vec<String>,
}

/// What is said to a process beside the configuration that all have: half of those who ask a registry ask the one, half
/// the other, and only the first of a service has the doors of the configuration.
fn settings(service: &str, number: usize, servers: &Servers) -> Vec<String> {
    let registry = servers.to_registries[(number - 1) % 2].address();
    let mut settings = vec!["admin.listen=127.0.0.1:0".to_owned(), format!("registry.address=http://{registry}")];
    let Ports { serving, ingest, registry, .. } = servers.second;
    let doors = [("serving", serving), ("ingest", ingest), ("registry", registry)];
    if let Some((_, port)) = doors.into_iter().find(|(door, _)| number > 1 && *door == service) {
        settings.push(format!("{service}.http.listen=127.0.0.1:{port}"));
    }
    settings
}

/// All processes.
pub(crate) struct Fleet<'a> {
    place: &'a Place,
    processes: Vec<Process>,
}

impl<'a> Fleet<'a> {
    /// Starts every process, and waits until all are ready.
    pub(crate) async fn start(place: &'a Place, servers: &Servers) -> Self {
        Self::start_of(place, servers, |_, _| own().to_owned()).await
    }

    /// The same; `program` says what each process of a service is.
    pub(crate) async fn start_of(
        place: &'a Place,
        servers: &Servers,
        program: impl Fn(&str, usize) -> PathBuf,
    ) -> Self {
        let mut fleet = Self { place, processes: Vec::new() };
        for (service, count) in SERVICES {
            for number in 1..=count {
                let is_first = fleet.processes.is_empty();
                fleet.processes.push(Process {
                    service,
                    number,
                    machine: if is_first { place.data() } else { place.path().join(format!("{service}-{number}")) },
                    settings: settings(service, number, servers),
                    program: program(service, number),
                    running: None,
                    start_at: Some(Instant::now()),
                    ended_alone: Vec::new(),
                });
                if is_first {
                    fleet.ready().await;
                }
            }
        }
        fleet.ready().await;
        fleet
    }

    /// The data directory of the first process of a service.
    pub(crate) fn machine(&self, service: &str) -> &Path {
        &self.processes.iter().find(|process| process.service == service).unwrap().machine
    }

    pub(crate) fn services(&self) -> Vec<&'static str> {
        self.processes.iter().map(|process| process.service).collect()
    }

    /// Service, number and program of every process.
    pub(crate) fn programs(&self) -> Vec<(&'static str, usize, PathBuf)> {
        self.processes.iter().map(|process| (process.service, process.number, process.program.clone())).collect()
    }

    /// Starts what has ended. One that ended by itself must have said why: a panic is no reason.
    pub(crate) fn keep_up(&mut self) {
        for process in &mut self.processes {
            if let Some(running) = &mut process.running
                && let Some(status) = running.exited()
            {
                let said = running.stderr();
                assert!(status.code().is_some(), "{} ended with {status}: {said}", process.service);
                assert!(!said.contains("panicked at"), "{}: {said}", process.service);
                process.ended_alone.push(said.lines().last().unwrap_or_default().to_owned());
                process.start_at = Some(Instant::now() + BACK_OFF);
                process.running = None;
            }
            if process.running.is_none() && process.start_at.is_some_and(|start_at| Instant::now() >= start_at) {
                let mut arguments = vec![process.service];
                arguments.extend(process.settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
                process.running = Some(self.place.start_of(&process.program, &process.machine, &arguments));
            }
        }
    }

    /// SIGKILL for one process, which is started again after `pause`. False: it does not run.
    pub(crate) fn kill(&mut self, index: usize, pause: Duration) -> bool {
        let process = &mut self.processes[index];
        let Some(running) = process.running.take() else { return false };
        running.kill();
        process.start_at = Some(Instant::now() + pause);
        true
    }

    /// SIGKILL for one process, which then stays away.
    pub(crate) fn take_away(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if let Some(running) = process.running.take() {
            running.kill();
        }
        process.start_at = None;
    }

    /// Lets one that was taken away come again as this program, on the data that it had.
    pub(crate) fn bring_back(&mut self, index: usize, program: &Path) {
        let process = &mut self.processes[index];
        process.program = program.to_owned();
        process.start_at = Some(Instant::now());
    }

    /// Waits until every process says that it is ready; none may be away.
    pub(crate) async fn ready(&mut self) {
        for index in 0..self.processes.len() {
            self.until_says(index, "readyz", "be ready", |_| true).await;
        }
    }

    /// Waits until a counter of a process grows from here on.
    pub(crate) async fn until_counts(&mut self, index: usize, series: &str) {
        // A process that was started again meanwhile counts from nothing.
        let before = Cell::new(u64::MAX);
        let grows = |metrics: &str| {
            let now = count(metrics, series);
            now > before.replace(now)
        };
        self.until_says(index, "metrics", &format!("count {series}"), grows).await;
    }

    /// Waits until what a process says at a path of its admin port is as it should be; all are kept up meanwhile.
    async fn until_says(&mut self, index: usize, path: &str, what: &str, is_it: impl Fn(&str) -> bool) {
        let (client, process) = (client(), &self.processes[index]);
        let what = format!("{} {} to {what}", process.service, process.number);
        let fleet = Mutex::new(self);
        until(&what, || async {
            let admin = {
                let mut fleet = fleet.lock();
                fleet.keep_up();
                fleet.admin(index)
            }?;
            let answer = client.get(format!("{admin}/{path}")).send().await.ok()?;
            let is_success = answer.status().is_success();
            let said = answer.text().await.ok()?;
            (is_success && is_it(&said)).then_some(())
        })
        .await;
    }

    /// Waits for a condition; all are kept up meanwhile.
    pub(crate) async fn until<F, Fut>(&mut self, what: &str, mut look: F)
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        until(what, || {
            self.keep_up();
            let looking = look();
            async move { looking.await.then_some(()) }
        })
        .await;
    }

    /// Waits until ingest has acknowledged so many more events, or for so long; all are kept up meanwhile.
    pub(crate) async fn acknowledged(&mut self, more: usize, longest: Duration, crowd: &Crowd) -> bool {
        let (before, begun) = (crowd.promised.lock().events.len(), Instant::now());
        loop {
            self.keep_up();
            if crowd.promised.lock().events.len() >= before + more {
                return true;
            }
            if begun.elapsed() >= longest {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where a process tells how it is, once it says so.
    fn admin(&self, index: usize) -> Option<String> {
        let process = &self.processes[index];
        let said = process.running.as_ref()?.stdout();
        let name = format!("admin-{}: ", process.service);
        said.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned)
    }

    /// Ends every process as an operator does, and tells which had ended by themselves, with their last words.
    pub(crate) async fn stop(self) -> Vec<(&'static str, String)> {
        let mut alone = Vec::new();
        for process in self.processes {
            alone.extend(process.ended_alone.into_iter().map(|words| (process.service, words)));
            if let Some(running) = process.running {
                assert_eq!(running.stop().await, Some(0), "{}", process.service);
            }
        }
        alone
    }
}
