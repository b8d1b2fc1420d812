//! What a team does differently, read from its corrections and spelled in the places of its habits before the first
//! step.
//!
//! A soft prompt learns better from the embeddings of words that mean something than from neutral ones, most of all in
//! a small network (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", on initialisation).
//! Pretraining spells invented habits in these places, so the base reads what stands there as text. The texts that a
//! team's corrections add to what was proposed are therefore candidates, each spelled in every way that pretraining
//! spells one, and the anchor itself decides: the spelling under which it finds the team's edits likeliest is where
//! training starts, if it beats what stands there already. What cannot be spelled is learned as before, from neutral
//! places.

use std::collections::{BTreeMap, BTreeSet};

use edit_model::dialect::{Habit, habit_tokens};
use edit_model::{CodeTokenizer, HABIT_TOKENS, Network};
use events::{EditAction, EditContext, apply_actions};

use crate::device::backends;
use crate::engine::log_probabilities;
use crate::error::TrainerError;
use crate::methods::MethodConfig;
use crate::objective::TrainingSequence;
use crate::pairs::TrainingPair;
use crate::prepared::Prepared;

/// Fewer corrections than this that add the same text are no habit.
const LEAST_CORRECTIONS: usize = 3;
/// Nor are those of one person: what a single one typed must not become what the whole team is served.
const LEAST_PERSONS: usize = 2;
/// Most texts of a repository that are tried, the most frequent first.
const MOST_TEXTS: usize = 6;
/// Longest text that is tried, in bytes; six tokens spell less.
const LONGEST_TEXT: usize = 32;
/// Edits of a repository by which spellings are compared.
const COMPARED_EDITS: usize = 32;
/// Between the arguments of a call.
const SEPARATOR: &str = ", ";

/// What a team's corrections add before and after what was proposed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Addition {
    before: String,
    after: String,
}

impl Addition {
    fn new(before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { before: before.into(), after: after.into() }
    }

    /// Every way in which pretraining would spell it: as it is, with a path's separator as a dot, and as an argument.
    fn spellings(&self) -> Vec<Self> {
        let Self { before, after } = self;
        let mut all = vec![self.clone()];
        if before.contains("::") {
            all.push(Self::new(before.replace("::", "."), after));
        }
        if after.is_empty() {
            all.push(Self::new(format!("{SEPARATOR}{before}"), ""));
        }
        all
    }
}

/// A repository's places of habits, and what training starts them from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spelling {
    /// The places.
    pub(crate) places: [u32; HABIT_TOKENS],
    /// The tokens whose embeddings they start from.
    pub(crate) tokens: [u32; HABIT_TOKENS],
}

/// The spelling of every repository in `pairs` whose edits one explains better than what its places hold in `anchor`.
///
/// # Errors
/// [`TrainerError::Model`] when the tokenizer or a device fails.
pub(crate) fn spell(
    config: &MethodConfig,
    network: &Network,
    anchor: &[f32],
    tokenizer: &CodeTokenizer,
    pairs: &[TrainingPair],
    prepared: &[Prepared],
) -> Result<Vec<Spelling>, TrainerError> {
    let mut spellings = Vec::new();
    let by_repository = additions_by_repository(pairs);
    let places_of = |repository: &str| habit_tokens(tokenizer, repository, &Habit::Repository).ok();
    for (&repository, additions) in &by_repository {
        let Some(places) = places_of(repository) else { continue };
        // Two that share their places must both learn there. And an anchor that may write these places would take a
        // copy of a word there for the word.
        let is_shared = by_repository.keys().filter(|other| places_of(other) == Some(places)).count() > 1;
        let is_written = places.iter().any(|place| (*place as usize) < network.config().written());
        if is_shared || is_written {
            continue;
        }
        let edits = edits_of(prepared, &places);
        let mut tried = vec![places];
        for addition in most_frequent(additions).iter().flat_map(Addition::spellings) {
            let habit = Habit::Spelled { before: addition.before, after: addition.after };
            let Ok(tokens) = habit_tokens(tokenizer, repository, &habit) else { continue };
            if !tried.contains(&tokens) {
                tried.push(tokens);
            }
        }
        if tried.len() < 2 || edits.is_empty() {
            continue;
        }
        let sequences: Vec<TrainingSequence> =
            tried.iter().flat_map(|tokens| edits.iter().map(|edit| respelled(edit, &places, tokens))).collect();
        let values = log_probabilities(backends(config.device, network, config.threads)?, anchor, &sequences)?;
        let scores = values.chunks(edits.len()).map(|edits| edits.iter().flatten().map(|v| f64::from(*v)).sum::<f64>());
        // The first of equals: what stands there already, then the most frequent.
        let best = tried.iter().zip(scores).reduce(|best, next| if next.1 > best.1 { next } else { best });
        if let Some((tokens, _)) = best.filter(|(tokens, _)| **tokens != places) {
            spellings.push(Spelling { places, tokens: *tokens });
        }
    }
    Ok(spellings)
}

