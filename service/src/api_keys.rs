//! API keys of the doors: 256 random bits, shown once, stored as a digest.
//!
//! A digest without salt is enough: nobody can guess 256 random bits, and it makes the look-up one index read. Verified
//! keys are remembered for a moment, and for as long as the database does not answer, so that completions outlive it;
//! a door that must start without a database imports what it exported before.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::{IdSource, Sha256Digest, TenantId, Timestamp};
use parking_lot::Mutex;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};
use std::collections::HashMap;

use crate::clock::SharedClock;
use crate::config::Secret;
use crate::problem::Problem;

/// What every key starts with, so that scanners for leaked secrets find it.
pub const KEY_PREFIX: &str = "fw_";
/// How long a verified key is believed without asking; so long may a revoked key still work.
const BELIEVED_FOR: Duration = Duration::from_secs(5);
/// How many keys are remembered.
const REMEMBERED: usize = 4096;
const LONGEST_NAME: usize = 128;

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Report what developers did.
    Telemetry,
    /// Ask for suggestions.
    Suggest,
    /// Read and change models and rollouts.
    Registry,
    /// See the text of preference pairs: code of the people who agreed.
    #[serde(rename = "pairs:read")]
    PairsRead,
    /// Everything.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [Self::Telemetry, Self::Suggest, Self::Registry, Self::PairsRead, Self::Admin];

    /// The word that names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Suggest => "suggest",
            Self::Registry => "registry",
            Self::PairsRead => "pairs:read",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope \"{0}\"; expected telemetry, suggest, registry, pairs:read or admin")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A key as it is listed: everything but the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Names it when it is revoked.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// What a person calls it.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it allows `scope`. `admin` allows everything.
    #[must_use]
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// A key that is refused, or could not be looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiKeyError {
    /// None was sent.
    #[error("no API key was sent: use the header `Authorization: Bearer {KEY_PREFIX}...`")]
    Absent,
    /// Nobody was ever given it, or it was revoked; which of the two is not said.
    #[error("the API key is not valid")]
    Unknown,
    /// It does not allow this.
    #[error("the API key lacks the scope `{scope}`")]
    MissingScope {
        /// What it would need.
        scope: Scope,
    },
    /// A name that does not fit.
    #[error("the name of an API key has 1 to {LONGEST_NAME} characters and no control characters")]
    BadName,
    /// A key without any scope would be of no use.
    #[error("an API key needs at least one scope")]
    NoScope,
    /// The database failed, and this key was not seen before.
    #[error("API keys: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<ApiKeyError> for Problem {
    fn from(error: ApiKeyError) -> Self {
        match &error {
            ApiKeyError::Absent | ApiKeyError::Unknown => Self::unauthorized(error.to_string()),
            ApiKeyError::MissingScope { .. } => Self::forbidden(error.to_string()).with_code("missing_scope"),
            ApiKeyError::BadName | ApiKeyError::NoScope => Self::unprocessable(error.to_string()),
            ApiKeyError::Database(_) => Self::unavailable(
                "keys_unavailable",
                "API keys cannot be looked up at the moment",
                Duration::from_secs(5),
            ),
        }
    }
}

/// What a door keeps to verify keys without the database: digests, no keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedKey {
    key_sha256: Sha256Digest,
    key: ApiKey,
}

#[derive(Debug)]
struct Remembered {
    key: ApiKey,
    verified_at: Option<Instant>,
}

/// The API keys of a database. Clones share what they remember.
#[derive(Debug, Clone)]
pub struct ApiKeys {
    pool: AnyPool,
    clock: SharedClock,
    ids: Arc<dyn IdSource>,
    remembered: Arc<Mutex<HashMap<Sha256Digest, Remembered>>>,
}

impl ApiKeys {
    /// Keys in `pool`'s database.
    #[must_use]
    pub fn new(pool: AnyPool, clock: SharedClock, ids: Arc<dyn IdSource>) -> Self {
        Self { pool, clock, ids, remembered: Arc::default() }
    }

