//! The stateful step `telemetry.clean.v1` -> `preference.pairs.v1` + `serving.outcomes.v1`.
//!
//! Durations inside an episode are differences of the client's clock, so a label is a function of what the session
//! reported. An event of the session that shows that enough of that time has passed makes the step conclude; when no
//! event comes, a timer does, late enough that everything within `lateness` has arrived. Both write the time of the
//! event (or the timer's due time) into what they emit, never the moment of processing: the same log gives the same
//! bytes in every order of sessions and every batching.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bus::{
    CommittedRecord, Failed, FailedInput, Input, Outcome, Prepared, Record, RecordKey, Sealed, StepContext,
    StepHandler, StepSpec,
};
use bytes::Bytes;
use events::avro::{self, AvroError};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN};
use events::{
    CleanEvent, Disposition, EventKind, OpportunityId, PairId, PreferencePair, Receipt, ReceiptState, Timestamp,
};
use metrics::counter;
use parking_lot::Mutex;

use crate::audience;
use crate::config::SessionLimits;
use crate::ending::outcome;
use crate::episode::{Conclusion, Episode, Verdict};
use crate::keys::{LoadedKeys, Unloaded};
use crate::policy::LabelPolicy;
use crate::policy_record::{Policies, UNREADABLE, VersionedPolicy};
use crate::reading::{ReadError, Remembered, StoryReader};
use crate::signals::CLOCK_TOLERANCE_MS;
use crate::state::{
    EditBounds, FORGET_TIMER, Open, SESSION, SessionState, Undecodable, close_timer, closed_name, edit_name, fact_name,
    facts_prefix, opportunity_of_timer,
};
use crate::story::{Story, What};

/// The step's name.
pub const STEP: &str = "labeler";

/// The step that writes clean events. An opportunity is not over while signals about it are held there, however long
/// the platform was down.
pub const STEP_BEFORE: &str = "anonymizer";

/// The step's specification.
#[must_use]
pub fn spec() -> StepSpec {
    StepSpec::new(STEP, TELEMETRY_CLEAN, [PREFERENCE_PAIRS, SERVING_OUTCOMES], DEAD_LETTERS).following(STEP_BEFORE)
}

/// The step's handler. `policy` is in force until the log names one (see [`crate::policy_record`]).
#[must_use]
pub fn handler(keys: Arc<LoadedKeys>, policy: VersionedPolicy, limits: SessionLimits) -> Arc<dyn StepHandler> {
    Arc::new(Labeler { keys, remembered: Mutex::default(), policies: Policies::new(policy), limits })
}

struct Labeler {
    keys: Arc<LoadedKeys>,
    remembered: Mutex<Remembered>,
    policies: Policies,
    limits: SessionLimits,
}

/// What ends the handling of an input early.
enum Stop {
    Unavailable(String),
    Undecodable(String),
    Unwritable,
}

impl From<Unloaded> for Stop {
    fn from(unloaded: Unloaded) -> Self {
        Self::Unavailable(unloaded.0)
    }
}

impl From<Undecodable> for Stop {
    fn from(undecodable: Undecodable) -> Self {
        Self::Undecodable(undecodable.0)
    }
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unloaded(unloaded) => Self::Unavailable(unloaded.0),
            ReadError::Undecodable(name) => Self::Undecodable(name),
        }
    }
}

#[async_trait]
impl StepHandler for Labeler {
    fn prepare(&self, records: &[CommittedRecord]) -> Vec<Prepared> {
        records.iter().map(|record| self.prepare_one(record)).collect()
    }

