//! Opportunities of which it is known what the developer means: real code, what serving proposes, and what is reported
//! when a developer does what is meant, with whatever else happens in an editor meanwhile.
//!
//! The other way round than [`crate::developer`]: there a model proposes and the developer judges; here what the
//! developer means is drawn first and the suggestion is made so that it can be meant. Whoever labels the reports can
//! then be compared with the truth, row by row. Nothing here knows how labels are made: a scene is text, edits and the
//! words of the design.
//!
//! **How a scene is made.** A window of whole lines of a real file; one to three of its lines, apart from each other,
//! are the places of the actions. A proposed action replaces all of such a line by another real line of the same
//! language that shares no long word with it, and what is typed instead shares none with either. Long words are most of
//! every such line, so no truth hangs on where a boundary between "half of it stands" and "less" is drawn: of what was
//! modified at least two thirds of the letters stand, of what was rewritten less than half.

mod desk;
mod meaning;

use crate::behaviour::{IGNORED_MS, REACTION_MS, STROKE_MS};
use crate::corpus::Corpus;
use crate::developer::{ClientAction, ClientActionKind};
use crate::judge;
use crate::random::Dice;
use crate::source::Language;
use crate::syntax::IndexedFile;
use crate::text::{word_positions, words_of};
use desk::Desk;
use events::vocabulary::{Decision, Origin};
use events::{ByteRange, EditAction, EditContext, Window, apply_actions};
use std::collections::BTreeSet;
use std::ops::Range;

pub use meaning::Meaning;

/// What else happens in the editor, each with its probability at an opportunity. None of it is about the suggestion.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Disturbances {
    /// Something is typed outside the window.
    pub elsewhere: f64,
    /// Something is typed in the window, far from every proposed place. Not where serving said nothing: there every
    /// edit of the window is one that it missed.
    pub far_in_window: f64,
    /// A formatter widens the first space from a proposed place on, which may stand behind a place without any, or puts
    /// space at the end of its line, where the language gives it no meaning.
    pub formatter: f64,
    /// Something is pasted far from every proposed place.
    pub paste: f64,
    /// Another tool's suggestion is taken, far from every proposed place.
    pub other_suggestion: f64,
    /// Something is typed outside the window, or behind what was accepted and stays, and undone.
    pub undo: f64,
    /// Version control writes another state of the file, which differs far from every proposed place.
    pub checkout: f64,
    /// The client reports every edit as one of the whole document.
    pub whole_documents: f64,
}

impl Disturbances {
    /// Each in every fourth opportunity or so.
    #[must_use]
    pub fn busy() -> Self {
        Self {
            elsewhere: 0.25,
            far_in_window: 0.25,
            formatter: 0.25,
            paste: 0.2,
            other_suggestion: 0.2,
            undo: 0.2,
            checkout: 0.2,
            whole_documents: 0.25,
        }
    }
}

/// Sizes and disturbances of scenes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SceneSettings {
    /// Lines of the window.
    pub window_lines: usize,
    /// What else happens.
    pub disturbances: Disturbances,
}

impl Default for SceneSettings {
    fn default() -> Self {
        Self { window_lines: 30, disturbances: Disturbances::default() }
    }
}

/// One report of the editor.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// What.
    pub action: ClientAction,
    /// An edit of origin `suggestion` that was another tool's.
    pub by_another_tool: bool,
}

/// An opportunity, and the truth about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// What the developer means.
    pub meaning: Meaning,
    /// What the model saw.
    pub context: EditContext,
    /// The document that the window is part of.
    pub document: String,
    /// What serving decided.
    pub decision: Decision,
    /// What it proposed; also when withheld.
    pub proposed: Vec<EditAction>,
    /// What the editor reports, in order of time; times count from the request.
    pub reported: Vec<Reported>,
    /// The window as the developer means it, without anything that was not about the suggestion; none where it is as it
    /// was, or where nobody can tell.
    pub wanted: Option<String>,
    /// The first proposed action that is not as it was meant.
    pub parts_at: Option<usize>,
}

