//! Size and power of the evidence, measured on simulated persons with fixed seeds.
//!
//! Persons: 60, of whom 12 are held back; the rest is split 40 : 40 by the real hashes of `routing`, redrawn for each
//! block. Six opportunities a person and block, two of each kind: one follows a convention (accepted with the version's
//! own probability), one does not (accepted with probability 0.55), one wants no edit (silent with probability 0.75).
//! Persons differ by up to 0.2 in how readily they accept, for ever: the same persons' effects in every block.
//!
//! Measured with 2000 runs a row (`measure` below, which is ignored by default), margin 0.10, alpha 0.05, 4 blocks;
//! effects are utility per opportunity, candidate less current:
//!
//! | candidate | promoted | after block 1, 2, 3, 4 | rolled back | no-harm e-process | reference |
//! |---|---|---|---|---|---|
//! | harm at the margin (-0.10) | 0.0% | 0%, 0%, 0%, 0% | 0.2% | 0.4% | 1.5% |
//! | the same, reference is current | 0.4% | 0%, 0%, 0%, 0% | 0.2% | 0.4% | 1.5% |
//! | the same, uneven between persons | 0.8% | 0%, 0%, 0%, 0% | 0.1% | 0.8% | 1.4% |
//! | A/A (0) | 45.6% | 2%, 17%, 17%, 10% | 0.0% | 87.3% | 49.5% |
//! | A/A, reference is current | 87.2% | 2%, 33%, 33%, 19% | 0.0% | 87.3% | 43.9% |
//! | +0.10 | 99.3% | 39%, 55%, 4%, 1% | 0.0% | 100.0% | 99.3% |
//! | +0.15 | 100.0% | 76%, 24%, 0%, 0% | 0.0% | 100.0% | 100.0% |
//! | +0.20 | 100.0% | 94%, 6%, 0%, 0% | 0.0% | 100.0% | 100.0% |
//! | +0.20, reference is current | 100.0% | 94%, 6%, 0%, 0% | 0.0% | 100.0% | 99.5% |
//! | -0.20 | 0.0% | 0%, 0%, 0%, 0% | 79.0% | 0.0% | 0.1% |
//!
//! (No-harm e-process and reference: how often that part alone was satisfied by the end. With 12 persons held back the
//! reference is what costs power when nothing changed.)

use events::{Arm, ModelVersion, PersonPseudonym, RolloutId, Sha256Digest, TenantId, Timestamp};

use super::*;
use crate::routing::{ActiveRollout, RoutingTable, ServedVersion, assign};

struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

/// How a version does: acceptance where a convention applies and where none does, silence where no edit is wanted.
#[derive(Clone, Copy)]
struct Skill {
    convention: f64,
    plain: f64,
    silence: f64,
}

const BASE: Skill = Skill { convention: 0.35, plain: 0.55, silence: 0.75 };

impl Skill {
    /// Utility raised (or lowered) by `effect` per opportunity for everybody, through both kinds of tasks with an edit.
    fn with_effect(self, effect: f64) -> Self {
        Self { convention: self.convention + 1.5 * effect, plain: self.plain + 1.5 * effect, ..self }
    }
}

#[derive(Clone, Copy)]
struct World {
    seed: u64,
    candidate: Skill,
    current: Skill,
    reference: Skill,
    /// Half-width of the persons' own levels.
    person_effect: f64,
    /// Half of the persons feel twice the candidate's effect, the others none.
    uneven: bool,
    /// The reference is another version than the current one.
    pinned: bool,
    /// One coin toss a person and block instead of six opportunities: values 0 and 1 only, the largest variance.
    coarse: bool,
}

/// The demo's.
fn policy() -> RolloutPolicy {
    RolloutPolicy { canary_share: 0.4, holdback_share: 0.2, margin: 0.1, max_blocks: 4, ..RolloutPolicy::default() }
}

fn served(version: i64) -> ServedVersion {
    ServedVersion { version: ModelVersion(version), artifact_digest: Sha256Digest::of(b""), audience: None }
}

fn opportunities(random: &mut Random, skill: Skill, level: f64, tally: &mut PersonBlock) {
    for task in 0..6 {
        tally.opportunities += 1;
        let accepted = match task % 3 {
            0 => random.below(skill.convention + level),
            1 => random.below(skill.plain + level),
            _ => {
                if random.below(skill.silence) {
                    continue;
                }
                false
            }
        };
        tally.shown += 1;
        tally.accepted += i64::from(accepted);
        tally.utility += if accepted { 0.75 } else { -0.25 };
    }
}