    /// Makes a key. It is in the result and nowhere else.
    ///
    /// # Errors
    /// A bad name, no scope, or a database that fails.
    pub async fn create(
        &self,
        tenant: &TenantId,
        name: &str,
        scopes: &[Scope],
    ) -> Result<(ApiKey, Secret), ApiKeyError> {
        let secret = Secret::new(format!("{KEY_PREFIX}{}", hex::encode(rand::rng().random::<[u8; 32]>())));
        let key = self.insert(tenant, name, scopes, &secret).await?;
        Ok((key, secret))
    }

    /// The key that is made of `bytes`, which nobody else can know: everybody who asks with the same bytes gets the same
    /// key, and there is one row of it. None when it was revoked: it stays so.
    ///
    /// # Errors
    /// As [`ApiKeys::create`].
    pub async fn shared(
        &self,
        tenant: &TenantId,
        name: &str,
        scopes: &[Scope],
        bytes: &[u8; 32],
    ) -> Result<Option<Secret>, ApiKeyError> {
        let secret = Secret::new(format!("{KEY_PREFIX}{}", hex::encode(bytes)));
        self.insert(tenant, name, scopes, &secret).await?;
        let known = self.lookup(digest(secret.expose_secret())).await?;
        Ok(known.is_some_and(|key| key.revoked_at.is_none()).then_some(secret))
    }

