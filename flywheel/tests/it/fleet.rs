//! A platform of separate processes on servers of its own, kept up as whoever runs it in production does: what ends is
//! started again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bus::kafka::{KafkaBus, KafkaConfig};
use service::clock::RealClock;
use test_servers::{KafkaBrokers, KafkaServer, OwnServer, Proxy, S3Bucket, Toxiproxy};

use crate::harness::{Place, Running, client, until};
use crate::s3;

/// The service that all others ask.
const FIRST: &str = "registry";
/// Every other one, and how many of it.
const SERVICES: [(&str, usize); 5] =
    [("ingest", 1), ("anonymizer", 2), ("labeler", 2), ("orchestrator", 1), ("serving", 1)];
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
    /// Of the registry, which every other service asks.
    pub(crate) to_registry: Proxy,
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
        let to_registry = toxiproxy.before(&format!("127.0.0.1:{}", place.ports.registry));
        let (broker, bucket) = (kafka.server(), S3Bucket { endpoint, ..bucket });
        Self {
            kafka,
            postgresql,
            s3,
            to_kafka,
            to_postgresql,
            to_s3,
            to_registry,
            broker,
            database,
            database_through,
            bucket,
        }
    }

    /// The sections of a configuration that put a platform on them.
    pub(crate) fn sections(&self, place: &Place) -> String {
        let (broker, database) = (&self.broker.bootstrap, &self.database_through);
        format!(
            "[bus]\nkind = \"kafka\"\n[bus.kafka]\nbootstrap_servers = \"{broker}\"\nreplication = 1\n\
             single_broker = true\nlease_ms = 2000\n[database]\nkind = \"postgresql\"\nurl = \"{database}\"\n\
             [keys]\nmaster_key_file = \"{}\"\n{}",
            key_file(place),
            s3::section(&self.bucket, place.path())
        )
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

/// One process of a service.
struct Process {
    service: &'static str,
    /// A data directory of its own, as on a machine of its own.
    machine: PathBuf,
    running: Option<Running>,
    start_at: Instant,
    /// What it said last whenever it ended by itself.
    ended_alone: Vec<String>,
}

/// All processes.
pub(crate) struct Fleet<'a> {
    place: &'a Place,
    /// Host and port where others find the registry.
    registry: String,
    processes: Vec<Process>,
}

impl<'a> Fleet<'a> {
    /// Starts every process, and waits until all are ready.
    pub(crate) async fn start(place: &'a Place, servers: &Servers) -> Self {
        let process = |service, machine| {
            let start_at = Instant::now();
            Process { service, machine, running: None, start_at, ended_alone: Vec::new() }
        };
        let registry = servers.to_registry.address().to_owned();
        let mut fleet = Self { place, registry, processes: vec![process(FIRST, place.data())] };
        fleet.ready().await;
        for (service, count) in SERVICES {
            for number in 1..=count {
                let machine = place.path().join(format!("{service}-{number}"));
                fleet.processes.push(process(service, machine));
            }
        }
        fleet.ready().await;
        fleet
    }

    pub(crate) fn services(&self) -> Vec<&'static str> {
        self.processes.iter().map(|process| process.service).collect()
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
                process.start_at = Instant::now() + BACK_OFF;
                process.running = None;
            }
            if process.running.is_none() && Instant::now() >= process.start_at {
                let registry = format!("registry.address=http://{}", self.registry);
                let settings = ["--set", "admin.listen=127.0.0.1:0", "--set", &registry];
                let arguments = [&[process.service][..], &settings].concat();
                process.running = Some(self.place.start_on(&process.machine, &arguments));
            }
        }
    }

    /// SIGKILL for one process, which is started again after `pause`. False: it does not run.
    pub(crate) fn kill(&mut self, index: usize, pause: Duration) -> bool {
        let process = &mut self.processes[index];
        let Some(running) = process.running.take() else { return false };
        running.kill();
        process.start_at = Instant::now() + pause;
        true
    }

    /// Waits until every process says that it is ready.
    pub(crate) async fn ready(&mut self) {
        let client = client();
        for index in 0..self.processes.len() {
            let what = format!("{} to be ready", self.processes[index].service);
            let fleet = parking_lot::Mutex::new(&mut *self);
            until(&what, || async {
                let admin = {
                    let mut fleet = fleet.lock();
                    fleet.keep_up();
                    fleet.admin(index)
                }?;
                let answer = client.get(format!("{admin}/readyz")).send().await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await;
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
