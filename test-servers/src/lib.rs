//! Real servers for the tests: PostgreSQL, an S3 gateway, Apache Kafka and toxiproxy, taken from the environment or started
//! for one run.
//!
//! | variable | what it is |
//! |---|---|
//! | `TEST_SERVERS_EMBEDDED` | `1`: there are no servers; tests that need one say so and pass |
//! | `TEST_SERVERS_FULL` | `1`: a full run, with servers that few tests need and that take long to fetch |
//! | `TEST_SERVERS_POSTGRESQL` | the URL of a running server, of a user who may make databases; the variables of PostgreSQL's own tools count for nothing |
//! | `TEST_SERVERS_S3` | a running gateway, `http://KEY:SECRET@HOST:PORT` |
//! | `TEST_SERVERS_KAFKA` | a running broker, `HOST:PORT`, or `HOST:PORT;USER:PASSWORD@HOST:PORT` with a second door |
//! | `TEST_SERVERS_TOXIPROXY` | where a running toxiproxy is told what to do, `HOST:PORT`; its proxies are on this machine |
//! | `TEST_SERVERS_MINIO` | a running MinIO, `http://KEY:SECRET@HOST:PORT`, for a full run |
//! | `TEST_SERVERS_POSTGRESQL_BIN` | the directory of `initdb` and `postgres` |
//! | `TEST_SERVERS_VERSITYGW` | the program `versitygw` |
//! | `TEST_SERVERS_KAFKA_LIBRARIES` | the directory with the jars of Apache Kafka |
//! | `TEST_SERVERS_TOXIPROXY_SERVER` | the program of toxiproxy |
//! | `TEST_SERVERS_MINIO_SERVER` | the program of MinIO |
//! | `TEST_SERVERS_APICURIO` | the directory with the program of the schema registry Apicurio and its jars |
//! | `TEST_SERVERS_PREVIOUS_RELEASE` | the program of the release before this one, with the parts of a production platform, for a full run |
//! | `TEST_SERVERS_LAKE_READERS` | the directory with the Python packages DuckDB, Polars and datasets, for a full run |
//! | `TEST_SERVERS_LLAMA_CPP` | the directory with the Python package of llama.cpp, for a full run |
//! | `TEST_SERVERS_KAFKA_JAVA` | options of Kafka's Java instead of those for tests: benchmarks want more of it |
//!
//! What is not given is started: once a process, or, by the program `test-servers`, once for a whole `cargo test`. What
//! was started ends with the process that started it, also when that is killed (`server.rs` says how). Nothing of a server
//! that is given has to be installed here; tests of servers that start and end are left out then. Databases that a run made
//! on it are dropped when the run ends.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that can not have its server fails, and says why")]

mod brokers;
mod http;
mod kafka;
mod kafka_acls;
mod kafka_doors;
mod minio;
mod own;
mod ports;
mod postgresql;
mod previous;
mod python;
mod registry;
mod s3;
mod s3_door;
mod server;
mod toxiproxy;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

pub use brokers::KafkaBrokers;
pub use kafka_acls::KafkaRight;
pub use kafka_doors::{KafkaDoor, KafkaOfMine};
pub use own::OwnServer;
pub use registry::SchemaRegistry;
use server::Running;
pub use server::{Started, started};
pub use toxiproxy::{Proxy, Stream, Toxic, Toxiproxy};

/// Says that there are no servers.
const EMBEDDED: &str = "TEST_SERVERS_EMBEDDED";
/// Says that there are all.
const FULL: &str = "TEST_SERVERS_FULL";

/// A bucket that nothing else uses.
#[derive(Debug, Clone)]
pub struct S3Bucket {
    /// Where the gateway is, with its scheme.
    pub endpoint: String,
    /// What requests are signed for.
    pub region: String,
    /// Its name.
    pub bucket: String,
    /// Who may use it.
    pub access_key_id: String,
    /// How that is proved.
    pub secret_access_key: String,
}

