//! Which label policy is in force: a control record in every partition of `telemetry.clean.v1` says so from its
//! position on, so that the same log gives the same pairs, whatever is configured when it is read.
//!
//! Kind [`CONTROL_KIND`], subject [`SUBJECT`]; the value is the whole policy with its version, as canonical JSON
//! (fields in the order of their declaration, nothing between them). Before the first record the configured policy is
//! in force. The labeler publishes its configured policy when it starts, if that is not what the log was told last.
//!
//! The record also says whether pairs and outcomes tell details that the release before can not read. No setting does:
//! whoever set it too early would stop that release in the middle of the log. It follows from which releases may use
//! the database, and is in the log so that a replay tells what the step told. It is not taken back: the oldest schema
//! that may use a database only rises. Where a backup of the database from before takes its place, the log goes on with
//! details until the numbers change; from there on they are missing, and nothing else is, until the database is closed
//! to the release before once more.

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

/// Releases whose schema is older read no details.
const SCHEMA_OF_DETAILS: i64 = 9;

/// First and longest pause between attempts to tell the log.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// A label policy, the version under which its pairs have their ids, and how much is told of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionedPolicy {
    /// See [`LabelPolicy::version`]. It is read from the record, not computed anew: ids of pairs are final.
    pub version: i32,
    /// The numbers.
    pub policy: LabelPolicy,
    /// Whether pairs say that they are off-policy, and outcomes what their opportunity was about. Written only when
    /// they do: the release before, which can not read these, does not know this field either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tells_details: bool,
}

impl VersionedPolicy {
    /// The policy under its version.
    #[must_use]
    pub fn of(policy: LabelPolicy, tells_details: bool) -> Self {
        Self { version: policy.version(), policy, tells_details }
    }

    /// The configured policy; it tells details where every release that may use the database can read them.
    ///
    /// # Errors
    /// A database that can not be asked.
    pub async fn configured(pool: &AnyPool, policy: LabelPolicy) -> Result<Self, sqlx::Error> {
        let oldest = migrations::oldest_schema(pool).await?;
        Ok(Self::of(policy, oldest >= SCHEMA_OF_DETAILS))
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
    #[error("the database can not be asked about the label policy: {0}")]
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
pub fn canonical(policy: &VersionedPolicy) -> Result<String, TellError> {
    let numbers = &policy.policy;
    if !numbers.typed_through_weight.is_finite() || !numbers.typed_against_weight.is_finite() {
        return Err(TellError::NotFinite);
    }
    serde_json::to_string(policy).map_err(|_| TellError::NotFinite)
}

/// Publishes the policy unless it is what the log was told last. Returns whether it did.
///
/// The row goes before the control record is published and comes after it, so a row always names what the log was told
/// last. A crash in between leaves none: the next start publishes what is configured then, the same policy again (which
/// changes nothing) or another one.
///
/// # Errors
/// See [`TellError`].
pub async fn tell(bus: &dyn Bus, pool: &AnyPool, policy: &VersionedPolicy) -> Result<bool, TellError> {
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

async fn tell_configured(bus: &dyn Bus, pool: &AnyPool, policy: &LabelPolicy) -> Result<VersionedPolicy, TellError> {
    let policy = VersionedPolicy::configured(pool, policy.clone()).await?;
    if tell(bus, pool, &policy).await? {
        let VersionedPolicy { version, tells_details, .. } = policy;
        tracing::info!(version, tells_details, "the log was told the label policy");
    }
    Ok(policy)
}

/// Tells the log the configured policy, again and again while trying again can help, and returns it. None when
/// `shutdown` came first.
pub(crate) async fn tell_in_time(
    bus: &dyn Bus,
    pool: &AnyPool,
    policy: &LabelPolicy,
    shutdown: &CancellationToken,
) -> Result<Option<VersionedPolicy>, TellError> {
    let (mut pause, longest) = PAUSES;
    loop {
        match tell_configured(bus, pool, policy).await {
            Ok(told) => return Ok(Some(told)),
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the labeler begins once the log knows its policy");
            }
            Err(error) => return Err(error),
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(None);
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
    pub(crate) fn new(configured: VersionedPolicy) -> Self {
        Self { configured: Arc::new(configured), parsed: Mutex::default() }
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
