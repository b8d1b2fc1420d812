//! Edit tasks from real files: what a developer just changed, what the window shows, and what must follow there.

use crate::convention::RuleId;
use crate::draft::{DefinitionEdit, Draft, Extent, Site, choose_window};
use crate::random::Dice;
use crate::source::Language;
use crate::syntax::{IndexedFile, Symbol, SymbolKind};
use crate::text::{contains_word, words_of};
use crate::words::{Pool, Words, split_words};
use events::{ActionList, EditContext, apply_actions};
use std::sync::Arc;

/// Why a task wants what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// The change of the definition is carried over as it is.
    Plain,
    /// The team writes something else than the plain form.
    Convention,
    /// The change does not concern the window.
    NoEdit,
}

/// One opportunity: a context, and what the developer wants there.
#[derive(Debug, Clone, PartialEq)]
pub struct EditTask {
    /// What a model sees. Names the repository and the path.
    pub context: EditContext,
    /// What the developer wants: ranges are in `base_document`, in document order. Empty: nothing.
    pub wanted: ActionList,
    /// What plain propagation makes. The same as `wanted` unless a convention applies.
    pub plain: ActionList,
    /// Why.
    pub kind: TaskKind,
    /// What the changed definition defines.
    pub symbol: SymbolKind,
    /// The document that the window is part of, after the recent edit. For base tasks the window alone.
    pub base_document: Arc<str>,
    /// The names that the edit is about: the old one, and the new one or the new parameter if there is one.
    pub identifiers: Vec<String>,
    /// The convention that applies.
    pub convention: Option<RuleId>,
}

impl EditTask {
    /// The document after the wanted edit.
    #[must_use]
    pub fn after_document(&self) -> String {
        self.after(&self.wanted)
    }

    /// The document after `actions`; unchanged when they do not fit it.
    #[must_use]
    pub fn after(&self, actions: &ActionList) -> String {
        apply_actions(0, &self.base_document, &actions.actions).unwrap_or_else(|| self.base_document.to_string())
    }
}

/// How large a task may be. The defaults keep prompt and answer of nearly all tasks under 160 tokens of a byte-pair
/// vocabulary of 2048; a trainer drops the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Fewest lines in a window (fewer where the neighbours do not fit).
    pub least_window_lines: usize,
    /// Most lines in a window.
    pub window_lines: usize,
    /// Most bytes in a window.
    pub window_bytes: usize,
    /// Most bytes in everything that a model reads and writes.
    pub total_bytes: usize,
    /// Most places to edit in a window.
    pub sites: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { least_window_lines: 2, window_lines: 5, window_bytes: 200, total_bytes: 340, sites: 2 }
    }
}

/// Shares of the kinds of edit. Weights, not percentages.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix {
    /// Share of tasks that want no edit.
    pub no_edit: f64,
    /// Share of signature changes among the edits of functions.
    pub signature: f64,
    /// Weights of what is edited, in the order of [`SYMBOL_KINDS`].
    pub symbols: [f64; 7],
    /// Share of tasks in which other names of the window are replaced too.
    pub replace_others: f64,
}

/// The order of [`Mix::symbols`].
pub const SYMBOL_KINDS: [SymbolKind; 7] = [
    SymbolKind::Function,
    SymbolKind::Method,
    SymbolKind::Type,
    SymbolKind::Constant,
    SymbolKind::Field,
    SymbolKind::Variable,
    SymbolKind::Parameter,
];

impl Default for Mix {
    fn default() -> Self {
        Self { no_edit: 0.3, signature: 0.25, symbols: [0.3, 0.22, 0.06, 0.04, 0.13, 0.15, 0.1], replace_others: 0.3 }
    }
}

/// Makes tasks of indexed files.
#[derive(Debug, Clone)]
pub(crate) struct TaskMaker<'a> {
    pub(crate) words: &'a Words,
    pub(crate) limits: &'a Limits,
    pub(crate) extent: Extent,
    pub(crate) pool: Pool,
}