    fn handle(&self, input: Input<'_>, context: &mut dyn StepContext) -> Outcome {
        self.remembered.lock().grow_old(Instant::now());
        let Some(in_force) = self.policies.in_force(context) else {
            return Outcome::Unavailable(UNREADABLE.to_owned());
        };
        let turn = Turn {
            keys: &self.keys,
            reader: StoryReader::new(&self.keys, &self.remembered),
            limits: &self.limits,
            policy: &in_force.policy,
            version: in_force.version,
            tells_details: in_force.tells_details,
        };
        let result = match input {
            Input::Record { record, prepared } => match prepared.take::<CleanEvent>() {
                Some(event) => turn.record(record, event, context),
                None => Ok(()),
            },
            Input::Timer { name, due } => turn.timer(name, due, context),
        };
        match result {
            Ok(()) => Outcome::Ok,
            Err(Stop::Unavailable(name)) => Outcome::Unavailable(name),
            Err(Stop::Undecodable(name)) => {
                context.undecodable(&name);
                Outcome::Poison("undecodable_state".to_owned())
            }
            Err(Stop::Unwritable) => Outcome::Poison("unwritable_output".to_owned()),
        }
    }

    fn partition_time_of(&self, record: &CommittedRecord, prepared: &Prepared) -> Option<Timestamp> {
        match prepared.get::<CleanEvent>() {
            Some(event) => Some(event.header.received_at),
            None => avro::decode::<CleanEvent>(&record.value).ok().map(|event| event.header.received_at),
        }
    }

    fn dead_letter(&self, failed: &Failed<'_>) -> Sealed {
        // A record of the clean topic carries sealed text already. It was counted as clean when it was written, so no
        // event ends here.
        let payload = match failed.input {
            FailedInput::Record(record) => Some(record.value.clone()),
            FailedInput::Timer { .. } => None,
        };
        Sealed { payload, affected: Vec::new() }
    }

    async fn make_available(&self, dependencies: &[String]) {
        if let Err(error) = self.keys.load(dependencies).await {
            tracing::warn!(%error, "keys could not be loaded; the partition waits");
        }
    }
}

impl Labeler {
    fn prepare_one(&self, record: &CommittedRecord) -> Prepared {
        let event = match avro::decode::<CleanEvent>(&record.value) {
            Ok(event) => event,
            Err(AvroError::UnknownFingerprint(fingerprint)) => {
                return Prepared::Unavailable(vec![Unloaded::schema(&fingerprint).0]);
            }
            Err(_) => return Prepared::Poison("malformed_record".to_owned()),
        };
        let mut missing = Vec::new();
        if let Some(Unloaded(name)) = self.keys.tenant_secret(&event.header.tenant).err() {
            missing.push(name);
        }
        if let Some(sealed) = event.sealed()
            && let Some(Unloaded(name)) = self.keys.data_key(sealed.key_id).err()
        {
            missing.push(name);
        }
        if missing.is_empty() { Prepared::ready(event) } else { Prepared::Unavailable(missing) }
    }
}

/// The handling of one input under the policy that is in force there.
struct Turn<'a> {
    keys: &'a LoadedKeys,
    reader: StoryReader<'a>,
    limits: &'a SessionLimits,
    policy: &'a LabelPolicy,
    version: i32,
    tells_details: bool,
}

