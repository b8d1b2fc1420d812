//! The two steps that are replayed, and what each of them puts out.

use std::sync::Arc;

use bus::{StepHandler, StepSpec};
use events::topics::{PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};

use super::source::Source;
use crate::failure::Failure;

/// A step. Each is replayed from its own input as it stands in the log, so that what one of them did otherwise is no
/// difference of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Raw to clean.
    Anonymizer,
    /// Clean to pairs and outcomes.
    Labeler,
}

/// What a step puts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Clean,
    Quarantined,
    Pair,
    Outcome,
}

impl Stage {
    pub(crate) const ALL: [Self; 2] = [Self::Anonymizer, Self::Labeler];

    /// As the scratch writes it.
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Anonymizer => 0,
            Self::Labeler => 1,
        }
    }

    pub(crate) const fn step(self) -> &'static str {
        match self {
            Self::Anonymizer => anonymizer::STEP,
            Self::Labeler => labeler::step::STEP,
        }
    }

    pub(crate) const fn input(self) -> &'static str {
        match self {
            Self::Anonymizer => TELEMETRY_RAW,
            Self::Labeler => TELEMETRY_CLEAN,
        }
    }

    pub(crate) const fn kinds(self) -> [Kind; 2] {
        match self {
            Self::Anonymizer => [Kind::Clean, Kind::Quarantined],
            Self::Labeler => [Kind::Pair, Kind::Outcome],
        }
    }

    /// The step as it runs on a log of its own, where no other step holds its time back.
    pub(crate) fn spec(self) -> StepSpec {
        match self {
            Self::Anonymizer => anonymizer::step_spec(),
            Self::Labeler => StepSpec { follows: None, ..labeler::step::spec() },
        }
    }

    /// The real handler, with the platform's settings and keys.
    pub(crate) fn handler(self, source: &Source) -> Result<Arc<dyn StepHandler>, Failure> {
        let (settings, keys) = (&source.settings, source.keys.clone());
        match self {
            Self::Anonymizer => anonymizer::step::handler(settings.anonymizer.clone(), keys).map_err(Failure::refuse),
            Self::Labeler => {
                let (policy, limits) = (source.label_policy.clone(), settings.labeler.limits.clone());
                Ok(labeler::step::handler(Arc::new(labeler::keys::LoadedKeys::new(keys)), policy, limits))
            }
        }
    }
}

impl Kind {
    pub(crate) const fn topic(self) -> &'static str {
        match self {
            Self::Clean => TELEMETRY_CLEAN,
            Self::Quarantined => TELEMETRY_QUARANTINE,
            Self::Pair => PREFERENCE_PAIRS,
            Self::Outcome => SERVING_OUTCOMES,
        }
    }

    pub(crate) const fn stage(self) -> Stage {
        match self {
            Self::Clean | Self::Quarantined => Stage::Anonymizer,
            Self::Pair | Self::Outcome => Stage::Labeler,
        }
    }

    /// As the scratch writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Quarantined => "quarantined",
            Self::Pair => "pair",
            Self::Outcome => "outcome",
        }
    }

    /// As the report writes it.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Clean => "clean events",
            Self::Quarantined => "quarantined events",
            Self::Pair => "preference pairs",
            Self::Outcome => "outcomes",
        }
    }
}
