//! Which label policy is in force: a control record in every partition of `telemetry.clean.v1` says so from its
//! position on, so that the same log gives the same pairs, whatever is configured when it is read.
//!
//! Kind [`CONTROL_KIND`], subject [`SUBJECT`]; the value is the whole policy with its version, as canonical JSON
//! (fields in the order of their declaration, nothing between them). Before the first record the configured policy is
//! in force. The labeler publishes its configured policy when it starts, if that is not what the log was told last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, PublishError, StepContext};
use bytes::Bytes;
use events::topics::TELEMETRY_CLEAN;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::policy::LabelPolicy;

/// Kind of the control records.
pub const CONTROL_KIND: &str = "label-policy";
/// Their subject: the policy of all tenants.
pub const SUBJECT: &str = "*";

/// What the step waits for when a newer release wrote a policy that this one cannot read.
pub(crate) const UNREADABLE: &str = "label-policy";

/// First and longest pause between attempts to tell the log.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// A label policy and the version under which its pairs have their ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionedPolicy {
    /// See [`LabelPolicy::version`]. It is read from the record, not computed anew: ids of pairs are final.
    pub version: i32,
    /// The numbers.
    pub policy: LabelPolicy,
}

impl VersionedPolicy {
    /// The policy under its version.
    #[must_use]
    pub fn of(policy: LabelPolicy) -> Self {
        Self { version: policy.version(), policy }
    }
}

/// Why the log could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TellError {
    /// A weight that JSON has no number for.
    #[error("labeler.policy: a weight is no finite number")]
    NotFinite,
    /// The bus does not take the record.
    #[error("the label policy can not be published: {0}")]
    Bus(#[from] PublishError),
    /// The database failed.
    #[error("the label policy can not be compared with the last one: {0}")]
    Database(#[from] sqlx::Error),
}

impl TellError {
    fn may_pass(&self) -> bool {
        match self {
            Self::NotFinite => false,
            Self::Bus(error) => !matches!(
                error,
                PublishError::UnknownTopic(_) | PublishError::RecordTooLarge { .. } | PublishError::Closed
            ),
            Self::Database(_) => true,
        }
    }
}

/// The value of the control record.
///
/// # Errors
/// [`TellError::NotFinite`].
pub fn canonical(policy: &LabelPolicy) -> Result<String, TellError> {
    if !policy.typed_through_weight.is_finite() || !policy.typed_against_weight.is_finite() {
        return Err(TellError::NotFinite);
    }
    serde_json::to_string(&VersionedPolicy::of(policy.clone())).map_err(|_| TellError::NotFinite)
}

/// Publishes the policy unless it is what the log was told last. Returns whether it did.
///
/// The row goes before the control record is published and comes after it, so a row always names what the log was told
/// last. A crash in between leaves none: the next start publishes what is configured then, the same policy again (which
/// changes nothing) or another one.
///
/// # Errors
/// See [`TellError`].
pub async fn tell(bus: &dyn Bus, pool: &AnyPool, policy: &LabelPolicy) -> Result<bool, TellError> {
    let value = canonical(policy)?;
    let told: Option<String> = sqlx::query_scalar("SELECT value FROM label_policy WHERE subject = $1")
        .bind(SUBJECT)
        .fetch_optional(pool)
        .await?;
    if told.as_deref() == Some(value.as_str()) {
        return Ok(false);
    }
    sqlx::query("DELETE FROM label_policy WHERE subject = $1").bind(SUBJECT).execute(pool).await?;
    bus.publish_control(TELEMETRY_CLEAN, CONTROL_KIND, SUBJECT, Bytes::from(value.clone())).await?;
    sqlx::query(
        "INSERT INTO label_policy (subject, value) VALUES ($1, $2) \
         ON CONFLICT (subject) DO UPDATE SET value = excluded.value",
    )
    .bind(SUBJECT)
    .bind(value)
    .execute(pool)
    .await?;
    Ok(true)
}

/// [`tell`], again and again while trying again can help. False when `shutdown` came first.
pub(crate) async fn tell_in_time(
    bus: &dyn Bus,
    pool: &AnyPool,
    policy: &LabelPolicy,
    shutdown: &CancellationToken,
) -> Result<bool, TellError> {
    let (mut pause, longest) = PAUSES;
    loop {
        match tell(bus, pool, policy).await {
            Ok(is_new) => {
                if is_new {
                    tracing::info!(version = policy.version(), "the log was told the label policy");
                }
                return Ok(true);
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the labeler begins once the log knows its policy");
            }
            Err(error) => return Err(error),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(false);
        }
        pause = (pause * 2).min(longest);
    }
}

/// The policies of one step: the configured one, and those that control records name.
#[derive(Debug)]
pub(crate) struct Policies {
    configured: Arc<VersionedPolicy>,
    /// Each distinct value is parsed once.
    parsed: Mutex<HashMap<Bytes, Arc<VersionedPolicy>>>,
}

impl Policies {
    pub(crate) fn new(configured: LabelPolicy) -> Self {
        Self { configured: Arc::new(VersionedPolicy::of(configured)), parsed: Mutex::default() }
    }

    /// The policy in force where the step stands; none when it is of a newer release.
    pub(crate) fn in_force(&self, context: &dyn StepContext) -> Option<Arc<VersionedPolicy>> {
        let Some(value) = context.control(CONTROL_KIND, SUBJECT) else { return Some(Arc::clone(&self.configured)) };
        let mut parsed = self.parsed.lock();
        if let Some(policy) = parsed.get(&value) {
            return Some(Arc::clone(policy));
        }
        let policy = Arc::new(serde_json::from_slice::<VersionedPolicy>(&value).ok()?);
        parsed.insert(value, Arc::clone(&policy));
        Some(policy)
    }
}