/// Runs a rollout block by block, as the reconciler does; the evidence of the block that decided.
fn run(world: World, policy: &RolloutPolicy) -> RolloutEvidence {
    let mut random = Random(world.seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let rollout_id: RolloutId = format!("{:032x}", u128::from(world.seed) + 1).parse().unwrap();
    let table = RoutingTable {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        revision: 1,
        current: served(2),
        reference: Some(served(1)),
        holdback_share: policy.holdback_share,
        promoted: vec![],
        rollout: Some(ActiveRollout {
            rollout_id,
            candidate: served(3),
            canary_share: policy.canary_share,
            started_at: Timestamp::EPOCH,
            block_seconds: 1,
        }),
    };
    // Balanced as in the demo, through the choice of person ids: 12 held back, 48 not.
    let mut persons: Vec<PersonPseudonym> = Vec::new();
    let (mut held, mut free) = (0, 0);
    for number in 0.. {
        let person: PersonPseudonym = format!("{:016x}{number:016x}", world.seed).parse().unwrap();
        let side = if table.is_held_back(&person) { &mut held } else { &mut free };
        let wanted = if table.is_held_back(&person) { 12 } else { 48 };
        if *side < wanted {
            *side += 1;
            persons.push(person);
        }
        if held + free == 60 {
            break;
        }
    }
    let levels: Vec<f64> = persons.iter().map(|_| (random.unit() * 2.0 - 1.0) * world.person_effect).collect();
    let mut tallies = Vec::new();
    let mut evidence = None;
    for block in 0..policy.max_blocks {
        for (index, (person, level)) in persons.iter().zip(&levels).enumerate() {
            let arm = assign(&table, person, None, Timestamp::from_seconds(block)).unwrap().arm;
            let skill = match arm {
                Arm::Canary if world.uneven => {
                    let share = if index % 2 == 0 { 2.0 } else { 0.0 };
                    let mix = |now: f64, then: f64| now + share * (then - now);
                    Skill {
                        convention: mix(world.current.convention, world.candidate.convention),
                        plain: mix(world.current.plain, world.candidate.plain),
                        silence: world.current.silence,
                    }
                }
                Arm::Canary => world.candidate,
                Arm::Holdback => world.reference,
                _ => world.current,
            };
            let mut tally = PersonBlock {
                block,
                arm,
                person: person.clone(),
                opportunities: 0,
                utility: 0.0,
                shown: 0,
                accepted: 0,
                kept_characters: 0,
            };
            if world.coarse {
                let accepted = random.below(skill.plain + level);
                tally.opportunities = 1;
                tally.shown = 1;
                tally.accepted = i64::from(accepted);
                tally.utility = if accepted { 0.75 } else { -0.25 };
            } else {
                opportunities(&mut random, skill, *level, &mut tally);
            }
            tallies.push(tally);
        }
        // Twenty blocks twenty times over would take long, and the largest value so far is in the last evidence too.
        if world.coarse && block + 1 < policy.max_blocks {
            continue;
        }
        let trial = Trial {
            rollout_id,
            candidate: ModelVersion(3),
            baseline: ModelVersion(2),
            reference: Some(ModelVersion(if world.pinned { 1 } else { 2 })),
            blocks_complete: block + 1,
            at: Timestamp::from_seconds(block + 1),
        };
        let now = evaluate(&trial, policy, &tallies);
        let decided = now.verdict != Verdict::Continue;
        evidence = Some(now);
        if decided {
            break;
        }
    }
    evidence.unwrap()
}

#[derive(Debug, Default)]
struct Rates {
    promoted: f64,
    by_block: [f64; 4],
    rolled_back: f64,
    no_harm: f64,
    reference: f64,
}

fn measure_world(runs: u64, policy: &RolloutPolicy, world: impl Fn(u64) -> World) -> Rates {
    let mut rates = Rates::default();
    for seed in 0..runs {
        let evidence = run(world(seed), policy);
        match evidence.verdict {
            Verdict::Promote => {
                rates.promoted += 1.0;
                rates.by_block[usize::try_from(evidence.blocks_complete - 1).unwrap().min(3)] += 1.0;
            }
            Verdict::Rollback => rates.rolled_back += 1.0,
            _ => {}
        }
        rates.no_harm += f64::from(u8::from(evidence.no_harm.reached));
        rates.reference += f64::from(u8::from(evidence.reference_comparison.satisfied));
    }
    for rate in [&mut rates.promoted, &mut rates.rolled_back, &mut rates.no_harm, &mut rates.reference] {
        *rate /= runs as f64;
    }
    for rate in &mut rates.by_block {
        *rate /= runs as f64;
    }
    rates
}

fn world(seed: u64, effect: f64) -> World {
    let candidate = BASE.with_effect(effect);
    World {
        seed,
        candidate,
        current: BASE,
        reference: BASE,
        person_effect: 0.2,
        uneven: false,
        pinned: true,
        coarse: false,
    }
}

/// Production's margin, many blocks, the largest variance there can be.
fn coarse(seed: u64, effect: f64) -> World {
    let plain = |plain| Skill { plain, ..BASE };
    World {
        candidate: plain(0.5 + effect),
        current: plain(0.5),
        reference: plain(0.5),
        coarse: true,
        pinned: false,
        ..world(seed, 0.0)
    }
}

#[test]
fn harm_at_the_margin_is_rarely_promoted() {
    for (pinned, uneven) in [(true, false), (false, false), (false, true)] {
        let rates = measure_world(250, &policy(), |seed| World { pinned, uneven, ..world(seed, -0.1) });
        assert!(rates.promoted <= 0.04, "{rates:?}");
    }
    let long = RolloutPolicy { margin: 0.05, max_blocks: 20, ..policy() };
    let rates = measure_world(150, &long, |seed| coarse(seed, -0.05));
    assert!(rates.no_harm <= 0.06, "{rates:?}");
}

#[test]
fn a_model_as_good_as_the_current_one_is_rarely_rolled_back_and_often_promoted() {
    let rates = measure_world(250, &policy(), |seed| World { pinned: false, ..world(seed, 0.0) });
    assert!(rates.rolled_back <= 0.05 && rates.promoted >= 0.75, "{rates:?}");
    let long = RolloutPolicy { margin: 0.05, max_blocks: 20, ..policy() };
    let rates = measure_world(150, &long, |seed| coarse(seed, 0.0));
    assert!(rates.rolled_back <= 0.05, "{rates:?}");
}

#[test]
fn a_clearly_better_model_is_promoted_within_the_demo_and_a_much_worse_one_rolled_back() {
    let rates = measure_world(120, &policy(), |seed| world(seed, 0.2));
    assert!(rates.promoted >= 0.98, "{rates:?}");
    let rates = measure_world(120, &policy(), |seed| world(seed, -0.25));
    assert!(rates.rolled_back >= 0.9 && rates.promoted == 0.0, "{rates:?}");
}

#[test]
fn losses_do_not_add_up_over_rollouts() {
    // An earlier rollout lost the margin unnoticed. The next candidate is as good as what serves now: against the
    // pinned reference it is not.
    let lossy = BASE.with_effect(-0.1);
    let drifted = |seed| World { candidate: lossy, current: lossy, ..world(seed, 0.0) };
    let rates = measure_world(250, &policy(), drifted);
    assert!(rates.no_harm >= 0.75 && rates.promoted <= 0.05, "{rates:?}");
    // Without the reference it would be promoted, again and again.
    let rates = measure_world(100, &policy(), |seed| World { pinned: false, ..drifted(seed) });
    assert!(rates.promoted >= 0.75, "{rates:?}");
}

#[test]
fn the_order_of_rows_and_later_blocks_change_nothing() {
    let trial = Trial {
        rollout_id: "3".repeat(32).parse().unwrap(),
        candidate: ModelVersion(3),
        baseline: ModelVersion(2),
        reference: None,
        blocks_complete: 2,
        at: Timestamp::EPOCH,
    };
    let mut random = Random(11);
    let mut tallies = Vec::new();
    for block in 0..3 {
        for number in 0..40 {
            let mut tally = PersonBlock {
                block,
                arm: if number % 2 == 0 { Arm::Canary } else { Arm::Current },
                person: format!("{number:032x}").parse().unwrap(),
                opportunities: 0,
                utility: 0.0,
                shown: 0,
                accepted: 0,
                kept_characters: 0,
            };
            opportunities(&mut random, BASE, 0.0, &mut tally);
            tallies.push(tally);
        }
    }
    let evidence = evaluate(&trial, &policy(), &tallies);
    tallies.reverse();
    tallies.retain(|tally| tally.block < 2);
    assert_eq!(evaluate(&trial, &policy(), &tallies), evidence);
    let text = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<RolloutEvidence>(&text).unwrap(), evidence);
}

