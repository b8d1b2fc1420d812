//! Pairs that write a suggestion otherwise than it was generated.

use std::collections::BTreeMap;

use bytes::Bytes;
use events::avro::AvroRecord as _;
use events::topics::PREFERENCE_PAIRS;
use events::{Decision, EditAction, Origin, PreferencePair};
use labeler::LabelPolicy;
use labeler::lake::{PairPlace, PartMetadata, PlacedPair, RowGroupLimits, read_part, write_part};
use labeler::policy_record::VersionedPolicy;

use crate::kit::{Editor, World, label_with, telling};

/// A suggestion that was dismissed, and something else typed.
async fn corrected(world: &World, seed: u8, action: impl FnOnce(&Editor) -> EditAction) -> Editor {
    let mut editor = Editor::new(&world.person("someone").await, seed);
    let action = action(&editor);
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(1_000);
    editor.replace("get_name", 0, "load_name", Origin::Typed).looks(&served, opened);
    editor
}

#[tokio::test]
async fn what_was_generated_in_other_words_is_marked_where_every_release_reads_the_mark() {
    let world = World::new().await;
    let whole = corrected(&world, 70, |editor| editor.action("get_name", 0, "fetch_name")).await;
    let longer = corrected(&world, 71, |editor| editor.action("= get_name", 0, "= fetch_name")).await;
    for (editor, is_off_policy) in [(&whole, false), (&longer, true)] {
        for marks in [false, true] {
            let policy = VersionedPolicy::of(LabelPolicy::default(), marks);
            let (pairs, _) = label_with(&world, editor, policy).await;
            assert_eq!(pairs.len(), 1);
            assert_eq!(pairs[0].off_policy, is_off_policy && marks);
            assert_eq!(pairs[0].label_policy_version, labeler::LABEL_POLICY_VERSION);
        }
    }
}

#[tokio::test]
async fn a_release_before_reads_every_pair_that_is_not_marked_and_a_part_keeps_the_mark() {
    let world = World::new().await;
    let whole = corrected(&world, 72, |editor| editor.action("get_name", 0, "fetch_name")).await;
    let longer = corrected(&world, 73, |editor| editor.action("= get_name", 0, "= fetch_name")).await;
    let mut labeling = world.step_with(1, telling(LabelPolicy::default()));
    for event in whole.events.iter().chain(&longer.events) {
        labeling.publish(event, &world.secret);
    }
    labeling.finish().await;
    let values: Vec<Bytes> = labeling.step.emitted(PREFERENCE_PAIRS).into_iter().map(|record| record.value).collect();
    let pairs = labeling.pairs();
    assert_eq!((values.len(), pairs.len()), (2, 2));
    for (value, pair) in values.iter().zip(&pairs) {
        let schema = &PreferencePair::schemas()[usize::from(pair.off_policy)];
        assert_eq!(value[2..10], *schema.rabin_fingerprint());
    }
    assert_eq!(pairs.iter().filter(|pair| pair.off_policy).count(), 1);

    let placed: Vec<PlacedPair> = (0..)
        .zip(pairs)
        .map(|(partition, pair)| (PairPlace { partition, position: format!("{partition:020}") }, pair))
        .collect();
    let metadata = PartMetadata::of(PREFERENCE_PAIRS, None, 0, &placed).unwrap();
    let limits = RowGroupLimits { pairs: 10, bytes: 1 << 20 };
    let (_, read) = read_part(write_part(&metadata, &placed, limits).unwrap()).unwrap();
    let marks = |pairs: Vec<PlacedPair>| {
        pairs.into_iter().map(|(_, pair)| (pair.pair_id, pair.off_policy)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(marks(read), marks(placed));
}
