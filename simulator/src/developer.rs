//! A simulated developer at one opportunity: what is pressed and typed, when, and what the document becomes.
//!
//! The developer knows what is wanted and judges by the file that results, never by who proposed it.

use crate::behaviour::{BehaviourRates, IGNORED_MS, LOOKS_S, REACTION_MS, SHOWN_AT_MS, STROKE_MS};
use crate::judge::{Verdict, judge, same};
use crate::random::Dice;
use crate::source::Language;
use crate::tasks::EditTask;
use crate::text::is_word_byte;
use events::vocabulary::Origin;
use events::{ActionList, ByteRange, EditAction, apply_actions};

/// What a developer did, on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BehaviourKind {
    /// Tab on everything that was wanted; the rest, if any, was typed.
    Accepted,
    /// Tab, then the accepted text was mended.
    Mended,
    /// Tab, then undo.
    Regretted,
    /// Esc, then what was wanted was typed.
    EscapedThenTyped,
    /// Esc, and nothing else.
    Escaped,
    /// Typed on against a visible suggestion.
    TypedAgainst,
    /// A visible suggestion was left alone.
    Ignored,
    /// Nothing was shown; what was wanted was typed.
    TypedAfterSilence,
    /// Nothing was shown and nothing was done.
    Passed,
}

/// Something that the editor reports, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientAction {
    /// Milliseconds after the request.
    pub at_ms: u64,
    /// What.
    pub kind: ClientActionKind,
}

/// See [`ClientAction`]. Ranges are in the document before the change.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientActionKind {
    /// The suggestion became visible.
    Shown {
        /// How many of its actions.
        actions_visible: u32,
    },
    /// It left the screen without Tab or Esc.
    Hidden {
        /// How long it was visible.
        visible_ms: u64,
    },
    /// Tab.
    Accepted {
        /// Which action.
        action_index: u32,
        /// Cumulative accepted bytes; none means the whole action.
        accepted_length: Option<u64>,
    },
    /// Esc.
    Dismissed {
        /// Which action was next.
        action_index: u32,
    },
    /// The document changed.
    Edited {
        /// Replaced bytes.
        range: ByteRange,
        /// What stood there.
        old_text: String,
        /// What stands there now.
        new_text: String,
        /// Who changed it.
        origin: Origin,
    },
    /// What the window's lines look like.
    Look {
        /// 30, 120 or 300.
        delay_s: u32,
        /// The lines.
        text: String,
    },
}

/// What a developer did at one opportunity.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// On the whole.
    pub kind: BehaviourKind,
    /// In order of time.
    pub actions: Vec<ClientAction>,
    /// The document in the end.
    pub document: String,
}

/// A simulated developer.
#[derive(Debug, Clone, Default)]
pub struct Developer {
    rates: BehaviourRates,
}

/// A place of the document where something is served, wanted or both.
struct Region {
    base: ByteRange,
    served: Option<usize>,
    is_wanted: bool,
}

impl Developer {
    /// A developer with these habits.
    #[must_use]
    pub fn new(rates: BehaviourRates) -> Self {
        Self { rates }
    }

    /// What the developer does about `task` when `served` is visible (empty: nothing is).
    #[must_use]
    pub fn decide(&self, task: &EditTask, served: &ActionList, dice: &mut Dice) -> Behaviour {
        let mut editor = Editor::new(task, served);
        let kind = if served.actions.is_empty() {
            self.after_silence(&mut editor, dice)
        } else {
            self.after_suggestion(&mut editor, dice)
        };
        if editor.has_changed && dice.chance(self.rates.formatter) {
            editor.format(dice);
        }
        editor.finish(kind)
    }

    fn after_silence(&self, editor: &mut Editor<'_>, dice: &mut Dice) -> BehaviourKind {
        let distracted = dice.chance(self.rates.distraction);
        if editor.task.wanted.is_no_edit() || distracted || !dice.chance(self.rates.type_after_silence) {
            return BehaviourKind::Passed;
        }
        editor.wait(REACTION_MS, dice);
        editor.type_wanted(self.rates.two_strokes, dice);
        BehaviourKind::TypedAfterSilence
    }

