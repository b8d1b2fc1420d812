//! What happened in a suggestion's region, replayed from the reports: the text at every pause, and by whose hand.
//!
//! A report that is missing may have been an edit, and those after it then fit by chance only. So behind a gap in the
//! client's numbers nothing is clear until a look shows the very text that the known reports make: then none of them
//! changed it, and what was made since the gap counts.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use events::{Decision, EditAction, Origin, Timestamp, apply_actions};

use crate::alignment::hunks_between;
use crate::document::{Applied, ReportedEdit, TrackedWindow, byte_at, length_in, lines_around};
use crate::lexing::equal_after_lexing;
use crate::policy::LabelPolicy;
use crate::story::{Answer, EditText, ExposureText, Fact, Story, What};

/// Why it is not known what the hand made: the text of the window is not known.
const TEXT_UNKNOWN: &str = "text_unknown";
/// The same: reports are missing, and no look has shown that they changed nothing.
pub(crate) const REPORTS_MISSING: &str = "reports_missing";

/// The text at the end of a burst of editing in the region (10 s of quiet followed), or at close.
#[derive(Debug, Clone, PartialEq)]
pub struct Pause {
    /// The client's time at which it was clear that this is a pause.
    pub settled_ms: i64,
    /// What the developer's hand had made when the burst ended; none when no complete action can be told.
    pub made: Option<Rc<str>>,
    /// The same without bounds on its time and without a boundary: how far the hand has come.
    pub reached: Option<Rc<str>>,
    /// The window as it stood at the end of the burst, whoever changed it; none when it is not known.
    pub standing: Option<Rc<str>>,
    /// Right after the acceptances so far: one text for each run of them that the hand did not interrupt.
    pub accepted: Vec<Rc<str>>,
    /// Whether the developer's hand changed the region (after the acceptance, if there was one).
    pub by_hand: bool,
    /// Why it is not known what the hand made: where something else came from that changed the region, or that the
    /// text is not known at all.
    pub unclear: Option<&'static str>,
    /// Whether anything but an acceptance changed the window.
    pub window_changed: bool,
    /// Sequence number of the burst's last edit.
    pub last_sequence: i64,
    /// Greatest `received_at` of the edits in the region so far.
    pub last_received_at: Option<Timestamp>,
    /// Whether scrubbing changed something of what was read so far.
    pub altered: bool,
}

impl Pause {
    /// Reports are missing: whatever the hand made is not known, nor what stands. That weighs more than whatever else
    /// is unclear, of which it may be known what stands.
    fn forget_hand(&mut self) {
        self.made = None;
        self.reached = None;
        self.unclear = Some(REPORTS_MISSING);
    }
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// In order; the last one is the state at the end of what is known.
    pub pauses: Vec<Pause>,
    /// The state at the end of what is known.
    pub last: Pause,
    /// The region, in bytes of the window's text as it was exposed.
    pub region: Range<usize>,
    /// Text of the last look, if it was taken after the last edit of the window.
    pub look: Option<String>,
    /// Numbers of the visible actions whose places the developer's hand changed, whatever became of the change.
    pub visited: BTreeSet<usize>,
}

/// Where edits after the decision begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// After this one, the last before the first signal about the answer.
    Sequence(i64),
    /// At this time of the client.
    Monotonic(i64),
}

/// Whether it can be told which edits came after the decision. For silence only a look tells: times of arrival decide
/// nothing.
#[must_use]
pub fn start_is_known(story: &Story) -> bool {
    start_of(story).is_some()
}

/// Numbers of reports after the decision before which one is missing.
fn gaps_after_start(story: &Story) -> impl Iterator<Item = i64> {
    let decided = match start_of(story) {
        Some(Start::Sequence(sequence)) => sequence,
        Some(Start::Monotonic(_)) | None => i64::MIN,
    };
    story.gaps.iter().copied().filter(move |gap| *gap > decided)
}

fn start_of(story: &Story) -> Option<Start> {
    let is_signal = |fact: &&Fact| match fact.what {
        What::Edit { .. } => story.is_written_by_answer(fact),
        What::Look { .. } => false,
        _ => story.is_about_answer(fact),
    };
    let signal = story.facts.iter().find(is_signal).map(|fact| Start::Sequence(fact.sequence.saturating_sub(1)));
    let look = story.facts.iter().find_map(|fact| match fact.what {
        What::Look { delay_s, .. } => {
            Some(Start::Monotonic(fact.monotonic_ms.saturating_sub(i64::from(delay_s) * 1000)))
        }
        _ => None,
    });
    signal.or(look)
}

