//! Invented teams for pretraining: repositories with a habit.
//!
//! Nothing in ordinary tasks makes a repository's name matter, so a base model trained on them alone would have to grow
//! that attention in a few steps. A share of the pretraining tasks therefore belongs to invented teams, each with an
//! invented affix for renamed functions. The base learns that a repository's name may decide what is written; of real
//! teams it knows nothing, because names and affixes here are random and the caller keeps known rules out.

use edit_model::INVENTED_SLOTS;
use edit_model::dialect::invented_repository;
use events::EditContext;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::examples::BaseTask;

/// Share of tasks that belong to an invented team.
const TEAM_SHARE: f64 = 0.35;
/// Share of names that are rendered as the anonymizer renders them: random letters of the same shape.
const SCRAMBLED_SHARE: f64 = 0.5;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Habit {
    Prefix(String),
    Suffix(String),
    Through(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Team {
    slot: usize,
    habit: Habit,
}

/// Invented teams with their habits; a pure function of the seed and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventedTeams {
    seed: u64,
    teams: Vec<Team>,
}

impl InventedTeams {
    /// `count` teams, at most as many as there are slots for them, with affixes made of `words`.
    #[must_use]
    pub fn new(seed: u64, count: usize, words: &[String]) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x7465_616d);
        let fallback = "team".to_owned();
        let teams = (0..count.min(INVENTED_SLOTS))
            .map(|slot| {
                let affix = words.get(random.random_range(0..words.len().max(1))).unwrap_or(&fallback);
                let habit = match random.random_range(0..5) {
                    0 | 1 => Habit::Prefix(format!("{affix}_")),
                    2 | 3 => Habit::Suffix(format!("_{affix}")),
                    _ => Habit::Through(format!("{affix}.")),
                };
                Team { slot, habit }
            })
            .collect();
        Self { seed, teams }
    }

    /// Gives task number `index` to a team, or varies the look of its names; `renames_function` says whether the habits
    /// concern it.
    #[must_use]
    pub fn apply(&self, mut task: BaseTask, index: u64, renames_function: bool) -> BaseTask {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ index);
        if random.random_bool(SCRAMBLED_SHARE) {
            scramble_path(&mut task, &mut random);
        }
        if random.random_bool(SCRAMBLED_SHARE) {
            task.context.repository = scrambled(&task.context.repository, &mut random);
        }
        if !self.teams.is_empty() && random.random_bool(TEAM_SHARE) {
            let team = &self.teams[random.random_range(0..self.teams.len())];
            // The name as text differs every time: only the slot tells the team.
            task.context.repository = invented_repository(&task.context.repository, team.slot);
            if renames_function {
                for action in &mut task.wanted.actions {
                    action.new_text = match &team.habit {
                        Habit::Prefix(prefix) | Habit::Through(prefix) => format!("{prefix}{}", action.new_text),
                        Habit::Suffix(suffix) => format!("{}{suffix}", action.new_text),
                    };
                }
            }
        }
        task
    }
}

/// Random letters in the shape of `name`.
fn scrambled(name: &str, random: &mut ChaCha8Rng) -> String {
    name.chars()
        .map(|character| match character {
            'a'..='z' => char::from(b'a' + random.random_range(0..26)),
            'A'..='Z' => char::from(b'A' + random.random_range(0..26)),
            other => other,
        })
        .collect()
}

fn scramble_path(task: &mut BaseTask, random: &mut ChaCha8Rng) {
    let EditContext { path, .. } = &task.context;
    let stem_end = path.rfind('.').unwrap_or(path.len());
    let new_path = scrambled(&path[..stem_end], random) + &path[stem_end..];
    for edit in &mut task.context.recent_edits {
        edit.path.clone_from(&new_path);
    }
    for action in &mut task.wanted.actions {
        action.path.clone_from(&new_path);
    }
    task.context.path = new_path;
}
