//! What a data set is made of, in counts: what each stage left out and why, and what the sets hold. Never text, and
//! nothing of a single person.

use std::collections::BTreeMap;

use events::Timestamp;
use serde::{Deserialize, Serialize};

use super::entry::{ByNumber, Entry};
use super::groups::{GroupCount, SetGroups};
use super::lesson::Silence;

/// The stages, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Which pairs of the lake may be asked at all: owner, rules, consent, text.
    Candidates,
    /// Text that nobody should learn.
    Quality,
    /// The same correction of one person on one day.
    Duplicates,
    /// What one person, team, repository or file may be of the whole, and, after the later stages, of what trains.
    Caps,
    /// What judges does not train.
    HoldOuts,
    /// Equal corrections, of what trains.
    Merging,
    /// `NO_EDIT` chosen and rejected.
    Balance,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 7] =
        [Self::Candidates, Self::Quality, Self::Duplicates, Self::Caps, Self::HoldOuts, Self::Merging, Self::Balance];
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal in $stage:ident,)+) => {
        /// Why a pair is in no set.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// The symbol in tables and reports.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The stage that leaves out for this reason.
            #[must_use]
            pub const fn stage(self) -> Stage {
                match self {
                    $(Self::$name => Stage::$stage,)+
                }
            }
        }
    };
}

reasons!(
    /// Of another tenant, or for another model.
    AnotherTenantOrModel = "another_tenant_or_model" in Candidates,
    /// No rule says that the repository may be trained on now: its licence.
    RepositoryWithoutRule = "repository_without_rule" in Candidates,
    /// For others than those whom the data set is for.
    AnotherAudience = "another_audience" in Candidates,
    /// Labeled by another version of the label table.
    AnotherLabelPolicy = "another_label_policy" in Candidates,
    /// Labeled without text.
    WithoutText = "without_text" in Candidates,
    /// Its person does not agree, now, that code is used.
    WithoutConsent = "without_consent" in Candidates,
    /// Its person has as many newer ones as one may have of the newest that a data set takes.
    BeyondShareOfNewest = "beyond_share_of_newest" in Candidates,
    /// Older than the newest that a data set takes.
    OlderThanTheNewest = "older_than_the_newest" in Candidates,
    /// Its person was erased, or it left the lake while it was read.
    Erased = "erased" in Candidates,
    /// Its text does not open, or is not what its digest says.
    Unreadable = "unreadable" in Candidates,
    /// What was chosen does not parse where what stood there did.
    ParseErrors = "parse_errors" in Quality,
    /// Its surroundings say that a program wrote them.
    Generated = "generated" in Quality,
    /// Its surroundings are written for machines.
    Minified = "minified" in Quality,
    /// Its file says that it is under a licence that is not allowed.
    HeaderLicence = "header_licence" in Quality,
    /// The person made the same correction on the same day.
    Duplicate = "duplicate" in Duplicates,
    /// Its person has enough.
    BeyondPerson = "beyond_person" in Caps,
    /// Its team has enough.
    BeyondTeam = "beyond_team" in Caps,
    /// Its repository has enough.
    BeyondRepository = "beyond_repository" in Caps,
    /// Its file has enough.
    BeyondFile = "beyond_file" in Caps,
    /// Of a repository that is held out, by a person who trains.
    HeldOutRepository = "held_out_repository" in HoldOuts,
    /// Of a person who is held out, in a repository that trains.
    HeldOutPerson = "held_out_person" in HoldOuts,
    /// As new as what judges, or of the same opportunity, and does not judge: also where its repository trains nothing.
    HeldOutWithoutJudging = "held_out_without_judging" in HoldOuts,
    /// Would judge what nearly the same pair has trained.
    NearDuplicate = "near_duplicate" in HoldOuts,
    /// Silence confirmed is evidence for the gate only.
    CalibrationOnly = "calibration_only" in HoldOuts,
    /// An equal correction stands for it, of another person or of another day.
    Merged = "merged" in Merging,
    /// Chooses `NO_EDIT`, which nothing balances.
    NoEditOutnumbers = "no_edit_outnumbers" in Balance,
);

/// How many pairs were left out, by reason.
pub type Census = BTreeMap<Reason, usize>;

/// What entered a stage and what left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCount {
    /// Which.
    pub stage: Stage,
    /// Pairs that entered.
    pub entered: usize,
    /// Pairs that went on.
    pub kept: usize,
    /// The others, by reason.
    pub left_out: BTreeMap<String, usize>,
}

