//! A platform in processes of the release binary, with data of its own that ends with it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use simulator::driver::{DoorSettings, Doors};
use sqlx::AnyPool;

use crate::demo::binary;
use crate::kafka::broker::Broker;

/// Every service that can run alone.
const SERVICES: [&str; 6] = ["registry", "ingest", "anonymizer", "labeler", "orchestrator", "serving"];
/// How long a platform may take to be ready.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// On what a platform runs.
#[derive(Debug, Clone)]
pub(crate) enum Parts {
    /// `flywheel up`: one process, a local log, SQLite, a directory.
    Embedded,
    /// Every service in a process of its own, on Apache Kafka, PostgreSQL and an S3 gateway.
    Servers {
        /// The broker.
        broker: Broker,
    },
}

impl Parts {
    /// Starts the broker; the other servers come with the platform.
    pub(crate) async fn servers() -> anyhow::Result<Self> {
        Ok(Self::Servers { broker: Broker::start().await? })
    }

    /// How figures call it.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Servers { .. } => "kafka",
        }
    }
}

/// A process of the platform.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    child: Child,
}

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is our child; a platform survives kill -9 by design.
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// A platform that runs as long as this value.
#[derive(Debug)]
pub(crate) struct Deployment {
    // Before the directory, which they use.
    pub(crate) processes: Vec<Process>,
    pub(crate) doors: Doors,
    pub(crate) pool: AnyPool,
    /// Stands before the names of topics.
    pub(crate) prefix: String,
    directory: tempfile::TempDir,
}

impl Deployment {
    /// Starts a platform with this text in its configuration, and waits until all of it is ready.
    pub(crate) async fn start(parts: &Parts, more: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let prefix = test_servers::unique_prefix();
        let mut text = "[admin]\nlisten = \"127.0.0.1:0\"\n".to_owned();
        for door in ["registry", "ingest", "serving"] {
            text += &format!("[{door}.http]\nlisten = \"127.0.0.1:0\"\n");
        }
        let mut url = migrations::sqlite_url(&directory.path().join("data/flywheel.sqlite"));
        if let Parts::Servers { broker } = parts {
            url = test_servers::postgresql_database().await;
            text += &on_servers(broker, &url, &prefix).await;
            text += &format!("[keys]\nmaster_key_file = \"{}\"\n", directory.path().join("master.key").display());
        } else {
            text += &format!("[bus]\nprefix = \"{prefix}\"\n");
        }
        std::fs::write(directory.path().join("flywheel.toml"), text + more)?;
        let names = match parts {
            Parts::Embedded => &["up"][..],
            Parts::Servers { .. } => {
                let key = directory.path().join("master.key").display().to_string();
                finished(command(directory.path(), &["keys", "master", &key])?)?;
                finished(command(directory.path(), &["migrate"])?)?;
                &SERVICES[..]
            }
        };
        let mut processes = Vec::new();
        for name in names {
            let child = command(directory.path(), &[*name])?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            processes.push(Process { name, child });
        }
        ready(directory.path(), &mut processes)?;
        let announced = |door: &str| std::fs::read_to_string(directory.path().join("data/doors").join(door));
        let (serving, ingest) = (announced("serving")?, announced("ingest")?);
        let key = finished(command(directory.path(), &["keys", "create", "--json"])?)?;
        let key: Value = serde_json::from_str(&key)?;
        let key = key.pointer("/key").and_then(Value::as_str).context("a key is made")?;
        let settings = DoorSettings::new(format!("http://{serving}"), format!("http://{ingest}"), key);
        let pool = migrations::connect(&url, 2).await?;
        Ok(Self { processes, doors: Doors::new(settings)?, pool, prefix, directory })
    }

    /// Everything that the platform keeps on its own disk.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs a command of the product on this platform, and answers what it printed.
    pub(crate) fn say(&self, arguments: &[&str]) -> anyhow::Result<String> {
        finished(command(self.directory.path(), arguments)?)
    }

