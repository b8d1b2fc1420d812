//! The keys that the step needs at hand: persons' data keys and tenants' secrets, looked up without waiting.

use std::collections::HashMap;
use std::sync::Arc;

use events::avro::schema_dependency;
use events::{DataKey, KeyId, TenantId, TenantSecret};
use parking_lot::RwLock;
use service::keys::{DataKeyCache, KeyLookup, KeyStore, KeyStoreError};

/// Prefix of the dependency that names a tenant's secret; others are ids of data keys, or no keys at all.
const TENANT: &str = "tenant:";

/// A key that must be loaded first, or a schema that a later release knows, by the name that the bus hands back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unloaded(pub String);

impl Unloaded {
    /// What a record of a newer release waits for: a release that knows its schema.
    pub(crate) fn schema(fingerprint: &str) -> Self {
        Self(schema_dependency(fingerprint))
    }
}

/// Keys in memory, filled from the key store between attempts.
#[derive(Debug)]
pub struct LoadedKeys {
    store: KeyStore,
    cache: DataKeyCache,
    tenants: RwLock<HashMap<TenantId, TenantSecret>>,
}

impl LoadedKeys {
    /// Nothing loaded yet.
    #[must_use]
    pub fn new(store: KeyStore) -> Self {
        Self { cache: store.cache(), store, tenants: RwLock::default() }
    }

    /// A data key; none once its person was erased.
    ///
    /// # Errors
    /// When it is not in memory.
    pub fn data_key(&self, key_id: KeyId) -> Result<Option<Arc<DataKey>>, Unloaded> {
        match self.cache.get(&key_id) {
            KeyLookup::Found(key) => Ok(Some(key)),
            KeyLookup::Erased => Ok(None),
            KeyLookup::Missing => Err(Unloaded(key_id.to_string())),
        }
    }

    /// A tenant's secret.
    ///
    /// # Errors
    /// When it is not in memory.
    pub fn tenant_secret(&self, tenant: &TenantId) -> Result<TenantSecret, Unloaded> {
        self.tenants.read().get(tenant).cloned().ok_or_else(|| Unloaded(format!("{TENANT}{tenant}")))
    }

    /// Loads what [`Unloaded`] named; names of anything else are left alone.
    ///
    /// # Errors
    /// When the key store fails.
    pub async fn load(&self, names: &[String]) -> Result<(), KeyStoreError> {
        for name in names {
            if let Some(tenant) = name.strip_prefix(TENANT) {
                if let Ok(tenant) = tenant.parse::<TenantId>() {
                    let secret = self.store.tenant_secret(&tenant).await?;
                    self.tenants.write().insert(tenant, secret);
                }
            } else if let Ok(key_id) = name.parse::<KeyId>() {
                self.store.load(&[key_id]).await?;
            }
        }
        Ok(())
    }
}
