//! From a symbol and a change of its definition to a task: what the window shows, and what must follow there.
//!
//! A task is made by text, not by a second parse: whole words are replaced consistently in everything that is shown,
//! so a site stays the same site under new names. What cannot be decided safely that way is refused, never guessed: a
//! window in which the old name stands anywhere but at the sites, a site whose text is not unique in its line.

use crate::random::Dice;
use crate::syntax::{IndexedFile, LINE_BYTES, Symbol, Use};
use crate::tasks::{EditTask, Limits, TaskKind};
use crate::text::{contains_word, replace_word, word_positions};
use events::{ActionList, ByteRange, EditAction, EditContext, RecentEdit, Window};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// How a definition line changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinitionEdit {
    /// The name changes.
    Rename {
        /// The new name.
        new: String,
    },
    /// A parameter is added at the end.
    AddParameter {
        /// Its name.
        name: String,
        /// Its name with its type, as declared.
        declaration: String,
    },
    /// A parameter is removed.
    RemoveParameter {
        /// Its index among those that callers pass.
        index: usize,
    },
    /// Two neighbouring parameters change places.
    SwapParameters {
        /// Index of the first.
        index: usize,
    },
}

/// How much of the file a task carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The whole file.
    File,
    /// The window alone, for training, where no document is needed.
    Window,
}

/// A change of a definition, before it is decided what window is shown.
#[derive(Debug, Clone)]
pub(crate) struct Draft<'a> {
    pub(crate) file: &'a IndexedFile,
    pub(crate) symbol: &'a Symbol,
    /// The name that the symbol has before the edit.
    pub(crate) old: String,
    pub(crate) edit: DefinitionEdit,
    /// Whole words replaced in everything shown, the symbol's own name first.
    pub(crate) replaced: Vec<(String, String)>,
}

/// A call or use that follows the definition, in the text that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What plain propagation does here; ranges are in the document.
    pub plain: EditAction,
    /// The used name in the document.
    pub name: ByteRange,
    /// The argument list with parentheses, when it ends on the same line.
    pub arguments: Option<ByteRange>,
    /// From the start of the called expression to the end of the argument list.
    pub call: Option<ByteRange>,
}

/// What a line shows when it defines a function.
pub(crate) const LINE_MARKS_FUNCTION: [&str; 2] = ["fn ", "def "];

struct Page {
    text: String,
    /// Start of each rendered line inside `text`.
    starts: Vec<usize>,
    first: usize,
}

