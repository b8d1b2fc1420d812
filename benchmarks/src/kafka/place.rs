//! Where a bus is: enough to open it again, in this process or another one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use bus::kafka::{KafkaBus, KafkaConfig, KafkaSteps};
use bus::local::{LocalLog, LocalLogConfig};
use serde::{Deserialize, Serialize};
use service::clock::RealClock;
use service::lease::LeaseStore;

use super::broker::Broker;

/// Connections of a handle to the database of leases.
const CONNECTIONS: u32 = 4;

/// Where a bus is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Place {
    /// A file.
    Local {
        /// Which.
        file: PathBuf,
    },
    /// Topics with a prefix of their own on a broker.
    Kafka {
        /// Host and port.
        bootstrap: String,
        /// Stands before every name.
        prefix: String,
        /// Where the leases and the copies of state are.
        folder: PathBuf,
    },
}

impl Place {
    /// On a broker, with all settings that users have by default but the number of copies.
    pub(crate) fn on(broker: &Broker, prefix: &str, folder: PathBuf) -> Self {
        Self::Kafka { bootstrap: broker.bootstrap.clone(), prefix: prefix.to_owned(), folder }
    }

    /// How it is called in figures.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Local { .. } => "embedded",
            Self::Kafka { .. } => "kafka",
        }
    }

    /// How long an owner of a partition may be silent.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(match self {
            Self::Local { .. } => LocalLogConfig::default().lease_ms,
            Self::Kafka { .. } => KafkaConfig::default().lease_ms,
        })
    }

    /// The name under which a broker knows a topic.
    pub(crate) fn stored(&self, topic: &str) -> String {
        match self {
            Self::Local { .. } => topic.to_owned(),
            Self::Kafka { prefix, .. } => format!("{prefix}{topic}"),
        }
    }

    /// Opens a handle. `name`: whose copies of state it uses; handles of one name must not be open at the same time.
    pub(crate) async fn open(&self, name: &str) -> anyhow::Result<Arc<dyn Bus>> {
        match self {
            Self::Local { file } => Ok(Arc::new(LocalLog::open(file, RealClock::shared(), LocalLogConfig::default())?)),
            Self::Kafka { bootstrap, prefix, folder } => {
                let url = migrations::sqlite_url(&folder.join("leases.sqlite"));
                let pool = migrations::connect(&url, CONNECTIONS).await?;
                migrations::migrate(&pool).await?;
                let config = KafkaConfig {
                    prefix: prefix.clone(),
                    bootstrap_servers: bootstrap.clone(),
                    replication: 1,
                    single_broker: true,
                    ..KafkaConfig::default()
                };
                let steps = KafkaSteps { leases: LeaseStore::new(pool), state_dir: folder.join(name) };
                Ok(Arc::new(KafkaBus::open(config, RealClock::shared(), Some(steps)).await?))
            }
        }
    }
}