/// How many corrections add a text, and whose they are. A pair may stand for equal corrections of several persons.
#[derive(Debug, Default)]
struct Support<'a> {
    corrections: usize,
    persons: BTreeSet<&'a str>,
    /// Most persons who stand behind one pair.
    most_behind_one: usize,
}

impl<'a> Support<'a> {
    fn count(&mut self, pair: &'a TrainingPair) {
        let people = usize::try_from(pair.support_people.max(1)).unwrap_or(usize::MAX);
        self.corrections = self.corrections.saturating_add(people);
        self.persons.insert(&pair.person);
        self.most_behind_one = self.most_behind_one.max(people);
    }

    /// At least so many persons: those behind one pair may be those behind another, so they are not added up.
    fn least_persons(&self) -> usize {
        self.persons.len().max(self.most_behind_one)
    }
}

/// The texts that corrections of each repository add.
fn additions_by_repository(pairs: &[TrainingPair]) -> BTreeMap<&str, BTreeMap<Addition, Support<'_>>> {
    let mut by_repository: BTreeMap<&str, BTreeMap<Addition, Support<'_>>> = BTreeMap::new();
    for pair in pairs.iter().filter(|pair| pair.weight > 0.0) {
        let (Some(chosen), Some(rejected)) = (&pair.chosen, &pair.rejected) else { continue };
        let Some(chosen) = chosen.actions.first() else { continue };
        let overlaps = |other: &&EditAction| {
            other.path == chosen.path && other.range.start <= chosen.range.end && chosen.range.start <= other.range.end
        };
        let Some(rejected) = rejected.actions.iter().find(overlaps) else { continue };
        let (Some(wanted), Some(proposed)) = (after(&pair.context, chosen), after(&pair.context, rejected)) else {
            continue;
        };
        let counts = by_repository.entry(&pair.repository).or_default();
        for addition in additions(&proposed, &wanted) {
            counts.entry(addition).or_default().count(pair);
        }
    }
    by_repository
}

fn after(context: &EditContext, action: &EditAction) -> Option<String> {
    apply_actions(context.window.start_byte, &context.window.text, std::slice::from_ref(action))
}

fn most_frequent(additions: &BTreeMap<Addition, Support<'_>>) -> Vec<Addition> {
    let is_habit =
        |support: &Support<'_>| support.corrections >= LEAST_CORRECTIONS && support.least_persons() >= LEAST_PERSONS;
    let mut additions: Vec<(&Addition, &Support<'_>)> =
        additions.iter().filter(|(_, support)| is_habit(support)).collect();
    additions.sort_by(|left, right| right.1.corrections.cmp(&left.1.corrections).then_with(|| left.0.cmp(right.0)));
    additions.into_iter().take(MOST_TEXTS).map(|(addition, _)| addition.clone()).collect()
}

/// Wanted answers of the repository with these places, evenly over all.
fn edits_of<'a>(prepared: &'a [Prepared], places: &[u32; HABIT_TOKENS]) -> Vec<&'a TrainingSequence> {
    let edits: Vec<&TrainingSequence> = prepared
        .iter()
        .filter_map(|prepared| prepared.pair.chosen())
        .map(|chosen| &chosen.sequence)
        .filter(|sequence| sequence.tokens.contains(&places[0]))
        .collect();
    let stride = edits.len().div_ceil(COMPARED_EDITS).max(1);
    edits.into_iter().step_by(stride).collect()
}

/// The same sequence with `tokens` in the places of habits.
fn respelled(
    sequence: &TrainingSequence,
    places: &[u32; HABIT_TOKENS],
    tokens: &[u32; HABIT_TOKENS],
) -> TrainingSequence {
    let mut respelled = sequence.clone();
    for token in &mut respelled.tokens {
        if let Some(place) = places.iter().position(|place| place == token) {
            *token = tokens[place];
        }
    }
    respelled
}

