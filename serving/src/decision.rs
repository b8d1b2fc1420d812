//! To show or to stay silent: the gate, and exploration that turns a known share of decisions round.
//!
//! One number in [0, 1) is drawn by hash of the opportunity. Where it lies below the exploration rate e, the gate's
//! decision is turned round: what the gate would keep silent is shown (the model is made to edit), what it would show
//! is withheld. Repeating a request therefore never changes its draw, and
//!
//! `p_show` = probability over that draw, given context, version and decoding, that the suggestion is flushed:
//! 1 - e where the gate is open, e where it is closed, and 0 where the model found nothing to say that could be shown. An
//! engine that has no gate counts as one whose gate is open.

use events::{OpportunityId, Sha256Digest};

/// When a suggestion is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecisionPolicy {
    threshold: f32,
    exploration: f64,
}

impl DecisionPolicy {
    /// Shows from `threshold` on and turns the share `exploration` of decisions round.
    #[must_use]
    pub fn new(threshold: f64, exploration: f64) -> Self {
        // Models give scores in single precision; comparing in the same one keeps the record exact.
        Self { threshold: threshold as f32, exploration }
    }

    /// The score from which on a suggestion is shown.
    #[must_use]
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Whether the draw of this opportunity turns its decision round.
    #[must_use]
    pub fn explores(&self, opportunity: OpportunityId) -> bool {
        draw(opportunity) < self.exploration
    }

    /// Whether the gate is open.
    #[must_use]
    pub fn opens(&self, gate_score: f32) -> bool {
        gate_score >= self.threshold
    }

    /// `p_show` of an opportunity whose gate gave `gate_score`; `showable` says whether the model had something to say.
    #[must_use]
    pub fn p_show(&self, gate_score: f32, showable: bool) -> f64 {
        match (showable, self.opens(gate_score)) {
            (false, _) => 0.0,
            (true, true) => 1.0 - self.exploration,
            (true, false) => self.exploration,
        }
    }
}

/// A number in [0, 1) that depends on the opportunity alone.
fn draw(opportunity: OpportunityId) -> f64 {
    let digest = Sha256Digest::of_parts("flywheel exploration", &[opportunity.as_bytes()]);
    let mut bytes = [0_u8; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    // 53 bits fill the mantissa exactly.
    (u64::from_be_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use service::ids::SeededIds;

    use super::*;

    #[test]
    fn the_share_of_explored_opportunities_is_the_rate() {
        let ids = SeededIds::new(1, events::Timestamp::from_seconds(1_700_000_000));
        let policy = DecisionPolicy::new(0.5, 0.02);
        let explored = (0..50_000).filter(|_| policy.explores(OpportunityId::new(&ids))).count();
        // 1000 expected, standard deviation 31.
        assert!((850..1150).contains(&explored), "{explored}");
        let never = DecisionPolicy::new(0.5, 0.0);
        assert!((0..1000).all(|_| !never.explores(OpportunityId::new(&ids))));
    }

    #[test]
    fn p_show_says_what_the_draw_does() {
        let policy = DecisionPolicy::new(0.5, 0.02);
        assert!((policy.p_show(0.5, true) - 0.98).abs() < 1e-12);
        assert!((policy.p_show(0.49, true) - 0.02).abs() < 1e-12);
        assert!(policy.p_show(0.9, false).abs() < 1e-12);
        assert!(!policy.opens(f32::NAN));
    }
}
