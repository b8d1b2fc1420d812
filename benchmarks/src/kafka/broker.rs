//! The broker of this process, and what it keeps on its disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use test_servers::Started;

/// A broker that nobody else uses. It ends with this process.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) bootstrap: String,
    /// Its process and its directory.
    pub(crate) started: Started,
}

impl Broker {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let server = test_servers::kafka().await;
        let started = test_servers::started("Kafka")
            .context("benchmarks measure a broker of their own: unset TEST_SERVERS_KAFKA, which names one of others")?;
        Ok(Self { bootstrap: server.bootstrap, started })
    }

    /// How it runs.
    pub(crate) fn described() -> String {
        let java = std::env::var("TEST_SERVERS_KAFKA_JAVA").unwrap_or_else(|_| "the settings of tests".to_owned());
        format!("one broker, Java with {java}")
    }

    /// Bytes of the segments of every topic, by its stored name: as the broker keeps them, once.
    pub(crate) fn bytes_by_topic(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let data: PathBuf = self.started.directory.join("data");
        let mut topics = BTreeMap::new();
        for entry in std::fs::read_dir(&data).context("the broker's data can not be read")? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some((topic, number)) = name.rsplit_once('-') else { continue };
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            let mut bytes = 0;
            for file in std::fs::read_dir(entry.path())? {
                let file = file?;
                // Compaction may remove a segment while it is looked at.
                if file.path().extension().is_some_and(|extension| extension == "log")
                    && let Ok(metadata) = file.metadata()
                {
                    bytes += metadata.len();
                }
            }
            *topics.entry(topic.to_owned()).or_default() += bytes;
        }
        Ok(topics)
    }

    /// Bytes of the segments of one topic, by its stored name.
    pub(crate) fn topic_bytes(&self, stored: &str) -> anyhow::Result<u64> {
        self.bytes_by_topic()?.get(stored).copied().with_context(|| format!("the broker has no topic {stored}"))
    }
}
