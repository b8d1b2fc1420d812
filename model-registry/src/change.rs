//! One change of one model: everything that belongs to it happens in one transaction, or nothing does.
//!
//! The model's row carries a revision. A change reads it, does its work, and writes it back only if nobody else did
//! (compare-and-set); in the same transaction go the new routing table, one audit row under the new revision, and an
//! outbox row for `flywheel.events.v1`. So the revisions of the audit log have no gaps, and a change without its audit
//! row cannot exist.

use events::{EventId, FlywheelEvent, ModelName, Sha256Digest, TenantId, Timestamp, topics, uuid_v7};
use service::outbox::{self, OutboxKind, OutboxMessage};
use sqlx::{Any, AnyConnection, AnyPool, Transaction};

use crate::error::RegistryError;
use crate::store::{self, ModelRow};
use crate::version::AuditEntry;

/// A change on its way. Dropping it undoes it.
pub(crate) struct Change {
    transaction: Transaction<'static, Any>,
    tenant: TenantId,
    model: ModelName,
    pub(crate) row: ModelRow,
    pub(crate) now: Timestamp,
}

impl Change {
    /// Begins a change of a model that exists.
    pub(crate) async fn begin(
        pool: &AnyPool,
        tenant: &TenantId,
        model: &ModelName,
        now: Timestamp,
    ) -> Result<Self, RegistryError> {
        Self::begin_with(pool, tenant, model, now, None).await
    }

    /// Begins a change of a model, which is made with `holdback_share` if there is none.
    pub(crate) async fn begin_or_create(
        pool: &AnyPool,
        tenant: &TenantId,
        model: &ModelName,
        now: Timestamp,
        holdback_share: f64,
    ) -> Result<Self, RegistryError> {
        Self::begin_with(pool, tenant, model, now, Some(holdback_share)).await
    }

    async fn begin_with(
        pool: &AnyPool,
        tenant: &TenantId,
        model: &ModelName,
        now: Timestamp,
        create: Option<f64>,
    ) -> Result<Self, RegistryError> {
        let mut transaction = migrations::begin_write(pool).await?;
        if let Some(holdback_share) = create {
            store::create_model(&mut transaction, tenant, model, holdback_share, now).await?;
        }
        let row = store::model_row(&mut transaction, tenant, model)
            .await?
            .ok_or_else(|| RegistryError::UnknownModel { model: model.clone() })?;
        Ok(Self { transaction, tenant: tenant.clone(), model: model.clone(), row, now })
    }

    /// Where the change's statements run.
    pub(crate) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.transaction
    }

    /// The revision that this change will have.
    pub(crate) fn revision(&self) -> i64 {
        self.row.revision + 1
    }

    /// Commits it, with its audit row, its routing table and its event. Returns the new revision.
    pub(crate) async fn commit(
        mut self,
        actor: &str,
        action: &str,
        subject: &str,
        detail: serde_json::Value,
    ) -> Result<i64, RegistryError> {
        let routing = store::build_routing(&mut self.transaction, &self.tenant, &self.model, &self.row).await?;
        self.row.routing = routing
            .map(|table| serde_json::to_string(&table))
            .transpose()
            .map_err(|_| RegistryError::Unreadable { what: "routing" })?;
        if !store::advance_model(&mut self.transaction, &self.tenant, &self.model, &self.row).await? {
            return Err(RegistryError::Contended);
        }
        let entry = AuditEntry {
            tenant: self.tenant.clone(),
            model: self.model.clone(),
            revision: self.revision(),
            at: self.now,
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail,
        };
        store::insert_audit(&mut self.transaction, &entry).await?;
        outbox::append(&mut self.transaction, &event_of(&entry)?).await?;
        migrations::commit(self.transaction).await?;
        Ok(entry.revision)
    }

    /// Commits what is no change of the model: evidence.
    pub(crate) async fn commit_evidence(self) -> Result<(), RegistryError> {
        migrations::commit(self.transaction).await?;
        Ok(())
    }
}

/// The fact for the bus. Its id depends on what it tells of alone, so that a repeated message is recognised.
fn event_of(entry: &AuditEntry) -> Result<OutboxMessage, RegistryError> {
    let (tenant, model) = (entry.tenant.as_str().as_bytes(), entry.model.as_str().as_bytes());
    let digest = Sha256Digest::of_parts("flywheel registry change", &[tenant, model, &entry.revision.to_be_bytes()]);
    let mut random = [0_u8; 10];
    random.copy_from_slice(&digest.as_bytes()[..10]);
    let id = uuid_v7(entry.at, random);
    let mut key = [0_u8; 16];
    key.copy_from_slice(&Sha256Digest::of_parts("flywheel model", &[tenant, model]).as_bytes()[..16]);
    let event = FlywheelEvent {
        event_id: EventId::from_uuid(id),
        tenant: entry.tenant.clone(),
        at: entry.at,
        kind: entry.action.clone(),
        subject: entry.subject.clone(),
        detail: serde_json::json!({ "model": entry.model, "revision": entry.revision, "detail": entry.detail })
            .to_string(),
    };
    Ok(OutboxMessage {
        id,
        topic: topics::FLYWHEEL_EVENTS.to_owned(),
        kind: OutboxKind::Record { key },
        value: events::avro::encode(&event)?.into(),
        created_at: entry.at,
    })
}