#[test]
fn projections_follow_size_and_margin() {
    let demo = projected_blocks(&policy(), 60).unwrap();
    assert!((1..=4).contains(&demo), "{demo}");
    let production = RolloutPolicy::default();
    let few = projected_blocks(&production, 100).unwrap();
    let many = projected_blocks(&production, 2_000).unwrap();
    assert!(many < few, "{many} {few}");
    assert_eq!(projected_blocks(&production, 0), None);
    println!("demo {demo}, 100 persons {few}, 2000 persons {many}");
}

#[test]
#[ignore = "prints the table of the module's documentation; takes a minute"]
fn measure() {
    println!("| candidate | promoted | after block 1, 2, 3, 4 | rolled back | no-harm e-process | reference |");
    for (name, effect, uneven, pinned) in [
        ("harm at the margin (-0.10)", -0.1, false, true),
        ("the same, reference is current", -0.1, false, false),
        ("the same, uneven between persons", -0.1, true, false),
        ("A/A (0)", 0.0, false, true),
        ("A/A, reference is current", 0.0, false, false),
        ("+0.10", 0.1, false, true),
        ("+0.15", 0.15, false, true),
        ("+0.20", 0.2, false, true),
        ("+0.20, reference is current", 0.2, false, false),
        ("-0.20", -0.2, false, true),
    ] {
        let rates = measure_world(2000, &policy(), |seed| World { uneven, pinned, ..world(seed, effect) });
        println!(
            "| {name} | {:.1}% | {} | {:.1}% | {:.1}% | {:.1}% |",
            100.0 * rates.promoted,
            rates.by_block.map(|rate| format!("{:.0}%", 100.0 * rate)).join(", "),
            100.0 * rates.rolled_back,
            100.0 * rates.no_harm,
            100.0 * rates.reference,
        );
    }
}