impl Turn<'_> {
    fn record(&self, record: &CommittedRecord, event: CleanEvent, context: &mut dyn StepContext) -> Result<(), Stop> {
        let header = &event.header;
        // Nothing is known of what it reported, be it an edit or an Esc, so that its number stays missing.
        if event.disposition != Disposition::Clean {
            return Ok(());
        }
        let mut session = match SessionState::load(context)? {
            Some(session) => session,
            None => {
                context.set_timer(FORGET_TIMER, header.received_at + self.forget_after());
                SessionState::new(header.tenant.clone())
            }
        };
        session.latest_received_at = session.latest_received_at.max(header.received_at);
        let is_client = header.kind != EventKind::Exposure;
        let quiet_ms = session.last_edit_ms.map_or(i64::MAX, |last| header.monotonic_ms.saturating_sub(last));
        if is_client {
            // What was open before a clock went back closes by its timer; what opens after it has the new time.
            if header.monotonic_ms < session.latest_ms.saturating_sub(CLOCK_TOLERANCE_MS) {
                counter!("flywheel_labeler_clocks_set_back_total").increment(1);
                session.latest_ms = header.monotonic_ms;
            }
            session.latest_ms = session.latest_ms.max(header.monotonic_ms);
            session.note(header.sequence);
        }
        let mut closes = None;
        match header.kind {
            EventKind::DocumentEdited => {
                self.edited(record, &event, &mut session, context);
            }
            EventKind::SessionEnded => session.ended = Some((header.monotonic_ms, header.received_at)),
            // What a newer client reports beside is no gap.
            EventKind::Unknown => {
                session.store(context);
                return Ok(());
            }
            EventKind::Exposure
            | EventKind::SuggestionShown
            | EventKind::SuggestionHidden
            | EventKind::SuggestionAccepted
            | EventKind::SuggestionDismissed
            | EventKind::RegionLook => {
                let receipt = match valid_receipt(&event) {
                    Ok(receipt) => receipt,
                    Err(reason) => {
                        counter!("flywheel_labeler_signals_invalid_total", "reason" => reason).increment(1);
                        session.store(context);
                        return Ok(());
                    }
                };
                let opportunity = receipt.opportunity_id;
                if self.reported(record, &event, receipt, &mut session, context) {
                    let last_look_ms = i32::try_from(self.policy.close_ms / 1000).unwrap_or(i32::MAX);
                    let is_last_look = header.kind == EventKind::RegionLook
                        && header.look_delay_s.is_some_and(|delay| delay >= last_look_ms);
                    closes = is_last_look.then_some(opportunity);
                }
            }
        }
        if is_client {
            let is_look = header.kind == EventKind::RegionLook;
            self.progress(&mut session, context, header.received_at, quiet_ms, is_look, closes)?;
        } else if let Some((_, ended_at)) = session.ended {
            // An exposure that arrives after the end of its session closes with it.
            self.close_all(&mut session, context, ended_at)?;
        } else {
            self.keep_bounds(&mut session, context, header.received_at)?;
        }
        session.store(context);
        Ok(())
    }

    /// Keeps an edit for the opportunities that are open and for those whose exposure is still on its way.
    fn edited(
        &self,
        record: &CommittedRecord,
        event: &CleanEvent,
        session: &mut SessionState,
        context: &mut dyn StepContext,
    ) {
        let header = &event.header;
        let name = edit_name(header.sequence, header.monotonic_ms);
        context.put(&name, record.value.clone());
        if !session.open.is_empty() {
            self.reader.remember(context.key(), name, &record.value, event);
        }
        session.edits += 1;
        session.edit_bytes += record.value.len();
        session.last_edit_ms = Some(header.monotonic_ms);
        for open in session.open.values_mut() {
            open.unjudged = true;
        }
        let age_ms = self.policy.close_by_timer_after().as_millis();
        let bounds = EditBounds {
            count: self.limits.edits,
            bytes: self.limits.edit_bytes,
            age_ms: i64::try_from(age_ms).unwrap_or(i64::MAX),
        };
        // Looking through names costs; a sixteenth more than the bound does not.
        let slack = 16;
        if session.edits > bounds.count + bounds.count / slack || session.edit_bytes > bounds.bytes {
            session.prune_edits(context, &bounds);
        }
    }

    /// Keeps an exposure or a signal, opening its opportunity. False when it belongs to nothing that is or may be open.
    fn reported(
        &self,
        record: &CommittedRecord,
        event: &CleanEvent,
        receipt: &Receipt,
        session: &mut SessionState,
        context: &mut dyn StepContext,
    ) -> bool {
        let header = &event.header;
        let opportunity = receipt.opportunity_id;
        if context.get(&closed_name(opportunity)).is_some() {
            counter!("flywheel_labeler_events_after_close_total", "kind" => header.kind.as_str()).increment(1);
            return false;
        }
        let due = receipt.issued_at + self.policy.close_by_timer_after();
        let is_new = !session.open.contains_key(&opportunity);
        if is_new && due <= context.partition_time() {
            // Nobody can tell any more whether it was closed and forgotten.
            counter!("flywheel_labeler_events_after_close_total", "kind" => header.kind.as_str()).increment(1);
            return false;
        }
        let open = session.open.entry(opportunity).or_insert_with(|| Open {
            issued_at: receipt.issued_at,
            opened_ms: None,
            concluded: false,
            unjudged: false,
            bytes: 0,
        });
        let name = fact_name(opportunity, header.sequence, header.event_id);
        if open.bytes + record.value.len() > self.limits.opportunity_bytes {
            counter!("flywheel_labeler_events_beyond_limit_total").increment(1);
            return true;
        }
        open.bytes += record.value.len();
        open.unjudged = true;
        if is_new || receipt.issued_at > open.issued_at {
            open.issued_at = open.issued_at.max(receipt.issued_at);
            context.set_timer(&close_timer(opportunity), open.issued_at + self.policy.close_by_timer_after());
        }
        let decided_ms = match header.kind {
            EventKind::Exposure => None,
            EventKind::RegionLook => {
                let delay_ms = i64::from(header.look_delay_s.unwrap_or_default()) * 1000;
                Some(header.monotonic_ms.saturating_sub(delay_ms))
            }
            _ => Some(header.monotonic_ms),
        };
        open.opened_ms = match (open.opened_ms, decided_ms) {
            (Some(known), Some(told)) => Some(known.min(told)),
            (known, told) => known.or(told),
        };
        context.put(&name, record.value.clone());
        self.reader.remember(context.key(), name, &record.value, event);
        true
    }

    /// Concludes what a client's event shows to be settled or over.
    fn progress(
        &self,
        session: &mut SessionState,
        context: &mut dyn StepContext,
        at: Timestamp,
        quiet_ms: i64,
        is_look: bool,
        closes: Option<OpportunityId>,
    ) -> Result<(), Stop> {
        if session.ended.is_some() {
            return self.close_all(session, context, at);
        }
        let is_pause = quiet_ms >= self.policy.settle_ms;
        let close_ms = self.policy.close_ms + self.policy.look_grace_ms;
        let open: Vec<(OpportunityId, Open)> = session.open.iter().map(|(id, open)| (*id, open.clone())).collect();
        for (opportunity, open) in open {
            let is_over = open.opened_ms.is_some_and(|opened| session.latest_ms.saturating_sub(opened) >= close_ms);
            if is_over || closes == Some(opportunity) {
                self.close(session, context, opportunity, at)?;
            } else if open.unjudged && !open.concluded && (is_pause || is_look) {
                self.judge_open(session, context, opportunity, at)?;
            }
        }
        self.keep_bounds(session, context, at)
    }

    /// Closes the oldest opportunities until the session's state is as small as it must be.
    fn keep_bounds(
        &self,
        session: &mut SessionState,
        context: &mut dyn StepContext,
        at: Timestamp,
    ) -> Result<(), Stop> {
        loop {
            let reason = if session.open.len() > self.limits.open_opportunities {
                "open_opportunities"
            } else if session.bytes() > self.limits.session_bytes {
                "session_bytes"
            } else {
                return Ok(());
            };
            let oldest = session.open.iter().min_by_key(|(id, open)| (open.issued_at, **id)).map(|(id, _)| *id);
            let Some(oldest) = oldest else { return Ok(()) };
            counter!("flywheel_labeler_opportunities_closed_early_total", "reason" => reason).increment(1);
            self.close(session, context, oldest, at)?;
        }
    }

    fn judge_open(
        &self,
        session: &mut SessionState,
        context: &mut dyn StepContext,
        opportunity: OpportunityId,
        at: Timestamp,
    ) -> Result<(), Stop> {
        let story = self.reader.read(session, context, opportunity)?;
        let concluded = match &story {
            Some(story) => self.label(&Episode::new(story, self.policy), false, context, at)?,
            None => false,
        };
        if let Some(open) = session.open.get_mut(&opportunity) {
            open.concluded |= concluded;
            open.unjudged = false;
        }
        Ok(())
    }

    fn close_all(&self, session: &mut SessionState, context: &mut dyn StepContext, at: Timestamp) -> Result<(), Stop> {
        let open: Vec<OpportunityId> = session.open.keys().copied().collect();
        for opportunity in open {
            self.close(session, context, opportunity, at)?;
        }
        Ok(())
    }

    fn close(
        &self,
        session: &mut SessionState,
        context: &mut dyn StepContext,
        opportunity: OpportunityId,
        at: Timestamp,
    ) -> Result<(), Stop> {
        let story = self.reader.read(session, context, opportunity)?;
        let open = session.open.remove(&opportunity);
        if let Some(story) = &story {
            let episode = Episode::new(story, self.policy);
            if open.as_ref().is_none_or(|open| !open.concluded) {
                self.label(&episode, true, context, at)?;
            }
            for found in episode.contradictions() {
                counter!("flywheel_labeler_events_contradictory_total", "reason" => found.as_str()).increment(1);
            }
            if story.facts.iter().all(|fact| matches!(fact.what, What::Edit { .. })) {
                let decision = story.answer.receipt.decision.as_str();
                counter!("flywheel_labeler_exposures_without_signal_total", "decision" => decision).increment(1);
            }
            let ending = episode.ending();
            let record = outcome(story, &ending, at, self.tells_details);
            let value = avro::encode(&record).map_err(|_| Stop::Unwritable)?;
            counter!(
                "flywheel_labeler_opportunities_closed_total",
                "signal" => ending.signal.as_str(),
                "decision" => record.decision.as_str()
            )
            .increment(1);
            if record.exposure_missing {
                counter!("flywheel_labeler_exposures_missing_total").increment(1);
            }
            context.emit(SERVING_OUTCOMES, Record { key: person_key(&record.person), value: Bytes::from(value) });
        }
        let names = context.names(&facts_prefix(opportunity));
        for name in &names {
            context.delete(name);
        }
        self.reader.forget(context.key(), names);
        context.put(&closed_name(opportunity), Bytes::from_static(b"1"));
        // Once nothing of it can be taken in any more, the mark goes too.
        let issued_at = open.map_or(at, |open| open.issued_at);
        let forget_at = issued_at + self.policy.close_by_timer_after() + self.policy.timer_margin;
        context.set_timer(&close_timer(opportunity), forget_at);
        Ok(())
    }

    fn timer(&self, name: &str, due: Timestamp, context: &mut dyn StepContext) -> Result<(), Stop> {
        let Some(mut session) = SessionState::load(context)? else { return Ok(()) };
        if let Some(opportunity) = opportunity_of_timer(name) {
            if session.open.contains_key(&opportunity) {
                self.close(&mut session, context, opportunity, due)?;
                session.store(context);
            } else {
                context.delete(&closed_name(opportunity));
            }
        } else if name == FORGET_TIMER {
            let forget_at = session.latest_received_at + self.forget_after();
            if forget_at > due || !session.open.is_empty() {
                context.set_timer(FORGET_TIMER, forget_at.max(due + self.policy.close_by_timer_after()));
            } else {
                for name in context.names("") {
                    context.delete(&name);
                }
                context.delete(SESSION);
            }
        }
        Ok(())
    }

    /// A session's state goes when nothing of it can still be on its way.
    fn forget_after(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.limits.session_quiet_s) + self.policy.close_by_timer_after()
    }

    /// Emits the pair of a story if there is one. True when it is certain what the label is.
    fn label(
        &self,
        episode: &Episode<'_>,
        closed: bool,
        context: &mut dyn StepContext,
        at: Timestamp,
    ) -> Result<bool, Stop> {
        match episode.judge(closed) {
            Verdict::Waiting => Ok(false),
            Verdict::NoPair(reason) => {
                counter!("flywheel_labeler_opportunities_without_pair_total", "reason" => reason).increment(1);
                Ok(true)
            }
            Verdict::Pair(conclusion) => {
                self.emit_pair(episode.story(), *conclusion, context, at)?;
                Ok(true)
            }
        }
    }

    fn emit_pair(
        &self,
        story: &Story,
        conclusion: Conclusion,
        context: &mut dyn StepContext,
        at: Timestamp,
    ) -> Result<(), Stop> {
        let receipt = &story.answer.receipt;
        let repository = conclusion.text.context.repository.clone();
        let Some(audience) = audience::of_repository(context, &receipt.tenant, &repository) else {
            counter!("flywheel_labeler_opportunities_without_pair_total", "reason" => "no_audience_rule").increment(1);
            return Ok(());
        };
        let Some(key_id) = story.key_id else {
            counter!("flywheel_labeler_opportunities_without_pair_total", "reason" => "no_text").increment(1);
            return Ok(());
        };
        let Some(key) = self.keys.data_key(key_id)? else {
            counter!("flywheel_labeler_opportunities_without_pair_total", "reason" => "erased").increment(1);
            return Ok(());
        };
        let secret = self.keys.tenant_secret(&receipt.tenant)?;
        let suggestion_id = receipt.suggestion_id.filter(|_| conclusion.action_index >= 0);
        let pair_id = PairId::derive(
            &receipt.tenant,
            receipt.opportunity_id,
            suggestion_id,
            conclusion.action_index,
            conclusion.reason.as_str(),
            self.version,
        );
        let event_id = PreferencePair::event_id_of(pair_id);
        let text = serde_json::to_vec(&conclusion.text).map_err(|_| Stop::Unwritable)?;
        let content_digest = crate::lake::content_digest(&secret, &text);
        let pair = PreferencePair {
            pair_id,
            tenant: receipt.tenant.clone(),
            person: receipt.person.clone(),
            session_id: story.session_id,
            opportunity_id: receipt.opportunity_id,
            suggestion_id,
            action_index: conclusion.action_index,
            reason: conclusion.reason,
            label_policy_version: self.version,
            weight: conclusion.weight,
            divergence: conclusion.divergence,
            audience,
            repository,
            language: conclusion.text.context.language.clone(),
            model: receipt.model.clone(),
            model_version: receipt.model_version,
            probabilities: receipt.probabilities,
            altered: conclusion.altered,
            off_policy: conclusion.off_policy && self.tells_details,
            opened_at: story.answer.first_received_at,
            labeled_at: at,
            last_signal_at: conclusion.last_signal_at,
            event_id,
            content_digest,
            sealed: Some(key.seal(event_id, PREFERENCE_PAIRS, &text)),
        };
        let value = avro::encode(&pair).map_err(|_| Stop::Unwritable)?;
        counter!("flywheel_labeler_pairs_total", "reason" => conclusion.reason.as_str()).increment(1);
        if conclusion.off_policy {
            counter!("flywheel_labeler_pairs_off_policy_total", "reason" => conclusion.reason.as_str()).increment(1);
        }
        context.emit(PREFERENCE_PAIRS, Record { key: context.key(), value: Bytes::from(value) });
        Ok(())
    }
}

/// The receipt of an event about an opportunity, when it holds and is about the same session, opportunity, suggestion
/// and person; else why it is not used.
fn valid_receipt(event: &CleanEvent) -> Result<&Receipt, &'static str> {
    let header = &event.header;
    let Some(receipt) = header.receipt.as_ref().filter(|_| header.receipt_state == ReceiptState::Valid) else {
        return Err(header.receipt_state.as_str());
    };
    let rules = [
        (header.person == receipt.person && header.tenant == receipt.tenant, "other_person"),
        (header.session_id == receipt.session_id, "other_session"),
        (header.opportunity_id.is_none_or(|id| id == receipt.opportunity_id), "other_opportunity"),
        (header.suggestion_id.is_none_or(|id| Some(id) == receipt.suggestion_id), "other_suggestion"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(receipt), |(_, reason)| Err(reason))
}

/// Outcomes are keyed by person: the 16 bytes of the pseudonym.
fn person_key(person: &events::PersonPseudonym) -> RecordKey {
    let mut key = [0_u8; 16];
    // A pseudonym is 32 hexadecimal digits.
    let _ = hex::decode_to_slice(person.as_str(), &mut key);
    RecordKey(key)
}