    fn after_suggestion(&self, editor: &mut Editor<'_>, dice: &mut Dice) -> BehaviourKind {
        editor.show();
        // All noise is drawn before anything is looked at, so that it does not depend on what is shown.
        let (distracted, habit, regret) = (
            dice.chance(self.rates.distraction),
            dice.chance(self.rates.habitual_escape),
            dice.chance(self.rates.tab_then_regret),
        );
        if distracted {
            editor.hide_later();
            return BehaviourKind::Ignored;
        }
        editor.wait(REACTION_MS, dice);
        let nothing_wanted = editor.task.wanted.is_no_edit();
        if nothing_wanted && (habit || dice.chance(self.rates.escape_unwanted)) {
            editor.dismiss(0);
            return BehaviourKind::Escaped;
        }
        if nothing_wanted {
            editor.hide_later();
            return BehaviourKind::Ignored;
        }
        if habit {
            return self.escape_and_type(editor, 0, dice);
        }
        let Verdict { right: good, made } = judge(editor.task, &editor.served.actions);
        if good > 0 {
            for index in 0..good {
                editor.accept(index);
                editor.wait(STROKE_MS, dice);
            }
            editor.made = made;
            if regret {
                editor.undo(dice);
                editor.hide_if_visible(good);
                return BehaviourKind::Regretted;
            }
            if good < editor.served.actions.len() {
                editor.dismiss(good);
                editor.wait(STROKE_MS, dice);
            }
            editor.type_wanted(self.rates.two_strokes, dice);
            return BehaviourKind::Accepted;
        }
        let (mend, escape, against) = (self.rates.mend_after_tab, self.rates.escape_then_type, self.rates.type_against);
        match dice.weighted(&[if editor.first_is_near() { mend } else { 0.0 }, escape, against]) {
            0 => {
                editor.accept(0);
                editor.wait(STROKE_MS, dice);
                if editor.served.actions.len() > 1 {
                    editor.dismiss(1);
                }
                editor.mend(dice);
                editor.type_wanted(self.rates.two_strokes, dice);
                BehaviourKind::Mended
            }
            1 => self.escape_and_type(editor, 0, dice),
            _ => {
                editor.hide();
                editor.type_wanted(self.rates.two_strokes, dice);
                BehaviourKind::TypedAgainst
            }
        }
    }

    fn escape_and_type(&self, editor: &mut Editor<'_>, index: usize, dice: &mut Dice) -> BehaviourKind {
        editor.dismiss(index);
        editor.wait(STROKE_MS, dice);
        editor.type_wanted(self.rates.two_strokes, dice);
        BehaviourKind::EscapedThenTyped
    }
}

/// The document under the developer's hands. Changes are made at places of the base document, which are followed
/// through earlier changes.
struct Editor<'a> {
    task: &'a EditTask,
    served: &'a ActionList,
    text: String,
    /// For each wanted edit whether it was accepted.
    made: Vec<bool>,
    /// Changes so far: the place in the base document, and by how much the text there grew.
    changes: Vec<(ByteRange, i64)>,
    actions: Vec<ClientAction>,
    now_ms: u64,
    has_changed: bool,
}

impl<'a> Editor<'a> {
    fn new(task: &'a EditTask, served: &'a ActionList) -> Self {
        Self {
            task,
            served,
            text: task.base_document.to_string(),
            made: vec![false; task.wanted.actions.len()],
            changes: Vec::new(),
            actions: Vec::new(),
            now_ms: SHOWN_AT_MS,
            has_changed: false,
        }
    }

    fn report(&mut self, kind: ClientActionKind) {
        self.actions.push(ClientAction { at_ms: self.now_ms, kind });
    }

    fn wait(&mut self, (shortest, longest): (usize, usize), dice: &mut Dice) {
        self.now_ms += dice.between(shortest, longest) as u64;
    }

    fn show(&mut self) {
        let actions_visible = u32::try_from(self.served.actions.len()).unwrap_or(u32::MAX);
        self.report(ClientActionKind::Shown { actions_visible });
    }

    fn hide(&mut self) {
        self.report(ClientActionKind::Hidden { visible_ms: self.now_ms - SHOWN_AT_MS });
    }

    fn hide_later(&mut self) {
        self.now_ms = SHOWN_AT_MS + IGNORED_MS;
        self.hide();
    }

    fn hide_if_visible(&mut self, accepted: usize) {
        if accepted < self.served.actions.len() {
            self.hide();
        }
    }