/// What stands in `wanted` around what stands in `proposed`, in every way that it can be read. Nothing when the two
/// differ otherwise.
fn additions(proposed: &str, wanted: &str) -> BTreeSet<Addition> {
    // Up to whole words: what was added may begin or end like what stood there.
    let mut start = common_bytes(proposed.chars(), wanted.chars());
    while !(is_boundary(proposed, start) && is_boundary(wanted, start)) {
        start -= proposed[..start].chars().next_back().map_or(start, char::len_utf8);
    }
    let mut end = common_bytes(proposed[start..].chars().rev(), wanted[start..].chars().rev());
    while !(is_boundary(proposed, proposed.len() - end) && is_boundary(wanted, wanted.len() - end)) {
        end -= proposed[proposed.len() - end..].chars().next().map_or(end, char::len_utf8);
    }
    let (kept, changed) = (&proposed[start..proposed.len() - end], &wanted[start..wanted.len() - end]);
    let mut all = BTreeSet::new();
    if changed.len() > kept.len() + LONGEST_TEXT * 2 || changed.len() < kept.len() {
        return all;
    }
    if kept.is_empty() {
        for text in turned(wanted, start, changed.len()) {
            all.insert(Addition::new(text, ""));
            all.insert(Addition::new("", text));
        }
    } else if is_moved(kept, changed) {
        // What was last comes first: the place of the name is before the others.
        all.insert(Addition::new("(", SEPARATOR));
    }
    let places = changed.char_indices().filter(|(place, _)| !kept.is_empty() && changed[*place..].starts_with(kept));
    for (before, _) in places {
        let tail = start + before + kept.len();
        for before in turned(wanted, start, before) {
            for after in turned(wanted, tail, wanted.len() - end - tail) {
                all.insert(Addition::new(before, after));
            }
        }
    }
    all.retain(|addition| {
        let length = addition.before.len() + addition.after.len();
        length > 0 && length <= LONGEST_TEXT
    });
    all
}

