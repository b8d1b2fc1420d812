//! Who may ask: API keys and tenants, remembered so that a known caller never waits for the database.
//!
//! A key that was verified is good for `key_refresh_seconds`; after that it still serves while it is verified again
//! behind the request's back, and at most `key_staleness_seconds` while that fails. What was verified is on disk too
//! (digests of keys, the tenant's secret wrapped by the key file), so that a restart with everything down still knows
//! its callers. All of this guards processes and not data: it runs on real time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anonymizer::shape::Shape;
use arc_swap::ArcSwap;
use events::sealing::keyed_digest;
use events::{Audience, DataKey, EventId, KeyId, Sealed, Sha256Digest, TenantId, TenantSecret, Timestamp};
use metrics::counter;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use service::clock::real_now;
use service::problem::Problem;
use service::repositories::{RepositoryRule, RepositoryRules};

use crate::bounded::BoundedMap;
use crate::config::ServingConfig;
use crate::database::{Directory, Grant};
use crate::disk;
use crate::exposure::Unavailable;

/// Longest `Authorization` header that is looked at.
const MAX_HEADER_BYTES: usize = 512;
/// How long a key that does not exist is refused without asking again.
const REFUSAL_SECONDS: u64 = 3;
/// Keys that do not exist, in memory.
const REFUSALS: usize = 4096;
/// The file is written at most so often for a mere change of times.
const WRITE_PERIOD: Duration = Duration::from_secs(60);

/// What serving knows of a tenant.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) secret: Arc<TenantSecret>,
    pub(crate) shape: Shape,
    rules: ArcSwap<(Vec<RepositoryRule>, RepositoryRules)>,
}

impl Tenant {
    fn new(id: TenantId, secret: TenantSecret, rules: Vec<RepositoryRule>) -> Self {
        let rules = (rules.clone(), RepositoryRules::new(rules));
        Self { id, shape: Shape::new(&secret), secret: Arc::new(secret), rules: ArcSwap::from_pointee(rules) }
    }

    /// Who may be served what was learned from the repository; none without a rule.
    pub(crate) fn audience_of(&self, repository: &str) -> Option<Audience> {
        self.rules.load().1.rule(repository).map(|rule| rule.audience.clone())
    }
}

#[derive(Clone)]
struct VerifiedKey {
    tenant: Arc<Tenant>,
    may_suggest: bool,
    verified_at: Timestamp,
    /// Whether somebody verifies it again just now.
    refreshing: Arc<AtomicBool>,
}

struct Known {
    keys: BoundedMap<Sha256Digest, VerifiedKey>,
    refused: BoundedMap<Sha256Digest, Instant>,
    tenants: HashMap<TenantId, Arc<Tenant>>,
}

/// Authenticates requests.
pub(crate) struct Door {
    directory: Arc<dyn Directory>,
    known: Mutex<Known>,
    refresh: Duration,
    staleness: Duration,
    timeout: Duration,
    file: PathBuf,
    key_file: PathBuf,
    written: Mutex<Option<Instant>>,
}

impl Door {
    /// Opens the door with what the last run remembered.
    pub(crate) fn new(
        directory: Arc<dyn Directory>,
        config: &ServingConfig,
        data_dir: &Path,
        key_file: PathBuf,
    ) -> Arc<Self> {
        let door = Self {
            directory,
            known: Mutex::new(Known {
                keys: BoundedMap::new(config.key_cache_entries),
                refused: BoundedMap::new(REFUSALS),
                tenants: HashMap::new(),
            }),
            refresh: Duration::from_secs(config.key_refresh_seconds),
            staleness: Duration::from_secs(config.key_staleness_seconds),
            timeout: Duration::from_millis(config.authentication_timeout_ms),
            file: data_dir.join("door.json"),
            key_file,
            written: Mutex::new(None),
        };
        door.remember();
        Arc::new(door)
    }