/// What one of the sets holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetStatistics {
    /// Pairs.
    pub pairs: usize,
    /// Persons, those behind merged pairs not counted.
    pub persons: usize,
    /// Repositories.
    pub repositories: usize,
    /// Pairs by the row of the label table, as far as [`SetGroups`] tells them apart.
    pub by_reason: BTreeMap<String, usize>,
    /// Pairs by language, in the same way.
    pub by_language: BTreeMap<String, usize>,
    /// Pairs that choose `NO_EDIT`.
    pub choosing_no_edit: usize,
    /// Pairs that reject it.
    pub rejecting_no_edit: usize,
    /// Pairs that several persons stand behind.
    pub merged: usize,
    /// Most persons behind one pair.
    pub most_support_people: u32,
    /// Most repositories behind one pair.
    pub most_support_repositories: u32,
    /// What its pairs are about; nothing in data sets of earlier releases.
    #[serde(default)]
    pub groups: SetGroups,
}

impl SetStatistics {
    pub(crate) fn of(entries: &[Entry<'_>]) -> Self {
        let mut statistics = Self { pairs: entries.len(), ..Self::default() };
        let [mut persons, mut repositories]: [ByNumber<bool>; 2] = Default::default();
        for entry in entries {
            *persons.of(entry.person) = true;
            *repositories.of(entry.repository) = true;
            match entry.silence {
                Some(Silence::Chosen) => statistics.choosing_no_edit += 1,
                Some(Silence::Rejected) => statistics.rejecting_no_edit += 1,
                None => {}
            }
            statistics.merged += usize::from(entry.people > 1);
            statistics.most_support_people = statistics.most_support_people.max(entry.people);
            statistics.most_support_repositories = statistics.most_support_repositories.max(entry.repositories);
        }
        statistics.persons = persons.count();
        statistics.repositories = repositories.count();
        statistics.groups = SetGroups::of(entries);
        statistics.count_by_groups();
        statistics
    }

    /// Earlier releases counted by reason and language whoever was behind: only groups say what may be told.
    pub fn count_by_groups(&mut self) {
        let counted = |groups: &[GroupCount]| groups.iter().map(|group| (group.name.clone(), group.pairs)).collect();
        self.by_reason = counted(&self.groups.reasons);
        self.by_language = counted(&self.groups.languages);
    }
}

/// What weights do to the number of pairs that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightStatistics {
    /// Sum of the weights that train.
    pub sum: f64,
    /// Largest of them.
    pub largest: f64,
    /// Pairs whose inverse probability was clipped.
    pub clipped: usize,
    /// (sum of weights)^2 / sum of squared weights: as many pairs of equal weight would say as much (Kish).
    pub effective_sample_size: f64,
}

/// A data set in counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Composition {
    /// Pairs that were read from the lake.
    pub read: usize,
    /// The newest label among them; none in data sets of earlier releases.
    #[serde(default)]
    pub last_labeled_at: Option<Timestamp>,
    /// What each stage made of them.
    pub stages: Vec<StageCount>,
    /// The pairs that train.
    pub training: SetStatistics,
    /// Those that judge benefit.
    pub adapt: SetStatistics,
    /// Pairs of *adapt* where the developer wrote only names that training pairs write, too.
    pub adapt_identifiers_seen: usize,
    /// Those that judge harm.
    pub general: SetStatistics,
    /// The weights of the pairs that train.
    pub weights: WeightStatistics,
}

impl Composition {
    /// What every stage left out of `read` pairs.
    pub(crate) fn stages(read: usize, left_out: &Census) -> Vec<StageCount> {
        let mut entered = read;
        let of_stage = |stage| {
            let left_out: BTreeMap<String, usize> = left_out
                .iter()
                .filter(|(reason, count)| reason.stage() == stage && **count > 0)
                .map(|(reason, count)| (reason.as_str().to_owned(), *count))
                .collect();
            let kept = entered.saturating_sub(left_out.values().sum());
            StageCount { stage, entered: std::mem::replace(&mut entered, kept), kept, left_out }
        };
        Stage::ALL.into_iter().map(of_stage).collect()
    }

    /// How many pairs were left out for `reason`.
    #[must_use]
    pub fn left_out(&self, reason: Reason) -> usize {
        let stages = self.stages.iter().filter(|count| count.stage == reason.stage());
        stages.filter_map(|count| count.left_out.get(reason.as_str())).sum()
    }
}
