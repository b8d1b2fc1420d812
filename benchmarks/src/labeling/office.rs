//! People and their editors in one process: what they do becomes the records that the door and serving publish, with
//! real keys, seals and receipts, and without a network.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use events::ids::uuid_v7;
use events::topics::TELEMETRY_RAW;
use events::wire::{ClientEvent, ClientEventBody, SuggestionReference};
use events::{
    Arm, ConsentTier, DataKey, Decision, EditAction, EditContext, EventHeader, EventId, EventKind, EventText,
    ModelVersion, OffsetEncoding, OpportunityId, PersonPseudonym, Probabilities, RawEvent, Receipt, ReceiptState,
    SessionId, Sha256Digest, SuggestionId, TenantId, TenantSecret, Timestamp,
};
use ingest::event::Sender;
use service::keys::{KeyStore, KeyStoreOptions};
use simulator::behaviour::OPPORTUNITY_MS;
use simulator::driver::reported_as;
use simulator::random::Dice;
use simulator::{ClientAction, Scene};

/// When the first session begins. No clock is read: everything is a function of the seed.
pub(crate) const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
/// From the editor to the door.
const ON_THE_WAY: Duration = Duration::from_millis(40);
/// The audience of every repository here, as a rule says it.
pub(crate) const AUDIENCE: &str = "tenant";
/// The client's time of the first request of a session.
const FIRST_MS: u64 = 1_000;

/// A developer.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) pseudonym: PersonPseudonym,
    pub(crate) key: Arc<DataKey>,
}

/// Developers of one tenant, and the keys of both.
pub(crate) struct Office {
    pub(crate) keys: KeyStore,
    pub(crate) secret: TenantSecret,
    pub(crate) persons: Vec<Person>,
    seed: u64,
    _directory: tempfile::TempDir,
}

/// An opportunity as both sides know it.
pub(crate) struct Opportunity<'a> {
    /// What the model saw, under the names that editors use.
    pub(crate) context: &'a EditContext,
    pub(crate) decision: Decision,
    /// In served order; also when withheld.
    pub(crate) proposed: &'a [EditAction],
    /// What was done, and whether it was another tool's.
    pub(crate) reported: Vec<(ClientAction, bool)>,
}

impl<'a> Opportunity<'a> {
    pub(crate) fn of(scene: &'a Scene) -> Self {
        let reported = scene.reported.iter().map(|one| (one.action.clone(), one.by_another_tool)).collect();
        Self { context: &scene.context, decision: scene.decision, proposed: &scene.proposed, reported }
    }
}

impl Office {
    pub(crate) async fn open(seed: u64, persons: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let pool = migrations::connect(&migrations::sqlite_url(&directory.path().join("keys.sqlite")), 1).await?;
        migrations::migrate(&pool).await?;
        let options = KeyStoreOptions { seed: Some(seed), ..KeyStoreOptions::default() };
        let keys = KeyStore::open_with(pool, &directory.path().join("master.key"), options).await?;
        let tenant = TenantId::default();
        let secret = keys.tenant_secret(&tenant).await?;
        let mut people = Vec::with_capacity(persons);
        for number in 0..persons {
            let pseudonym = secret.person_pseudonym(&format!("person-{number}"));
            let key = keys.data_key(&tenant, &pseudonym).await?;
            people.push(Person { pseudonym, key });
        }
        Ok(Self { keys, secret, persons: people, seed, _directory: directory })
    }

    /// The `number`-th session of a person; `begins` is when the door first hears of it.
    pub(crate) fn session(&self, person: usize, number: u64, begins: Timestamp) -> anyhow::Result<Session<'_>> {
        let person_number = u64::try_from(person)?;
        let person = self.persons.get(person).context("there is no such person")?;
        let mut dice = Dice::new(self.seed, "office session", &[person_number, number]);
        let id = SessionId::from_uuid(uuid_v7(begins, dice.id_bytes()));
        Ok(Session { office: self, person, id, begins, dice, next_sequence: 1, opportunities: 0 })
    }
}

/// A session of an editor.
pub(crate) struct Session<'o> {
    office: &'o Office,
    person: &'o Person,
    id: SessionId,
    begins: Timestamp,
    dice: Dice,
    next_sequence: u64,
    opportunities: u64,
}

