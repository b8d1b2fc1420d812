//! The methods that are compared. Each as its authors wrote it, or as docs/methods.md does; nothing else
//! differs between them.

use serde::{Deserialize, Serialize};
use trainer::methods::{Method, MethodConfig};

/// Probability that a label is the wrong way round, of `dpo-smoothed`.
const SMOOTHING: f32 = 0.1;
/// The lambda of DPO-Positive: so large that no fall of a chosen side is worth what it wins.
const PENALTY: f32 = 50.0;

/// A way to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Arm {
    Sft,
    Dpo,
    DpoSmoothed,
    DpoSft,
    Dpop,
    TargetDpo,
    Kto,
    Truncate,
    Detach,
    FirstToken,
    RandomPoint,
    ThresholdOnly,
}

impl Arm {
    pub(super) const ALL: [Self; 12] = [
        Self::Sft,
        Self::Dpo,
        Self::DpoSmoothed,
        Self::DpoSft,
        Self::Dpop,
        Self::TargetDpo,
        Self::Kto,
        Self::Truncate,
        Self::Detach,
        Self::FirstToken,
        Self::RandomPoint,
        Self::ThresholdOnly,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::DpoSmoothed => "dpo, smoothed labels",
            Self::DpoSft => "dpo + sft",
            Self::Dpop => "dpop",
            Self::TargetDpo => "target-dpo",
            Self::Kto => "kto",
            Self::Truncate => "actionrl, truncate",
            Self::Detach => "actionrl, detach",
            Self::FirstToken => "first token alone",
            Self::RandomPoint => "random point (placebo)",
            Self::ThresholdOnly => "threshold-only",
        }
    }

    /// Whether what the model says stays the same, so that it hardly moves from where it starts however long it learns.
    pub(super) fn keeps_content(self) -> bool {
        self == Self::ThresholdOnly
    }

    /// The settings of this arm; what all arms share is taken from `shared`. The methods of this project add the likelihood
    /// term, and their ablation and placebo with them.
    pub(super) fn config(self, shared: MethodConfig) -> MethodConfig {
        let (method, lambda) = match self {
            Self::Sft => (Method::Sft, 1.0),
            Self::Dpo | Self::DpoSmoothed | Self::Dpop => (Method::Dpo, 0.0),
            Self::DpoSft => (Method::Dpo, 1.0),
            Self::TargetDpo => (Method::TargetDpo, 0.0),
            Self::Kto => (Method::Kto, 0.0),
            Self::Truncate => (Method::Actionrl, 1.0),
            Self::Detach => (Method::ActionrlDetach, 1.0),
            Self::FirstToken => (Method::FirstToken, 1.0),
            Self::RandomPoint => (Method::RandomPoint, 1.0),
            Self::ThresholdOnly => (Method::ThresholdOnly, 1.0),
        };
        let label_smoothing = if self == Self::DpoSmoothed { SMOOTHING } else { 0.0 };
        let positive_penalty = if self == Self::Dpop { PENALTY } else { 0.0 };
        MethodConfig { method, lambda, label_smoothing, positive_penalty, ..shared }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_arms_are_the_same_and_nothing_but_the_method_differs() {
        let shared = MethodConfig { steps: 17, seed: 5, ..MethodConfig::default() };
        let configs: Vec<MethodConfig> = Arm::ALL.iter().map(|arm| arm.config(shared.clone())).collect();
        for (place, config) in configs.iter().enumerate() {
            assert!(!configs[..place].contains(config), "{}", Arm::ALL[place].name());
            let MethodConfig { method, lambda, label_smoothing, positive_penalty, .. } = shared.clone();
            assert_eq!(MethodConfig { method, lambda, label_smoothing, positive_penalty, ..config.clone() }, shared);
        }
        let methods: BTreeSet<&str> = configs.iter().map(|config| config.method.name()).collect();
        assert_eq!(methods.len(), Method::ALL.len());
        let names: BTreeSet<&str> = Arm::ALL.iter().map(|arm| arm.name()).collect();
        assert_eq!(names.len(), Arm::ALL.len());
    }
}