    fn dismiss(&mut self, index: usize) {
        self.report(ClientActionKind::Dismissed { action_index: u32::try_from(index).unwrap_or(u32::MAX) });
    }

    /// Where a place of the base document is now.
    fn current(&self, base: ByteRange) -> std::ops::Range<usize> {
        let (mut start, mut end) = (base.start as i64, base.end as i64);
        for (changed, growth) in &self.changes {
            if changed.end <= base.start && *changed != base {
                start += growth;
                end += growth;
            } else if changed.start >= base.start && changed.end <= base.end {
                end += growth;
            }
        }
        start.max(0) as usize..end.max(0) as usize
    }

    fn change(&mut self, base: ByteRange, inside: std::ops::Range<usize>, new_text: &str, origin: Origin) {
        let Some(old_text) = self.text.get(inside.clone()).map(str::to_owned) else { return };
        let range = ByteRange::new(inside.start as u64, inside.end as u64);
        self.text.replace_range(inside, new_text);
        self.changes.push((base, new_text.len() as i64 - old_text.len() as i64));
        self.has_changed = true;
        self.report(ClientActionKind::Edited { range, old_text, new_text: new_text.to_owned(), origin });
    }

    fn accept(&mut self, index: usize) {
        let Some(action) = self.served.actions.get(index).cloned() else { return };
        self.report(ClientActionKind::Accepted {
            action_index: u32::try_from(index).unwrap_or(u32::MAX),
            accepted_length: None,
        });
        let inside = self.current(action.range);
        self.change(action.range, inside, &action.new_text, Origin::Suggestion);
    }

    /// Takes back what was accepted, last first.
    fn undo(&mut self, dice: &mut Dice) {
        let accepted: Vec<EditAction> = (self.served.actions.iter())
            .filter(|action| self.changes.iter().any(|(base, _)| *base == action.range))
            .cloned()
            .collect();
        for action in accepted.into_iter().rev() {
            let inside = self.current(action.range);
            self.change(action.range, inside, &action.old_text, Origin::Undo);
            self.wait(STROKE_MS, dice);
        }
    }

