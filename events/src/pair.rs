//! Preference pairs and outcomes: what the labeler concludes.

use serde::{Deserialize, Serialize};

use crate::edit::{ActionList, EditAction, EditContext};
use crate::ids::{
    Audience, EventId, ModelName, ModelVersion, OpportunityId, PairId, PersonPseudonym, RolloutId, SessionId,
    Sha256Digest, SuggestionId, TenantId,
};
use crate::receipt::Probabilities;
use crate::sealing::Sealed;
use crate::time::Timestamp;
use crate::vocabulary::{Arm, Decision, EditPattern, PairReason, Signal};

/// Where chosen and rejected part: the first action that differs in effect and in it the first differing byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergencePoint {
    /// Index of the first differing action of the rejected side's canonical encoding, from 0.
    pub action_index: u32,
    /// First differing byte of that action's new text, on a character boundary.
    pub byte: u32,
}

/// The text of a pair, sealed on the bus and in the lake. Structured; a dialect renders it when a model trains.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PairText {
    /// What the model saw.
    pub context: EditContext,
    /// Actions before the divergence that both sides share.
    pub shared: Vec<EditAction>,
    /// What the developer wanted from there on; none for an unpaired rejection.
    pub chosen: Option<ActionList>,
    /// What was proposed and not wanted, cut to what was visible; none for an unpaired positive.
    pub rejected: Option<ActionList>,
}

impl std::fmt::Debug for PairText {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PairText(..)")
    }
}

/// A record of `preference.pairs.v1`, keyed like its session's telemetry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// digest(tenant, opportunity, suggestion id or empty, action index or -1, reason, label policy version).
    pub pair_id: PairId,
    /// Owner of the data.
    pub tenant: TenantId,
    /// The developer, pseudonymous.
    pub person: PersonPseudonym,
    /// One run of the editor.
    pub session_id: SessionId,
    /// The decision that was judged.
    pub opportunity_id: OpportunityId,
    /// The suggestion that was judged, if one was served.
    pub suggestion_id: Option<SuggestionId>,
    /// The action that was judged; -1 when nothing was served.
    pub action_index: i32,
    /// Which row of the label table matched.
    pub reason: PairReason,
    /// Version of the label table.
    pub label_policy_version: i32,
    /// Weight of the pair in training.
    pub weight: f64,
    /// Where the two sides part; none without two sides.
    pub divergence: Option<DivergencePoint>,
    /// Who may be served what is learned from it.
    pub audience: Audience,
    /// Repository as the model sees it (keyed, shape preserved).
    pub repository: String,
    /// Language id as in LSP.
    pub language: String,
    /// The model that was asked.
    pub model: ModelName,
    /// Its version.
    pub model_version: ModelVersion,
    /// How likely the decision was.
    pub probabilities: Probabilities,
    /// Whether scrubbing altered text between the region and the divergence point.
    pub altered: bool,
    /// Whether a side that was a suggestion is written otherwise than it was generated: it is not the text that the
    /// model's probabilities speak of. Schema 2; a pair that is on policy is written with schema 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub off_policy: bool,
    /// `received_at` of the opportunity's first event.
    pub opened_at: Timestamp,
    /// Partition time at which the label was concluded.
    pub labeled_at: Timestamp,
    /// Greatest `received_at` of the events that it rests on.
    pub last_signal_at: Timestamp,
    /// Binds the seal: derived from the pair id.
    pub event_id: EventId,
    /// Digest of the text in clear, keyed by the tenant.
    pub content_digest: Sha256Digest,
    /// [`PairText`] as JSON, sealed for `event_id` and this topic.
    pub sealed: Option<Sealed>,
}

impl PreferencePair {
    /// The event id that binds a pair's seal.
    #[must_use]
    pub fn event_id_of(pair: PairId) -> EventId {
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&pair.digest().as_bytes()[..16]);
        EventId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// A record of `serving.outcomes.v1`: one closed opportunity, keyed by person pseudonym.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpportunityOutcome {
    /// The decision.
    pub opportunity_id: OpportunityId,
    /// The suggestion, if one was served.
    pub suggestion_id: Option<SuggestionId>,
    /// Owner of the data.
    pub tenant: TenantId,
    /// The developer, pseudonymous.
    pub person: PersonPseudonym,
    /// The model that was asked.
    pub model: ModelName,
    /// Its version.
    pub model_version: ModelVersion,
    /// The rollout that chose it, if one ran.
    pub rollout_id: Option<RolloutId>,
    /// The side of the rollout.
    pub arm: Arm,
    /// The block within which the arm is fixed.
    pub block: Option<i64>,
    /// What serving decided.
    pub decision: Decision,
    /// What the developer did with the first action.
    pub signal: Signal,
    /// +0.75, -0.25 or 0; see the design's "What we measure".
    pub utility: f64,
    /// Whether it counts as shown.
    pub shown: bool,
    /// Whether it counts as accepted (Tab, in whole or part).
    pub accepted: bool,
    /// Characters of the accepted text that stand at the last look.
    pub kept_characters: i64,
    /// The session ended before the 30 s look: in no rate.
    pub censored: bool,
    /// A valid receipt came back, but the exposure was lost.
    pub exposure_missing: bool,
    /// Whether exploration turned the decision round.
    pub explored: bool,
    /// Repository as the model sees it.
    pub repository: String,
    /// When serving answered.
    pub exposed_at: Timestamp,
    /// Partition time of the close.
    pub closed_at: Timestamp,
    /// What more the text says. Schema 2; an outcome without it is written with schema 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<OutcomeDetail>,
}

/// What the text of a closed opportunity says, in numbers and symbols. How much of accepted text stands is told in
/// thousandths of the characters that Tab wrote, rounded down, so that 500 is at least half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeDetail {
    /// Language id as in LSP.
    pub language: String,
    /// What the proposed actions would do; none when nothing was proposed.
    pub pattern: Option<EditPattern>,
    /// From the question to the first action on its way, by serving's monotonic clock; none when nothing was shown.
    pub first_action_ms: Option<i64>,
    /// Of the accepted first action, at the look 30 s after the decision; none without acceptance before it, or look.
    pub standing_30_s_permille: Option<i64>,
    /// At the look after 120 s.
    pub standing_120_s_permille: Option<i64>,
    /// At the look after 300 s.
    pub standing_300_s_permille: Option<i64>,
}

/// A record of `flywheel.events.v1`: what the control plane did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlywheelEvent {
    /// Its id.
    pub event_id: EventId,
    /// Owner.
    pub tenant: TenantId,
    /// When.
    pub at: Timestamp,
    /// A stable code such as `run_succeeded`.
    pub kind: String,
    /// What it is about (a run, a version, a rollout).
    pub subject: String,
    /// Numbers and ids as JSON; never text of events.
    pub detail: String,
}
