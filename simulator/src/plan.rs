//! What every developer of the demo meets, in which order: all of it drawn from the seed before anything runs.

use crate::convention::{EditClass, Form, RuleId, conventional, most_conflicting};
use crate::corpus::{Corpus, Repository};
use crate::draft::{DefinitionEdit, Draft, Extent, Site};
use crate::error::{Result, SimulatorError};
use crate::random::Dice;
use crate::syntax::{IndexedFile, Symbol, SymbolKind};
use crate::tasks::{EditTask, Limits, TaskKind, TaskMaker};
use crate::text::contains_word;
use crate::words::{Pool, Words, in_style, pool_of};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Opportunities in which every kind of task comes exactly twice.
pub const ROUND: usize = 6;

/// Sizes of a demo.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanSettings {
    /// Developers; they are dealt to the repositories in turn.
    pub developers: usize,
    /// Most opportunities that one developer can meet; more than planned for cost nothing.
    pub opportunities: usize,
    /// Share of opportunities whose names occur in no other task of a developer.
    pub unseen_share: f64,
    /// Tasks of the probe set.
    pub probe: usize,
    /// Tasks of the gate set.
    pub gate: usize,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self { developers: 60, opportunities: 120, unseen_share: 0.25, probe: 150, gate: 300 }
    }
}

/// A convention in force.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Convention {
    /// Where.
    pub repository: String,
    /// Which.
    pub rule: RuleId,
}

/// A planned opportunity.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedTask {
    /// The opportunity.
    pub task: EditTask,
    /// Whether its names occur in no developer's task but this one, so that nothing can be learned about them. Tasks of
    /// the probe and gate sets whose own names fit nowhere share a few spare ones with each other.
    pub is_unseen: bool,
}

/// The tasks of a demo. Every task is a pure function of the seed, the corpus, the settings and its number.
#[derive(Debug)]
pub struct DemoPlan {
    seed: u64,
    corpus: Arc<Corpus>,
    settings: PlanSettings,
    conventions: Vec<Convention>,
    /// Names that everyday tasks use again and again.
    everyday: Vec<String>,
    /// Names that one task each uses: two for every task that is unseen.
    unseen: Vec<Vec<String>>,
    /// Names for tasks of the probe and gate sets whose own fit no place of their repository; shortest first. Each such
    /// task takes the first that fits, so several may share a pair; no developer's task uses any.
    spare: Vec<Vec<String>>,
    limits: Limits,
}

const EVERYDAY_NAMES: usize = 600;
const ATTEMPTS: usize = 6000;
const SPARE_NAMES: usize = 40;

/// Who a task belongs to: it decides the stream of chance.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Developer(usize),
    Probe,
    Gate,
}

impl Owner {
    fn label(self) -> (&'static str, u64) {
        match self {
            Self::Developer(number) => ("developer", number as u64),
            Self::Probe => ("probe", 0),
            Self::Gate => ("gate", 0),
        }
    }
}