    /// Makes the row of a key unless there is one.
    async fn insert(
        &self,
        tenant: &TenantId,
        name: &str,
        scopes: &[Scope],
        secret: &Secret,
    ) -> Result<ApiKey, ApiKeyError> {
        if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
            return Err(ApiKeyError::BadName);
        }
        if scopes.is_empty() {
            return Err(ApiKeyError::NoScope);
        }
        let key = ApiKey {
            id: self.ids.next_uuid().to_string(),
            tenant: tenant.clone(),
            name: name.to_owned(),
            scopes: scopes.iter().copied().collect(),
            created_at: self.clock.now(),
            revoked_at: None,
        };
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        sqlx::query(
            "INSERT INTO api_keys (id, tenant, name, scopes, key_sha256, created_at) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (key_sha256) DO NOTHING",
        )
        .bind(&key.id)
        .bind(tenant.as_str())
        .bind(name)
        .bind(scopes.join(" "))
        .bind(digest(secret.expose_secret()).to_string())
        .bind(key.created_at.as_micros())
        .execute(&self.pool)
        .await?;
        Ok(key)
    }

    /// Whose key `key` is, if it is valid and allows `scope`.
    ///
    /// # Errors
    /// It is not or does not, or a database that fails before the key was ever seen.
    pub async fn verify(&self, key: &str, scope: Scope) -> Result<ApiKey, ApiKeyError> {
        if key.is_empty() {
            return Err(ApiKeyError::Absent);
        }
        if !key.starts_with(KEY_PREFIX) {
            return Err(ApiKeyError::Unknown);
        }
        let digest = digest(key);
        let known = self.lookup(digest).await?;
        let Some(known) = known.filter(|known| known.revoked_at.is_none()) else { return Err(ApiKeyError::Unknown) };
        if known.allows(scope) { Ok(known) } else { Err(ApiKeyError::MissingScope { scope }) }
    }

    /// [`ApiKeys::verify`] for the `Authorization` header of a request.
    ///
    /// # Errors
    /// As [`ApiKeys::verify`].
    pub async fn verify_headers(&self, headers: &axum::http::HeaderMap, scope: Scope) -> Result<ApiKey, ApiKeyError> {
        let header = headers.get(axum::http::header::AUTHORIZATION).ok_or(ApiKeyError::Absent)?;
        let text = header.to_str().map_err(|_| ApiKeyError::Unknown)?;
        match text.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => self.verify(key.trim(), scope).await,
            _ => Err(ApiKeyError::Absent),
        }
    }

    async fn lookup(&self, digest: Sha256Digest) -> Result<Option<ApiKey>, ApiKeyError> {
        {
            let remembered = self.remembered.lock();
            if let Some(known) = remembered.get(&digest)
                && known.verified_at.is_some_and(|at| at.elapsed() < BELIEVED_FOR)
            {
                return Ok(Some(known.key.clone()));
            }
        }
        let row =
            sqlx::query("SELECT id, tenant, name, scopes, created_at, revoked_at FROM api_keys WHERE key_sha256 = $1")
                .bind(digest.to_string())
                .fetch_optional(&self.pool)
                .await;
        let mut remembered = self.remembered.lock();
        match row {
            Ok(Some(row)) => {
                let key = api_key(&row)?;
                if key.revoked_at.is_some() {
                    remembered.remove(&digest);
                } else {
                    if remembered.len() >= REMEMBERED {
                        // Rare enough for the plain way: the one that was verified longest ago goes.
                        let oldest = remembered.iter().min_by_key(|(_, known)| known.verified_at).map(|(key, _)| *key);
                        oldest.and_then(|oldest| remembered.remove(&oldest));
                    }
                    remembered.insert(digest, Remembered { key: key.clone(), verified_at: Some(Instant::now()) });
                }
                Ok(Some(key))
            }
            Ok(None) => {
                remembered.remove(&digest);
                Ok(None)
            }
            Err(error) => match remembered.get(&digest) {
                Some(known) => {
                    metrics::counter!("flywheel_service_keys_from_memory_total").increment(1);
                    tracing::warn!(%error, "API keys cannot be looked up; a remembered one is accepted");
                    Ok(Some(known.key.clone()))
                }
                None => Err(error.into()),
            },
        }
    }

    /// All keys of a tenant, oldest first.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, ApiKeyError> {
        let rows = sqlx::query(
            "SELECT id, tenant, name, scopes, created_at, revoked_at FROM api_keys WHERE tenant = $1 \
             ORDER BY created_at, id",
        )
        .bind(tenant.as_str())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(api_key).collect::<Result<_, _>>()?)
    }

    /// Revokes a key; it works at most 5 s longer, in doors that have just seen it. Returns whether there was such a
    /// key, not revoked before.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn revoke(&self, tenant: &TenantId, id: &str) -> Result<bool, ApiKeyError> {
        let changed =
            sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE tenant = $2 AND id = $3 AND revoked_at IS NULL")
                .bind(self.clock.now().as_micros())
                .bind(tenant.as_str())
                .bind(id)
                .execute(&self.pool)
                .await?
                .rows_affected();
        self.remembered.lock().retain(|_, known| known.key.id != id);
        Ok(changed == 1)
    }

    /// What is remembered, for a file that [`ApiKeys::import`] reads at a start without a database.
    #[must_use]
    pub fn export(&self) -> Vec<RememberedKey> {
        let remembered = self.remembered.lock();
        let mut keys: Vec<RememberedKey> = remembered
            .iter()
            .map(|(digest, known)| RememberedKey { key_sha256: *digest, key: known.key.clone() })
            .collect();
        keys.sort_by_key(|remembered| remembered.key_sha256);
        keys
    }

    /// Remembers keys from before. The database is still asked first.
    pub fn import(&self, keys: Vec<RememberedKey>) {
        let mut remembered = self.remembered.lock();
        for known in keys.into_iter().take(REMEMBERED) {
            remembered.entry(known.key_sha256).or_insert(Remembered { key: known.key, verified_at: None });
        }
    }
}

fn digest(key: &str) -> Sha256Digest {
    Sha256Digest::of(key.as_bytes())
}

fn api_key(row: &AnyRow) -> Result<ApiKey, sqlx::Error> {
    let decode = |column: &str, source: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source,
    };
    let scopes: String = row.try_get("scopes")?;
    Ok(ApiKey {
        id: row.try_get("id")?,
        tenant: row.try_get::<String, _>("tenant")?.parse().map_err(|error| decode("tenant", Box::new(error)))?,
        name: row.try_get("name")?,
        // A scope of a newer release allows nothing here.
        scopes: scopes.split_whitespace().filter_map(|scope| scope.parse().ok()).collect(),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(Timestamp::from_micros),
    })
}