/// A broker, which other tests use too: names of topics and groups must be the test's own ([`unique_prefix`]).
#[derive(Debug, Clone)]
pub struct KafkaServer {
    /// Host and port where everybody may enter.
    pub bootstrap: String,
    /// User, password, and host and port where only that user may enter, by SCRAM-SHA-512; none: there is no such door.
    pub guarded: Option<(String, String, String)>,
}

/// Whether tests may use servers. When they may not, says aloud which test is left out.
#[must_use]
pub fn servers_wanted() -> bool {
    let wanted = std::env::var(EMBEDDED).map_or(true, |value| matches!(value.as_str(), "" | "0"));
    if !wanted {
        skipped("it needs servers");
    }
    wanted
}

/// Whether a test belongs to this run that takes long or needs a server that only `./test --full` fetches. When it does
/// not, that is said aloud.
#[must_use]
pub fn full_wanted() -> bool {
    let wanted = std::env::var(FULL).is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    let servers = servers_wanted();
    if servers && !wanted {
        skipped("it belongs to ./test --full");
    }
    servers && wanted
}

/// Whether a test may start servers besides those that everybody uses. Where running ones are given and ours are not
/// installed it may not, which is said aloud.
#[must_use]
pub fn own_servers_wanted() -> bool {
    let parts = [
        (postgresql::VARIABLE, postgresql::is_installed()),
        (s3::VARIABLE, s3::is_installed()),
        (kafka::VARIABLE, kafka::is_installed()),
    ];
    servers_wanted() && parts.into_iter().all(|(variable, is_installed)| may_start(variable, is_installed))
}

/// Not installed and not given is no reason to leave a test out: that it can not have its server must be seen.
fn may_start(variable: &str, is_installed: bool) -> bool {
    let may = is_installed || is_absent(variable);
    if !may {
        skipped(&format!("it starts a server itself, which is not installed; {variable} names another one"));
    }
    may
}

/// Says aloud which test is left out: whoever reads the end of a run must see what it did not look at.
fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("test-servers: skipped, {why}: {}\n", thread.name().unwrap_or("a test"));
    // The test harness keeps what `eprintln!` says of a test that passes.
    let _nobody_listens = std::io::stderr().write_all(line.as_bytes());
}

/// Whether a process runs. One that has ended does not, also where nobody asks for its end: the first process of a
/// container may leave what it inherits unasked for ever.
#[must_use]
pub fn is_running(process: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        // The name before the state may hold anything.
        Ok(status) => !status.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']),
        Err(_) if Path::new("/proc/self/stat").exists() => false,
        Err(_) => {
            let asked = std::process::Command::new("kill").args(["-0", &process.to_string()]).output();
            asked.is_ok_and(|asked| asked.status.success())
        }
    }
}

/// A loopback port that no other test of any run is given while this process lives; it stays free when whoever listens
/// there is killed.
///
/// # Panics
/// There is none.
#[must_use]
pub fn free_port() -> u16 {
    ports::hold().unwrap_or_else(|sentence| panic!("{sentence}"))
}

/// The URL of a fresh, empty database.
///
/// # Panics
/// There is no server and none can be started: the sentence says what to do.
pub async fn postgresql_database() -> String {
    blocking(postgresql::database).await
}

/// A fresh, empty bucket.
///
/// # Panics
/// There is no gateway and none can be started: the sentence says what to do.
pub async fn s3_bucket() -> S3Bucket {
    blocking(s3::bucket).await
}

/// An empty bucket from which everybody may only read: of a gateway of this process. None, which is said aloud, where a
/// running gateway is given and ours is not installed.
///
/// # Panics
/// The gateway can not be started: the sentence says what to do.
pub async fn s3_read_only_bucket() -> Option<S3Bucket> {
    if may_start(s3::VARIABLE, s3::is_installed()) { Some(blocking(s3::read_only_bucket).await) } else { None }
}

/// An empty bucket of a user who may put, get and remove objects and not list them, as [`s3_read_only_bucket`].
///
/// # Panics
/// The gateway can not be started: the sentence says what to do.
pub async fn s3_bucket_without_listing() -> Option<S3Bucket> {
    if may_start(s3::VARIABLE, s3::is_installed()) { Some(blocking(s3::bucket_without_listing).await) } else { None }
}