impl Page {
    fn line(&self, line: usize) -> Option<(usize, &str)> {
        let index = line.checked_sub(self.first)?;
        let start = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| *next);
        Some((start, self.text.get(start..end)?.trim_end_matches('\n')))
    }

    fn start_of(&self, line: usize) -> Option<usize> {
        self.starts.get(line.checked_sub(self.first)?).copied()
    }

    fn end_of(&self, line: usize) -> Option<usize> {
        let next = line.checked_sub(self.first)? + 1;
        Some(self.starts.get(next).copied().unwrap_or(self.text.len()))
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(file: &'a IndexedFile, symbol: &'a Symbol, old: String, edit: DefinitionEdit) -> Self {
        let replaced = if old == symbol.name { Vec::new() } else { vec![(symbol.name.clone(), old.clone())] };
        Self { file, symbol, old, edit, replaced }
    }

    /// Text as it is shown, apart from the change of the definition.
    fn shown(&self, text: &str) -> String {
        let mut result = text.to_owned();
        for (from, to) in &self.replaced {
            result = replace_word(&result, from, to);
        }
        result
    }

    /// The definition line before the change.
    pub(crate) fn definition_before(&self) -> String {
        self.shown(self.file.line(self.symbol.definition.line))
    }

    /// The definition line after the change; `None` when the change does not fit this definition.
    pub(crate) fn definition_after(&self) -> Option<String> {
        let line = self.file.line(self.symbol.definition.line);
        let before = self.definition_before();
        if word_positions(&before, &self.old).count() != 1 {
            return None;
        }
        let signature = || self.symbol.signature.as_ref();
        let changed = |columns: &std::ops::Range<usize>, list: Vec<String>| {
            let head = self.shown(line.get(..columns.start)?);
            let tail = self.shown(line.get(columns.end..)?);
            Some(format!("{head}({}){tail}", list.join(", ")))
        };
        let list_of = |with_receiver: bool| -> Option<Vec<String>> {
            let signature = signature()?;
            let mut list = Vec::new();
            if with_receiver && signature.has_receiver {
                let start = signature.parameters.start + 1;
                let inside = line.get(start..signature.parameters.end - 1)?;
                list.push(self.shown(inside.split(',').next()?.trim()));
            }
            for parameter in &signature.parameter_list {
                list.push(self.shown(line.get(parameter.clone())?));
            }
            Some(list)
        };
        let after = match &self.edit {
            DefinitionEdit::Rename { new } => replace_word(&before, &self.old, new),
            DefinitionEdit::AddParameter { name, declaration } => {
                if contains_word(&before, name) {
                    return None;
                }
                let mut list = list_of(true)?;
                list.push(declaration.clone());
                changed(&signature()?.parameters, list)?
            }
            DefinitionEdit::RemoveParameter { index } => {
                let mut list = list_of(true)?;
                let position = index + usize::from(signature()?.has_receiver);
                if position >= list.len() {
                    return None;
                }
                list.remove(position);
                changed(&signature()?.parameters, list)?
            }
            DefinitionEdit::SwapParameters { index } => {
                let mut list = list_of(true)?;
                let position = index + usize::from(signature()?.has_receiver);
                if position + 1 >= list.len() {
                    return None;
                }
                list.swap(position, position + 1);
                changed(&signature()?.parameters, list)?
            }
        };
        (after != before && after.len() <= LINE_BYTES && after.is_ascii()).then_some(after)
    }

    fn page(&self, lines: RangeInclusive<usize>) -> Option<Page> {
        Some(self.page_with(lines, &self.definition_after()?))
    }

    fn page_with(&self, lines: RangeInclusive<usize>, definition_text: &str) -> Page {
        let definition = self.symbol.definition.line;
        let (first, last) = (*lines.start(), *lines.end());
        let mut page = Page { text: String::new(), starts: Vec::with_capacity(last - first + 1), first };
        for line in lines {
            page.starts.push(page.text.len());
            if line == definition {
                page.text.push_str(definition_text)
            } else {
                page.text.push_str(&self.shown(self.file.line(line)))
            }
            page.text.push('\n');
        }
        page
    }

    /// What plain propagation does at one use, or `None` where this edit cannot follow.
    fn site(&self, page: &Page, one: &Use) -> Option<Site> {
        let raw = self.file.line(one.name.line);
        let (line_start, shown_line) = page.line(one.name.line)?;
        let column = |at: usize| Some(self.shown(raw.get(..at)?).len());
        let at = |from: usize, to: usize| {
            Some(ByteRange::new((line_start + column(from)?) as u64, (line_start + column(to)?) as u64))
        };
        let text = |range: ByteRange| page.text.get(range.start as usize..range.end as usize);
        let name = at(one.name.columns.start, one.name.columns.end)?;
        if text(name)? != self.old {
            return None;
        }
        let arguments = match &one.arguments {
            Some(range) => Some(at(range.start, range.end)?),
            None => None,
        };
        let (range, new_text) = match &self.edit {
            DefinitionEdit::Rename { new } => (name, new.clone()),
            edit => {
                let signature = self.symbol.signature.as_ref()?;
                if one.argument_list.len() != signature.parameter_list.len() {
                    return None;
                }
                let mut list = Vec::new();
                for argument in &one.argument_list {
                    list.push(text(at(argument.start, argument.end)?)?.to_owned());
                }
                match edit {
                    DefinitionEdit::AddParameter { name, .. } => list.push(name.clone()),
                    DefinitionEdit::RemoveParameter { index } => drop(list.remove(*index)),
                    DefinitionEdit::SwapParameters { index } => list.swap(*index, index + 1),
                    DefinitionEdit::Rename { .. } => {}
                }
                (arguments?, format!("({})", list.join(", ")))
            }
        };
        let old_text = text(range)?.to_owned();
        if old_text == new_text || old_text.len() > 44 || shown_line.matches(old_text.as_str()).count() != 1 {
            return None;
        }
        let call = match arguments {
            Some(arguments) => {
                Some(ByteRange::new(at(one.expression_start, one.expression_start)?.start, arguments.end))
            }
            None => None,
        };
        let path = self.file.source.path.to_string();
        Some(Site { plain: EditAction { path, range, old_text, new_text }, name, arguments, call })
    }

    /// The task in which everything in `window` that uses the symbol follows it. `None` when the window is not safe.
    pub(crate) fn follow(
        &self,
        window: RangeInclusive<usize>,
        extent: Extent,
        limits: &Limits,
        dice: &mut Dice,
    ) -> Option<(EditTask, Vec<Site>)> {
        let page = self.page(self.extent_lines(&window, extent))?;
        let shown = window_text(&page, &window)?;
        let mut sites = Vec::new();
        for one in self.symbol.uses.iter().filter(|one| window.contains(&one.name.line)) {
            sites.push(self.site(&page, one)?);
        }
        let definition_shown =
            window.contains(&self.symbol.definition.line) && !matches!(self.edit, DefinitionEdit::Rename { .. });
        let expected = sites.len() + usize::from(definition_shown);
        if sites.is_empty() || sites.len() > limits.sites || word_positions(shown, &self.old).count() != expected {
            return None;
        }
        let actions: Vec<EditAction> = sites.iter().map(|site| site.plain.clone()).collect();
        let wanted = ActionList { actions, closed: true };
        let first_site_line = self.symbol.uses.iter().map(|one| one.name.line).find(|line| window.contains(line))?;
        let task = self.task(page, window, Some(first_site_line), wanted, TaskKind::Plain, limits, dice)?;
        Some((task, sites))
    }

    /// The task in which nothing in `window` follows the edit. The caller says by its choice of window why not; here it
    /// is only checked that the old name is shown exactly `mentions` times.
    pub(crate) fn leave(
        &self,
        window: RangeInclusive<usize>,
        mentions: usize,
        extent: Extent,
        limits: &Limits,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let page = self.page(self.extent_lines(&window, extent))?;
        let shown = window_text(&page, &window)?;
        if word_positions(shown, &self.old).count() != mentions {
            return None;
        }
        self.task(page, window, None, ActionList::no_edit(), TaskKind::NoEdit, limits, dice)
    }

    /// A task about nothing: the definition keeps its text. The caller puts another recent edit in its place.
    pub(crate) fn leave_unchanged(
        &self,
        window: RangeInclusive<usize>,
        extent: Extent,
        limits: &Limits,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let before = self.definition_before();
        let page = self.page_with(self.extent_lines(&window, extent), &before);
        self.task(page, window, None, ActionList::no_edit(), TaskKind::NoEdit, limits, dice)
    }

    fn extent_lines(&self, window: &RangeInclusive<usize>, extent: Extent) -> RangeInclusive<usize> {
        match extent {
            Extent::File => 0..=self.file.lines.len().saturating_sub(1),
            Extent::Window => window.clone(),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the one place where a task is put together")]
    fn task(
        &self,
        page: Page,
        window: RangeInclusive<usize>,
        site_line: Option<usize>,
        wanted: ActionList,
        kind: TaskKind,
        limits: &Limits,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let source = &self.file.source;
        let (before, after) = (self.definition_before(), self.definition_after()?);
        let new_words: &[&str] = match &self.edit {
            DefinitionEdit::Rename { new } => &[new],
            DefinitionEdit::AddParameter { name, .. } => &[name],
            _ => &[],
        };
        // A name is new to its document: otherwise the edit would not be a rename but a collision.
        if new_words.iter().any(|word| contains_word(&source.text, word)) {
            return None;
        }
        let start = page.start_of(*window.start())?;
        let text = window_text(&page, &window)?.to_owned();
        let answer: usize = wanted.actions.iter().map(|action| action.old_text.len() + action.new_text.len() + 8).sum();
        let shown = before.trim().len()
            + after.trim().len()
            + text.len()
            + source.path.len()
            + source.repository.len()
            + answer;
        if shown > limits.total_bytes || before.len() > LINE_BYTES || !before.is_ascii() {
            return None;
        }
        // Where the developer is tells little: at the site, or at any line of the window.
        let any_line = dice.between(*window.start(), *window.end());
        let cursor_line = site_line.filter(|_| dice.chance(0.5)).unwrap_or(any_line);
        let context = EditContext {
            repository: source.repository.to_string(),
            path: source.path.to_string(),
            language: source.language.id().to_owned(),
            recent_edits: vec![RecentEdit { path: source.path.to_string(), old_text: before, new_text: after }],
            window: Window { start_byte: start as u64, first_line: *window.start() as u64, text },
            cursor_byte: page.start_of(cursor_line)? as u64,
        };
        let mut identifiers = vec![self.old.clone()];
        identifiers.extend(new_words.iter().map(|word| (*word).to_owned()));
        let base_document: Arc<str> = page.text.into();
        Some(EditTask {
            context,
            plain: wanted.clone(),
            wanted,
            kind,
            symbol: self.symbol.kind,
            base_document,
            identifiers,
            convention: None,
        })
    }
}

fn window_text<'p>(page: &'p Page, window: &RangeInclusive<usize>) -> Option<&'p str> {
    page.text.get(page.start_of(*window.start())?..page.end_of(*window.end())?)
}