impl DemoPlan {
    /// Draws conventions, names and the order of kinds.
    ///
    /// # Errors
    /// When a repository offers no place for one of the kinds of task.
    pub fn new(seed: u64, corpus: Arc<Corpus>, settings: PlanSettings) -> Result<Self> {
        let rules = RuleId::draw_conflicting(corpus.repositories.len(), &mut Dice::new(seed, "conventions", &[]));
        let named = corpus.repositories.iter().zip(rules);
        let conventions =
            named.map(|(repository, rule)| Convention { repository: repository.name.clone(), rule }).collect();
        let everyday = everyday_names(&corpus.words, &mut Dice::new(seed, "everyday names", &[]));
        // One pair of names for every developer's opportunity that may be unseen, and for every task of the probe set.
        let per_developer = (settings.opportunities as f64 * settings.unseen_share).ceil() as usize;
        let needed = per_developer * settings.developers + settings.probe + settings.gate;
        let mut unseen = unseen_names(&corpus, needed + SPARE_NAMES, &mut Dice::new(seed, "unseen names", &[]));
        let mut spare = unseen.split_off(needed.min(unseen.len()));
        spare.sort_by_key(|names| names.iter().map(String::len).sum::<usize>());
        let plan = Self { seed, corpus, settings, conventions, everyday, unseen, spare, limits: Limits::default() };
        for (repository, _) in plan.corpus.repositories.iter().enumerate() {
            for kind in [TaskKind::Plain, TaskKind::Convention, TaskKind::NoEdit] {
                plan.make(repository, kind, None, &mut Dice::new(seed, "trial", &[repository as u64]))?;
            }
        }
        Ok(plan)
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The sizes.
    #[must_use]
    pub fn settings(&self) -> &PlanSettings {
        &self.settings
    }

    /// The corpus.
    #[must_use]
    pub fn corpus(&self) -> &Corpus {
        &self.corpus
    }

    /// The conventions in force, one per repository.
    #[must_use]
    pub fn conventions(&self) -> &[Convention] {
        &self.conventions
    }

    /// Whether any two repositories conflict, so that a placebo may exchange each for any other: not when there are
    /// more of them than rules about the same edits.
    #[must_use]
    pub fn all_conflict(&self) -> bool {
        self.conventions.len() <= most_conflicting()
    }

    /// Index of the repository that a developer works in.
    #[must_use]
    pub fn repository_index(&self, developer: usize) -> usize {
        developer % self.corpus.repositories.len().max(1)
    }

    /// Name of the repository that a developer works in.
    #[must_use]
    pub fn repository_of(&self, developer: usize) -> &str {
        self.corpus.repositories.get(self.repository_index(developer)).map_or("", |repository| &repository.name)
    }

    /// The kind of a developer's opportunity: each kind twice in every six, in an order of its own.
    #[must_use]
    pub fn kind_at(&self, developer: usize, opportunity: usize) -> TaskKind {
        self.kind_in_round(Owner::Developer(developer), opportunity)
    }

    fn kind_in_round(&self, owner: Owner, number: usize) -> TaskKind {
        let mut kinds = [
            TaskKind::Plain,
            TaskKind::Plain,
            TaskKind::Convention,
            TaskKind::Convention,
            TaskKind::NoEdit,
            TaskKind::NoEdit,
        ];
        let (label, who) = owner.label();
        Dice::new(self.seed, "order of kinds", &[label.len() as u64, who, (number / ROUND) as u64]).shuffle(&mut kinds);
        kinds.get(number % ROUND).copied().unwrap_or(TaskKind::Plain)
    }

    /// What `developer` meets at `opportunity`.
    ///
    /// # Errors
    /// When the repository offers no place for it.
    pub fn task(&self, developer: usize, opportunity: usize) -> Result<PlannedTask> {
        // Every n-th opportunity is unseen, at a place of its own for each developer, so that shares are exact.
        let share = self.settings.unseen_share;
        let offset = Dice::new(self.seed, "unseen offset", &[developer as u64]).unit();
        let before = (opportunity as f64 * share + offset).floor();
        let is_unseen =
            ((opportunity + 1) as f64 * share + offset).floor() > before && opportunity < self.settings.opportunities;
        let per_developer = (self.settings.opportunities as f64 * share).ceil() as usize;
        let rank = before as usize;
        let names = is_unseen.then_some(developer * per_developer + rank).filter(|_| rank < per_developer);
        self.planned(Owner::Developer(developer), opportunity, self.repository_index(developer), names)
    }

    /// The probe set: drawn before the start, names of its own, never to be trained on.
    ///
    /// # Errors
    /// When a repository offers no place for it.
    pub fn probe(&self) -> Result<Vec<PlannedTask>> {
        let start = self.unseen.len().saturating_sub(self.settings.probe + self.settings.gate);
        (0..self.settings.probe)
            .map(|number| {
                self.planned(
                    Owner::Probe,
                    number,
                    number / ROUND % self.corpus.repositories.len(),
                    Some(start + number),
                )
            })
            .collect()
    }

    /// A gate set of the same distribution as the developers' tasks, disjoint from them in names.
    ///
    /// # Errors
    /// When a repository offers no place for it.
    pub fn gate(&self) -> Result<Vec<PlannedTask>> {
        let start = self.unseen.len().saturating_sub(self.settings.gate);
        (0..self.settings.gate)
            .map(|number| {
                self.planned(Owner::Gate, number, number / ROUND % self.corpus.repositories.len(), Some(start + number))
            })
            .collect()
    }

    fn planned(&self, owner: Owner, number: usize, repository: usize, names: Option<usize>) -> Result<PlannedTask> {
        let (label, who) = owner.label();
        let kind = self.kind_in_round(owner, number);
        let mut dice = Dice::new(self.seed, label, &[who, number as u64]);
        let names = names.and_then(|index| self.unseen.get(index));
        let Some(names) = names else {
            return Ok(PlannedTask { task: self.make(repository, kind, None, &mut dice)?, is_unseen: false });
        };
        // Some names fit nowhere: too long for what a model may read, or the words of a file. A developer then works
        // with everyday ones; a set that nobody may have seen has names to spare.
        let spare = match owner {
            Owner::Developer(_) => &[],
            Owner::Probe | Owner::Gate => self.spare.as_slice(),
        };
        let made = std::iter::once(names)
            .chain(spare)
            .find_map(|names| self.make(repository, kind, Some(names), &mut dice).ok());
        match made {
            Some(task) => Ok(PlannedTask { task, is_unseen: true }),
            None => Ok(PlannedTask { task: self.make(repository, kind, None, &mut dice)?, is_unseen: false }),
        }
    }

    fn make(&self, repository: usize, kind: TaskKind, names: Option<&[String]>, dice: &mut Dice) -> Result<EditTask> {
        let Some(one) = self.corpus.repositories.get(repository) else { return Err(self.unusable("", 0)) };
        (0..ATTEMPTS)
            .find_map(|_| self.attempt(one, repository, kind, names, dice))
            .ok_or_else(|| self.unusable(&one.name, one.places()))
    }

    fn unusable(&self, name: &str, usable: usize) -> SimulatorError {
        let found = self.corpus.repositories.iter().map(|one| one.files.len()).sum();
        SimulatorError::NoUsableCode { path: PathBuf::from(name), found, usable, needed: usable + 1 }
    }

    fn attempt(
        &self,
        repository: &Repository,
        number: usize,
        kind: TaskKind,
        names: Option<&[String]>,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let rule = self.conventions.get(number)?.rule;
        let form = rule.form()?;
        let of_functions = match kind {
            TaskKind::Convention => true,
            TaskKind::Plain => false,
            TaskKind::NoEdit => dice.chance(0.5),
        };
        let place = *dice.pick(if of_functions { &repository.functions } else { &repository.others })?;
        let (file, symbol) = repository.at(place)?;
        let draft = self.draft(file, symbol, form.class(), names, dice)?;
        // Most attempts fail, and a window is made much faster than a file: try the same choices on the window first.
        let mut trial = dice.clone();
        self.finish(&draft, kind, rule, form, Extent::Window, &mut trial)?;
        let made = self.finish(&draft, kind, rule, form, Extent::File, dice);
        *dice = trial;
        made
    }

    fn draft<'f>(
        &self,
        file: &'f IndexedFile,
        symbol: &'f Symbol,
        class: EditClass,
        names: Option<&[String]>,
        dice: &mut Dice,
    ) -> Option<Draft<'f>> {
        let styled = |words: &str, kind| in_style(&crate::words::split_words(words), &symbol.name, kind);
        let (old, fresh) = match names {
            Some([old, fresh]) => (styled(old, symbol.kind), fresh.clone()),
            _ => (symbol.name.clone(), dice.pick(&self.everyday)?.clone()),
        };
        let edit = if class == EditClass::ParameterAdded && symbol.kind.is_function() {
            symbol.signature.as_ref().filter(|signature| signature.is_plain)?;
            let name = fresh;
            let declaration = match file.source.language {
                crate::source::Language::Rust => format!("{name}: {}", dice.pick(&["usize", "bool", "&str", "u64"])?),
                crate::source::Language::Python => name.clone(),
            };
            DefinitionEdit::AddParameter { name, declaration }
        } else {
            DefinitionEdit::Rename { new: styled(&fresh, symbol.kind) }
        };
        let collides = |name: &str| name != symbol.name && contains_word(&file.source.text, name);
        let new = match &edit {
            DefinitionEdit::Rename { new } => new,
            DefinitionEdit::AddParameter { name, .. } => name,
            _ => return None,
        };
        (!collides(&old) && !collides(new) && *new != old).then(|| Draft::new(file, symbol, old.clone(), edit.clone()))
    }

    fn finish(
        &self,
        draft: &Draft<'_>,
        kind: TaskKind,
        rule: RuleId,
        form: Form<'_>,
        extent: Extent,
        dice: &mut Dice,
    ) -> Option<EditTask> {
        let maker = TaskMaker { words: &self.corpus.words, limits: &self.limits, extent, pool: Pool::Open };
        let mut draft = draft.clone();
        match kind {
            TaskKind::NoEdit => maker.leave_plainly(&mut draft, dice),
            TaskKind::Plain => Some(maker.follow(&mut draft, false, dice)?.0),
            TaskKind::Convention => {
                let (task, sites) = maker.follow(&mut draft, false, dice)?;
                self.conventional(task, &sites, &draft, rule, form)
            }
        }
    }

    /// The same opportunity as the team handles it.
    fn conventional(
        &self,
        mut task: EditTask,
        sites: &[Site],
        draft: &Draft<'_>,
        rule: RuleId,
        form: Form<'_>,
    ) -> Option<EditTask> {
        let language = draft.file.source.language;
        let actions = conventional(form, &draft.edit, sites, language, &task.base_document)?;
        task.wanted.actions = actions;
        task.kind = TaskKind::Convention;
        task.convention = Some(rule);
        Some(task)
    }
}

