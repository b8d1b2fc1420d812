//! How an opportunity ended, and the record of it.

use events::{OpportunityOutcome, OutcomeDetail, Signal, Timestamp, pattern_of};

use crate::kept::{Kept, kept};
use crate::policy::LOOKS_S;
use crate::story::{Story, What};

/// Utility of an accepted suggestion of which at least half stands at close.
pub const UTILITY_ACCEPTED: f64 = 0.75;
/// Utility of a suggestion that was shown and anything else.
pub const UTILITY_SHOWN: f64 = -0.25;

/// How an opportunity ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ending {
    /// What the developer did with the first action.
    pub signal: Signal,
    /// See the design's "What we measure".
    pub utility: f64,
    /// Whether it counts as shown.
    pub shown: bool,
    /// Whether it counts as accepted.
    pub accepted: bool,
    /// Characters of the accepted first action that stand.
    pub kept_characters: i64,
    /// How much of it stood at each look, in thousandths; none where nobody looked.
    pub standing_permille: [Option<i64>; LOOKS_S.len()],
    /// The session ended before the 30 s look.
    pub censored: bool,
}

/// The exposure was lost: what Tab wrote and the last look still tell.
pub(crate) fn kept_without_exposure(story: &Story) -> Option<Kept> {
    let mut written = story.facts.iter().filter(|fact| story.is_written_by_answer(fact));
    let (old, new) = written.find_map(|fact| match &fact.what {
        What::Edit { text: Some(text), .. } => Some((&text.old_text, &text.new_text)),
        _ => None,
    })?;
    let look = story.facts.iter().rev().find_map(|fact| match &fact.what {
        What::Look { text: Some(text), .. } => Some(text),
        _ => None,
    })?;
    kept("", old, new, std::slice::from_ref(new), look)
}

/// Whether the session ended before the 30 s look.
pub(crate) fn is_censored(story: &Story) -> bool {
    let Some((ended_ms, ended_at)) = story.ended else { return false };
    if story.facts.iter().any(|fact| matches!(fact.what, What::Look { .. })) {
        return false;
    }
    match story.opened_ms() {
        Some(opened) => ended_ms.saturating_sub(opened) < 30_000,
        None => ended_at.since(story.answer.first_received_at) < std::time::Duration::from_secs(30),
    }
}

/// What the text of a closed story says, if it is known.
fn detail(story: &Story, ending: &Ending) -> Option<OutcomeDetail> {
    let exposure = story.answer.text.as_ref()?;
    let [standing_30_s_permille, standing_120_s_permille, standing_300_s_permille] = ending.standing_permille;
    Some(OutcomeDetail {
        language: exposure.context.language.clone(),
        pattern: pattern_of(&exposure.actions),
        first_action_ms: exposure.first_action_ms.map(i64::from),
        standing_30_s_permille,
        standing_120_s_permille,
        standing_300_s_permille,
    })
}

/// The record of a closed story.
#[must_use]
pub fn outcome(story: &Story, ending: &Ending, closed_at: Timestamp, tells_details: bool) -> OpportunityOutcome {
    let receipt = &story.answer.receipt;
    OpportunityOutcome {
        opportunity_id: receipt.opportunity_id,
        suggestion_id: receipt.suggestion_id,
        tenant: receipt.tenant.clone(),
        person: receipt.person.clone(),
        model: receipt.model.clone(),
        model_version: receipt.model_version,
        rollout_id: receipt.rollout_id,
        arm: receipt.arm,
        block: receipt.block,
        decision: receipt.decision,
        signal: ending.signal,
        utility: ending.utility,
        shown: ending.shown,
        accepted: ending.accepted,
        kept_characters: ending.kept_characters,
        censored: ending.censored,
        exposure_missing: !story.answer.exposed,
        explored: receipt.probabilities.explored,
        repository: story.answer.text.as_ref().map(|text| text.context.repository.clone()).unwrap_or_default(),
        exposed_at: receipt.issued_at,
        closed_at,
        detail: if tells_details { detail(story, ending) } else { None },
    }
}
