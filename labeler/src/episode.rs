//! From a story to its label and outcome. Pure: the same story gives the same answer, whenever it is asked.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use events::{
    ActionList, DivergencePoint, EditAction, EditContext, PairReason, PairText, Signal, Timestamp, apply_actions,
};

use crate::alignment::{Hunk, apply_hunks, hunks_between};
use crate::decision_table::{Acceptance, Evidence, Fate, Label, SUPERSEDED, Typed, Visibility, decide};
use crate::divergence::{Divergence, canonical, divergence, to_action};
use crate::ending::{Ending, UTILITY_ACCEPTED, UTILITY_SHOWN, is_censored, kept_without_exposure};
use crate::generated::Generated;
use crate::kept::{Kept, KeptBefore};
use crate::lexing::{equal_after_lexing, solid};
use crate::policy::{LOOKS_S, LabelPolicy};
use crate::replay::{Pause, REPORTS_MISSING, Replay, replay, start_is_known};
use crate::signals::{Contradiction, Signals, contradictions, edits_by_hand, part, signals};
use crate::story::{ExposureText, Story, What};

/// A concluded label with the text that it teaches.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    /// Which row of the table matched.
    pub reason: PairReason,
    /// The action that was judged; -1 when nothing was served.
    pub action_index: i32,
    /// What it teaches.
    pub text: PairText,
    /// Where the two sides part.
    pub divergence: Option<DivergencePoint>,
    /// Weight in training.
    pub weight: f64,
    /// Whether scrubbing changed what it rests on.
    pub altered: bool,
    /// Whether it teaches about other text than was generated (see [`Generated::is_off_policy`]).
    pub off_policy: bool,
    /// Greatest `received_at` of what it rests on.
    pub last_signal_at: Timestamp,
}

/// What a story says so far.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nothing is decided yet.
    Waiting,
    /// Decided, and there is no pair; the reason is a code for metrics.
    NoPair(&'static str),
    /// A pair.
    Pair(Box<Conclusion>),
}

/// A story under a policy. What more than one question needs is found out once.
pub struct Episode<'a> {
    story: &'a Story,
    policy: &'a LabelPolicy,
    /// Of the whole story.
    signals: Signals,
    contradictions: OnceCell<Vec<Contradiction>>,
    replay: OnceCell<Replay>,
    told_at_close: Told,
}

impl<'a> Episode<'a> {
    /// Nothing is replayed before somebody asks.
    #[must_use]
    pub fn new(story: &'a Story, policy: &'a LabelPolicy) -> Self {
        let signals = signals(story, i64::MAX, policy);
        let (contradictions, replay) = (OnceCell::new(), OnceCell::new());
        Self { story, policy, signals, contradictions, replay, told_at_close: Told::default() }
    }