fn common_bytes(left: impl Iterator<Item = char>, right: impl Iterator<Item = char>) -> usize {
    left.zip(right).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// The `length` bytes of `text` from `start`, and every other stretch of this length that leaves the same text when it
/// is taken out instead (`a` + `bca` is `ab` + `cab` without its last two...), of those that cut no word.
fn turned(text: &str, start: usize, length: usize) -> Vec<&str> {
    if length == 0 {
        return vec![""];
    }
    let bytes = text.as_bytes();
    let least = start.saturating_sub(length);
    let mut all = Vec::new();
    let mut place = start;
    loop {
        let stretch = text.get(place..place + length);
        if let Some(stretch) = stretch.filter(|_| is_boundary(text, place) && is_boundary(text, place + length)) {
            all.push(stretch);
        }
        if place == least || bytes[place - 1] != bytes[place + length - 1] {
            return all;
        }
        place -= 1;
    }
}

/// Whether a word may end before `place` and another begin there.
fn is_boundary(text: &str, place: usize) -> bool {
    let (Some(head), Some(tail)) = (text.get(..place), text.get(place..)) else { return false };
    match (head.chars().next_back(), tail.chars().next()) {
        (Some(left), Some(right)) if left.is_alphanumeric() && right.is_alphanumeric() => {
            left.is_lowercase() && right.is_uppercase()
        }
        _ => true,
    }
}

/// Whether the last of several, separated by commas, has become the first.
fn is_moved(kept: &str, changed: &str) -> bool {
    kept.rsplit_once(SEPARATOR).is_some_and(|(others, last)| {
        changed.strip_prefix(last).and_then(|rest| rest.strip_prefix(SEPARATOR)) == Some(others)
    })
}

#[cfg(test)]
mod tests {
    use events::{ActionList, ByteRange, Window};
    use proptest::prelude::*;

    use super::*;

    fn found(proposed: &str, wanted: &str) -> Vec<(String, String)> {
        additions(proposed, wanted).into_iter().map(|Addition { before, after }| (before, after)).collect()
    }

    fn has(proposed: &str, wanted: &str, before: &str, after: &str) {
        let all = found(proposed, wanted);
        assert!(all.contains(&(before.to_owned(), after.to_owned())), "{all:?}");
    }

    #[test]
    fn what_a_team_adds_is_found_in_every_form() {
        has("let a = self.title(b);", "let a = self.fetch_title(b);", "fetch_", "");
        // What was added begins like what follows it.
        has("self.find()", "self.fetch_find()", "fetch_", "");
        has("title(b)", "title_impl(b)", "", "_impl");
        has("a = title(b)", "a = api::title(b)", "api::", "");
        has("a = title(b);", "a = checked(title(b));", "checked(", ")");
        has("a = compute(b);", "a = checked(compute(b));", "checked(", ")");
        has("f(a, width)", "f(a, options.width)", "options.", "");
        has("f(a, b, width)", "f(width, a, b)", "(", ", ");
        has("r ", "ra(r_ ", "ra(", "_");
        has("getName()", "getDisplayName()", "Display", "");
    }

    #[test]
    fn other_changes_are_no_additions() {
        assert_eq!(found("let a = 1;", "let a = 1;"), []);
        assert_eq!(found("f(alpha)", "f(omega)"), []);
        assert_eq!(found("a", &format!("a{}", "b ".repeat(200))), []);
        assert_eq!(found("long_name()", "name()"), []);
    }

    #[test]
    fn a_path_is_spelled_with_a_dot_and_an_argument_with_its_comma() {
        let spelled = Addition::new("api::", "").spellings();
        assert!(spelled.contains(&Addition::new("api.", "")));
        assert!(spelled.contains(&Addition::new(", api::", "")));
        assert_eq!(Addition::new("checked(", ")").spellings(), [Addition::new("checked(", ")")]);
    }

    #[test]
    fn only_what_several_corrections_of_several_persons_add_is_tried() {
        let support = |corrections, persons: &[&'static str]| Support {
            corrections,
            persons: persons.iter().copied().collect(),
            most_behind_one: 1,
        };
        let counts = BTreeMap::from([
            (Addition::new("rare_", ""), support(2, &["a", "b"])),
            (Addition::new("often_", ""), support(9, &["a", "b"])),
            (Addition::new("", "_x"), support(3, &["b", "c"])),
            (Addition::new("hunter2", ""), support(20, &["a"])),
        ]);
        let tried = most_frequent(&counts);
        assert_eq!(tried, [Addition::new("often_", ""), Addition::new("", "_x")]);
    }

    /// A correction of `a` that stands for `people` and writes `fetch_` before what was proposed.
    fn correction(people: u32) -> TrainingPair {
        let writes = |text: &str| {
            let action = EditAction {
                path: "a.rs".to_owned(),
                range: ByteRange::new(8, 8),
                old_text: String::new(),
                new_text: text.to_owned(),
            };
            Some(ActionList { actions: vec![action], closed: true })
        };
        TrainingPair {
            pair_id: "0".to_owned(),
            person: "a".to_owned(),
            repository: "shop".to_owned(),
            reason: "dismissed_then_typed".to_owned(),
            weight: 1.0,
            support_people: people,
            observed_micros: 0,
            off_policy: false,
            context: EditContext {
                repository: "shop".to_owned(),
                path: "a.rs".to_owned(),
                language: "rust".to_owned(),
                recent_edits: Vec::new(),
                window: Window { start_byte: 0, first_line: 0, text: "let a = ;".to_owned() },
                cursor_byte: 8,
            },
            shared: Vec::new(),
            chosen: writes("fetch_title(b)"),
            rejected: writes("title(b)"),
            identifiers_seen: None,
        }
    }

    #[test]
    fn a_pair_that_stands_for_several_persons_counts_as_often() {
        let is_tried = |people: &[u32]| {
            let pairs: Vec<TrainingPair> = people.iter().map(|people| correction(*people)).collect();
            most_frequent(&additions_by_repository(&pairs)["shop"]).contains(&Addition::new("fetch_", ""))
        };
        assert!(is_tried(&[5]) && is_tried(&[2, 2]));
        // What one person does again and again is no habit of the team, nor is what two do once.
        assert!(!is_tried(&[1, 1, 1, 1]) && !is_tried(&[2]));
    }

    proptest! {
        #[test]
        fn any_text_around_a_name_is_found(
            head in "[ a-z(.]{0,12}", name in "[a-z_äß]{1,12}", tail in "[ a-z).;]{0,12}",
            before in "[a-z]{1,8}[_.(]", after in "[)_]{1,2}",
        ) {
            let proposed = format!("{head} {name} {tail}");
            let wanted = format!("{head} {before}{name}{after} {tail}");
            let all = additions(&proposed, &wanted);
            // Taking what was found out of the wanted text leaves the proposed one.
            prop_assert!(!all.is_empty(), "{proposed:?} {wanted:?}");
        }

        #[test]
        fn no_pair_of_texts_breaks_it(proposed in ".{0,40}", wanted in ".{0,40}") {
            let _ = additions(&proposed, &wanted);
        }
    }
}