struct HandEdit {
    monotonic_ms: i64,
    text: Rc<str>,
    written: Range<usize>,
    /// Whether the next edit of the region begins elsewhere: this one completed something.
    completed: bool,
}

struct Replayer<'a> {
    policy: &'a LabelPolicy,
    language: &'a str,
    window: TrackedWindow,
    /// The window's text, once it was asked for since it changed.
    text: Option<Rc<str>>,
    follows_acceptance_edits: bool,
    accepted: Vec<Rc<str>>,
    accepted_actions: Vec<EditAction>,
    burst: Vec<HandEdit>,
    last_activity_ms: Option<i64>,
    made: Option<Rc<str>>,
    reached: Option<Rc<str>>,
    by_hand: bool,
    tainted_by: Option<&'static str>,
    window_changed: bool,
    last_sequence: i64,
    last_received_at: Option<Timestamp>,
    altered: bool,
    look: Option<String>,
    visited: BTreeSet<usize>,
    pauses: Vec<Pause>,
    /// Number of the first pause behind a gap in the reports, while no look has shown that nothing is missing.
    doubted_from: Option<usize>,
}

/// Replays the story over the exposed window. `visible` is how many actions were visible.
#[must_use]
pub fn replay(story: &Story, exposure: &ExposureText, visible: usize, policy: &LabelPolicy) -> Replay {
    let base = &exposure.context.window.text;
    let region = region_of(&story.answer, exposure, visible, policy);
    let mut replayer = Replayer {
        policy,
        language: &exposure.context.language,
        window: TrackedWindow::new(base, exposure.window_start_offset, story.answer.encoding)
            .watching(region.clone())
            .following(sites_of(exposure, visible)),
        text: None,
        follows_acceptance_edits: story.facts.iter().any(|fact| story.is_written_by_answer(fact)),
        accepted: Vec::new(),
        accepted_actions: Vec::new(),
        burst: Vec::new(),
        last_activity_ms: None,
        made: None,
        reached: None,
        by_hand: false,
        tainted_by: None,
        window_changed: false,
        last_sequence: 0,
        last_received_at: None,
        altered: exposure.altered,
        look: None,
        visited: BTreeSet::new(),
        pauses: Vec::new(),
        doubted_from: None,
    };
    let start = start_of(story);
    let close_ms = story.opened_ms().map_or(i64::MAX, |opened| opened.saturating_add(policy.close_ms));
    // What is worked on beyond close goes on after what is known of it.
    let mut known_until_ms = story.known_until_ms;
    let last_look_ms = close_ms.saturating_add(policy.look_grace_ms);
    let mut gaps = gaps_after_start(story).peekable();
    let mut ends_with_gap = false;
    for fact in &story.facts {
        let is_after = match start {
            Some(Start::Sequence(sequence)) => fact.sequence > sequence,
            Some(Start::Monotonic(monotonic)) => fact.monotonic_ms >= monotonic,
            None => false,
        };
        let mut is_behind_gap = false;
        while gaps.next_if(|gap| *gap <= fact.sequence).is_some() {
            is_behind_gap = is_after;
        }
        if is_behind_gap && fact.monotonic_ms <= last_look_ms {
            replayer.doubt();
        } else {
            ends_with_gap |= is_behind_gap;
        }
        match &fact.what {
            What::Edit { origin, text } => {
                if !is_after {
                    continue;
                }
                if fact.monotonic_ms > close_ms {
                    known_until_ms = known_until_ms.min(fact.monotonic_ms);
                    continue;
                }
                let Some(text) = text else {
                    // Without text it is not known which document changed, nor where.
                    replayer.window_lost();
                    continue;
                };
                if text.path != exposure.context.path {
                    continue;
                }
                replayer.edit(fact, *origin, story.is_written_by_answer(fact), &reported(text));
            }
            What::Accepted { action_index, accepted_length } if story.is_about_answer(fact) => {
                replayer.acceptance(fact, exposure, *action_index, *accepted_length);
            }
            What::Look { text: Some(text), .. } if fact.monotonic_ms <= last_look_ms => {
                replayer.looked(fact, text);
            }
            _ => {}
        }
    }
    // The last look decides, whatever came after it.
    if (ends_with_gap || gaps.next().is_some()) && replayer.look.is_none() {
        replayer.doubt();
    }
    let quiet_since =
        |quiet_ms: i64| replayer.last_activity_ms.is_none_or(|last| known_until_ms >= last.saturating_add(quiet_ms));
    let (is_paused, is_complete) = (quiet_since(policy.settle_ms), quiet_since(policy.boundary_ms));
    if is_paused && replayer.last_activity_ms.is_some() {
        replayer.pause();
    }
    let mut last = replayer.state(story.known_until_ms, is_complete);
    let look = replayer.look.take();
    let mut pauses = replayer.pauses;
    if let Some(first) = replayer.doubted_from {
        pauses.iter_mut().skip(first).chain([&mut last]).for_each(Pause::forget_hand);
    }
    Replay { pauses, last, region, look, visited: replayer.visited }
}

