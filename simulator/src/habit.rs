//! Invented habits for pretraining: what some team might do at a call site, spelled out in the prompt.
//!
//! Nothing in ordinary tasks makes it matter whose repository it is, so a base model trained on them alone would have
//! to grow that attention in a few steps. A share of the pretraining tasks therefore spells a habit, a new one each
//! time, in the places where a taught repository has its learned tokens. The base learns to read those places; of real
//! teams it knows nothing: the words of a habit are drawn anew for every task, and words of the rules that a team may
//! draw later are left out.

use crate::convention::{Form, RULES, conventional};
use crate::draft::{DefinitionEdit, Site};
use crate::random::Dice;
use crate::source::Language;
use crate::tasks::EditTask;
use crate::text::contains_word;
use crate::words::Words;

/// What stands before and after a renamed function's name (or an added argument's) where it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpelledHabit {
    /// Before the name.
    pub before: String,
    /// After the name.
    pub after: String,
}

/// A task, and the habit of those who do it.
#[derive(Debug, Clone, PartialEq)]
pub struct HabitTask {
    /// The task; what it wants follows the habit.
    pub task: EditTask,
    /// The habit; `None` where nobody has one.
    pub habit: Option<SpelledHabit>,
}

const LONGEST_WORD: usize = 9;
/// Weights of the forms, about as frequent as among the rules: prefix, suffix, through, wrapped, argument of, argument
/// named, argument first.
const FORMS: [f64; 7] = [0.36, 0.26, 0.11, 0.11, 0.07, 0.06, 0.03];
const TWO_WORDS: f64 = 0.2;
const ATTEMPTS: usize = 20;

fn is_in_a_rule(word: &str) -> bool {
    RULES.iter().filter_map(|rule| rule.affix()).any(|affix| affix.contains(word))
}

fn affix(words: &Words, dice: &mut Dice) -> Option<String> {
    let count = if dice.chance(TWO_WORDS) { 2 } else { 1 };
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let word = (0..ATTEMPTS)
            .map(|_| words.word(dice).to_owned())
            .find(|word| word.len() <= LONGEST_WORD && !is_in_a_rule(word))?;
        parts.push(word);
    }
    Some(parts.join("_"))
}

/// Gives `task` a habit, if one fits: `edit` is what happened to the definition and `sites` are where it is followed.
pub(crate) fn give(
    mut task: EditTask,
    edit: &DefinitionEdit,
    sites: &[Site],
    language: Language,
    words: &Words,
    dice: &mut Dice,
) -> HabitTask {
    let form = dice.weighted(&FORMS);
    let Some(affix) = affix(words, dice) else { return HabitTask { task, habit: None } };
    let (lead, tail) = (format!("{affix}_"), format!("_{affix}"));
    let form = match form {
        0 => Form::Prefix(&lead),
        1 => Form::Suffix(&tail),
        2 => Form::Through(&affix),
        3 => Form::Wrapped(&affix),
        4 => Form::ArgumentOf(&affix),
        5 => Form::ArgumentNamed(&lead),
        _ => Form::ArgumentFirst,
    };
    // A place that shows the plain new name would not be in line with a habit yet.
    let in_line_without = task.wanted.is_no_edit()
        && task.symbol.is_function()
        && task.identifiers.get(1).is_some_and(|new| contains_word(&task.context.window.text, new));
    if in_line_without {
        return HabitTask { task, habit: None };
    }
    if task.symbol.is_function() && form.class().concerns(edit) && !task.wanted.is_no_edit() {
        match conventional(form, edit, sites, language, &task.base_document) {
            Some(actions) => task.wanted.actions = actions,
            None => return HabitTask { task, habit: None },
        }
    }
    let (before, after) = form.spelled();
    HabitTask { task, habit: Some(SpelledHabit { before, after }) }
}
