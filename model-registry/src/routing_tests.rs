use super::*;
use proptest::prelude::*;

fn person(number: u64) -> PersonPseudonym {
    format!("{number:032x}").parse().unwrap()
}

fn served(version: i64, audience: Option<&str>) -> ServedVersion {
    ServedVersion {
        version: ModelVersion(version),
        artifact_digest: Sha256Digest::of(&version.to_be_bytes()),
        audience: audience.map(|text| text.parse().unwrap()),
    }
}

fn rollout_id(number: u128) -> RolloutId {
    format!("{number:032x}").parse().unwrap()
}

fn table(canary_share: f64, holdback_share: f64, rollout: u128) -> RoutingTable {
    RoutingTable {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        revision: 1,
        current: served(2, None),
        reference: Some(served(1, None)),
        holdback_share,
        promoted: vec![served(2, None), served(1, None)],
        rollout: Some(ActiveRollout {
            rollout_id: rollout_id(rollout),
            candidate: served(3, None),
            canary_share,
            started_at: Timestamp::from_seconds(1_000),
            block_seconds: 100,
        }),
    }
}

fn arm_of(table: &RoutingTable, number: u64, seconds: i64) -> Arm {
    assign(table, &person(number), None, Timestamp::from_seconds(seconds)).unwrap().arm
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shares_converge(canary in 0.0..0.6_f64, holdback in 0.0..0.4_f64, rollout in any::<u128>()) {
        let table = table(canary, holdback, rollout);
        let count = 4000_u32;
        let mut counts = [0_u32; 3];
        for number in 0..u64::from(count) {
            let given = assign(&table, &person(number), None, Timestamp::from_seconds(1_050)).unwrap();
            let (index, share, version) = match given.arm {
                Arm::Canary => (0, canary, 3),
                Arm::Holdback => (1, holdback, 1),
                _ => (2, 1.0 - canary - holdback, 2),
            };
            counts[index] += 1;
            prop_assert_eq!(given.version, ModelVersion(version));
            prop_assert!((given.arm_probability - share).abs() < 1e-9);
            prop_assert_eq!(given.block, Some(0));
        }
        for (index, share) in [(0, canary), (1, holdback), (2, 1.0 - canary - holdback)] {
            // Five standard deviations of a binomial share.
            let allowed = 5.0 * (share * (1.0 - share) / f64::from(count)).sqrt() + 1e-9;
            prop_assert!((f64::from(counts[index]) / f64::from(count) - share).abs() < allowed);
        }
    }

    #[test]
    fn arms_hold_within_a_block(
        number in any::<u64>(),
        rollout in any::<u128>(),
        offset in 0_i64..100,
        block in 0_i64..50,
    ) {
        let table = table(0.4, 0.2, rollout);
        let start = 1_000 + block * 100;
        let given = assign(&table, &person(number), None, Timestamp::from_seconds(start + offset)).unwrap();
        prop_assert_eq!(given.block, Some(block));
        prop_assert_eq!(given.arm, arm_of(&table, number, start));
    }

    #[test]
    fn holdback_is_sticky_over_rollouts_and_promotions(
        number in any::<u64>(),
        first in any::<u128>(),
        second in any::<u128>(),
    ) {
        let before = table(0.4, 0.2, first);
        let mut after = table(0.1, 0.3, second);
        after.current = served(9, None);
        if arm_of(&before, number, 1_000) == Arm::Holdback {
            prop_assert_eq!(arm_of(&after, number, 2_000), Arm::Holdback);
            after.rollout = None;
            prop_assert_eq!(arm_of(&after, number, 2_000), Arm::Holdback);
        }
    }

    #[test]
    fn a_table_survives_the_disk(canary in 0.0..0.6_f64, holdback in 0.0..0.4_f64, rollout in any::<u128>()) {
        let table = table(canary, holdback, rollout);
        let text = serde_json::to_string(&table).unwrap();
        prop_assert_eq!(serde_json::from_str::<RoutingTable>(&text).unwrap(), table);
    }
}

#[test]
fn arms_are_redrawn_for_the_next_block() {
    let table = table(0.4, 0.2, 7);
    let free: Vec<u64> = (0..2_000).filter(|number| arm_of(&table, *number, 1_000) != Arm::Holdback).collect();
    let stayed =
        free.iter().filter(|number| arm_of(&table, **number, 1_000) == arm_of(&table, **number, 1_100)).count();
    // Independent draws at one half agree half of the time; 1600 persons, five standard deviations.
    let share = stayed as f64 / free.len() as f64;
    assert!((share - 0.5).abs() < 0.0625, "{share}");
}

#[test]
fn the_demo_shares_are_expressible() {
    let table = table(0.4, 0.2, 3);
    let probabilities: std::collections::BTreeSet<String> = (0..200)
        .map(|number| {
            let given = assign(&table, &person(number), None, Timestamp::from_seconds(1_000)).unwrap();
            format!("{} {:.3}", given.arm, given.arm_probability)
        })
        .collect();
    assert_eq!(probabilities.into_iter().collect::<Vec<_>>(), ["canary 0.400", "current 0.400", "holdback 0.200"]);
}

#[test]
fn a_version_is_served_inside_its_audience_only() {
    let payments: Audience = "payments".parse().unwrap();
    let search: Audience = "search".parse().unwrap();
    let mut table = table(1.0, 0.0, 5);
    table.reference = None;
    table.current = served(3, Some("payments"));
    table.promoted = vec![served(3, Some("payments")), served(2, Some("search")), served(1, None)];
    if let Some(rollout) = &mut table.rollout {
        rollout.candidate = served(4, Some("payments"));
    }
    let now = Timestamp::from_seconds(1_000);
    let version = |audience: Option<&Audience>| assign(&table, &person(1), audience, now).map(|given| given.version.0);
    assert_eq!(version(Some(&payments)), Some(4));
    assert_eq!(version(Some(&search)), Some(2));
    assert_eq!(version(None), Some(1));
    // Outside of the candidate's audience nothing counts for the rollout.
    assert_eq!(assign(&table, &person(1), Some(&search), now).unwrap().rollout_id, None);

    table.promoted = vec![served(3, Some("payments"))];
    assert_eq!(assign(&table, &person(1), None, now), None);
}

#[test]
fn a_late_clock_is_in_block_zero() {
    let table = table(0.5, 0.0, 5);
    let given = assign(&table, &person(1), None, Timestamp::from_seconds(1)).unwrap();
    assert_eq!(given.block, Some(0));
}

#[test]
fn the_draws_are_final() {
    // Stored in receipts and outcomes: a change of these values moves persons between arms in the middle of a rollout.
    let table = table(0.4, 0.2, 11);
    let arms: String = (0..24)
        .map(|number| match arm_of(&table, number, 1_250) {
            Arm::Canary => 'c',
            Arm::Holdback => 'h',
            _ => '-',
        })
        .collect();
    insta::assert_snapshot!(arms);
}
