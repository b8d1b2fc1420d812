//! What counts as harm, rule by rule, on persons who all behave alike.

use proptest::prelude::*;

use super::*;

fn policy() -> RolloutPolicy {
    RolloutPolicy { canary_share: 0.4, holdback_share: 0.2, margin: 0.1, max_blocks: 4, ..RolloutPolicy::default() }
}

/// What everybody in an arm does in a block of six opportunities. Kept ones are accepted ones that stand at close.
#[derive(Clone, Copy)]
struct Habit {
    shown: i64,
    accepted: i64,
    kept: i64,
}

const CURRENT: Habit = Habit { shown: 4, accepted: 2, kept: 2 };

fn tally(block: i64, number: u64, arm: Arm, habit: Habit) -> PersonBlock {
    PersonBlock {
        block,
        arm,
        person: format!("{number:032x}").parse().unwrap(),
        opportunities: 6,
        utility: summary::real(habit.kept) - 0.25 * summary::real(habit.shown),
        shown: habit.shown,
        accepted: habit.accepted,
        kept_characters: 10 * habit.kept,
    }
}

fn trial(blocks_complete: i64) -> Trial {
    Trial {
        rollout_id: "5".repeat(32).parse().unwrap(),
        candidate: ModelVersion(2),
        baseline: ModelVersion(1),
        reference: Some(ModelVersion(1)),
        blocks_complete,
        at: Timestamp::EPOCH,
    }
}

/// `persons` in two arms, swapped in every block.
fn judged(persons: u64, blocks: i64, candidate: Habit) -> RolloutEvidence {
    let mut tallies = Vec::new();
    for block in 0..blocks {
        for number in 0..persons {
            let is_canary = (number + u64::try_from(block).unwrap()).is_multiple_of(2);
            let (arm, habit) = if is_canary { (Arm::Canary, candidate) } else { (Arm::Current, CURRENT) };
            tallies.push(tally(block, number, arm, habit));
        }
    }
    evaluate(&trial(blocks), &policy(), &tallies)
}

fn verdict(evidence: &RolloutEvidence) -> (Verdict, &str) {
    (evidence.verdict, evidence.reason.as_str())
}

#[test]
fn a_model_that_falls_silent_is_no_winner() {
    // It shows a quarter of what it did, only what is surely accepted: acceptance up, utility and shown rate down.
    let evidence = judged(48, 4, Habit { shown: 1, accepted: 1, kept: 1 });
    assert!(evidence.no_harm.reached && evidence.canary.acceptance > evidence.current.acceptance);
    assert!(evidence.guardrails.shown_rate_low && evidence.guardrails.acceptance_up_with_lower_utility);
    assert_eq!(verdict(&evidence), (Verdict::Rollback, "guardrail_harm"));
}

#[test]
fn more_acceptance_with_less_utility_is_harm() {
    // Accepted more often, kept no more often, shown more often: within the margin, and still a loss.
    let evidence = judged(96, 4, Habit { shown: 5, accepted: 3, kept: 2 });
    assert!(evidence.no_harm.reached && !evidence.harm.reached && !evidence.guardrails.shown_rate_low);
    assert!(evidence.canary.acceptance > evidence.current.acceptance);
    assert_eq!(verdict(&evidence), (Verdict::Rollback, "guardrail_harm"));
    // The same loss without the rise of acceptance is what the margin allows.
    let evidence = judged(96, 4, Habit { shown: 5, accepted: 2, kept: 2 });
    assert_eq!(verdict(&evidence), (Verdict::Promote, "no_harm"));
}

#[test]
fn a_shown_rate_that_falls_by_more_than_a_tenth_is_harm_even_with_more_utility() {
    let evidence = judged(96, 4, Habit { shown: 3, accepted: 2, kept: 2 });
    assert!(evidence.canary.utility > evidence.current.utility);
    assert!((evidence.guardrails.shown_rate_change + 0.25).abs() < 1e-9);
    assert_eq!(verdict(&evidence), (Verdict::Rollback, "guardrail_harm"));
    // A rise is none.
    assert_eq!(verdict(&judged(96, 4, Habit { shown: 5, accepted: 4, kept: 4 })), (Verdict::Promote, "no_harm"));
}

