//! What persons agreed to. The effective tier is the narrower of the person's choice and the tenant's ceiling; whoever
//! has not chosen is at `usage`.
//!
//! A change also enters the log as a control record in every partition of `telemetry.raw.v1`, so that the anonymizer
//! decides by what was true at that place of the log: kind [`CONTROL_KIND`], value [`ConsentDecision`] as JSON. What a
//! person chose has the subject [`control_subject`], the tenant's ceiling the subject [`ceiling_subject`]; each says
//! what was decided and not what follows from both, so that a change of one never freezes the other. Of two values of a
//! subject the one with the later `decided_at` counts.

use std::collections::BTreeSet;

use events::{ConsentTier, IdSource, PersonPseudonym, TenantId, Timestamp, topics};
use serde::{Deserialize, Serialize};
use sqlx::{AnyConnection, AnyPool, Row};

use crate::outbox::{self, OutboxMessage};

/// Kind of the control records.
pub const CONTROL_KIND: &str = "consent";

/// Subject of a person's control records.
#[must_use]
pub fn control_subject(tenant: &TenantId, person: &PersonPseudonym) -> String {
    format!("{tenant}/{person}")
}

/// Subject of the control records of a tenant's ceiling. No person's: a pseudonym is hexadecimal.
#[must_use]
pub fn ceiling_subject(tenant: &TenantId) -> String {
    format!("{tenant}/ceiling")
}

/// The ceiling of a tenant that has not set any, in the database and in the log.
pub const DEFAULT_CEILING: ConsentTier = ConsentTier::Usage;

/// Value of a control record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentDecision {
    /// What the person chose, or the widest tier that the tenant allows; never the narrower of both.
    pub tier: ConsentTier,
    /// When it was decided.
    pub decided_at: Timestamp,
}