impl Session<'_> {
    /// The records of one more opportunity: serving's exposure first, then what the editor reports, as it arrives when
    /// nothing is lost or late.
    pub(crate) fn play(&mut self, opportunity: &Opportunity<'_>) -> anyhow::Result<(OpportunityId, Vec<RawEvent>)> {
        let asked_ms = FIRST_MS + self.opportunities * OPPORTUNITY_MS;
        self.opportunities += 1;
        let issued_at = self.begins + Duration::from_millis(asked_ms);
        let id = OpportunityId::from_uuid(uuid_v7(issued_at, self.dice.id_bytes()));
        let suggestion = SuggestionId::from_uuid(uuid_v7(issued_at, self.dice.id_bytes()));
        let suggestion = (!opportunity.proposed.is_empty()).then_some(suggestion);
        let receipt = self.receipt(opportunity.decision, id, suggestion, issued_at)?;
        let reference = SuggestionReference {
            opportunity_id: id,
            suggestion_id: suggestion,
            receipt: Some(receipt.sign(&self.office.secret)),
        };
        let mut events = vec![self.exposure(opportunity, receipt)?];
        for (action, by_another_tool) in &opportunity.reported {
            let mut body = reported_as(action.kind.clone(), reference.clone(), &opportunity.context.path);
            if *by_another_tool && let ClientEventBody::DocumentEdited { suggestion_id, .. } = &mut body {
                *suggestion_id = None;
            }
            events.push(self.report(asked_ms + action.at_ms, body)?);
        }
        Ok((id, events))
    }

    /// The last record of the session.
    pub(crate) fn end(&mut self) -> anyhow::Result<RawEvent> {
        self.report(FIRST_MS + self.opportunities * OPPORTUNITY_MS, ClientEventBody::SessionEnded {})
    }

    fn report(&mut self, monotonic_ms: u64, body: ClientEventBody) -> anyhow::Result<RawEvent> {
        let event = ClientEvent { sequence: self.next_sequence, monotonic_ms, body };
        self.next_sequence += 1;
        let sender = Sender {
            tenant: TenantId::default(),
            secret: &self.office.secret,
            person: self.person.pseudonym.clone(),
            session_id: self.id,
            offset_encoding: OffsetEncoding::Utf8,
            consent: ConsentTier::Code,
            received_at: self.begins + Duration::from_millis(monotonic_ms) + ON_THE_WAY,
        };
        Ok(sender.record(event, Some(&self.person.key))?)
    }

    fn receipt(
        &self,
        decision: Decision,
        opportunity_id: OpportunityId,
        suggestion_id: Option<SuggestionId>,
        issued_at: Timestamp,
    ) -> anyhow::Result<Receipt> {
        let shown = decision == Decision::Shown;
        Ok(Receipt {
            tenant: TenantId::default(),
            person: self.person.pseudonym.clone(),
            session_id: self.id,
            opportunity_id,
            suggestion_id,
            model: "edit".parse()?,
            model_version: ModelVersion(1),
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision,
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: if shown { 0.98 } else { 0.02 },
                log_p_text: -1.0,
                gate_score: if shown { 0.8 } else { 0.2 },
                threshold: 0.5,
                explored: decision == Decision::Withheld,
            },
            context_digest: Sha256Digest::of(b"context"),
            actions_digest: Sha256Digest::of(b"actions"),
            issued_at,
        })
    }

    /// What serving records: see its own `exposure.rs`.
    fn exposure(&self, opportunity: &Opportunity<'_>, receipt: Receipt) -> anyhow::Result<RawEvent> {
        let event_id = EventId::of_exposure(receipt.opportunity_id, receipt.suggestion_id);
        let text = serde_json::to_vec(&EventText::Exposure {
            context: opportunity.context.clone(),
            actions: opportunity.proposed.to_vec(),
            window_start_offset: opportunity.context.window.start_byte,
            altered: false,
            first_action_ms: None,
        })?;
        let header = EventHeader {
            event_id,
            tenant: receipt.tenant.clone(),
            person: receipt.person.clone(),
            session_id: self.id,
            sequence: 0,
            kind: EventKind::Exposure,
            consent: ConsentTier::Code,
            received_at: receipt.issued_at,
            monotonic_ms: 0,
            opportunity_id: Some(receipt.opportunity_id),
            suggestion_id: receipt.suggestion_id,
            action_index: None,
            actions_visible: None,
            accepted_length: None,
            visible_ms: None,
            look_delay_s: None,
            origin: None,
            offset_encoding: OffsetEncoding::Utf8,
            receipt_state: ReceiptState::Valid,
            content_digest: hex::encode(self.office.secret.content_digest(&receipt.tenant, &text)),
            receipt: Some(receipt),
        };
        let sealed = Some(self.person.key.seal(event_id, TELEMETRY_RAW, &text));
        Ok(RawEvent { header, filtered_at_door: None, sealed })
    }
}