    /// The story.
    #[must_use]
    pub fn story(&self) -> &'a Story {
        self.story
    }

    /// What is contradictory in the story: one entry for each report.
    #[must_use]
    pub fn contradictions(&self) -> &[Contradiction] {
        self.contradictions.get_or_init(|| contradictions(self.story, self.policy))
    }

    /// The label of the story as far as it is known; `closed` when nothing more will come.
    #[must_use]
    pub fn judge(&self, closed: bool) -> Verdict {
        let (story, policy) = (self.story, self.policy);
        let Some(exposure) = &story.answer.text else {
            return if closed { Verdict::NoPair("no_text") } else { Verdict::Waiting };
        };
        if let Some(found) = self.contradictions().iter().find(|found| found.forbids_pairs()) {
            return if closed { Verdict::NoPair(found.as_str()) } else { Verdict::Waiting };
        }
        if !start_is_known(story) {
            return if closed { Verdict::NoPair("decision_time_unknown") } else { Verdict::Waiting };
        }
        let replay = self.replay(exposure);
        for pause in &replay.pauses {
            let signals = &signals(story, pause.settled_ms, policy);
            let told = &Told::default();
            let case = Case { story, exposure, replay, pause, signals, closed: false, policy, told };
            let verdict = case.verdict();
            if verdict != Verdict::Waiting {
                return verdict;
            }
        }
        if closed { self.at_close(exposure).verdict() } else { Verdict::Waiting }
    }

    /// How a story ended that is closed.
    #[must_use]
    pub fn ending(&self) -> Ending {
        let (story, signals) = (self.story, &self.signals);
        let accepted = signals.acceptance != Acceptance::None;
        let dismissed = signals.dismissed.map(|(index, _)| index);
        let is_later_dismissed = dismissed.is_some_and(|index| index > 0);
        let visibility = signals.visibility;
        let (mut standing, mut fate) = (None, Fate::Unknown);
        let mut standing_permille = [None; LOOKS_S.len()];
        if accepted {
            match &story.answer.text {
                Some(exposure) => {
                    let case = self.at_close(exposure);
                    let [at_30_s, at_120_s, at_300_s] = case.looks();
                    let texts = [case.standing(), at_30_s, at_120_s, at_300_s];
                    let [at_close, at_looks @ ..] = case.first_action_kept(texts);
                    standing = at_close;
                    standing_permille = at_looks.map(|kept| kept.map(|kept| kept.standing_permille()));
                    if !is_later_dismissed {
                        fate = case.fate();
                    }
                }
                None => standing = kept_without_exposure(story),
            }
        }
        let signal = match visibility {
            Visibility::NotServed => Signal::NotShown,
            _ if accepted => {
                if fate == Fate::Modified || is_later_dismissed {
                    Signal::PartiallyEdited
                } else {
                    Signal::Accepted
                }
            }
            Visibility::Superseded => Signal::Superseded,
            _ if dismissed == Some(0) => Signal::Rejected,
            Visibility::Visible | Visibility::Unseen => Signal::Ignored,
        };
        let shown = !matches!(signal, Signal::NotShown | Signal::Superseded);
        let accepted = matches!(signal, Signal::Accepted | Signal::PartiallyEdited);
        let utility = match (shown, accepted) {
            // Without any text (consent tier `usage`) nothing speaks against what Tab says.
            (_, true) if standing.is_none_or(|kept| kept.at_least_half()) => UTILITY_ACCEPTED,
            (true, _) => UTILITY_SHOWN,
            (false, _) => 0.0,
        };
        let kept_characters = standing.map_or(0, |kept| i64::try_from(kept.kept_characters).unwrap_or(i64::MAX));
        Ending { signal, utility, shown, accepted, kept_characters, standing_permille, censored: is_censored(story) }
    }

    fn replay(&self, exposure: &ExposureText) -> &Replay {
        self.replay.get_or_init(|| replay(self.story, exposure, self.signals.visible, self.policy))
    }

    fn at_close<'s>(&'s self, exposure: &'s ExposureText) -> Case<'s> {
        let replay = self.replay(exposure);
        Case {
            story: self.story,
            exposure,
            replay,
            pause: &replay.last,
            signals: &self.signals,
            closed: true,
            policy: self.policy,
            told: &self.told_at_close,
        }
    }
}

struct Case<'a> {
    story: &'a Story,
    exposure: &'a ExposureText,
    replay: &'a Replay,
    pause: &'a Pause,
    signals: &'a Signals,
    closed: bool,
    policy: &'a LabelPolicy,
    told: &'a Told,
}

/// What is asked for more than once, from when it was first told.
#[derive(Default)]
struct Told {
    made: OnceCell<Option<ActionList>>,
    made_and_visible: OnceCell<Option<Divergence>>,
    stop: OnceCell<Option<Divergence>>,
    fate: OnceCell<Fate>,
    kept: KeptBefore,
}

