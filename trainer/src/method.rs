//! The methods by name, and which tokens each compares. Formulas and sources are in `docs/methods.md`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::objective::Role;
use crate::prepared::Side;

/// How a version learns from pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Likelihood of the chosen side alone.
    Sft,
    /// The whole chosen answer against the whole rejected one (Rafailov et al. 2023).
    Dpo,
    /// The whole chosen answer against the rejected tokens that are not in it (Wu et al. 2025).
    TargetDpo,
    /// Each side by itself, wanted or not, measured from the policy's distance to the reference (Ethayarajh et al.
    /// 2024). The only one that learns from a rejection without a correction.
    Kto,
    /// The diverging action alone, from the first differing token to its end.
    Actionrl,
    /// The same; what follows counts in the margin and does not learn.
    ActionrlDetach,
    /// The first differing token alone.
    FirstToken,
    /// A placebo: as many tokens as the diverging action has from the first differing one on, from a random place on.
    RandomPoint,
    /// Whether to speak, and nothing else: the output embedding of `<no_edit>` alone learns.
    ThresholdOnly,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Sft,
        Self::Dpo,
        Self::TargetDpo,
        Self::Kto,
        Self::Actionrl,
        Self::ActionrlDetach,
        Self::FirstToken,
        Self::RandomPoint,
        Self::ThresholdOnly,
    ];

    /// Its name in settings, job files and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::TargetDpo => "target-dpo",
            Self::Kto => "kto",
            Self::Actionrl => "actionrl",
            Self::ActionrlDetach => "actionrl-detach",
            Self::FirstToken => "first-token",
            Self::RandomPoint => "random-point",
            Self::ThresholdOnly => "threshold-only",
        }
    }

    /// Whether it compares the two sides of a pair.
    #[must_use]
    pub fn compares(self) -> bool {
        !matches!(self, Self::Sft | Self::Kto | Self::ThresholdOnly)
    }

    /// Whether it measures from a reference.
    #[must_use]
    pub fn has_reference(self) -> bool {
        self.compares() || self == Self::Kto
    }

    /// Whether it learns from what was rejected without anything chosen.
    #[must_use]
    pub fn learns_from_rejections(self) -> bool {
        self == Self::Kto
    }

    /// The first answer token whose likelihood counts. Methods that know the divergence start there.
    pub(crate) fn likelihood_from(self, chosen: &Side) -> usize {
        match self {
            Self::Sft | Self::Dpo | Self::TargetDpo | Self::Kto | Self::ThresholdOnly => 0,
            Self::Actionrl | Self::ActionrlDetach | Self::FirstToken | Self::RandomPoint => chosen.common,
        }
    }

    /// How each answer token of both sides takes part. `point` in [0, 1) draws the placebo's place.
    pub(crate) fn roles(self, chosen: &Side, rejected: &Side, point: f64) -> (Vec<Role>, Vec<Role>) {
        let both = |role: &dyn Fn(&Side, usize) -> Role| {
            let of = |side: &Side| -> Vec<Role> { (0..side.answer).map(|place| role(side, place)).collect() };
            (of(chosen), of(rejected))
        };
        let compared_if = |is_compared: bool| if is_compared { Role::Compared } else { Role::Outside };
        match self {
            Self::Sft | Self::Kto | Self::ThresholdOnly => both(&|_, _| Role::Outside),
            Self::Dpo => both(&|_, _| Role::Compared),
            Self::TargetDpo => {
                let unmatched = unmatched(rejected.answer_tokens(), chosen.answer_tokens());
                (vec![Role::Compared; chosen.answer], unmatched.into_iter().map(compared_if).collect())
            }
            Self::Actionrl => both(&|side, place| compared_if(place >= side.common && place < side.action_end)),
            Self::ActionrlDetach => both(&|side, place| match place {
                place if place < side.common => Role::Outside,
                place if place < side.action_end => Role::Compared,
                _ => Role::Detached,
            }),
            Self::FirstToken => both(&|side, place| compared_if(place == side.common)),
            Self::RandomPoint => {
                let length = |side: &Side| side.action_end.saturating_sub(side.common);
                // What is compared must fit into both answers, or a side would compare less than its action has.
                let room = |side: &Side| side.answer.saturating_sub(length(side));
                let places = room(chosen).min(room(rejected)) + 1;
                let first = (point * places as f64) as usize;
                both(&|side, place| compared_if(place >= first && place < first + length(side)))
            }
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| format!("\"{text}\" is no method; choose one of {}", names()))
    }
}

/// A number in [0, 1) that depends on the seed and the pair's name alone, so that no order of pairs changes it.
pub(crate) fn point_of(seed: u64, pair_id: &str) -> f64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(pair_id.as_bytes()).finalize();
    let first = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
    // 53 bits are what a double holds exactly.
    (first >> 11) as f64 / (1_u64 << 53) as f64
}

