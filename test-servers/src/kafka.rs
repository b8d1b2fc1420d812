//! Apache Kafka: one broker that is its own controller.

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::server::{Plan, Running, directory, on_free_port};
use crate::{KafkaServer, cached, ports};

pub(crate) const VARIABLE: &str = "TEST_SERVERS_KAFKA";
const LIBRARIES: &str = "TEST_SERVERS_KAFKA_LIBRARIES";
const JAVA: &str = "TEST_SERVERS_KAFKA_JAVA";
/// Enough for tests, and fast to start.
pub(crate) const JAVA_FOR_TESTS: &str = "-Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";
/// Where `test-servers/fetch` puts the broker, below the cache. The version is pinned there.
const CACHED: &str = "flywheel/tools/kafka-4.3.1/libs";
/// In the directory of a broker.
pub(crate) const SETTINGS: &str = "server.properties";
/// Any will do: the data of a test is its own.
const CLUSTER: &str = "Zmx5d2hlZWwtdGVzdC0wMQ";
pub(crate) const USER: &str = "flywheel-test";
pub(crate) const PASSWORD: &str = "flywheel-test-password";

/// Where a broker is, and how to enter with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    /// Host and port where everybody may enter.
    open: String,
    /// User, password, host and port where only that user may.
    guarded: Option<(String, String, String)>,
}

impl fmt::Display for Door {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.open)?;
        match &self.guarded {
            Some((user, password, address)) => write!(formatter, ";{user}:{password}@{address}"),
            None => Ok(()),
        }
    }
}

impl Door {
    fn parse(text: &str) -> Result<Self, String> {
        let expected = || format!("{VARIABLE}: expected HOST:PORT, or HOST:PORT;USER:PASSWORD@HOST:PORT");
        let (open, guarded) = match text.split_once(';') {
            Some((open, guarded)) => {
                let parts = || {
                    let (user, address) = guarded.rsplit_once('@')?;
                    let (user, password) = user.split_once(':')?;
                    Some((user.to_owned(), password.to_owned(), address.to_owned()))
                };
                (open, Some(parts().ok_or_else(expected)?))
            }
            None => (text, None),
        };
        if open.contains(':') { Ok(Self { open: open.to_owned(), guarded }) } else { Err(expected()) }
    }

    fn server(self) -> KafkaServer {
        let Self { open, guarded } = self;
        KafkaServer { bootstrap: open, guarded }
    }
}

/// The broker of this process: the one of the environment, or one of its own.
pub(crate) fn server() -> Result<KafkaServer, String> {
    static SERVER: OnceLock<Result<(Running, Door), String>> = OnceLock::new();
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => Door::parse(&text).map(Door::server),
        _ => SERVER.get_or_init(start).as_ref().map(|(_, door)| door.clone().server()).map_err(Clone::clone),
    }
}

/// Starts a broker of our own.
pub(crate) fn start() -> Result<(Running, Door), String> {
    on_free_port(start_on)
}

fn start_on(port: u16) -> Result<(Running, Door), String> {
    let libraries = libraries()?;
    let (guarded, controller) = (ports::hold()?, ports::hold()?);
    let directory = directory("Kafka")?;
    let settings = directory.join(SETTINGS);
    if let Err(error) = configure(&directory, &settings, [port, guarded, controller]) {
        let _gone = std::fs::remove_dir_all(&directory);
        return Err(format!("there is no place for the data of Kafka: {error}"));
    }
    let running = start_in(directory, &libraries, &[])?;
    let guarded = Some((USER.to_owned(), PASSWORD.to_owned(), format!("127.0.0.1:{guarded}")));
    Ok((running, Door { open: format!("127.0.0.1:{port}"), guarded }))
}