impl ConsentDecision {
    /// Reads the value of a control record; `None` when it is none of ours.
    #[must_use]
    pub fn from_value(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// How wide a tier is. What a newer release calls something else allows nothing here.
fn width(tier: ConsentTier) -> u8 {
    match tier {
        ConsentTier::Code => 2,
        ConsentTier::Usage => 1,
        ConsentTier::None | ConsentTier::Unknown => 0,
    }
}

/// The narrower of two tiers.
#[must_use]
pub fn narrower(one: ConsentTier, other: ConsentTier) -> ConsentTier {
    let tier = if width(one) <= width(other) { one } else { other };
    if tier == ConsentTier::Unknown { ConsentTier::None } else { tier }
}

/// Consent that cannot be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsentError {
    /// `unknown` is not a choice.
    #[error("consent: `unknown` is no tier to choose")]
    Unknown,
    /// The tenant does not exist yet.
    #[error("consent: tenant {tenant} does not exist")]
    NoTenant {
        /// Which.
        tenant: TenantId,
    },
    /// The value could not be written.
    #[error("consent: {0}")]
    Json(#[from] serde_json::Error),
    /// A row holds something that is no pseudonym.
    #[error("consent: {0}")]
    Row(#[from] events::InvalidId),
    /// The database failed.
    #[error("consent: {0}")]
    Database(#[from] sqlx::Error),
}

/// The consents of a database.
#[derive(Debug, Clone)]
pub struct ConsentStore {
    pool: AnyPool,
}

impl ConsentStore {
    /// Consents in `pool`'s database.
    #[must_use]
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// What may be done with a person's events now.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn effective(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<ConsentTier, ConsentError> {
        let mut connection = self.pool.acquire().await?;
        effective(&mut connection, tenant, person).await
    }

    /// Everybody whose code may be used now: who chose the tier `code`, while the tenant allows it.
    ///
    /// # Errors
    /// A database that fails, or holds something that is no pseudonym.
    pub async fn sharing_code(&self, tenant: &TenantId) -> Result<BTreeSet<PersonPseudonym>, ConsentError> {
        let mut connection = self.pool.acquire().await?;
        if ceiling(&mut connection, tenant).await? != ConsentTier::Code {
            return Ok(BTreeSet::new());
        }
        let persons: Vec<String> = sqlx::query_scalar("SELECT person FROM consents WHERE tenant = $1 AND tier = $2")
            .bind(tenant.as_str())
            .bind(ConsentTier::Code.as_str())
            .fetch_all(&mut *connection)
            .await?;
        Ok(persons.iter().map(|person| person.parse::<PersonPseudonym>()).collect::<Result<BTreeSet<_>, _>>()?)
    }

    /// The widest tier that a tenant allows; [`DEFAULT_CEILING`] until it is set.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn ceiling(&self, tenant: &TenantId) -> Result<ConsentTier, ConsentError> {
        let mut connection = self.pool.acquire().await?;
        ceiling(&mut connection, tenant).await
    }

    /// Sets the widest tier that a tenant allows and, in the same transaction, writes the control record that tells the
    /// log. Persons' own records stay as they are: whoever applies one applies the ceiling beside it. A ceiling that
    /// falls holds at once for what comes in, and for what was admitted before and is not scrubbed yet. A decision
    /// older than the one stored changes nothing.
    ///
    /// # Errors
    /// `unknown`, a tenant that does not exist (its secret comes first), or a database that fails.
    pub async fn set_ceiling(
        &self,
        ids: &dyn IdSource,
        tenant: &TenantId,
        tier: ConsentTier,
        decided_at: Timestamp,
    ) -> Result<(), ConsentError> {
        if tier == ConsentTier::Unknown {
            return Err(ConsentError::Unknown);
        }
        migrations::retried(|| self.try_set_ceiling(ids, tenant, tier, decided_at)).await
    }

    async fn try_set_ceiling(
        &self,
        ids: &dyn IdSource,
        tenant: &TenantId,
        tier: ConsentTier,
        decided_at: Timestamp,
    ) -> Result<(), ConsentError> {
        let mut transaction = migrations::begin_write(&self.pool).await?;
        let changed = sqlx::query(
            "UPDATE tenants SET consent_ceiling = $1, ceiling_decided_at = $2 \
             WHERE tenant = $3 AND ceiling_decided_at <= $2",
        )
        .bind(tier.as_str())
        .bind(decided_at.as_micros())
        .bind(tenant.as_str())
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 1 {
            let message = control(ids, &ceiling_subject(tenant), tier, decided_at)?;
            outbox::append(&mut transaction, &message).await?;
        } else if stored_ceiling(&mut transaction, tenant).await?.is_none() {
            return Err(ConsentError::NoTenant { tenant: tenant.clone() });
        }
        migrations::commit(transaction).await?;
        Ok(())
    }

    /// Records a person's choice and, in the same transaction, the control record that tells the log. Returns the
    /// effective tier. A choice older than the one stored changes nothing.
    ///
    /// # Errors
    /// `unknown`, or a database that fails.
    pub async fn decide(
        &self,
        ids: &dyn IdSource,
        tenant: &TenantId,
        person: &PersonPseudonym,
        tier: ConsentTier,
        decided_at: Timestamp,
    ) -> Result<ConsentTier, ConsentError> {
        if tier == ConsentTier::Unknown {
            return Err(ConsentError::Unknown);
        }
        migrations::retried(|| self.try_decide(ids, tenant, person, tier, decided_at)).await
    }

    async fn try_decide(
        &self,
        ids: &dyn IdSource,
        tenant: &TenantId,
        person: &PersonPseudonym,
        tier: ConsentTier,
        decided_at: Timestamp,
    ) -> Result<ConsentTier, ConsentError> {
        let mut transaction = migrations::begin_write(&self.pool).await?;
        let changed = sqlx::query(
            "INSERT INTO consents (tenant, person, tier, decided_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, person) DO UPDATE SET tier = excluded.tier, decided_at = excluded.decided_at \
             WHERE consents.decided_at <= excluded.decided_at",
        )
        .bind(tenant.as_str())
        .bind(person.as_str())
        .bind(tier.as_str())
        .bind(decided_at.as_micros())
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        let effective = effective(&mut transaction, tenant, person).await?;
        if changed == 1 {
            let message = control(ids, &control_subject(tenant, person), tier, decided_at)?;
            outbox::append(&mut transaction, &message).await?;
        }
        migrations::commit(transaction).await?;
        Ok(effective)
    }
}

/// The message that tells the log what was decided.
fn control(
    ids: &dyn IdSource,
    subject: &str,
    tier: ConsentTier,
    decided_at: Timestamp,
) -> Result<OutboxMessage, ConsentError> {
    let value = serde_json::to_vec(&ConsentDecision { tier, decided_at })?;
    Ok(OutboxMessage::control(ids, decided_at, topics::TELEMETRY_RAW, CONTROL_KIND, subject, value))
}

/// The ceiling in the row of the tenant; none when there is no such tenant.
async fn stored_ceiling(
    connection: &mut AnyConnection,
    tenant: &TenantId,
) -> Result<Option<ConsentTier>, ConsentError> {
    let ceiling: Option<String> = sqlx::query_scalar("SELECT consent_ceiling FROM tenants WHERE tenant = $1")
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(ceiling.map(|ceiling| ConsentTier::from_symbol(&ceiling)))
}

async fn ceiling(connection: &mut AnyConnection, tenant: &TenantId) -> Result<ConsentTier, ConsentError> {
    Ok(stored_ceiling(connection, tenant).await?.unwrap_or(DEFAULT_CEILING))
}

async fn effective(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    person: &PersonPseudonym,
) -> Result<ConsentTier, ConsentError> {
    let chosen = sqlx::query("SELECT tier FROM consents WHERE tenant = $1 AND person = $2")
        .bind(tenant.as_str())
        .bind(person.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let chosen = match chosen {
        Some(row) => ConsentTier::from_symbol(&row.try_get::<String, _>(0)?),
        None => ConsentTier::Usage,
    };
    Ok(narrower(chosen, ceiling(connection, tenant).await?))
}
