//! Keys in the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use events::{DataKey, IdSource, KeyId, PersonPseudonym, Sha256Digest, TenantId, TenantSecret, Timestamp};
use parking_lot::Mutex;
use rand::RngExt;
use sqlx::{AnyConnection, AnyPool, Row};
use zeroize::Zeroizing;

use super::cache::{BoundedMap, DataKeyCache, KeyLookup};
use super::key_file::{KeyFile, KeyFileError, WrapError};
use crate::clock::{RealClock, SharedClock};
use crate::ids::SystemIds;

/// The setting that holds the check value. No tenant has an empty name, so it is nobody's setting.
const CHECK_SETTING: &str = "key_file_check";
const CHECK_PLAINTEXT: [u8; 32] = *b"flywheel key file, the right one";

/// A key store that cannot be opened or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyStoreError {
    /// The key file cannot be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The file is gone, but what it wrapped is still there.
    #[error(
        "the key file {} is missing, and the database holds keys that only it opens: restore it from its backup",
        path.display()
    )]
    FileMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The file is not the one that wrapped what the database holds.
    #[error(
        "the key file {} is not the one that this database was made with: restore the right one from its backup",
        path.display()
    )]
    WrongFile {
        /// Its path.
        path: PathBuf,
    },
    /// A row does not open although the file is the right one.
    #[error("key store: {0}")]
    Wrapped(#[from] WrapError),
    /// A row holds an id that is none.
    #[error("key store: {0}")]
    Row(#[from] events::InvalidId),
    /// The database failed.
    #[error("key store: {0}")]
    Database(#[from] sqlx::Error),
}

/// How a key store is opened.
#[derive(Debug, Clone)]
pub struct KeyStoreOptions {
    /// Stamps new rows.
    pub clock: SharedClock,
    /// Names new keys.
    pub ids: Arc<dyn IdSource>,
    /// Makes the secrets of new tenants, and with them every pseudonym, a function of the seed. For the demo only:
    /// whoever knows the seed knows the secrets.
    pub seed: Option<u64>,
    /// How many data keys stay in memory.
    pub cache_capacity: usize,
}

impl Default for KeyStoreOptions {
    fn default() -> Self {
        let clock = RealClock::shared();
        Self { ids: Arc::new(SystemIds::new(clock.clone())), clock, seed: None, cache_capacity: 50_000 }
    }
}

/// Tenants' secrets and persons' data keys. Clones share their cache.
#[derive(Debug, Clone)]
pub struct KeyStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: AnyPool,
    wrapping: KeyFile,
    options: KeyStoreOptions,
    cache: DataKeyCache,
    tenants: Mutex<BoundedMap<TenantId, TenantSecret>>,
    living: Mutex<BoundedMap<(TenantId, PersonPseudonym), Arc<DataKey>>>,
}

impl KeyStore {
    /// Opens the store of a migrated database. Makes the key file when neither it nor anything wrapped exists.
    ///
    /// # Errors
    /// A key file that is missing, unreadable or not the one of this database, or a database that fails.
    pub async fn open(pool: AnyPool, key_file: &Path) -> Result<Self, KeyStoreError> {
        Self::open_with(pool, key_file, KeyStoreOptions::default()).await
    }

    /// [`KeyStore::open`] with options.
    ///
    /// # Errors
    /// As [`KeyStore::open`].
    pub async fn open_with(pool: AnyPool, key_file: &Path, options: KeyStoreOptions) -> Result<Self, KeyStoreError> {
        let path = key_file.to_path_buf();
        let checked = check_value(&pool).await?;
        let wrapping = match KeyFile::read(&path) {
            Err(KeyFileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if checked.is_some() {
                    return Err(KeyStoreError::FileMissing { path });
                }
                KeyFile::create(&path)?
            }
            other => other?,
        };
        let wrapped = match checked {
            Some(wrapped) => wrapped,
            None => {
                let ours = hex::encode(wrapping.wrap(&[CHECK_SETTING], &CHECK_PLAINTEXT)?);
                sqlx::query(
                    "INSERT INTO settings (tenant, name, value, updated_at) VALUES ('', $1, $2, $3) \
                     ON CONFLICT (tenant, name) DO NOTHING",
                )
                .bind(CHECK_SETTING)
                .bind(&ours)
                .bind(options.clock.now().as_micros())
                .execute(&pool)
                .await?;
                // Another process may have been first, with another file.
                check_value(&pool).await?.unwrap_or(ours)
            }
        };
        if !wrapping.opens(&wrapped) {
            return Err(KeyStoreError::WrongFile { path });
        }
        let cache = DataKeyCache::new(options.cache_capacity);
        Ok(Self(Arc::new(Inner {
            pool,
            wrapping,
            tenants: Mutex::new(BoundedMap::new(1024)),
            living: Mutex::new(BoundedMap::new(options.cache_capacity)),
            cache,
            options,
        })))
    }

    /// The keys in memory, for steps.
    #[must_use]
    pub fn cache(&self) -> DataKeyCache {
        self.0.cache.clone()
    }

    /// The secret of a tenant, made at first use.
    ///
    /// # Errors
    /// A row that does not open, or a database that fails.
    pub async fn tenant_secret(&self, tenant: &TenantId) -> Result<TenantSecret, KeyStoreError> {
        if let Some(secret) = self.0.tenants.lock().get(tenant) {
            return Ok(secret);
        }
        let bound_to = ["tenant secret", tenant.as_str()];
        let secret = match self.wrapped_tenant_secret(tenant).await? {
            Some(wrapped) => self.0.wrapping.unwrap_key(&bound_to, &wrapped)?,
            None => {
                let fresh = Zeroizing::new(match self.0.options.seed {
                    Some(seed) => {
                        let parts = [&seed.to_be_bytes()[..], tenant.as_str().as_bytes()];
                        *Sha256Digest::of_parts("flywheel seeded tenant secret", &parts).as_bytes()
                    }
                    None => rand::rng().random(),
                });
                let wrapped = self.0.wrapping.wrap(&bound_to, &*fresh)?;
                sqlx::query(
                    "INSERT INTO tenants (tenant, wrapped_secret, created_at) VALUES ($1, $2, $3) \
                     ON CONFLICT (tenant) DO NOTHING",
                )
                .bind(tenant.as_str())
                .bind(wrapped)
                .bind(self.0.options.clock.now().as_micros())
                .execute(&self.0.pool)
                .await?;
                match self.wrapped_tenant_secret(tenant).await? {
                    Some(wrapped) => self.0.wrapping.unwrap_key(&bound_to, &wrapped)?,
                    None => return Err(sqlx::Error::RowNotFound.into()),
                }
            }
        };
        let secret = TenantSecret::new(*secret);
        self.0.tenants.lock().insert(tenant.clone(), secret.clone());
        Ok(secret)
    }

    async fn wrapped_tenant_secret(&self, tenant: &TenantId) -> Result<Option<Vec<u8>>, KeyStoreError> {
        Ok(sqlx::query_scalar("SELECT wrapped_secret FROM tenants WHERE tenant = $1")
            .bind(tenant.as_str())
            .fetch_optional(&self.0.pool)
            .await?)
    }

    /// The data key of a person, made at first use and after an erasure.
    ///
    /// # Errors
    /// A row that does not open, or a database that fails.
    pub async fn data_key(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<Arc<DataKey>, KeyStoreError> {
        let owner = (tenant.clone(), person.clone());
        let remembered = self.0.living.lock().get(&owner);
        if let Some(key) = remembered {
            // Sealing under a key that was erased meanwhile would lose what is sealed.
            if !matches!(self.0.cache.get(&key.id()), KeyLookup::Erased) {
                return Ok(key);
            }
            self.0.living.lock().remove(&owner);
        }
        let key = match self.living_key(tenant, person).await? {
            Some(key) => key,
            None => {
                let key_id = KeyId::new(&*self.0.options.ids);
                let fresh = Zeroizing::new(rand::rng().random::<[u8; 32]>());
                let wrapped = self.0.wrapping.wrap(&data_key_row(key_id, tenant.as_str()).bound(), &*fresh)?;
                sqlx::query(
                    "INSERT INTO person_keys (key_id, tenant, person, wrapped_key, created_at) \
                     VALUES ($1, $2, $3, $4, $5) \
                     ON CONFLICT (tenant, person) WHERE erased_at IS NULL DO NOTHING",
                )
                .bind(key_id.to_string())
                .bind(tenant.as_str())
                .bind(person.as_str())
                .bind(wrapped)
                .bind(self.0.options.clock.now().as_micros())
                .execute(&self.0.pool)
                .await?;
                // Somebody else may have been first: only the row counts.
                self.living_key(tenant, person).await?.ok_or(sqlx::Error::RowNotFound)?
            }
        };
        self.0.cache.insert(key.clone());
        self.0.living.lock().insert(owner, key.clone());
        Ok(key)
    }

    async fn living_key(
        &self,
        tenant: &TenantId,
        person: &PersonPseudonym,
    ) -> Result<Option<Arc<DataKey>>, KeyStoreError> {
        let row = sqlx::query(
            "SELECT key_id, wrapped_key FROM person_keys WHERE tenant = $1 AND person = $2 AND erased_at IS NULL",
        )
        .bind(tenant.as_str())
        .bind(person.as_str())
        .fetch_optional(&self.0.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let key_id: KeyId = row.try_get::<String, _>(0)?.parse()?;
        Ok(Some(self.open_key(key_id, tenant.as_str(), &row.try_get::<Vec<u8>, _>(1)?)?))
    }

    fn open_key(&self, key_id: KeyId, tenant: &str, wrapped: &[u8]) -> Result<Arc<DataKey>, KeyStoreError> {
        let secret = self.0.wrapping.unwrap_key(&data_key_row(key_id, tenant).bound(), wrapped)?;
        Ok(Arc::new(DataKey::new(key_id, *secret)))
    }

    /// A key by its id, from memory or from the database.
    ///
    /// # Errors
    /// A row that does not open, or a database that fails.
    pub async fn get(&self, key_id: KeyId) -> Result<KeyLookup, KeyStoreError> {
        if let known @ (KeyLookup::Found(_) | KeyLookup::Erased) = self.0.cache.get(&key_id) {
            return Ok(known);
        }
        let row = sqlx::query("SELECT tenant, wrapped_key FROM person_keys WHERE key_id = $1")
            .bind(key_id.to_string())
            .fetch_optional(&self.0.pool)
            .await?;
        let Some(row) = row else { return Ok(KeyLookup::Missing) };
        match row.try_get::<Option<Vec<u8>>, _>(1)? {
            Some(wrapped) => {
                let key = self.open_key(key_id, &row.try_get::<String, _>(0)?, &wrapped)?;
                self.0.cache.insert(key);
            }
            None => self.0.cache.mark_erased(key_id),
        }
        Ok(self.0.cache.get(&key_id))
    }

    /// Brings keys into memory, so that [`DataKeyCache::get`] finds them. Returns how many do not exist.
    ///
    /// # Errors
    /// A row that does not open, or a database that fails.
    pub async fn load(&self, key_ids: &[KeyId]) -> Result<usize, KeyStoreError> {
        let mut missing = 0;
        for key_id in key_ids {
            if matches!(self.get(*key_id).await?, KeyLookup::Missing) {
                missing += 1;
            }
        }
        Ok(missing)
    }

    /// Destroys all keys of a person in the caller's transaction and returns their ids. Call
    /// [`KeyStore::forget`] with them after the commit, and tell the bus.
    ///
    /// # Errors
    /// A database that fails: roll back.
    pub async fn erase(
        &self,
        transaction: &mut AnyConnection,
        tenant: &TenantId,
        person: &PersonPseudonym,
        now: Timestamp,
    ) -> Result<Vec<KeyId>, KeyStoreError> {
        let ids: Vec<String> = sqlx::query_scalar(
            "UPDATE person_keys SET wrapped_key = NULL, erased_at = $1 \
             WHERE tenant = $2 AND person = $3 AND erased_at IS NULL RETURNING key_id",
        )
        .bind(now.as_micros())
        .bind(tenant.as_str())
        .bind(person.as_str())
        .fetch_all(transaction)
        .await?;
        Ok(ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?)
    }

    /// The destroyed keys of a tenant, as the database has them: memory may not have heard of all yet. None is ever taken
    /// back, so the number of them only grows.
    ///
    /// # Errors
    /// A row that holds no id, or a database that fails.
    pub async fn erased_keys(&self, tenant: &TenantId) -> Result<Vec<KeyId>, KeyStoreError> {
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT key_id FROM person_keys WHERE tenant = $1 AND erased_at IS NOT NULL")
                .bind(tenant.as_str())
                .fetch_all(&self.0.pool)
                .await?;
        Ok(ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?)
    }

    /// Forgets erased keys in memory.
    pub fn forget(&self, key_ids: &[KeyId]) {
        for key_id in key_ids {
            self.0.cache.mark_erased(*key_id);
        }
        self.0.living.lock().retain(|_, key| !key_ids.contains(&key.id()));
    }
}

/// How a key file and a database stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFileState {
    /// There is neither a file nor anything wrapped: both are made at the first start.
    NoneYet,
    /// There is a file, and the database holds nothing that it wrapped.
    Unused,
    /// The file opens what the database holds.
    Opens,
}

/// How the key file stands to what a migrated database holds. Makes neither.
///
/// # Errors
/// As [`KeyStore::open`], when one of them is there.
pub async fn key_file_state(pool: &AnyPool, key_file: &Path) -> Result<KeyFileState, KeyStoreError> {
    let path = key_file.to_path_buf();
    let checked = check_value(pool).await?;
    let wrapping = match KeyFile::read(&path) {
        Err(KeyFileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return if checked.is_some() {
                Err(KeyStoreError::FileMissing { path })
            } else {
                Ok(KeyFileState::NoneYet)
            };
        }
        other => other?,
    };
    let Some(wrapped) = checked else { return Ok(KeyFileState::Unused) };
    match wrapping.opens(&wrapped) {
        true => Ok(KeyFileState::Opens),
        false => Err(KeyStoreError::WrongFile { path }),
    }
}

impl KeyFile {
    /// Whether it wrapped this check value.
    fn opens(&self, check_value: &str) -> bool {
        let wrapped = hex::decode(check_value).unwrap_or_default();
        self.unwrap_key(&[CHECK_SETTING], &wrapped).is_ok_and(|plaintext| *plaintext == CHECK_PLAINTEXT)
    }
}

async fn check_value(pool: &AnyPool) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM settings WHERE tenant = '' AND name = $1")
        .bind(CHECK_SETTING)
        .fetch_optional(pool)
        .await
}

/// What a wrapped data key is bound to.
struct DataKeyRow<'a> {
    key_id: String,
    tenant: &'a str,
}

fn data_key_row(key_id: KeyId, tenant: &str) -> DataKeyRow<'_> {
    DataKeyRow { key_id: key_id.to_string(), tenant }
}

impl DataKeyRow<'_> {
    fn bound(&self) -> [&str; 3] {
        ["data key", self.tenant, &self.key_id]
    }
}