impl TaskMaker<'_> {
    /// A change of the definition of `symbol`, or `None` when this one does not fit it.
    pub(crate) fn draft<'f>(
        &self,
        file: &'f IndexedFile,
        symbol: &'f Symbol,
        rename_old: bool,
        signature_share: f64,
        dice: &mut Dice,
    ) -> Option<Draft<'f>> {
        let old =
            if rename_old { self.words.name(&symbol.name, symbol.kind, self.pool, dice) } else { symbol.name.clone() };
        if old != symbol.name && contains_word(&file.source.text, &old) {
            return None;
        }
        let signature = symbol.signature.as_ref().filter(|signature| signature.is_plain && symbol.kind.is_function());
        let edit = match signature {
            Some(signature) if dice.chance(signature_share) => {
                let count = signature.parameter_list.len();
                match dice.weighted(&[0.6, if count > 0 { 0.2 } else { 0.0 }, if count > 1 { 0.2 } else { 0.0 }]) {
                    0 => self.added_parameter(file.source.language, dice),
                    1 => DefinitionEdit::RemoveParameter { index: dice.below(count) },
                    _ => DefinitionEdit::SwapParameters { index: dice.below(count - 1) },
                }
            }
            _ => DefinitionEdit::Rename { new: self.words.name(&old, symbol.kind, self.pool, dice) },
        };
        Some(Draft::new(file, symbol, old, edit))
    }

    fn added_parameter(&self, language: Language, dice: &mut Dice) -> DefinitionEdit {
        const RUST_TYPES: &[&str] =
            &["usize", "bool", "&str", "u64", "u32", "String", "f64", "i64", "Option<u64>", "&[u8]"];
        const PYTHON_TYPES: &[&str] = &["", "", "", ": int", ": str", ": bool", ": float", ": bytes"];
        let name = self.words.name("", SymbolKind::Parameter, self.pool, dice);
        let declaration = match language {
            Language::Rust => format!("{name}: {}", dice.pick(RUST_TYPES).unwrap_or(&"usize")),
            Language::Python => format!("{name}{}", dice.pick(PYTHON_TYPES).unwrap_or(&"")),
        };
        DefinitionEdit::AddParameter { name, declaration }
    }

    /// A task in which the window follows the edit, with its sites.
    pub(crate) fn follow(
        &self,
        draft: &mut Draft<'_>,
        replace_others: bool,
        dice: &mut Dice,
    ) -> Option<(EditTask, Vec<Site>)> {
        let focus = dice.pick(&draft.symbol.uses)?.name.line;
        let window = choose_window(draft.file, focus, self.limits, dice)?;
        if replace_others {
            self.replace_others(draft, window.clone(), dice);
        }
        draft.follow(window, self.extent, self.limits, dice)
    }

    /// A task that wants no edit. What makes it so differs, see the cases.
    pub(crate) fn leave(&self, draft: &mut Draft<'_>, replace_others: bool, dice: &mut Dice) -> Option<EditTask> {
        let case = dice.weighted(&[0.45, 0.2, 0.15, 0.1, 0.1]);
        self.leave_case(draft, case, replace_others, dice)
    }

    fn leave_case(
        &self,
        draft: &mut Draft<'_>,
        case: usize,
        replace_others: bool,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let lines = draft.file.lines.len();
        match case {
            // Another place of the file, where the name does not occur.
            0 => {
                let window = choose_window(draft.file, dice.below(lines), self.limits, dice)?;
                if replace_others {
                    self.replace_others(draft, window.clone(), dice);
                }
                draft.leave(window, 0, self.extent, self.limits, dice)
            }
            // A place with a name that looks like the old one.
            1 => {
                let window = choose_window(draft.file, dice.below(lines), self.limits, dice)?;
                let similar = self.similar_name(draft, window.clone(), dice)?;
                let edit = match &draft.edit {
                    DefinitionEdit::Rename { .. } => {
                        DefinitionEdit::Rename { new: self.words.name(&similar, draft.symbol.kind, self.pool, dice) }
                    }
                    other => other.clone(),
                };
                *draft = Draft::new(draft.file, draft.symbol, similar, edit);
                draft.leave(window, 0, self.extent, self.limits, dice)
            }
            // The place was already brought in line: it shows the new name.
            2 => {
                let DefinitionEdit::Rename { new } = draft.edit.clone() else { return None };
                let focus = dice.pick(&draft.symbol.uses)?.name.line;
                let window = choose_window(draft.file, focus, self.limits, dice)?;
                self.already_followed(draft, &new, window, dice)
            }
            // Another function that binds the same name itself, inside the window.
            3 => {
                let reach = draft.symbol.reach.clone()?;
                let others: Vec<usize> = (draft.file.functions.iter())
                    .filter(|function| function.lines.start >= reach.end || function.lines.end <= reach.start)
                    .flat_map(|function| &function.bindings)
                    .filter(|(name, _)| *name == draft.symbol.name)
                    .map(|(_, line)| *line)
                    .collect();
                let window = choose_window(draft.file, *dice.pick(&others)?, self.limits, dice)?;
                let mentions = window
                    .clone()
                    .map(|line| crate::text::word_positions(draft.file.line(line), &draft.symbol.name).count())
                    .sum();
                if mentions == 0 || window.clone().any(|line| reach.contains(&line)) {
                    return None;
                }
                draft.leave(window, mentions, self.extent, self.limits, dice)
            }
            // A comment was changed, no definition.
            _ => self.comment_edit(draft, dice),
        }
    }

    /// A task that wants no edit and keeps the draft's names: another place, a place already in line, or a shadowed
    /// name.
    pub(crate) fn leave_plainly(&self, draft: &mut Draft<'_>, dice: &mut Dice) -> Option<EditTask> {
        // Where a team has a convention for functions, a call that shows the plain new name is not in line yet.
        let in_line = if draft.symbol.kind.is_function() { 0.0 } else { 0.2 };
        let case = dice.weighted(&[0.65, in_line, 0.15]);
        self.leave_case(draft, [0, 2, 3].get(case).copied().unwrap_or_default(), false, dice)
    }

    /// A name of the draft's style that shares a word with one that the window shows.
    fn similar_name(
        &self,
        draft: &Draft<'_>,
        window: std::ops::RangeInclusive<usize>,
        dice: &mut Dice,
    ) -> Option<String> {
        let shown: Vec<&str> =
            window.flat_map(|line| words_of(draft.file.line(line))).filter(|word| word.len() >= 5).collect();
        let like = *dice.pick(&shown)?;
        let mut parts = split_words(like);
        parts.truncate(2);
        let position = dice.below(parts.len() + 1);
        parts.insert(position, self.words.word(dice).to_owned());
        let name = crate::words::in_style(&parts, &draft.symbol.name, draft.symbol.kind);
        (crate::words::pool_of(&name) == self.pool
            && name.len() <= 26
            && name.is_ascii()
            && !contains_word(&draft.file.source.text, &name))
        .then_some(name)
    }

    fn already_followed(
        &self,
        draft: &Draft<'_>,
        new: &str,
        window: std::ops::RangeInclusive<usize>,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let (task, _) = draft.follow(window, self.extent, self.limits, dice)?;
        let moved = |offset: u64| {
            let grown: i64 = (task.wanted.actions.iter())
                .filter(|action| action.range.end <= offset)
                .map(|action| action.new_text.len() as i64 - action.old_text.len() as i64)
                .sum();
            offset.saturating_add_signed(grown)
        };
        let document = task.after_document();
        let (start, end) =
            (task.context.window.start_byte, task.context.window.start_byte + task.context.window.text.len() as u64);
        let text = document.get(usize::try_from(start).ok()?..usize::try_from(moved(end)).ok()?)?.to_owned();
        let mut context = task.context.clone();
        context.cursor_byte = moved(context.cursor_byte);
        context.window.text = text;
        debug_assert!(contains_word(&context.window.text, new));
        let (wanted, plain) = (ActionList::no_edit(), ActionList::no_edit());
        Some(EditTask { context, wanted, plain, kind: TaskKind::NoEdit, base_document: document.into(), ..task })
    }

    /// The recent edit changes a word of a comment; the window is any place of the file.
    fn comment_edit(&self, draft: &mut Draft<'_>, dice: &mut Dice) -> Option<EditTask> {
        let file = draft.file;
        let line = *dice.pick(&file.comment_lines)?;
        let before = file.line(line).to_owned();
        let words: Vec<&str> = words_of(&before).filter(|word| word.len() >= 4).collect();
        let old = (*dice.pick(&words)?).to_owned();
        let new = self.words.name(&old, SymbolKind::Variable, self.pool, dice);
        let after = crate::text::replace_word(&before, &old, &new);
        let window = choose_window(file, dice.below(file.lines.len()), self.limits, dice)?;
        let outside = !window.contains(&line) && before.is_ascii() && after.len() <= crate::syntax::LINE_BYTES;
        if !outside || contains_word(&file.source.text, &new) {
            return None;
        }
        // Made as a task about the symbol, and then about the comment: the definition keeps its text.
        let mut task = draft.leave_unchanged(window, self.extent, self.limits, dice)?;
        let budget: usize = before.trim().len()
            + after.trim().len()
            + task.context.window.text.len()
            + task.context.path.len()
            + task.context.repository.len();
        if budget > self.limits.total_bytes {
            return None;
        }
        task.identifiers = vec![old, new];
        for edit in &mut task.context.recent_edits {
            edit.old_text.clone_from(&before);
            edit.new_text.clone_from(&after);
        }
        if self.extent == Extent::File {
            let document = replace_line(&task.base_document, line, &after)?;
            let grown = after.len() as i64 - before.len() as i64;
            if line < usize::try_from(task.context.window.first_line).ok()? {
                task.context.window.start_byte = task.context.window.start_byte.saturating_add_signed(grown);
                task.context.cursor_byte = task.context.cursor_byte.saturating_add_signed(grown);
            }
            task.base_document = document.into();
        }
        Some(task)
    }

    /// Replaces some other names of the definition and the window, so that no name is known by heart.
    fn replace_others(&self, draft: &mut Draft<'_>, window: std::ops::RangeInclusive<usize>, dice: &mut Dice) {
        let file = draft.file;
        let names: Vec<&Symbol> = file.symbols.iter().filter(|symbol| symbol.name != draft.symbol.name).collect();
        let mut shown: Vec<&str> =
            window.flat_map(|line| words_of(file.line(line))).filter(|word| word.len() >= 3).collect();
        shown.sort_unstable();
        shown.dedup();
        for word in shown {
            if let Some(symbol) = names.iter().find(|symbol| symbol.name == word)
                && dice.chance(0.6)
            {
                let new = self.words.name(word, symbol.kind, self.pool, dice);
                draft.replaced.push((word.to_owned(), new));
            }
        }
    }
}

fn replace_line(text: &str, line: usize, new: &str) -> Option<String> {
    let start = if line == 0 { 0 } else { text.match_indices('\n').nth(line - 1)?.0 + 1 };
    let end = text.get(start..)?.find('\n').map_or(text.len(), |length| start + length);
    Some(format!("{}{new}{}", text.get(..start)?, text.get(end..)?))
}