    /// Lets these persons agree to whole events and every repository be trained on; waits until the log knows.
    pub(crate) async fn agree(&self, persons: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
        self.say(&["consent", "ceiling", "code"])?;
        for person in persons {
            self.say(&["consent", "set", &person, "code"])?;
        }
        self.say(&["repositories", "allow", "*"])?;
        self.until("consents and rules are in the log", async || {
            Ok(self.count("SELECT COUNT(*) FROM outbox").await? == 0)
        })
        .await
    }

    /// A number that the database knows.
    pub(crate) async fn count(&self, question: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(question).fetch_one(&self.pool).await?)
    }

    /// Waits until so many opportunities are closed, nothing waits in any stage, and no event is pending.
    pub(crate) async fn settled(&self, opportunities: u64) -> anyhow::Result<()> {
        let opportunities = i64::try_from(opportunities)?;
        self.until("every opportunity is closed", async || {
            Ok(self.count("SELECT COUNT(*) FROM opportunity_outcomes").await? >= opportunities)
        })
        .await?;
        self.drained().await
    }

    /// Waits until nothing waits in any stage, and no event is pending.
    pub(crate) async fn drained(&self) -> anyhow::Result<()> {
        self.until("everything is through", async || {
            let status: Value = serde_json::from_str(&self.say(&["status", "--json"])?)?;
            let behind = status.pointer("/backlog").and_then(Value::as_array).context("a backlog")?;
            let behind: u64 = behind.iter().filter_map(|stage| stage.get("records_behind")?.as_u64()).sum();
            let pending = status.pointer("/ledger/pending").and_then(Value::as_u64).context("a ledger")?;
            Ok(behind == 0 && pending == 0)
        })
        .await
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds().await? {
            if begun.elapsed() > 2 * LIMIT {
                bail!(
                    "waited {} s until {what}; `flywheel status` says {}",
                    (2 * LIMIT).as_secs(),
                    self.say(&["status"])?
                );
            }
            tokio::time::sleep(10 * LOOK).await;
        }
        Ok(())
    }
}

/// The sections that name the servers.
async fn on_servers(broker: &Broker, url: &str, prefix: &str) -> String {
    let bucket = test_servers::s3_bucket().await;
    format!(
        "[bus]\nkind = \"kafka\"\nprefix = \"{prefix}\"\n\
         [bus.kafka]\nbootstrap_servers = \"{}\"\nreplication = 1\nsingle_broker = true\n\
         [database]\nkind = \"postgresql\"\nurl = \"{url}\"\n\
         [artifacts]\nkind = \"s3\"\n[artifacts.s3]\nbucket = \"{}\"\nendpoint = \"{}\"\nregion = \"{}\"\n\
         access_key_id = \"{}\"\nsecret_access_key = \"{}\"\n",
        broker.bootstrap, bucket.bucket, bucket.endpoint, bucket.region, bucket.access_key_id, bucket.secret_access_key
    )
}

/// A command of the release binary on the platform of this directory, with nothing of our environment that it would
/// read.
fn command(directory: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary()?);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLYWHEEL_")) {
        command.env_remove(name);
    }
    command.env("FLYWHEEL_LOG", "error").args(arguments).stdin(Stdio::null());
    command.arg("--config").arg(directory.join("flywheel.toml")).arg("--data-dir").arg(directory.join("data"));
    Ok(command)
}

/// Runs a command to its end, and answers what it printed.
fn finished(mut command: Command) -> anyhow::Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}", command.get_args().next(), said.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits until every process says that it is ready.
fn ready(directory: &Path, processes: &mut [Process]) -> anyhow::Result<()> {
    let begun = Instant::now();
    for process in processes {
        let door = if process.name == "up" { "admin".to_owned() } else { format!("admin-{}", process.name) };
        let door = directory.join("data/doors").join(door);
        loop {
            let address = std::fs::read_to_string(&door).unwrap_or_default();
            if !address.is_empty() && is_ready(&address) {
                break;
            }
            if let Some(status) = process.child.try_wait()? {
                bail!("`flywheel {}` ended with {status} while it started", process.name);
            }
            ensure!(begun.elapsed() < LIMIT, "`flywheel {}` is not ready after {} s", process.name, LIMIT.as_secs());
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

fn is_ready(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}