#[test]
fn a_guardrail_that_is_off_without_evidence_only_delays() {
    // The first block's few persons: the shown rate looks low, nothing is proven.
    let evidence = judged(24, 1, Habit { shown: 3, accepted: 3, kept: 3 });
    assert!(evidence.guardrails.off() && !evidence.guardrails.harm());
    assert!(matches!(verdict(&evidence), (Verdict::Continue, _)));
}

#[test]
fn ten_persons_an_arm_are_the_least_for_any_verdict() {
    let awful = Habit { shown: 6, accepted: 0, kept: 0 };
    assert_eq!(verdict(&judged(18, 1, awful)), (Verdict::Continue, "too_few_persons"));
    assert_eq!(verdict(&judged(200, 1, awful)), (Verdict::Rollback, "harm"));
    let same = judged(200, 1, CURRENT);
    assert_eq!(verdict(&same), (Verdict::Promote, "no_harm"));
}

#[test]
fn silence_holds() {
    // Nobody is there; time passes.
    assert_eq!(verdict(&evaluate(&trial(3), &policy(), &[])), (Verdict::Continue, "too_few_persons"));
    assert_eq!(verdict(&evaluate(&trial(4), &policy(), &[])), (Verdict::Hold, "too_few_persons"));
    // Only the candidate was used: there is nothing to compare it with.
    let alone: Vec<_> = (0..200).map(|number| tally(0, number, Arm::Canary, CURRENT)).collect();
    assert_eq!(verdict(&evaluate(&trial(4), &policy(), &alone)), (Verdict::Hold, "too_few_persons"));
}

#[test]
fn each_person_counts_once_against_the_reference() {
    // Two persons in the hold-back with four blocks each are two persons, not eight.
    let mut tallies = Vec::new();
    for block in 0..4 {
        for number in 0..40 {
            tallies.push(tally(
                block,
                number,
                if (number + block as u64).is_multiple_of(2) { Arm::Canary } else { Arm::Current },
                CURRENT,
            ));
        }
        for number in 100..102 {
            tallies.push(tally(block, number, Arm::Holdback, CURRENT));
        }
    }
    let pinned = Trial { baseline: ModelVersion(7), ..trial(4) };
    let evidence = evaluate(&pinned, &policy(), &tallies);
    assert_eq!((evidence.reference_comparison.holdback_persons, evidence.reference_comparison.looks), (2, 0));
    assert_eq!(verdict(&evidence), (Verdict::Hold, "reference_not_compared_yet"));
    // With twelve of them there are four looks, and a candidate like the reference is not inferior.
    for block in 0..4 {
        tallies.extend((102..112).map(|number| tally(block, number, Arm::Holdback, CURRENT)));
    }
    let evidence = evaluate(&pinned, &policy(), &tallies);
    assert_eq!((evidence.reference_comparison.holdback_persons, evidence.reference_comparison.looks), (12, 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The argument of the module: a candidate that is not worse is rolled back for its utility no more often than
    /// alpha, because one process is above the other, whatever happened.
    #[test]
    fn harm_never_runs_ahead_of_not_worse_at_all(habits in prop::collection::vec((0..=6_i64, 0..=6_i64), 8..120)) {
        let tallies: Vec<_> = habits
            .iter()
            .zip(0..)
            .map(|((shown, kept), number)| {
                let kept = *kept.min(shown);
                let arm = if number % 2 == 0 { Arm::Canary } else { Arm::Current };
                tally((number / 20) as i64, number, arm, Habit { shown: *shown, accepted: kept, kept })
            })
            .collect();
        let evidence = evaluate(&trial(6), &policy(), &tallies);
        let lower = &evidence.guardrails.utility_lower_evidence;
        for (harm, lower) in evidence.harm.by_block.iter().zip(&lower.by_block) {
            prop_assert!(*harm <= lower * (1.0 + 1e-9), "{harm} {lower}");
        }
    }

    /// Promotion and harm contradict one another: never both.
    #[test]
    fn there_is_never_evidence_of_harm_and_of_no_harm(shown in 0..=6_i64, kept in 0..=6_i64, persons in 10..120_u64) {
        let kept = kept.min(shown);
        let evidence = judged(persons, 4, Habit { shown, accepted: kept, kept });
        prop_assert!(!(evidence.harm.reached && evidence.no_harm.reached));
    }
}