/// A line that can be replaced by another.
#[derive(Debug, Clone, Copy)]
struct Line {
    file: usize,
    number: usize,
}

/// Makes scenes of one repository.
#[derive(Debug)]
pub struct SceneMaker<'c> {
    files: Vec<&'c IndexedFile>,
    repository: &'c str,
    lines: Vec<Line>,
    settings: SceneSettings,
}

/// Letters of a usable line: fewest and most.
const LINE_LETTERS: std::ops::RangeInclusive<usize> = 22..=72;
/// From this many letters on a word is one that two lines hardly share by chance.
const LONG_WORD: usize = 5;
/// Lines between two places, and between a place and the border of the window.
const APART: usize = 4;
const ATTEMPTS: usize = 400;
/// How long a suggestion is visible that nobody can have read, ms: shortest and longest.
const GLIMPSE_MS: (usize, usize) = (40, 180);

/// The whole of a line without the space around it, when it can be exchanged for another: code of several words in one
/// line, without anything that changes how the lines after it are read.
fn usable(line: &str) -> Option<&str> {
    let line = line.trim();
    let is_plain = LINE_LETTERS.contains(&line.len())
        && line.is_ascii()
        && !line.contains(['"', '\'', '{', '}', '#', '`', '\\'])
        && !line.contains("//")
        && !line.contains("/*")
        && !line.contains("*/");
    let in_long_words: usize = long_words_of(line).map(str::len).sum();
    (is_plain && words_of(line).count() >= 3 && in_long_words * 2 > letters_of(line)).then_some(line)
}

fn letters_of(text: &str) -> usize {
    text.bytes().filter(|byte| !byte.is_ascii_whitespace()).count()
}

fn long_words_of(text: &str) -> impl Iterator<Item = &str> {
    words_of(text).filter(|word| word.len() >= LONG_WORD)
}

fn share_a_word(left: &str, right: &str) -> bool {
    let words: BTreeSet<&str> = long_words_of(left).collect();
    long_words_of(right).any(|word| words.contains(word))
}

impl<'c> SceneMaker<'c> {
    /// Of one of the corpus's repositories; `None` when there is no such one or it has no usable line.
    #[must_use]
    pub fn new(corpus: &'c Corpus, repository: usize, settings: SceneSettings) -> Option<Self> {
        let repository = corpus.repositories.get(repository)?;
        let files: Vec<&IndexedFile> = repository.files.iter().collect();
        let lines: Vec<Line> = files
            .iter()
            .enumerate()
            .flat_map(|(file, indexed)| {
                let numbers = (0..indexed.lines.len()).filter(move |number| usable(indexed.line(*number)).is_some());
                numbers.map(move |number| Line { file, number })
            })
            .collect();
        (!lines.is_empty()).then_some(Self { files, repository: &repository.name, lines, settings })
    }

    /// A scene of what is meant; `None` when no place for it was found in many attempts.
    #[must_use]
    pub fn scene(&self, meaning: Meaning, dice: &mut Dice) -> Option<Scene> {
        (0..ATTEMPTS).find_map(|_| self.attempt(meaning, dice))
    }