    /// The tenant of the key in an `Authorization` header.
    pub(crate) async fn authenticate(self: &Arc<Self>, header: Option<&[u8]>) -> Result<Arc<Tenant>, Problem> {
        let key = header
            .filter(|header| header.len() <= MAX_HEADER_BYTES)
            .and_then(|header| header.split_first_chunk::<7>())
            .filter(|(scheme, key)| scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty())
            .map(|(_, key)| Sha256Digest::of(key.trim_ascii()))
            .ok_or_else(|| Problem::unauthorized("expected a header Authorization: Bearer KEY"))?;
        let verified = {
            let mut known = self.known.lock();
            if let Some(since) = known.refused.get(&key)
                && since.elapsed() < Duration::from_secs(REFUSAL_SECONDS)
            {
                return Err(unknown_key());
            }
            known.keys.get(&key)
        };
        let verified = match verified {
            Some(verified) if self.age(&verified) <= self.refresh => verified,
            Some(verified) if self.age(&verified) <= self.staleness => {
                if !verified.refreshing.swap(true, Ordering::AcqRel) {
                    let (door, verified) = (Arc::clone(self), verified.clone());
                    tokio::spawn(async move {
                        // Whatever comes of it: what is known serves on until it is too old or refuted.
                        let _ = door.verify(key).await;
                        verified.refreshing.store(false, Ordering::Release);
                    });
                }
                verified
            }
            _ => match tokio::time::timeout(self.timeout, self.verify(key)).await {
                Ok(Ok(Some(verified))) => verified,
                Ok(Ok(None)) => return Err(unknown_key()),
                Ok(Err(Unavailable)) | Err(_) => {
                    return Err(Problem::unavailable(
                        "keys_unavailable",
                        "the key can not be verified now",
                        Duration::from_secs(1),
                    ));
                }
            },
        };
        if verified.may_suggest {
            return Ok(verified.tenant);
        }
        Err(Problem::forbidden("the key does not have the scope suggest").with_code("missing_scope"))
    }

    fn age(&self, verified: &VerifiedKey) -> Duration {
        real_now().since(verified.verified_at)
    }

    /// Asks the database about a key and remembers the answer.
    async fn verify(&self, key: Sha256Digest) -> Result<Option<VerifiedKey>, Unavailable> {
        let Some(Grant { tenant, may_suggest }) = self.directory.grant(&key.to_string()).await? else {
            let was_known = {
                let mut known = self.known.lock();
                known.refused.insert(key, Instant::now());
                let was_known = known.keys.get(&key).is_some();
                known.keys.remove(&key);
                was_known
            };
            if was_known {
                // A revoked key must not come back with a restart.
                self.write(true).await;
            }
            return Ok(None);
        };
        let tenant = self.tenant(tenant).await?;
        let verified =
            VerifiedKey { tenant, may_suggest, verified_at: real_now(), refreshing: Arc::new(AtomicBool::new(false)) };
        let is_new = {
            let mut known = self.known.lock();
            let is_new = known.keys.get(&key).is_none_or(|before| before.may_suggest != may_suggest);
            known.keys.insert(key, verified.clone());
            is_new
        };
        self.write(is_new).await;
        Ok(Some(verified))
    }

    /// The secret of a tenant for which nobody shows a key. Once it could be had it is on disk too.
    pub(crate) async fn secret(&self, id: &TenantId) -> Result<Arc<TenantSecret>, Unavailable> {
        let known = self.known.lock().tenants.get(id).cloned();
        if let Some(tenant) = known {
            return Ok(Arc::clone(&tenant.secret));
        }
        let tenant = self.tenant(id.clone()).await?;
        self.write(true).await;
        Ok(Arc::clone(&tenant.secret))
    }

    async fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, Unavailable> {
        let rules = self.directory.repository_rules(&id).await?;
        let known = self.known.lock().tenants.get(&id).cloned();
        if let Some(tenant) = known {
            if tenant.rules.load().0 != rules {
                tenant.rules.store(Arc::new((rules.clone(), RepositoryRules::new(rules))));
            }
            return Ok(tenant);
        }
        let secret = self.directory.tenant_secret(&id).await?;
        let tenant = Arc::new(Tenant::new(id.clone(), secret, rules));
        Ok(Arc::clone(self.known.lock().tenants.entry(id).or_insert(tenant)))
    }