/// An empty bucket as its owner has it, and as a user has it who may only read, as [`s3_read_only_bucket`].
///
/// # Panics
/// The gateway can not be started: the sentence says what to do.
pub async fn s3_bucket_with_reader() -> Option<[S3Bucket; 2]> {
    if may_start(s3::VARIABLE, s3::is_installed()) { Some(blocking(s3::bucket_with_reader).await) } else { None }
}

/// A fresh, empty bucket of MinIO, when [`full_wanted`].
///
/// # Panics
/// There is no MinIO and none can be started: the sentence says what to do.
pub async fn minio_bucket() -> S3Bucket {
    blocking(minio::bucket).await
}

/// A Kafka broker.
///
/// # Panics
/// There is no broker and none can be started: the sentence says what to do.
pub async fn kafka() -> KafkaServer {
    blocking(kafka::server).await
}

/// A Kafka broker of this test's own, with more doors; `java_settings`: properties of its Java, such as `-Dname=value`.
///
/// # Panics
/// None can be started: the sentence says what to do.
pub async fn kafka_with_doors(doors: Vec<KafkaDoor>, java_settings: Vec<String>) -> KafkaOfMine {
    blocking(move || kafka_doors::start(&doors, &java_settings)).await
}

/// A schema registry of this test's own.
///
/// # Panics
/// None can be started: the sentence says what to do.
pub async fn schema_registry() -> SchemaRegistry {
    blocking(registry::start).await
}

/// The program of the release before this one, when [`full_wanted`].
///
/// # Panics
/// It is not there: the sentence says what to do.
#[must_use]
pub fn previous_release() -> PathBuf {
    previous::program().unwrap_or_else(|sentence| panic!("{sentence}"))
}

/// The directory of Python packages that read parts of the lake, when [`full_wanted`].
///
/// # Panics
/// They are not there: the sentence says what to do.
#[must_use]
pub fn lake_readers() -> PathBuf {
    python::LAKE_READERS.directory().unwrap_or_else(|sentence| panic!("{sentence}"))
}

/// The directory of the Python package of llama.cpp, when [`full_wanted`].
///
/// # Panics
/// It is not there: the sentence says what to do.
#[must_use]
pub fn llama_cpp() -> PathBuf {
    python::LLAMA_CPP.directory().unwrap_or_else(|sentence| panic!("{sentence}"))
}

/// Gives rights at a broker. Whoever enters without a name may do everything; who has a name may do everything with
/// things about which nothing is said.
///
/// # Panics
/// The broker does not take them: the sentence says why.
pub async fn kafka_allow(bootstrap: &str, rights: Vec<KafkaRight>) {
    let bootstrap = bootstrap.to_owned();
    blocking(move || kafka_acls::allow(&bootstrap, &rights)).await;
}

/// Takes rights at a broker that were given there.
///
/// # Panics
/// The broker does not take them back, or they were not given: the sentence says why.
pub async fn kafka_forbid(bootstrap: &str, rights: Vec<KafkaRight>) {
    let bootstrap = bootstrap.to_owned();
    blocking(move || kafka_acls::forbid(&bootstrap, &rights)).await;
}

/// What puts bad connections before servers. None, which is said aloud, where running servers are given and it is neither
/// given nor installed.
///
/// # Panics
/// There is none and none can be started: the sentence says what to do.
pub async fn toxiproxy() -> Option<Toxiproxy> {
    if lacks_toxiproxy() {
        skipped(&format!("it needs toxiproxy, which is not installed; {} names none", toxiproxy::VARIABLE));
        return None;
    }
    Some(blocking(toxiproxy::server).await)
}

/// Whoever brings servers need not bring this one too.
fn lacks_toxiproxy() -> bool {
    let brings = [postgresql::VARIABLE, s3::VARIABLE, kafka::VARIABLE].into_iter().any(|variable| !is_absent(variable));
    brings && is_absent(toxiproxy::VARIABLE) && !toxiproxy::is_installed()
}

/// What stands before every name that a test uses on a server that others use too.
#[must_use]
pub fn unique_prefix() -> String {
    format!("{}.", unique_name('-'))
}