fn everyday_names(words: &Words, dice: &mut Dice) -> Vec<String> {
    let mut names = BTreeSet::new();
    // Bounded: with few words there may be fewer names than wanted.
    for _ in 0..EVERYDAY_NAMES * 4 {
        if names.len() >= EVERYDAY_NAMES {
            break;
        }
        names.insert(words.name("", SymbolKind::Variable, Pool::Open, dice));
    }
    names.into_iter().collect()
}

/// Pairs of names that no file contains and no other task uses. Reserved, so that they are no everyday names either.
fn unseen_names(corpus: &Corpus, count: usize, dice: &mut Dice) -> Vec<Vec<String>> {
    let taken: BTreeSet<&str> = corpus
        .repositories
        .iter()
        .flat_map(|one| &one.files)
        .flat_map(|file| &file.symbols)
        .map(|symbol| symbol.name.as_str())
        .collect();
    let mut names = BTreeSet::new();
    let mut pairs = Vec::with_capacity(count);
    let mut pair = Vec::new();
    let mut tries = 0_usize;
    while pairs.len() < count && tries < count * 64 + 1000 {
        tries += 1;
        // Three words once two words run out.
        let length = if tries < count * 32 { 2 } else { 3 };
        let name = (0..length).map(|_| corpus.words.word(dice).to_owned()).collect::<Vec<_>>().join("_");
        if name.len() <= 22
            && pool_of(&name) == Pool::Reserved
            && !taken.contains(name.as_str())
            && names.insert(name.clone())
        {
            pair.push(name);
            if pair.len() == 2 {
                pairs.push(std::mem::take(&mut pair));
            }
        }
    }
    pairs
}