    fn attempt(&self, meaning: Meaning, dice: &mut Dice) -> Option<Scene> {
        let line = *dice.pick(&self.lines)?;
        let file = *self.files.get(line.file)?;
        let (fewest, most) = meaning.actions();
        let count = dice.between(fewest, most);
        let (window, sites) = self.places(line, file, count, dice)?;
        let text = file.source.text.get(window.clone())?;
        let context = EditContext {
            repository: self.repository.to_owned(),
            path: file.source.path.to_string(),
            language: file.source.language.id().to_owned(),
            recent_edits: Vec::new(),
            window: Window {
                start_byte: window.start as u64,
                first_line: file.source.text.get(..window.start)?.matches('\n').count() as u64,
                text: text.to_owned(),
            },
            cursor_byte: sites.first()?.start as u64,
        };
        // A proposal and another text for each place, and one for what happens besides; all strangers to each other.
        let mut texts: Vec<&str> = sites.iter().filter_map(|site| file.source.text.get(site.clone())).collect();
        for _ in 0..=count * 2 {
            texts.push(self.stranger(line.file, &texts, dice)?);
        }
        let action = |(site, new_text): (&Range<usize>, &&str)| EditAction {
            path: context.path.clone(),
            range: ByteRange::new(site.start as u64, site.end as u64),
            old_text: file.source.text.get(site.clone()).unwrap_or_default().to_owned(),
            new_text: (*new_text).to_owned(),
        };
        let strangers = texts.get(count..)?;
        let (proposals, others) = strangers.split_at_checked(count)?;
        let proposed: Vec<EditAction> = sites.iter().zip(proposals).map(action).collect();
        let desk = Desk::new(&file.source.text, sites, window, dice);
        let play = Play { meaning, proposed, others, wanted: None, parts_at: None, settings: &self.settings, desk };
        play.run(context, &file.source.text)
    }

    /// A window and the places of the actions in it, in order.
    fn places(
        &self,
        line: Line,
        file: &IndexedFile,
        count: usize,
        dice: &mut Dice,
    ) -> Option<(Range<usize>, Vec<Range<usize>>)> {
        let height = self.settings.window_lines.min(file.lines.len()).max(1);
        let highest = (line.number + 1).saturating_sub(height);
        let lowest = line.number.min(file.lines.len().checked_sub(height)?);
        let first = dice.between(highest.min(lowest), lowest);
        let last = first + height - 1;
        let inside = first + APART..(last + 1).saturating_sub(APART);
        let mut candidates: Vec<usize> = self
            .lines
            .iter()
            .filter(|other| other.file == line.file && inside.contains(&other.number))
            .map(|other| other.number)
            .collect();
        dice.shuffle(&mut candidates);
        let mut chosen: Vec<usize> = Vec::new();
        for candidate in candidates {
            if chosen.len() < count && chosen.iter().all(|other| other.abs_diff(candidate) >= APART) {
                chosen.push(candidate);
            }
        }
        if chosen.len() < count {
            return None;
        }
        chosen.sort_unstable();
        let site = |number: &usize| {
            let line = file.line(*number);
            let start = file.lines.get(*number)?.start + (line.len() - line.trim_start().len());
            Some(start..start + line.trim().len())
        };
        let sites = chosen.iter().map(site).collect::<Option<Vec<_>>>()?;
        let end = file.lines.get(last + 1).map_or(file.source.text.len(), |next| next.start);
        Some((file.lines.get(first)?.start..end, sites))
    }

    /// Another usable line of the same language that shares no long word with any of `texts`.
    fn stranger(&self, file: usize, texts: &[&str], dice: &mut Dice) -> Option<&'c str> {
        let language = self.files.get(file)?.source.language;
        (0..ATTEMPTS).find_map(|_| {
            let other = dice.pick(&self.lines)?;
            let indexed = *self.files.get(other.file)?;
            let text = usable(indexed.line(other.number))?;
            (indexed.source.language == language && !texts.iter().any(|known| share_a_word(known, text)))
                .then_some(text)
        })
    }
}

/// A scene while it is played.
struct Play<'p> {
    meaning: Meaning,
    proposed: Vec<EditAction>,
    /// What can be typed at each place instead; the last one is typed anywhere else.
    others: &'p [&'p str],
    /// What is meant at the places where something is.
    wanted: Option<Vec<EditAction>>,
    parts_at: Option<usize>,
    settings: &'p SceneSettings,
    desk: Desk<'p>,
}