/// For each of `tokens` whether it is outside a longest common subsequence with `other`: what a difference would show as
/// removed. Of several such subsequences the one that matches earliest.
fn unmatched(tokens: &[u32], other: &[u32]) -> Vec<bool> {
    // length[i][j] is that of the suffixes from i and j on.
    let width = other.len() + 1;
    let mut lengths = vec![0_u32; (tokens.len() + 1) * width];
    for i in (0..tokens.len()).rev() {
        for j in (0..other.len()).rev() {
            lengths[i * width + j] = if tokens[i] == other[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let mut outside = vec![true; tokens.len()];
    let (mut i, mut j) = (0, 0);
    while i < tokens.len() && j < other.len() {
        if tokens[i] == other[j] {
            outside[i] = false;
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] > lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    outside
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn methods_have_one_name_everywhere() {
        for method in Method::ALL {
            assert_eq!(method.name().parse::<Method>(), Ok(method));
            assert_eq!(serde_json::to_string(&method).unwrap(), format!("\"{}\"", method.name()));
        }
        assert!("magic".parse::<Method>().unwrap_err().starts_with("\"magic\" is no method; choose one of sft, dpo, "));
    }

    /// Prompt of two tokens; sides that differ from the third answer token on, in an action that ends before the last.
    fn sides() -> (Side, Side) {
        (Side::new(&[1, 2], &[3, 4, 5, 6, 7, 8], 2, 5), Side::new(&[1, 2], &[3, 4, 9, 7, 8], 2, 4))
    }

    fn letters(roles: &[Role]) -> String {
        let letter = |role: &Role| match role {
            Role::Outside => '.',
            Role::Detached => 'd',
            Role::Compared => 'c',
        };
        roles.iter().map(letter).collect()
    }

    #[test]
    fn every_method_compares_its_own_tokens() {
        let (chosen, rejected) = sides();
        let roles = |method: Method, point: f64| {
            let (chosen, rejected) = method.roles(&chosen, &rejected, point);
            format!("{} {}", letters(&chosen), letters(&rejected))
        };
        assert_eq!(roles(Method::Sft, 0.0), "...... .....");
        assert_eq!(roles(Method::Dpo, 0.0), "cccccc ccccc");
        assert_eq!(roles(Method::TargetDpo, 0.0), "cccccc ..c..");
        assert_eq!(roles(Method::Actionrl, 0.0), "..ccc. ..cc.");
        assert_eq!(roles(Method::ActionrlDetach, 0.0), "..cccd ..ccd");
        assert_eq!(roles(Method::FirstToken, 0.0), "..c... ..c..");
        assert_eq!(roles(Method::RandomPoint, 0.0), "ccc... cc...");
        // The last place from which both fit.
        assert_eq!(roles(Method::RandomPoint, 0.99), "...ccc ...cc");
    }

    #[test]
    fn the_placebo_is_drawn_by_name_and_seed() {
        let points: Vec<f64> = (0..400).map(|number| point_of(1, &format!("{number:04}"))).collect();
        assert!(points.iter().all(|point| (0.0..1.0).contains(point)));
        let mean = points.iter().sum::<f64>() / 400.0;
        assert!((mean - 0.5).abs() < 0.06, "{mean}");
        assert_eq!(point_of(1, "0000"), points[0]);
        assert_ne!(point_of(2, "0000"), points[0]);
    }

    /// The length of the longest common subsequence, by trying all.
    fn longest(left: &[u32], right: &[u32]) -> usize {
        (0..1_usize << left.len())
            .filter_map(|choice| {
                let chosen = (0..left.len()).filter(|place| (choice >> place) & 1 == 1);
                let mut rest = right.iter();
                let mut count = 0;
                for place in chosen {
                    rest.by_ref().find(|token| **token == left[place])?;
                    count += 1;
                }
                Some(count)
            })
            .max()
            .unwrap_or(0)
    }

    /// Answers of `common` tokens, an action of so many more and a tail of so many.
    fn answers(common: usize) -> impl Strategy<Value = Side> {
        (1_usize..9, 0_usize..9).prop_map(move |(action, tail)| {
            let answer: Vec<u32> = (0..(common + action + tail) as u32).collect();
            Side::new(&[1, 2], &answer, common, common + action)
        })
    }

    proptest! {
        #[test]
        fn the_placebo_compares_as_many_tokens_as_the_diverging_action_has(
            (chosen, rejected) in (0_usize..9).prop_flat_map(|common| (answers(common), answers(common))),
            point in 0.0_f64..1.0,
        ) {
            let (of_chosen, of_rejected) = Method::RandomPoint.roles(&chosen, &rejected, point);
            for (side, roles) in [(&chosen, &of_chosen), (&rejected, &of_rejected)] {
                let compared = roles.iter().filter(|role| **role == Role::Compared).count();
                prop_assert_eq!(compared, side.action_end - side.common);
            }
            let first = |roles: &[Role]| roles.iter().position(|role| *role == Role::Compared);
            prop_assert_eq!(first(&of_chosen), first(&of_rejected));
        }

        #[test]
        fn what_is_matched_is_a_longest_common_subsequence(
            left in prop::collection::vec(0_u32..4, 0..9), right in prop::collection::vec(0_u32..4, 0..9),
        ) {
            let outside = unmatched(&left, &right);
            let matched: Vec<u32> =
                left.iter().zip(&outside).filter(|(_, outside)| !**outside).map(|(token, _)| *token).collect();
            let mut rest = right.iter();
            prop_assert!(matched.iter().all(|token| rest.any(|other| other == token)));
            prop_assert_eq!(matched.len(), longest(&left, &right));
        }
    }
}