    /// Writes what is known, off this thread; a failure is counted and costs only the next restart.
    async fn write(&self, at_once: bool) {
        {
            let mut written = self.written.lock();
            if !at_once && written.is_some_and(|written| written.elapsed() < WRITE_PERIOD) {
                return;
            }
            *written = Some(Instant::now());
        }
        let Some(sealer) = Sealer::read(&self.key_file) else { return };
        let remembered = {
            let known = self.known.lock();
            Remembered {
                keys: known
                    .keys
                    .iter()
                    .map(|(digest, key)| RememberedKey {
                        key_sha256: *digest,
                        tenant: key.tenant.id.clone(),
                        may_suggest: key.may_suggest,
                        verified_at: key.verified_at,
                    })
                    .collect(),
                tenants: known
                    .tenants
                    .values()
                    .map(|tenant| RememberedTenant {
                        tenant: tenant.id.clone(),
                        wrapped_secret: hex::encode(sealer.seal(&tenant.id, &tenant.secret)),
                        rules: tenant.rules.load().0.clone(),
                    })
                    .collect(),
            }
        };
        let file = self.file.clone();
        let result = tokio::task::spawn_blocking(move || disk::write_json(&file, &remembered)).await;
        if let Ok(Err(error)) = result {
            tracing::warn!(%error, "what the door knows could not be kept for the next start");
            counter!("flywheel_serving_disk_failures_total").increment(1);
        }
    }

    fn remember(&self) {
        let Some(remembered) = disk::read_json::<Remembered>(&self.file) else { return };
        let Some(sealer) = Sealer::read(&self.key_file) else { return };
        let mut known = self.known.lock();
        for tenant in remembered.tenants {
            let Some(secret) = sealer.open(&tenant.tenant, &tenant.wrapped_secret) else { continue };
            let id = tenant.tenant.clone();
            known.tenants.insert(id, Arc::new(Tenant::new(tenant.tenant, secret, tenant.rules)));
        }
        for key in remembered.keys {
            let Some(tenant) = known.tenants.get(&key.tenant).cloned() else { continue };
            let verified = VerifiedKey {
                tenant,
                may_suggest: key.may_suggest,
                verified_at: key.verified_at,
                refreshing: Arc::new(AtomicBool::new(false)),
            };
            known.keys.insert(key.key_sha256, verified);
        }
    }
}

fn unknown_key() -> Problem {
    Problem::unauthorized("the key is not known or was revoked")
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    keys: Vec<RememberedKey>,
    tenants: Vec<RememberedTenant>,
}

#[derive(Serialize, Deserialize)]
struct RememberedKey {
    key_sha256: Sha256Digest,
    tenant: TenantId,
    may_suggest: bool,
    verified_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct RememberedTenant {
    tenant: TenantId,
    wrapped_secret: String,
    rules: Vec<RepositoryRule>,
}

/// Seals tenants' secrets for the disk under a key derived from the key file.
struct Sealer(DataKey);

impl Sealer {
    /// None while there is no key file: then nothing is kept.
    fn read(key_file: &Path) -> Option<Self> {
        let bytes: [u8; 32] = std::fs::read(key_file).ok()?.try_into().ok()?;
        let key = keyed_digest(&bytes, &[b"flywheel serving tenant secrets"]);
        Some(Self(DataKey::new(KeyId::from_uuid(Default::default()), key)))
    }

    fn place(tenant: &TenantId) -> String {
        format!("tenant secret {tenant}")
    }

    fn seal(&self, tenant: &TenantId, secret: &TenantSecret) -> Vec<u8> {
        let nobody = EventId::from_uuid(Default::default());
        self.0.seal(nobody, &Self::place(tenant), secret.expose_secret()).ciphertext
    }

    fn open(&self, tenant: &TenantId, wrapped: &str) -> Option<TenantSecret> {
        let sealed = Sealed { key_id: self.0.id(), ciphertext: hex::decode(wrapped).ok()? };
        let opened = self.0.open(EventId::from_uuid(Default::default()), &Self::place(tenant), &sealed).ok()?;
        Some(TenantSecret::new(opened.try_into().ok()?))
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod tests;