/// Starting a server blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => value,
        Ok(Err(sentence)) => panic!("{sentence}"),
        Err(error) => panic!("{error}"),
    }
}

/// Every server, for a command that runs many tests.
#[derive(Debug)]
pub struct Servers {
    running: Vec<Running>,
    /// What the command must find in its environment.
    pub variables: Vec<(&'static str, String)>,
    /// A server that stays, and the file that names the databases which the command makes there.
    made: Option<(String, tempfile::NamedTempFile)>,
}

impl Servers {
    /// Starts what the environment does not name already.
    ///
    /// # Errors
    /// One of them can not be started: the sentence says what to do.
    pub fn start() -> Result<Self, String> {
        let mut servers = Self::given()?;
        let (database, gateway, broker, proxy) = std::thread::scope(|scope| {
            let database = scope.spawn(|| is_absent(postgresql::VARIABLE).then(postgresql::start).transpose());
            let broker = scope.spawn(|| is_absent(kafka::VARIABLE).then(kafka::start).transpose());
            let gateway = is_absent(s3::VARIABLE).then(s3::start).transpose();
            let has_proxy = !is_absent(toxiproxy::VARIABLE) || lacks_toxiproxy();
            let proxy = (!has_proxy).then(toxiproxy::start).transpose();
            let joined = "starting a server does not panic";
            (database.join().expect(joined), gateway, broker.join().expect(joined), proxy)
        });
        if let Some((running, url)) = database? {
            servers.running.push(running);
            servers.variables.push((postgresql::VARIABLE, url));
        }
        if let Some((running, door)) = gateway? {
            servers.running.push(running);
            servers.variables.push((s3::VARIABLE, door.to_string()));
        }
        if let Some((running, door)) = broker? {
            servers.running.push(running);
            servers.variables.push((kafka::VARIABLE, door.to_string()));
        }
        if let Some((running, api)) = proxy? {
            servers.running.push(running);
            servers.variables.push((toxiproxy::VARIABLE, api));
        }
        Ok(servers)
    }

    /// Starts nothing: the servers that the environment names.
    ///
    /// # Errors
    /// There is no place for a file.
    pub fn given() -> Result<Self, String> {
        let mut variables = Vec::new();
        let made = match std::env::var(postgresql::VARIABLE) {
            Ok(server) if !server.is_empty() => {
                let file = tempfile::NamedTempFile::new().map_err(|error| format!("there is no place: {error}"))?;
                variables.push((postgresql::MADE, file.path().display().to_string()));
                Some((server, file))
            }
            _ => None,
        };
        Ok(Self { running: Vec::new(), variables, made })
    }

    /// Ends them, waits until they are gone, and removes what was made on those that stay.
    ///
    /// # Errors
    /// Something is left on one that stays.
    pub fn stop(self) -> Result<(), String> {
        for running in self.running {
            running.stop();
        }
        self.made.map_or(Ok(()), |(server, made)| postgresql::drop_databases(&server, made.path()))
    }
}

/// What a variable names, or else what `test-servers/fetch` has put below the cache.
fn cached(variable: &str, place: &str) -> PathBuf {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
    named(variable).or_else(|| Some(cache()?.join(place))).unwrap_or_default()
}

/// A program that `fetch` builds with Go into that place below the cache, or that `variable` names; `running`: the
/// variable that names a running one.
fn program(what: &str, (variable, place): (&str, &str), fetch: &str, running: &str) -> Result<PathBuf, String> {
    let program = cached(variable, place);
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!(
            "the tests need {what}, which is not at {}; run `{fetch}` (it needs Go), name it in {variable} or a running \
             one in {running}, or run `./test --embedded`",
            program.display()
        ))
    }
}

fn is_absent(variable: &str) -> bool {
    std::env::var_os(variable).is_none_or(|value| value.is_empty())
}

/// A name that nobody has used on a server that may be older than this process.
fn unique_name(separator: char) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("flywheel-test-{}-{}-{number}", std::process::id(), since_1970.as_micros());
    name.replace('-', &separator.to_string())
}