impl Play<'_> {
    fn run(mut self, context: EditContext, document: &str) -> Option<Scene> {
        let mut decision = Decision::Shown;
        self.desk.reports_whole = self.desk.dice.chance(self.settings.disturbances.whole_documents);
        let is_disturbed_first = self.desk.dice.chance(0.5);
        if self.meaning.is_of_silence() {
            // What is withheld had been proposed; nobody saw it.
            let is_withheld = self.desk.dice.chance(0.3);
            decision = if is_withheld { Decision::Withheld } else { Decision::Silent };
        } else {
            self.desk.report(ClientActionKind::Shown { actions_visible: number(self.proposed.len()) });
        }
        if self.meaning == Meaning::Overlooks {
            self.desk.wait(GLIMPSE_MS);
            self.hide();
        }
        self.desk.wait(REACTION_MS);
        if is_disturbed_first {
            self.disturb(false);
        }
        self.act()?;
        if !is_disturbed_first {
            self.disturb(true);
        }
        if self.desk.dice.chance(self.settings.disturbances.formatter) {
            self.format(&context.language);
        }
        let window = &context.window;
        let wanted = match &self.wanted {
            Some(actions) => Some(apply_actions(window.start_byte, &window.text, actions)?),
            None => None,
        };
        let proposed = if decision == Decision::Silent { Vec::new() } else { self.proposed };
        Some(Scene {
            meaning: self.meaning,
            decision,
            proposed,
            reported: self.desk.finish(),
            wanted,
            parts_at: self.parts_at,
            document: document.to_owned(),
            context,
        })
    }

    /// Does what is meant.
    fn act(&mut self) -> Option<()> {
        let last = self.proposed.len().checked_sub(1)?;
        let other = *self.others.get(last)?;
        match self.meaning {
            Meaning::Keeps => {
                self.accept_until(last);
                self.wanted = Some(self.proposed.clone());
            }
            Meaning::ModifiesPart => {
                self.accept_until(last);
                self.modify(last)?;
                self.parts_at = Some(last);
            }
            Meaning::RewritesLaterStep => {
                self.accept_until(last - 1);
                self.dismiss(last);
                self.types_instead(last, other);
                self.mean_with(last, last + 1, other);
            }
            Meaning::Stops => {
                self.accept_until(0);
                self.dismiss(1);
                self.wanted = Some(self.proposed.iter().take(1).cloned().collect());
                self.parts_at = Some(1);
            }
            Meaning::Rewrites => {
                self.accept_until(0);
                self.types_instead(0, other);
                self.mean_with(0, 1, other);
            }
            Meaning::Undoes => {
                self.accept_until(0);
                let old_text = self.proposed.first()?.old_text.clone();
                self.desk.replace(self.desk.site(0), &old_text, Origin::Undo, false);
                self.parts_at = Some(0);
            }
            Meaning::TakesPart => self.take_part(other)?,
            Meaning::TypesThrough => {
                let new_text = self.proposed.first()?.new_text.clone();
                if self.desk.dice.chance(0.5) {
                    self.dismiss(0);
                } else {
                    self.hide();
                }
                self.types_instead(0, &new_text);
                self.wanted = Some(self.proposed.clone());
            }
            Meaning::EscapesAndTypes => {
                self.dismiss(0);
                self.types_instead(0, other);
                self.mean_with(0, 1, other);
            }
            Meaning::TypesAgainst => {
                self.hide();
                self.types_instead(0, other);
                self.mean_with(0, 1, other);
            }
            Meaning::Escapes => {
                self.dismiss(0);
                self.parts_at = Some(0);
            }
            Meaning::Ignores => {
                let shown_for = self.desk.visible_ms();
                let rest = usize::try_from(IGNORED_MS.saturating_sub(shown_for)).unwrap_or_default();
                self.desk.wait((rest, rest));
                self.hide();
            }
            Meaning::Overlooks => self.types_instead(0, other),
            Meaning::Pastes => {
                self.dismiss(0);
                self.desk.wait(STROKE_MS);
                self.desk.replace(self.desk.site(0), other, Origin::Paste, false);
            }
            Meaning::ChecksOut => {
                self.dismiss(0);
                self.desk.wait(STROKE_MS);
                self.desk.check_out(self.desk.site(0), other);
            }
            Meaning::MissesHelp => {
                self.types_instead(0, other);
                self.mean_with(0, 1, other);
                self.parts_at = None;
            }
            Meaning::WantsNothing => {}
        }
        Some(())
    }

    fn accept_until(&mut self, last: usize) {
        for index in 0..=last {
            let Some(action) = self.proposed.get(index).cloned() else { return };
            self.desk.report(ClientActionKind::Accepted { action_index: number(index), accepted_length: None });
            self.desk.replace(self.desk.site(index), &action.new_text, Origin::Suggestion, false);
            self.desk.wait(STROKE_MS);
        }
    }

    fn dismiss(&mut self, index: usize) {
        self.desk.report(ClientActionKind::Dismissed { action_index: number(index) });
    }

    fn hide(&mut self) {
        let visible_ms = self.desk.visible_ms();
        self.desk.report(ClientActionKind::Hidden { visible_ms });
    }

    fn types_instead(&mut self, place: usize, text: &str) {
        self.desk.wait(STROKE_MS);
        self.desk.types_at(place, text);
    }

    /// What is meant: what was proposed before `place`, and there `text`; `count` places in all.
    fn mean_with(&mut self, place: usize, count: usize, text: &str) {
        let mut meant: Vec<EditAction> = self.proposed.iter().take(count).cloned().collect();
        if let Some(action) = meant.get_mut(place) {
            text.clone_into(&mut action.new_text);
        }
        self.wanted = Some(meant);
        self.parts_at = Some(place);
    }

    /// Replaces one word of what was accepted, not more than a third of its letters.
    fn modify(&mut self, place: usize) -> Option<()> {
        let accepted = self.proposed.get(place)?.new_text.clone();
        let stranger = *self.others.get(place)?;
        let letters = letters_of(&accepted);
        let is_fit = |word: &&str| word.len() >= 3 && word.len() * 3 <= letters;
        let old = words_of(&accepted).filter(is_fit).last()?.to_owned();
        let new = long_words_of(stranger).next()?;
        let start = accepted.rfind(&old)?;
        // A name that the word is a part of would be cut.
        let is_word = word_positions(&accepted, &old).any(|position| position == start);
        if !is_word {
            return None;
        }
        let site = self.desk.site(place);
        self.desk.wait(REACTION_MS);
        self.desk.types_over(site.start + start..site.start + start + old.len(), new);
        let mut meant = accepted;
        meant.replace_range(start..start + old.len(), new);
        self.mean_with(place, place + 1, &meant);
        Some(())
    }

    /// Takes two pieces of the first action, word by word, and goes on with words of `other`.
    fn take_part(&mut self, other: &str) -> Option<()> {
        let action = self.proposed.first()?.clone();
        let spaces: Vec<usize> = action.new_text.match_indices(' ').map(|(place, _)| place).collect();
        let (first, second) = (*spaces.first()?, *spaces.get(1)?);
        self.report_part(first);
        self.desk.replace(self.desk.site(0), action.new_text.get(..first)?, Origin::Suggestion, false);
        self.desk.wait(STROKE_MS);
        self.report_part(second);
        let end = self.desk.site(0).end;
        self.desk.replace(end..end, action.new_text.get(first..second)?, Origin::Suggestion, false);
        self.desk.wait(REACTION_MS);
        self.hide();
        self.desk.wait(STROKE_MS);
        let end = self.desk.site(0).end;
        let rest = format!(" {other}");
        self.desk.types_over(end..end, &rest);
        let meant = format!("{}{rest}", action.new_text.get(..second)?);
        self.mean_with(0, 1, &meant);
        Some(())
    }

    fn report_part(&mut self, length: usize) {
        let accepted_length = Some(length as u64);
        self.desk.report(ClientActionKind::Accepted { action_index: 0, accepted_length });
    }

    /// What happens besides, before or after what is meant is done; all of it is drawn before any of it is done.
    fn disturb(&mut self, is_after: bool) {
        let rates = self.settings.disturbances;
        let [elsewhere, far_in_window, paste, other_suggestion, undo, checkout] =
            [rates.elsewhere, rates.far_in_window, rates.paste, rates.other_suggestion, rates.undo, rates.checkout]
                .map(|rate| self.desk.dice.chance(rate));
        let stays = matches!(self.meaning, Meaning::Keeps | Meaning::ModifiesPart | Meaning::Stops);
        let is_behind_accepted = undo && is_after && stays && self.desk.dice.chance(0.5);
        let text = self.others.last().map_or_else(String::new, |text| format!("\n{text}"));
        // Where serving said nothing, every edit of the window is one that it missed.
        let may_be_inside = !self.meaning.is_of_silence();
        if elsewhere && let Some(place) = self.quiet_place(false) {
            self.desk.types_over(place..place, &text);
        }
        if far_in_window
            && may_be_inside
            && let Some(place) = self.quiet_place(true)
        {
            self.desk.types_over(place..place, &text);
        }
        for (happens, origin) in [(paste, Origin::Paste), (other_suggestion, Origin::Suggestion)] {
            if happens && let Some(place) = self.quiet_place(may_be_inside) {
                self.desk.replace(place..place, &text, origin, origin == Origin::Suggestion);
                self.desk.wait(STROKE_MS);
            }
        }
        if checkout && let Some(place) = self.quiet_place(may_be_inside) {
            self.desk.check_out(place..place, &text);
            self.desk.wait(STROKE_MS);
        }
        let place = if is_behind_accepted {
            Some(self.desk.site(0).end)
        } else if undo {
            self.quiet_place(false)
        } else {
            None
        };
        if let Some(place) = place {
            self.desk.types_over(place..place, &text);
            self.desk.replace(place..place + text.len(), "", Origin::Undo, false);
            self.desk.wait(STROKE_MS);
        }
    }

    /// The end of a line far from every place: in the window, or outside it.
    fn quiet_place(&mut self, inside: bool) -> Option<usize> {
        let ends: Vec<usize> = self.desk.text.match_indices('\n').map(|(place, _)| place).collect();
        let line_of = |byte: usize| ends.partition_point(|end| *end < byte);
        let window = self.desk.window();
        let (first, last) = (line_of(window.start), line_of(window.end.saturating_sub(1)));
        let highest = self.desk.sites().iter().map(|site| line_of(site.start)).min()?;
        let lowest = self.desk.sites().iter().map(|site| line_of(site.end)).max()?;
        let is_quiet = |line: &usize| {
            if inside {
                (*line > first && line + APART <= highest) || (*line >= lowest + APART && line + 1 < last)
            } else {
                line + 2 < first || *line > last + 1
            }
        };
        let quiet: Vec<usize> = (0..ends.len()).filter(is_quiet).collect();
        let line = *self.desk.dice.pick(&quiet)?;
        ends.get(line).copied()
    }

    /// Widens the first space from the first place on, or ends its line with space, where the judge says that this changes
    /// nothing.
    fn format(&mut self, language: &str) {
        self.desk.wait(STROKE_MS);
        let site = self.desk.site(0);
        let (from, found) = if self.desk.dice.chance(0.5) { (site.start, ' ') } else { (site.end, '\n') };
        let Some(place) = self.desk.text.get(from..).and_then(|rest| rest.find(found)).map(|length| from + length)
        else {
            return;
        };
        let mut formatted = self.desk.text.clone();
        formatted.insert_str(place, "  ");
        if Language::of_id(language).is_some_and(|language| judge::same(language, &self.desk.text, &formatted)) {
            self.desk.replace(place..place, "  ", Origin::Formatter, false);
        }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