impl Case<'_> {
    fn context(&self) -> &EditContext {
        &self.exposure.context
    }

    fn base(&self) -> &str {
        &self.exposure.context.window.text
    }

    fn visible_actions(&self) -> &[EditAction] {
        &self.exposure.actions[..self.signals.visible.min(self.exposure.actions.len())]
    }

    /// The window at the end of this pause; at close the last look decides.
    fn standing(&self) -> Option<&str> {
        let look = self.replay.look.as_deref().filter(|_| self.closed);
        look.or(self.pause.standing.as_deref())
    }

    fn verdict(&self) -> Verdict {
        let evidence = self.evidence();
        let row = decide(&evidence);
        match row.label {
            Label::Wait => Verdict::Waiting,
            Label::NoLabel if evidence.typed == Typed::Unclear && row.code != SUPERSEDED => {
                Verdict::NoPair(self.why_unclear())
            }
            Label::NoLabel => Verdict::NoPair(row.code),
            label => self.conclude(label, &evidence),
        }
    }

    /// What a row may ask for and nothing else: most of it takes an alignment, and before close no row asks for most.
    fn evidence(&self) -> Evidence {
        let signals = self.signals;
        let dismissed = signals
            .dismissed
            .is_some_and(|(_, sequence)| self.closed || !self.pause.by_hand || sequence < self.pause.last_sequence);
        let mut evidence = Evidence {
            acceptance: signals.acceptance,
            fate: Fate::Unknown,
            visibility: signals.visibility,
            dismissed,
            typed: Typed::Nothing,
            stopped: false,
            window_changed: false,
            closed: self.closed,
        };
        if evidence.asks_what_was_typed() {
            evidence.typed = self.typed();
        }
        if evidence.asks_for_fate() {
            evidence.fate = self.fate();
        }
        evidence.stopped = evidence.asks_whether_stopped() && self.stopped();
        evidence.window_changed = evidence.asks_for_changes() && self.window_changed();
        evidence
    }

    /// At close, when nothing was accepted. Silence that nobody looked at afterwards is not confirmed.
    fn window_changed(&self) -> bool {
        self.pause.window_changed
            || self.replay.look.is_none()
            || self.standing().is_none_or(|standing| !self.is_unchanged(standing))
    }

    fn is_unchanged(&self, standing: &str) -> bool {
        equal_after_lexing(&self.context().language, self.base(), standing)
    }

    /// The hunks of the region between the exposed window and `text`.
    fn region_hunks(&self, text: &str) -> impl Iterator<Item = Hunk> {
        let region = &self.replay.region;
        hunks_between(self.base(), text).into_iter().filter(move |hunk| hunk.touches(region.start, region.end))
    }

    /// The hunks of the region between the exposed window and `text`, as far as chosen text may be long.
    fn hunks_of(&self, text: &str) -> Option<Vec<Hunk>> {
        let suggested: usize = self.visible_actions().iter().map(|action| action.new_text.len()).sum();
        let mut room = suggested.max(self.policy.length_floor_bytes) * self.policy.length_factor;
        let mut inside = Vec::new();
        for hunk in self.region_hunks(text) {
            // An action that does not fit is not cut: what fits is complete actions only.
            let Some(rest) = room.checked_sub(hunk.new_text.len()) else {
                if inside.is_empty() {
                    return None;
                }
                break;
            };
            room = rest;
            inside.push(hunk);
        }
        Some(self.in_served_format(inside))
    }

    /// Equal after lexing is equal: where what was served stands in another format, it stands as it was served, and a
    /// change of nothing but format is none.
    fn in_served_format(&self, mut hunks: Vec<Hunk>) -> Vec<Hunk> {
        let base = self.base();
        let language = &self.context().language;
        let is_format = |hunks: &[Hunk], other: &str| {
            apply_hunks(base, hunks).is_some_and(|text| equal_after_lexing(language, &text, other))
        };
        if hunks.is_empty() || is_format(&hunks, base) {
            return Vec::new();
        }
        // What a formatter did beside what was made is nobody's text.
        if hunks.len() > 1 {
            let is_made = |hunk: &&Hunk| !is_format(std::slice::from_ref(*hunk), base);
            let made: Vec<Hunk> = hunks.iter().filter(is_made).cloned().collect();
            if made.len() < hunks.len() && apply_hunks(base, &made).is_some_and(|text| is_format(&hunks, &text)) {
                hunks = made;
            }
        }
        for action in self.visible_actions() {
            let Some(served) = self.base_with(std::slice::from_ref(action)).map(|text| hunks_between(base, &text))
            else {
                continue;
            };
            let Some((first, last)) = served.first().zip(served.last()) else { continue };
            let (there, elsewhere): (Vec<Hunk>, Vec<Hunk>) =
                hunks.iter().cloned().partition(|hunk| hunk.touches(first.start, last.end));
            if there.is_empty() || there == served {
                continue;
            }
            let mut as_served: Vec<Hunk> = elsewhere.into_iter().chain(served).collect();
            as_served.sort();
            if apply_hunks(base, &as_served).is_some_and(|text| is_format(&hunks, &text)) {
                hunks = as_served;
            }
        }
        hunks
    }

    /// What the hand made of the region, as actions on the exposed window; none when that is not clear.
    fn made_actions(&self) -> Option<&ActionList> {
        let made = || Some(self.open_list(&self.hunks_of(self.pause.made.as_deref()?)?));
        self.told.made.get_or_init(made).as_ref()
    }

    /// Where what the hand made parts from what was visible.
    fn made_and_visible(&self) -> Option<&Divergence> {
        let parted = || divergence(self.context(), self.made_actions()?, &open(self.visible_actions().to_vec()));
        self.told.made_and_visible.get_or_init(parted).as_ref()
    }

    /// Where what the hand made parts from an action.
    fn made_and(&self, action: &EditAction) -> Option<Cow<'_, Divergence>> {
        if let [only] = self.visible_actions()
            && only == action
        {
            return self.made_and_visible().map(Cow::Borrowed);
        }
        divergence(self.context(), self.made_actions()?, &open(vec![action.clone()])).map(Cow::Owned)
    }

    fn open_list(&self, hunks: &[Hunk]) -> ActionList {
        open(hunks.iter().map(|hunk| to_action(self.context(), hunk)).collect())
    }

    fn typed(&self) -> Typed {
        let pause = self.pause;
        if pause.unclear.is_some() || self.signals.other_accepted || self.signals.unreported_accept {
            return Typed::Unclear;
        }
        if !pause.by_hand {
            return Typed::Nothing;
        }
        let is_judged = self.signals.visibility != Visibility::NotServed;
        let first = self.exposure.actions.first().filter(|_| is_judged && pause.accepted.is_empty());
        // Where the hand came no further than to what it made, the latter tells below.
        if let Some(first) = first
            && pause.reached != pause.made
            && pause.reached.as_deref().is_some_and(|reached| self.holds(reached, first))
        {
            return Typed::SameFirstAction;
        }
        let Some(made) = self.made_actions() else {
            // No word can be missing where what was accepted is put back.
            let is_back = pause.reached.as_deref().is_some_and(|reached| self.is_unchanged(reached));
            return if is_back && !pause.accepted.is_empty() { Typed::Nothing } else { Typed::Unclear };
        };
        if made.is_no_edit() {
            return Typed::Nothing;
        }
        let parted = match pause.accepted.last().zip(pause.made.as_deref()) {
            Some((accepted, made_text)) => {
                let same = equal_after_lexing(&self.context().language, accepted, made_text);
                if same || self.only_took_back(made) {
                    return Typed::Nothing;
                }
                self.made_and_visible().map(Cow::Borrowed)
            }
            None => match first {
                Some(first) => self.made_and(first),
                None => return Typed::SomethingElse,
            },
        };
        match parted {
            // Everything accepted stands, and what was added to it is what was served next.
            None if !pause.accepted.is_empty() => Typed::Nothing,
            None => Typed::SameFirstAction,
            Some(parted) if is_on_its_way(&parted) && (!self.closed || pause.reached != pause.made) => Typed::Unclear,
            Some(_) if self.esc_may_be_missing() => Typed::Unclear,
            Some(_) => Typed::SomethingElse,
        }
    }

    /// Whether nothing says how the suggestion left the screen before the hand was at work, and a report is missing
    /// there. The first letter hides it: no Esc comes after that.
    fn esc_may_be_missing(&self) -> bool {
        let story = self.story;
        let about = || story.facts.iter().filter(move |fact| story.is_about_answer(fact));
        let is_told = self.signals.acceptance != Acceptance::None
            || self.signals.dismissed.is_some()
            || about().any(|fact| matches!(fact.what, What::Hidden { .. }));
        let seen = about().next().map_or(i64::MAX, |fact| fact.sequence);
        let shown = about().rfind(|fact| matches!(fact.what, What::Shown { .. })).map_or(seen, |fact| fact.sequence);
        let hides = edits_by_hand(story).map(|fact| fact.sequence).find(|sequence| *sequence > shown);
        let gone = hides.map_or(self.pause.last_sequence, |hides| hides.min(self.pause.last_sequence));
        !is_told && story.gaps.iter().any(|gap| seen < *gap && *gap <= gone)
    }

    /// Whether a text has all of an action's effect in the region, whatever else was typed.
    fn holds(&self, text: &str, action: &EditAction) -> bool {
        let served = open(vec![action.clone()]);
        self.hunks_of(text).is_some_and(|hunks| {
            !hunks.is_empty() && divergence(self.context(), &self.open_list(&hunks), &served).is_none()
        })
    }

    /// Why it is not clear what was typed, as a code.
    fn why_unclear(&self) -> &'static str {
        match self.pause.unclear {
            Some(reason) => reason,
            None if self.signals.other_accepted => "accepted_out_of_order",
            None if self.signals.unreported_accept => "accept_not_reported",
            None if self.pause.made.is_some() && self.made_actions().is_none() => "too_long",
            None if self.esc_may_be_missing() => REPORTS_MISSING,
            None => "incomplete",
        }
    }

    /// Whether what was made is the beginning of what was served and nothing of the developer's own: later steps were
    /// taken back.
    fn only_took_back(&self, made: &ActionList) -> bool {
        let served = ActionList { actions: self.visible_actions().to_vec(), closed: false };
        let closed = ActionList { actions: made.actions.clone(), closed: true };
        divergence(self.context(), &closed, &served)
            .is_some_and(|parted| parted.chosen.actions.is_empty() && !parted.shared.is_empty())
    }

    fn base_with(&self, actions: &[EditAction]) -> Option<String> {
        apply_actions(self.context().window.start_byte, self.base(), actions)
    }

    fn fate(&self) -> Fate {
        *self.told.fate.get_or_init(|| self.find_fate())
    }

    fn find_fate(&self) -> Fate {
        if self.signals.acceptance == Acceptance::None {
            return Fate::Unknown;
        }
        let parts = self.signals.accepted_parts(&self.story.answer, &self.exposure.actions);
        let Some((kept, parts)) = parts.and_then(|parts| Some((self.accepted_kept(&parts)?, parts))) else {
            return Fate::Unknown;
        };
        if !kept.at_least_half() {
            return Fate::Undone;
        }
        let is_changed = !kept.intact || self.part_changed(&parts) || self.later_step_changed();
        if is_changed { Fate::Modified } else { Fate::Kept }
    }

    /// What stands of all that was accepted; none when it is not known, or Tab wrote none of it.
    fn accepted_kept(&self, parts: &[EditAction]) -> Option<Kept> {
        // Behind a gap in the reports only a look says what stands.
        if self.pause.unclear == Some(REPORTS_MISSING) && self.replay.look.is_none() {
            return None;
        }
        let suggested = self.base_with(parts)?;
        let mut at_accept = Cow::Borrowed(self.pause.accepted.as_slice());
        // What Tab wrote may be what is missing. Then it is taken at its word: a step of which nothing was seen would
        // otherwise count for nothing, whatever became of it.
        if self.pause.standing.is_none() || self.pause.unclear == Some(REPORTS_MISSING) {
            at_accept.to_mut().push(Rc::from(suggested.as_str()));
        }
        self.kept(&suggested, &at_accept, self.standing()?)
    }

    /// Whether something inside of what was accepted was changed by hand, or stands otherwise at close, be it only what
    /// the suggestion had left as it was.
    fn part_changed(&self, parts: &[EditAction]) -> bool {
        let Some((suggested, places)) = self.base_with(parts).zip(self.written_places(parts)) else { return false };
        let language = &self.context().language;
        // What was otherwise right after Tab (an editor closes a bracket itself) was not changed since.
        let at_accept = self.pause.accepted.last().map(|text| hunks_between(&suggested, text)).unwrap_or_default();
        let is_change = |hunk: &Hunk| {
            let is_inside = places.iter().any(|place| hunk.start < place.end && place.start < hunk.end);
            let is_format = || {
                apply_hunks(&suggested, std::slice::from_ref(hunk))
                    .is_some_and(|text| equal_after_lexing(language, &suggested, &text))
            };
            is_inside && !at_accept.contains(hunk) && !is_format()
        };
        let made = self.pause.made.as_deref().filter(|_| self.pause.by_hand);
        let standing = self.standing().filter(|_| self.closed);
        made.into_iter().chain(standing).any(|text| hunks_between(&suggested, text).iter().any(is_change))
    }

    /// Where the new texts of actions that fit the window stand in the text that they make of it.
    fn written_places(&self, actions: &[EditAction]) -> Option<Vec<Range<usize>>> {
        let mut sorted: Vec<&EditAction> = actions.iter().collect();
        sorted.sort_by_key(|action| (action.range.start, action.range.end));
        let (mut removed, mut written) = (0, 0);
        let place = |action: &EditAction| {
            let base = action.range.start.checked_sub(self.context().window.start_byte)?;
            let start = (usize::try_from(base).ok()? + written).checked_sub(removed)?;
            removed += action.old_text.len();
            written += action.new_text.len();
            Some(start..start + action.new_text.len())
        };
        sorted.into_iter().map(place).collect()
    }

    fn kept(&self, suggested: &str, at_accept: &[Rc<str>], text: &str) -> Option<Kept> {
        self.told.kept.kept(&self.context().language, self.base(), suggested, at_accept, text)
    }

    /// What stands of the accepted part of the first action in each of some texts.
    fn first_action_kept<const N: usize>(&self, texts: [Option<&str>; N]) -> [Option<Kept>; N] {
        let Some(suggested) = self.first_action_accepted().and_then(|accepted| self.base_with(&[accepted])) else {
            return [None; N];
        };
        // When it is not known what Tab wrote, it is taken at its word.
        let at_accept: Cow<'_, [Rc<str>]> = match self.pause.accepted.as_slice() {
            [] => Cow::Owned(vec![Rc::from(suggested.as_str())]),
            known => Cow::Borrowed(known),
        };
        texts.map(|text| self.kept(&suggested, &at_accept, text?))
    }

    /// What was accepted of the first action.
    fn first_action_accepted(&self) -> Option<EditAction> {
        let first = self.exposure.actions.first()?;
        part(&self.story.answer, first, *self.signals.accepted.get(&0)?)
    }

    /// What each look found that came after the first action was accepted.
    fn looks(&self) -> [Option<&str>; LOOKS_S.len()] {
        let accepts = self.story.facts.iter().filter(|fact| {
            matches!(fact.what, What::Accepted { action_index: 0, .. }) && self.story.is_about_answer(fact)
        });
        let accepted = accepts.map(|fact| fact.sequence).max();
        LOOKS_S.map(|look_s| {
            self.story.facts.iter().rev().find_map(|fact| match &fact.what {
                What::Look { delay_s, text: Some(text) } if *delay_s == look_s && Some(fact.sequence) > accepted => {
                    Some(text.as_str())
                }
                _ => None,
            })
        })
    }

    /// Whether a visible step after the accepted ones was made differently by hand, at its own place.
    fn later_step_changed(&self) -> bool {
        let later = self.visible_actions().get(self.signals.accepted_actions..).unwrap_or_default();
        if !self.pause.by_hand || later.is_empty() {
            return false;
        }
        self.made_and_visible().is_some_and(|parted| {
            let pair = parted.chosen.actions.first().zip(parted.rejected.actions.first());
            pair.is_some_and(|(typed, next)| {
                typed.range == next.range && later.iter().any(|action| action.range.touches(next.range))
            })
        })
    }

    /// Whether STOP is evidenced: the accepted steps stand, and at the place of the next visible one the developer
    /// pressed Esc or was at work, yet it is unchanged.
    fn stopped(&self) -> bool {
        if self.signals.accepted_actions == 0 {
            return false;
        }
        let Some(next) = self.stop_divergence().and_then(|parted| parted.rejected.actions.first()) else {
            return false;
        };
        self.visible_actions().iter().enumerate().any(|(index, action)| {
            let dismissed = self.signals.dismissed.is_some_and(|(at, _)| at == index);
            action.range.touches(next.range) && (dismissed || self.replay.visited.contains(&index))
        })
    }

    /// Where what stands parts from what was visible, if that is where it stops.
    fn stop_divergence(&self) -> Option<&Divergence> {
        let parted = || {
            let hunks = self.in_served_format(self.region_hunks(self.standing()?).collect());
            let made = ActionList { closed: true, ..self.open_list(&hunks) };
            divergence(self.context(), &made, &open(self.visible_actions().to_vec()))
                .filter(|parted| parted.chosen.actions.is_empty() && !parted.shared.is_empty())
        };
        self.told.stop.get_or_init(parted).as_ref()
    }

    fn conclude(&self, label: Label, evidence: &Evidence) -> Verdict {
        let Some(reason) = label.reason() else { return Verdict::NoPair("no_label") };
        let served = || open(self.visible_actions().to_vec());
        let nothing = ActionList::no_edit;
        let parted = match label {
            Label::Correction(PairReason::AcceptedThenModified) if evidence.typed != Typed::SomethingElse => {
                self.stop_divergence().cloned()
            }
            Label::Correction(_) => self.made_and_visible().cloned(),
            Label::Missed => self.made_actions().and_then(|made| divergence(self.context(), made, &nothing())),
            Label::Rejection(_) => {
                let untouched = self.standing().is_some_and(|standing| self.is_unchanged(standing));
                if self.policy.no_edit_for_dismissed && untouched {
                    divergence(self.context(), &nothing(), &served())
                } else {
                    return match canonical(self.context(), self.visible_actions()) {
                        Some(actions) if !actions.is_empty() => {
                            let generated = self.generated_and_rejected();
                            self.pair(reason, 0, Sides { rejected: Some(open(actions)), generated, ..Sides::default() })
                        }
                        _ => Verdict::NoPair("does_not_fit"),
                    };
                }
            }
            Label::Positive(_) => return self.positive(reason),
            // No pair: nothing was rejected. The record carries the context for those who must know where silence is
            // right.
            Label::SilenceConfirmed => {
                return self.pair(reason, -1, Sides { chosen: Some(nothing()), ..Sides::default() });
            }
            Label::NoLabel | Label::Wait => None,
        };
        let Some(parted) = parted else { return Verdict::NoPair("identical_effect") };
        let (index, generated) = match label {
            Label::Missed => (-1, Generated::default()),
            _ => (i32::try_from(parted.point.action_index).unwrap_or(0), self.generated_and_rejected()),
        };
        self.pair(reason, index, Sides::parted(parted, generated))
    }

    fn generated_and_rejected(&self) -> Generated {
        Generated { chosen: None, rejected: Some(self.visible_actions().to_vec()) }
    }

    fn positive(&self, reason: PairReason) -> Verdict {
        let accepted = if reason == PairReason::AcceptedKept { self.signals.accepted_actions.max(1) } else { 1 };
        let actions = &self.exposure.actions[..accepted.min(self.exposure.actions.len())];
        let Some(chosen) = canonical(self.context(), actions).filter(|actions| !actions.is_empty()) else {
            return Verdict::NoPair("does_not_fit");
        };
        let chosen = open(chosen);
        let sibling = if reason == PairReason::AcceptedKept { self.rejected_sibling(&chosen) } else { None };
        let generated = |rejected| Generated { chosen: Some(actions.to_vec()), rejected };
        let sides = match sibling {
            Some((parted, served)) => Sides::parted(parted, generated(Some(served))),
            None => Sides { chosen: Some(chosen), generated: generated(None), ..Sides::default() },
        };
        self.pair(reason, 0, sides)
    }

    /// An earlier answer of the same opportunity over the same window that was shown long enough and not taken, whether
    /// that is reported or its text says so, with what was visible of it.
    fn rejected_sibling(&self, chosen: &ActionList) -> Option<(Divergence, Vec<EditAction>)> {
        self.story.earlier.iter().rev().find_map(|earlier| {
            let text = earlier.text.as_ref().filter(|text| text.context.window == self.context().window)?;
            let story = Story { answer: earlier.clone(), earlier: Vec::new(), ..self.story.clone() };
            let seen = signals(&story, i64::MAX, self.policy);
            let was_taken = seen.acceptance != Acceptance::None || seen.unreported_accept;
            let rejected = seen.visibility == Visibility::Visible && !was_taken;
            let visible = text.actions.get(..seen.visible.min(text.actions.len()))?;
            let served = ActionList { actions: visible.to_vec(), closed: false };
            let parted = rejected.then(|| divergence(self.context(), chosen, &served)).flatten()?;
            Some((parted, served.actions))
        })
    }

    fn pair(&self, reason: PairReason, action_index: i32, sides: Sides) -> Verdict {
        let weight = match reason {
            PairReason::TypedThrough => self.policy.typed_through_weight,
            PairReason::TypedAgainst => self.policy.typed_against_weight,
            // Calibration data: no training batch takes weight 0.
            PairReason::SilenceConfirmed => 0.0,
            _ => 1.0,
        };
        let until = if self.closed { i64::MAX } else { self.pause.settled_ms };
        let signal_times = self
            .story
            .facts
            .iter()
            .filter(|fact| fact.monotonic_ms <= until && self.story.is_about_answer(fact))
            .map(|fact| fact.received_at);
        let last_signal_at =
            signal_times.chain(self.pause.last_received_at).fold(self.story.answer.first_received_at, Timestamp::max);
        let text = PairText {
            context: self.context().clone(),
            shared: sides.shared,
            chosen: sides.chosen,
            rejected: sides.rejected,
        };
        Verdict::Pair(Box::new(Conclusion {
            reason,
            action_index,
            off_policy: sides.generated.is_off_policy(&text),
            text,
            divergence: sides.point,
            weight,
            altered: self.pause.altered,
            last_signal_at,
        }))
    }
}

#[derive(Default)]
struct Sides {
    shared: Vec<EditAction>,
    chosen: Option<ActionList>,
    rejected: Option<ActionList>,
    point: Option<DivergencePoint>,
    generated: Generated,
}

impl Sides {
    fn parted(parted: Divergence, generated: Generated) -> Self {
        Self {
            shared: parted.shared,
            chosen: Some(parted.chosen),
            rejected: Some(parted.rejected),
            point: Some(parted.point),
            generated,
        }
    }
}

/// Whether what was typed is, so far, the beginning of what was served there, equal after lexing.
fn is_on_its_way(parted: &Divergence) -> bool {
    parted.chosen.actions.first().zip(parted.rejected.actions.first()).is_some_and(|(typed, served)| {
        let mut rest = solid(&served.new_text);
        typed.range == served.range && solid(&typed.new_text).all(|character| rest.next() == Some(character))
    })
}

fn open(actions: Vec<EditAction>) -> ActionList {
    ActionList { actions, closed: false }
}