/// The byte of the window's text at which a byte of the document stands.
fn byte_in_window(exposure: &ExposureText, place: u64) -> Option<usize> {
    let window = &exposure.context.window;
    let byte = usize::try_from(place.checked_sub(window.start_byte)?).ok()?;
    window.text.is_char_boundary(byte).then_some(byte)
}

/// Where the visible actions stand in the window. One without a place there gets one past its end, which nothing
/// touches.
fn sites_of(exposure: &ExposureText, visible: usize) -> Vec<Range<usize>> {
    let nowhere = usize::MAX / 2;
    let site = |action: &EditAction| {
        let start = byte_in_window(exposure, action.range.start);
        let range = start.zip(byte_in_window(exposure, action.range.end)).filter(|(start, end)| start <= end);
        range.filter(|_| action.path == exposure.context.path).map_or(nowhere..nowhere, |(start, end)| start..end)
    };
    exposure.actions.iter().take(visible).map(site).collect()
}

/// The lines of what was visible and one more each way; the whole window when nothing was served.
fn region_of(answer: &Answer, exposure: &ExposureText, visible: usize, policy: &LabelPolicy) -> Range<usize> {
    let base = &exposure.context.window.text;
    let whole = 0..base.len();
    if answer.receipt.decision != Decision::Shown {
        return whole;
    }
    let mut region: Option<Range<usize>> = None;
    for action in exposure.actions.iter().take(visible.max(1)) {
        let place = byte_in_window(exposure, action.range.start).zip(byte_in_window(exposure, action.range.end));
        let Some((start, end)) = place else { return whole };
        let lines = lines_around(base, start..end.max(start), policy.region_lines);
        region = Some(match region {
            Some(known) => known.start.min(lines.start)..known.end.max(lines.end),
            None => lines,
        });
    }
    region.unwrap_or(whole)
}

fn reported(text: &EditText) -> ReportedEdit<'_> {
    ReportedEdit { start: text.start, end: text.end, old_text: &text.old_text, new_text: &text.new_text }
}