    /// Served and wanted places, joined where they overlap, in order of the document.
    fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<Region> = Vec::new();
        let wanted = self.task.wanted.actions.iter().map(|action| (action.range, None));
        let served = self.served.actions.iter().enumerate().map(|(index, action)| (action.range, Some(index)));
        let mut all: Vec<(ByteRange, Option<usize>)> = wanted.chain(served).collect();
        all.sort_by_key(|(range, index)| (range.start, range.end, *index));
        for (range, index) in all {
            match regions.last_mut() {
                Some(last) if range.start < last.base.end || range == last.base => {
                    last.base.end = last.base.end.max(range.end);
                    last.served = last.served.or(index);
                    last.is_wanted |= index.is_none();
                }
                _ => regions.push(Region { base: range, served: index, is_wanted: index.is_none() }),
            }
        }
        regions
    }

    /// What is wanted at a place of the base document.
    fn wanted_at(&self, base: ByteRange) -> Option<String> {
        let text = self.task.base_document.get(base.start as usize..base.end as usize)?;
        let inside: Vec<EditAction> =
            self.task.wanted.actions.iter().filter(|action| is_inside(base, action.range)).cloned().collect();
        apply_actions(base.start, text, &inside)
    }

    /// Whether something is wanted at a place of the base document that was not accepted.
    fn is_open(&self, base: ByteRange) -> bool {
        let wanted = self.task.wanted.actions.iter().zip(&self.made);
        wanted.into_iter().any(|(action, made)| !made && is_inside(base, action.range))
    }

    /// Whether the first served action is at a wanted place.
    fn first_is_near(&self) -> bool {
        self.regions().iter().any(|region| region.served == Some(0) && region.is_wanted)
    }

    /// Changes the accepted first action into what is wanted at its place: only the part that differs is typed.
    fn mend(&mut self, dice: &mut Dice) {
        let Some(region) = self.regions().into_iter().find(|region| region.served == Some(0)) else { return };
        let Some(wanted) = self.wanted_at(region.base) else { return };
        self.rewrite(region.base, &wanted, false, 0.0, dice);
    }

    /// Types what is still wanted, place by place.
    fn type_wanted(&mut self, two_strokes: f64, dice: &mut Dice) {
        for region in self.regions() {
            if let Some(wanted) = self.wanted_at(region.base).filter(|_| self.is_open(region.base)) {
                self.rewrite(region.base, &wanted, true, two_strokes, dice);
            }
        }
    }

    /// Types `wanted` over what stands at a place of the base document now.
    fn rewrite(&mut self, base: ByteRange, wanted: &str, whole_words: bool, two_strokes: f64, dice: &mut Dice) {
        let inside = self.current(base);
        let Some(current) = self.text.get(inside.clone()).map(str::to_owned) else { return };
        if current == wanted {
            return;
        }
        let (head, tail) = differing(&current, wanted, whole_words);
        let place = inside.start + head..inside.end - tail;
        let typed = wanted.get(head..wanted.len() - tail).unwrap_or_default().to_owned();
        let middle = typed.len() / 2;
        match typed.split_at_checked(middle) {
            Some((first, second)) if typed.len() >= 6 && dice.chance(two_strokes) => {
                let start = place.start;
                self.change(base, place, first, Origin::Typed);
                self.wait(STROKE_MS, dice);
                self.change(base, start + first.len()..start + first.len(), second, Origin::Typed);
            }
            _ => self.change(base, place, &typed, Origin::Typed),
        }
        self.wait(STROKE_MS, dice);
    }

    /// A formatter runs over the line of the first change: it may only change space that the judge says means nothing.
    fn format(&mut self, dice: &mut Dice) {
        self.wait(STROKE_MS, dice);
        let Some((base, _)) = self.changes.first().copied() else { return };
        let start = self.current(base).start;
        let Some(end) = self.text.get(start..).and_then(|rest| rest.find('\n')).map(|length| start + length) else {
            return;
        };
        let mut formatted = self.text.clone();
        formatted.insert(end, ' ');
        let language = Language::of_id(&self.task.context.language);
        if !language.is_some_and(|language| same(language, &self.text, &formatted)) {
            return;
        }
        // Behind everything that was changed, so that no place of the base document moves.
        let place = ByteRange::new(u64::MAX, u64::MAX);
        self.change(place, end..end, " ", Origin::Formatter);
    }

    fn finish(mut self, kind: BehaviourKind) -> Behaviour {
        let text = self.window_now();
        for delay_s in LOOKS_S {
            self.now_ms = self.now_ms.max(u64::from(delay_s) * 1000);
            self.report(ClientActionKind::Look { delay_s, text: text.clone() });
        }
        Behaviour { kind, actions: self.actions, document: self.text }
    }

    /// The window's lines as they stand now: everything outside it is unchanged, so its ends are known.
    fn window_now(&self) -> String {
        let window = &self.task.context.window;
        let start = window.start_byte as usize;
        let after = self.task.base_document.len().saturating_sub(start + window.text.len());
        self.text.get(start..self.text.len().saturating_sub(after)).unwrap_or_default().to_owned()
    }
}

fn is_inside(outer: ByteRange, inner: ByteRange) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Lengths of the equal head and tail of two texts, at the edges of words when `whole_words`.
fn differing(left: &str, right: &str, whole_words: bool) -> (usize, usize) {
    let equal = |one: &(u8, u8)| one.0 == one.1;
    let mut head = left.bytes().zip(right.bytes()).take_while(equal).count();
    let limit = left.len().min(right.len()) - head;
    let mut tail = left.bytes().rev().zip(right.bytes().rev()).take(limit).take_while(equal).count();
    let word_at = |text: &str, position: usize| text.as_bytes().get(position).copied().is_some_and(is_word_byte);
    let splits = |text: &str, position: usize| position > 0 && word_at(text, position - 1) && word_at(text, position);
    if whole_words {
        while splits(left, head) || splits(right, head) {
            head -= 1;
        }
        while splits(left, left.len() - tail) || splits(right, right.len() - tail) {
            tail -= 1;
        }
    }
    let bounds =
        |text: &str, head: usize, tail: usize| text.is_char_boundary(head) && text.is_char_boundary(text.len() - tail);
    while head > 0 && !bounds(left, head, 0) {
        head -= 1;
    }
    while tail > 0 && !bounds(left, 0, tail) {
        tail -= 1;
    }
    (head, tail)
}
