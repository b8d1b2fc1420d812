//! Keys as the step sees them: what is in memory, by name what is not.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use bus::Outcome;
use events::{DataKey, EventHeader, KeyId, RawEvent, Sealed, TenantId, topics};
use service::keys::{DataKeyCache, KeyLookup, KeyStore};

use super::Handled;
use crate::rules::Rules;
use crate::scrub::Scrubber;
use crate::shape::Shape;

const KEY: &str = "data key ";
const TENANT: &str = "tenant secret ";

/// What derives from a tenant's secret.
pub(super) struct TenantTools {
    pub(super) scrubber: Scrubber,
    pub(super) shape: Shape,
}

/// What became of opening a sealed text.
pub(super) enum Opened {
    Text(Vec<u8>, Arc<DataKey>),
    Erased,
    Unknown,
    Broken,
}

#[derive(Default)]
struct Known {
    tenants: HashMap<TenantId, Arc<TenantTools>>,
    /// Keys that the store was asked for and does not have.
    absent: HashSet<KeyId>,
}

pub(super) struct KeyRing {
    store: KeyStore,
    cache: DataKeyCache,
    rules: Arc<Rules>,
    known: RwLock<Known>,
}

impl KeyRing {
    pub(super) fn new(store: KeyStore, rules: Arc<Rules>) -> Self {
        Self { cache: store.cache(), store, rules, known: RwLock::default() }
    }

    /// Names of what must be loaded before the event can be handled.
    pub(super) fn missing(&self, event: &RawEvent) -> Vec<String> {
        let mut missing = Vec::new();
        if self.tenant(&event.header.tenant).is_err() {
            missing.push(format!("{TENANT}{}", event.header.tenant));
        }
        if let Some(sealed) = &event.sealed
            && matches!(self.lookup(sealed.key_id), Err(Outcome::Unavailable(_)))
        {
            missing.push(format!("{KEY}{}", sealed.key_id));
        }
        missing
    }

    pub(super) fn tenant(&self, tenant: &TenantId) -> Handled<Arc<TenantTools>> {
        let known = self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.tenants.get(tenant).cloned().ok_or_else(|| Outcome::Unavailable(format!("{TENANT}{tenant}")))
    }

    /// The key, or none when it was erased (`false`) or never existed (`true`).
    pub(super) fn lookup(&self, key: KeyId) -> Handled<Result<Arc<DataKey>, bool>> {
        match self.cache.get(&key) {
            KeyLookup::Found(key) => Ok(Ok(key)),
            KeyLookup::Erased => Ok(Err(false)),
            KeyLookup::Missing => {
                let known = self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                if known.absent.contains(&key) {
                    Ok(Err(true))
                } else {
                    Err(Outcome::Unavailable(format!("{KEY}{key}")))
                }
            }
        }
    }

    pub(super) fn open(&self, header: &EventHeader, sealed: &Sealed) -> Handled<Opened> {
        Ok(match self.lookup(sealed.key_id)? {
            Ok(key) => match key.open(header.event_id, topics::TELEMETRY_RAW, sealed) {
                Ok(plaintext) => Opened::Text(plaintext, key),
                Err(_) => Opened::Broken,
            },
            Err(true) => Opened::Unknown,
            Err(false) => Opened::Erased,
        })
    }

    /// Loads what was missing. What fails is named in the log and tried again after the bus's next pause.
    pub(super) async fn load(&self, names: &[String]) {
        for name in names {
            if let Some(tenant) = name.strip_prefix(TENANT).and_then(|name| name.parse::<TenantId>().ok()) {
                match self.store.tenant_secret(&tenant).await {
                    Ok(secret) => {
                        let scrubber = Scrubber::new(&secret, Arc::clone(&self.rules));
                        let tools = TenantTools { scrubber, shape: Shape::new(&secret) };
                        let mut known = self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                        known.tenants.insert(tenant, Arc::new(tools));
                    }
                    Err(error) => tracing::warn!(%error, "a tenant's secret can not be loaded; its events wait"),
                }
            } else if let Some(key) = name.strip_prefix(KEY).and_then(|name| name.parse::<KeyId>().ok()) {
                match self.store.get(key).await {
                    Ok(KeyLookup::Missing) => {
                        tracing::error!("the key store has no such data key; its events are quarantined");
                        let mut known = self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                        known.absent.insert(key);
                    }
                    Ok(KeyLookup::Found(_) | KeyLookup::Erased) => {}
                    Err(error) => tracing::warn!(%error, "a data key can not be loaded; its events wait"),
                }
            } else {
                tracing::warn!(name, "a record waits for a release that can read it");
            }
        }
    }
}