impl Replayer<'_> {
    fn edit(&mut self, fact: &Fact, origin: Origin, is_acceptance: bool, edit: &ReportedEdit<'_>) {
        if is_acceptance {
            self.goes_on();
        }
        // Whoever writes much at once (formatters, agents, version control, and clients that report whole documents)
        // leaves most of it as it was: each change of it is an edit, from the last one on, so that places stay.
        let crosses = self.window.is_crossed_by(edit);
        let changes = if crosses { hunks_between(edit.old_text, edit.new_text) } else { Vec::new() };
        let encoding = self.window.encoding();
        let (mut byte, mut units) = (0, edit.start);
        let mut units_until = |next: usize| {
            units = units.saturating_add(length_in(encoding, &edit.old_text[byte..next]));
            byte = next;
            units
        };
        let mut parts: Vec<ReportedEdit<'_>> = changes
            .iter()
            .map(|change| ReportedEdit {
                start: units_until(change.start),
                end: units_until(change.end),
                old_text: &edit.old_text[change.start..change.end],
                new_text: &change.new_text,
            })
            .collect();
        parts.reverse();
        if !crosses {
            parts.push(*edit);
        }
        // A formatter that changes no token is no correction and hides none.
        let is_format = origin == Origin::Formatter && self.keeps_tokens(&parts);
        for part in &parts {
            self.edit_part(fact, origin, is_acceptance, is_format, part);
        }
        let is_by_hand = matches!(origin, Origin::Typed | Origin::Undo);
        if crosses && self.window.is_lost() && !is_acceptance && !is_by_hand {
            self.tainted_by = self.tainted_by.or(Some(unclear_origin(origin)));
        }
    }

    /// Whether the window has the same tokens before and after edits.
    fn keeps_tokens(&self, edits: &[ReportedEdit<'_>]) -> bool {
        let mut after = self.window.clone();
        for edit in edits {
            after.apply(edit);
        }
        !after.is_lost() && equal_after_lexing(self.language, self.window.text(), after.text())
    }

    fn edit_part(
        &mut self,
        fact: &Fact,
        origin: Origin,
        is_acceptance: bool,
        is_format: bool,
        edit: &ReportedEdit<'_>,
    ) {
        let watched_before = self.window.watched();
        let was_lost = self.window.is_lost();
        let (replaced, written) = match self.window.apply(edit) {
            Applied::Elsewhere => return,
            Applied::Lost => {
                if !was_lost {
                    self.active(fact);
                }
                self.look = None;
                return;
            }
            Applied::Inside { replaced, written } => (replaced, written),
        };
        self.look = None;
        self.text = None;
        let watched = replaced.start <= watched_before.end && watched_before.start <= replaced.end;
        self.window_changed |= !is_acceptance && !is_format;
        if !watched {
            return;
        }
        self.active(fact);
        self.altered |= fact.altered;
        match origin {
            Origin::Suggestion if is_acceptance => self.accepted_now(),
            Origin::Typed | Origin::Undo => {
                self.visited.extend(self.window.sites_touched(&written));
                if let Some(previous) = self.burst.last_mut() {
                    let touches = replaced.start <= previous.written.end && previous.written.start <= replaced.end;
                    let long_pause = fact.monotonic_ms.saturating_sub(previous.monotonic_ms) >= self.policy.boundary_ms;
                    previous.completed = !touches || long_pause;
                }
                self.by_hand = true;
                let text = self.text();
                self.reached = Some(Rc::clone(&text));
                self.burst.push(HandEdit { monotonic_ms: fact.monotonic_ms, text, written, completed: true });
            }
            Origin::Formatter if is_format => {}
            _ => self.tainted_by = self.tainted_by.or(Some(unclear_origin(origin))),
        }
    }

    /// Text came from the suggestion; what the hand did before it is part of what stood there at Tab.
    fn accepted_now(&mut self) {
        if !self.by_hand {
            self.accepted.pop();
        }
        let text = self.text();
        self.accepted.push(text);
        self.burst.clear();
        self.by_hand = false;
        self.made = None;
        self.reached = None;
    }

    /// The developer takes the next step: what the hand made of the ones before is finished.
    fn goes_on(&mut self) {
        let last_ms = self.burst.last().map(|last| last.monotonic_ms);
        if let Some(last_ms) = last_ms.filter(|_| !self.accepted.is_empty()) {
            let state = self.state(last_ms, true);
            self.pauses.push(state);
        }
    }

    /// Tab. When the client does not report what Tab wrote, the action itself says it.
    fn acceptance(&mut self, fact: &Fact, exposure: &ExposureText, action_index: i32, length: Option<i64>) {
        if !self.follows_acceptance_edits {
            self.goes_on();
        }
        self.active(fact);
        if self.follows_acceptance_edits || self.window.is_lost() {
            return;
        }
        let action = usize::try_from(action_index).ok().and_then(|index| exposure.actions.get(index));
        let units = length.and_then(|units| u64::try_from(units).ok());
        let accepted = action.and_then(|action| {
            let bytes = match units {
                Some(units) => byte_at(self.window.encoding(), &action.new_text, units)?,
                None => action.new_text.len(),
            };
            Some(EditAction { new_text: action.new_text[..bytes].to_owned(), ..action.clone() })
        });
        let window = &exposure.context.window;
        let untouched = apply_actions(window.start_byte, &window.text, &self.accepted_actions);
        // An action says where it belongs only while nobody else has changed the window.
        let Some(accepted) = accepted.filter(|_| untouched.as_deref() == Some(self.window.text())) else {
            return self.window_lost();
        };
        // Accept by word reports the same action again, longer.
        self.accepted_actions.retain(|known| known.range != accepted.range || known.path != accepted.path);
        self.accepted_actions.push(accepted);
        let Some(result) = apply_actions(window.start_byte, &window.text, &self.accepted_actions) else {
            return self.window_lost();
        };
        let before = self.window.text().to_owned();
        for hunk in hunks_between(&before, &result).iter().rev() {
            self.window.replace(hunk.start..hunk.end, &hunk.new_text);
        }
        self.text = None;
        self.accepted_now();
    }

    fn looked(&mut self, fact: &Fact, text: &str) {
        if !self.window.is_lost() && !equal_after_lexing(self.language, self.window.text(), text) {
            // Something was not reported; what stands is known again, but not by whose hand.
            self.window_lost();
            self.window_changed = true;
        }
        if !self.window.is_lost() {
            self.doubted_from = None;
        }
        self.altered |= fact.altered;
        self.look = Some(text.to_owned());
    }

    /// A report is missing.
    fn doubt(&mut self) {
        self.doubted_from.get_or_insert(self.pauses.len());
    }

    fn window_lost(&mut self) {
        self.window.lose();
        self.look = None;
    }

    /// Something happened in the region; if it was quiet before for long enough, that was a pause.
    fn active(&mut self, fact: &Fact) {
        if self.last_activity_ms.is_some_and(|last| fact.monotonic_ms >= last.saturating_add(self.policy.settle_ms)) {
            self.pause();
        }
        self.last_activity_ms = Some(fact.monotonic_ms);
        self.last_sequence = fact.sequence;
        self.last_received_at = self.last_received_at.max(Some(fact.received_at));
    }

    fn pause(&mut self) {
        let settled = self.last_activity_ms.unwrap_or_default().saturating_add(self.policy.settle_ms);
        let state = self.state(settled, true);
        self.made.clone_from(&state.made);
        self.pauses.push(state);
        self.burst.clear();
    }

    /// The window's text, copied once for all who keep it until it changes.
    fn text(&mut self) -> Rc<str> {
        Rc::clone(self.text.get_or_insert_with(|| Rc::from(self.window.text())))
    }

    /// `is_complete`: nothing was cut off in the middle of typing.
    fn state(&mut self, settled_ms: i64, is_complete: bool) -> Pause {
        let lost = self.window.is_lost();
        let unclear = self.tainted_by.or(lost.then_some(TEXT_UNKNOWN));
        Pause {
            settled_ms,
            made: if unclear.is_some() { None } else { self.complete_text(is_complete) },
            reached: if unclear.is_some() { None } else { self.reached.clone() },
            standing: (!lost).then(|| self.text()),
            accepted: self.accepted.clone(),
            by_hand: self.by_hand,
            unclear,
            window_changed: self.window_changed || lost,
            last_sequence: self.last_sequence,
            last_received_at: self.last_received_at,
            altered: self.altered,
        }
    }

    /// The text after the burst or, when it took longer than allowed or was cut off, at its last boundary before.
    fn complete_text(&self, is_complete: bool) -> Option<Rc<str>> {
        let Some(((last, rest), first)) = self.burst.split_last().zip(self.burst.first()) else {
            return self.made.clone();
        };
        let in_time = |edit: &&HandEdit| edit.monotonic_ms.saturating_sub(first.monotonic_ms) <= self.policy.editing_ms;
        let whole = Some(last).filter(|_| is_complete).filter(in_time);
        let complete = whole.or_else(|| rest.iter().rev().find(|edit| in_time(edit) && edit.completed))?;
        Some(Rc::clone(&complete.text))
    }
}

/// Why nothing is learned from a region that something of this origin changed: agents and other tools (`suggestion`),
/// version control and other programs (`external`), pastes and formatters write what the developer's hand did not.
fn unclear_origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Paste => "paste",
        Origin::Redo => "redo",
        Origin::Formatter => "formatter",
        Origin::External => "external",
        Origin::Suggestion => "other_suggestion",
        Origin::Typed | Origin::Undo | Origin::Unknown => "unknown_origin",
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