/// Starts a broker whose settings are in that directory: makes its data, with a user in it, and lets it run.
pub(crate) fn start_in(directory: PathBuf, libraries: &Path, java_settings: &[String]) -> Result<Running, String> {
    let settings = directory.join(SETTINGS).display().to_string();
    let mut prepare = java(libraries, JAVA_FOR_TESTS, &[]);
    let scram = format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]");
    prepare.extend(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER, "--config"].map(str::to_owned));
    prepare.extend([settings.clone(), "--add-scram".to_owned(), scram]);
    let mut of_java = vec![format!("-Dlog4j2.configurationFile={}", directory.join("log4j2.properties").display())];
    of_java.extend(java_settings.iter().cloned());
    let given = std::env::var(JAVA).ok().filter(|given| !given.is_empty());
    let mut command = java(libraries, given.as_deref().unwrap_or(JAVA_FOR_TESTS), &of_java);
    command.extend(["kafka.Kafka".to_owned(), settings]);
    let own = directory.clone();
    let plan = Plan { name: "Kafka", directory, prepare, command, environment: Vec::new(), signal: "KILL" };
    // It says so only once it has taken its ports, so no other broker is taken for it.
    Running::start(plan, || says_started(&own))
}

/// Whether the broker whose log is in that directory serves.
pub(crate) fn says_started(directory: &Path) -> bool {
    let log = std::fs::read(directory.join("log"));
    log.is_ok_and(|log| String::from_utf8_lossy(&log).contains("Kafka Server started"))
}

pub(crate) fn java(libraries: &Path, options: &str, more: &[String]) -> Vec<String> {
    let mut command = vec!["java".to_owned()];
    command.extend(options.split_whitespace().map(str::to_owned));
    command.extend(more.iter().cloned());
    command.extend(["-cp".to_owned(), format!("{}/*", libraries.display())]);
    command
}

fn configure(directory: &Path, settings: &Path, ports: [u16; 3]) -> std::io::Result<()> {
    std::fs::write(settings, properties(&directory.join("data"), ports))?;
    write_logging(directory)
}

pub(crate) fn write_logging(directory: &Path) -> std::io::Result<()> {
    std::fs::write(directory.join("log4j2.properties"), LOGGING)
}

/// A broker that forgets nothing it is asked to keep, starts fast and takes over fast. Whoever enters without a name may
/// do everything; who has a name, only what was allowed of things about which anything was.
pub(crate) fn properties(data: &Path, [open, guarded, controller]: [u16; 3]) -> String {
    let mut text = String::from(FIXED);
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required";
    let _to_memory = write!(
        text,
        "log.dirs={}\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{open},GUARDED://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{open},GUARDED://127.0.0.1:{guarded}\n\
         listener.name.guarded.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.guarded.scram-sha-512.sasl.jaas.config={login} username=\"{USER}\" password=\"{PASSWORD}\";\n",
        data.display()
    );
    text
}

/// The only broker is never given up while it lives: a session much shorter than this ends on a machine that is busy, and
/// then the broker is out for everybody, again and again. One that was killed is let in once its session has ended.
const FIXED: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
log.cleaner.dedupe.buffer.size=4194304
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
log.cleaner.backoff.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=6000
controller.quorum.election.timeout.ms=300
controller.quorum.election.backoff.max.ms=100
group.min.session.timeout.ms=500
";

const LOGGING: &str = "\
status = error
appender.c.type = Console
appender.c.name = c
appender.c.layout.type = PatternLayout
appender.c.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.c.ref = c
";

pub(crate) fn libraries() -> Result<PathBuf, String> {
    let libraries = cached(LIBRARIES, CACHED);
    if !libraries.is_dir() {
        return Err(format!(
            "the tests need Apache Kafka, which is not at {}; run `test-servers/fetch` (it needs Maven and Java 17), \
             name its jars in {LIBRARIES} or a running broker in {VARIABLE}, or run `./test --embedded`",
            libraries.display()
        ));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|place| place.join("java").is_file()) {
        Ok(libraries)
    } else {
        Err(format!(
            "the tests need Java 17 for Kafka, and there is none on the path; install it, name a running broker in \
             {VARIABLE}, or run `./test --embedded`"
        ))
    }
}

/// Whether a broker of our own can be started.
pub(crate) fn is_installed() -> bool {
    libraries().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_read_as_they_are_written() {
        let open = Door { open: "127.0.0.1:9092".to_owned(), guarded: None };
        assert_eq!(Door::parse(&open.to_string()), Ok(open.clone()));
        let guarded = Some(("u".to_owned(), "p:@;".to_owned(), "127.0.0.1:9093".to_owned()));
        let both = Door { guarded, ..open };
        assert_eq!(Door::parse(&both.to_string()), Ok(both));
        assert!(Door::parse("here").unwrap_err().contains("HOST:PORT"));
    }
}