/// A window of whole lines around `focus`, inside `limits`; `None` when the focus line itself does not fit.
pub(crate) fn choose_window(
    file: &IndexedFile,
    focus: usize,
    limits: &Limits,
    dice: &mut Dice,
) -> Option<RangeInclusive<usize>> {
    let usable = |line: usize| {
        let text = file.line(line);
        line < file.lines.len() && text.len() <= LINE_BYTES && text.is_ascii()
    };
    if !usable(focus) || file.line(focus).trim().is_empty() {
        return None;
    }
    let count = dice.between(limits.least_window_lines, limits.window_lines);
    let before = dice.below(count);
    let (mut first, mut last) = (focus, focus);
    while first > 0 && focus - first < before && usable(first - 1) {
        first -= 1;
    }
    while last + 1 < file.lines.len() && last - first + 1 < count && usable(last + 1) {
        last += 1;
    }
    let bytes = |first: usize, last: usize| (first..=last).map(|line| file.line(line).len() + 1).sum::<usize>();
    while bytes(first, last) > limits.window_bytes
        || file.line(first).trim().is_empty()
        || file.line(last).trim().is_empty()
    {
        let from_start = if file.line(first).trim().is_empty() {
            true
        } else {
            !file.line(last).trim().is_empty() && focus - first > last - focus
        };
        if from_start && first < focus {
            first += 1;
        } else if last > focus {
            last -= 1;
        } else if first < focus {
            first += 1;
        } else {
            return None;
        }
    }
    Some(first..=last)
}
