//! What serving asks the database, and never on the way of a completion whose key it has seen before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use events::{ConsentTier, DataKey, PersonPseudonym, TenantId, TenantSecret};
use parking_lot::Mutex;
use service::api_keys::Scope;
use service::config::Secret;
use service::consent::ConsentStore;
use service::keys::{KeyStore, KeyStoreOptions};
use service::repositories::{RepositoryRule, RepositoryStore};
use sqlx::{AnyPool, Row};

use crate::bounded::BoundedMap;
use crate::exposure::{People, Unavailable};

/// Consents in memory.
const CONSENTS: usize = 50_000;

/// The database that serving asks: open already, or opened when it first answers, so that a process can start and serve
/// its last good version while the database is down.
#[derive(Debug, Clone)]
pub enum Database {
    /// Open, as in a process that runs every service.
    Open {
        /// Connections.
        pool: AnyPool,
        /// Tenants' secrets and persons' data keys.
        keys: KeyStore,
    },
    /// Opened on first use, and tried again until it answers.
    Later {
        /// Where it is, perhaps with a password.
        url: Secret,
        /// Most connections.
        max_connections: u32,
        /// The file that wraps its keys.
        key_file: PathBuf,
        /// How its key store is opened.
        options: KeyStoreOptions,
    },
}

/// A key as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) tenant: TenantId,
    /// Whether the key has the scope.
    pub(crate) may_suggest: bool,
}

/// What the door must know of the database.
#[async_trait]
pub(crate) trait Directory: Send + Sync {
    /// The living key with this SHA-256 (lower-case hex); none when there is none.
    async fn grant(&self, key_sha256: &str) -> Result<Option<Grant>, Unavailable>;
    /// The tenant's secret.
    async fn tenant_secret(&self, tenant: &TenantId) -> Result<TenantSecret, Unavailable>;
    /// Which repository belongs to which audience.
    async fn repository_rules(&self, tenant: &TenantId) -> Result<Vec<RepositoryRule>, Unavailable>;
}

/// The database behind both traits.
pub(crate) struct DatabaseDirectory {
    source: Database,
    opened: tokio::sync::Mutex<Option<(AnyPool, KeyStore)>>,
    consent_refresh: Duration,
    consents: Mutex<BoundedMap<(TenantId, PersonPseudonym), (ConsentTier, Instant)>>,
}

impl DatabaseDirectory {
    pub(crate) fn new(source: Database, consent_refresh: Duration) -> Self {
        Self {
            source,
            opened: tokio::sync::Mutex::new(None),
            consent_refresh,
            consents: Mutex::new(BoundedMap::new(CONSENTS)),
        }
    }

    async fn open(&self) -> Result<(AnyPool, KeyStore), Unavailable> {
        match &self.source {
            Database::Open { pool, keys } => Ok((pool.clone(), keys.clone())),
            Database::Later { url, max_connections, key_file, options } => {
                let mut opened = self.opened.lock().await;
                if let Some(open) = opened.as_ref() {
                    return Ok(open.clone());
                }
                let pool = migrations::connect(url.expose_secret(), *max_connections)
                    .await
                    .map_err(|error| unavailable(&error))?;
                // On SQLite the platform migrates when it starts; on a server nobody works on a schema that refuses it.
                if migrations::backend(&pool) == migrations::Backend::Postgres {
                    migrations::check(&pool).await.map_err(|error| unavailable(&error))?;
                }
                let keys = KeyStore::open_with(pool.clone(), key_file, options.clone())
                    .await
                    .map_err(|error| unavailable(&error))?;
                *opened = Some((pool.clone(), keys.clone()));
                Ok((pool, keys))
            }
        }
    }
}

fn unavailable(error: &dyn std::error::Error) -> Unavailable {
    tracing::debug!(%error, "the database does not answer");
    metrics::counter!("flywheel_serving_database_failures_total").increment(1);
    Unavailable
}

#[async_trait]
impl Directory for DatabaseDirectory {
    async fn grant(&self, key_sha256: &str) -> Result<Option<Grant>, Unavailable> {
        let (pool, _) = self.open().await?;
        let row = sqlx::query("SELECT tenant, scopes FROM api_keys WHERE key_sha256 = $1 AND revoked_at IS NULL")
            .bind(key_sha256)
            .fetch_optional(&pool)
            .await
            .map_err(|error| unavailable(&error))?;
        let Some(row) = row else { return Ok(None) };
        let tenant: String = row.try_get(0).map_err(|error| unavailable(&error))?;
        let scopes: String = row.try_get(1).map_err(|error| unavailable(&error))?;
        let tenant = tenant.parse().map_err(|error: events::InvalidId| unavailable(&error))?;
        let may_suggest = scopes.split(' ').any(|scope| matches!(scope.parse(), Ok(Scope::Suggest | Scope::Admin)));
        Ok(Some(Grant { tenant, may_suggest }))
    }

    async fn tenant_secret(&self, tenant: &TenantId) -> Result<TenantSecret, Unavailable> {
        let (_, keys) = self.open().await?;
        keys.tenant_secret(tenant).await.map_err(|error| unavailable(&error))
    }

    async fn repository_rules(&self, tenant: &TenantId) -> Result<Vec<RepositoryRule>, Unavailable> {
        let (pool, _) = self.open().await?;
        RepositoryStore::new(pool).list(tenant).await.map_err(|error| unavailable(&error))
    }
}

#[async_trait]
impl People for DatabaseDirectory {
    async fn consent(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<ConsentTier, Unavailable> {
        let owner = (tenant.clone(), person.clone());
        if let Some((tier, read)) = self.consents.lock().get(&owner)
            && read.elapsed() < self.consent_refresh
        {
            return Ok(tier);
        }
        let (pool, _) = self.open().await?;
        let tier = ConsentStore::new(pool).effective(tenant, person).await.map_err(|error| unavailable(&error))?;
        self.consents.lock().insert(owner, (tier, Instant::now()));
        Ok(tier)
    }

    async fn data_key(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<Arc<DataKey>, Unavailable> {
        let (_, keys) = self.open().await?;
        keys.data_key(tenant, person).await.map_err(|error| unavailable(&error))
    }
}
