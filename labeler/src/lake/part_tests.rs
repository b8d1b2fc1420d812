use events::{KeyId, OpportunityId, PairId, PersonPseudonym, SessionId, Sha256Digest, SuggestionId, TenantId};
use parquet::basic::{ConvertedType, Type as Physical};
use parquet::file::statistics::Statistics;
use proptest::prelude::*;

use super::*;

const LIMITS: RowGroupLimits = RowGroupLimits { pairs: 100, bytes: 1 << 20 };

fn id(number: u64) -> String {
    format!("{:032x}", u128::from(number) + 1)
}

/// A pair whose every column depends on `number`.
fn placed(number: u64, with_text: bool) -> PlacedPair {
    let opportunity_id: OpportunityId = id(number).parse().unwrap();
    let suggestion_id = (!number.is_multiple_of(3)).then(|| id(number + 1_000).parse::<SuggestionId>().unwrap());
    let tenant = TenantId::default();
    let reason = PairReason::ALL[usize::try_from(number).unwrap() % PairReason::ALL.len()];
    let action_index = i32::try_from(number % 5).unwrap() - 1;
    let pair_id = PairId::derive(&tenant, opportunity_id, suggestion_id, action_index, reason.as_str(), 1);
    let at = Timestamp::from_seconds(1_800_000_000 + i64::try_from(number * 37 % 5_000).unwrap());
    let share = f64::from(u32::try_from(number % 97).unwrap()) / 96.0;
    let pair = PreferencePair {
        pair_id,
        tenant,
        person: id(number % 7).parse::<PersonPseudonym>().unwrap(),
        session_id: id(number % 11).parse::<SessionId>().unwrap(),
        opportunity_id,
        suggestion_id,
        action_index,
        reason,
        label_policy_version: i32::try_from(number % 2).unwrap() + 1,
        weight: share,
        divergence: number
            .is_multiple_of(2)
            .then(|| DivergencePoint { action_index: 0, byte: u32::try_from(number).unwrap() }),
        audience: "everyone".parse().unwrap(),
        repository: format!("kövi-{}", number % 13),
        language: "rust".to_owned(),
        model: "edit".parse().unwrap(),
        model_version: ModelVersion(i64::try_from(number % 4).unwrap()),
        probabilities: Probabilities {
            arm_probability: share,
            p_show: 1.0 - share,
            log_p_text: -share,
            gate_score: share / 2.0,
            threshold: 0.5,
            explored: number.is_multiple_of(10),
        },
        altered: number.is_multiple_of(6),
        off_policy: number.is_multiple_of(5),
        opened_at: at,
        labeled_at: at,
        last_signal_at: at,
        event_id: PreferencePair::event_id_of(pair_id),
        content_digest: Sha256Digest::of(&number.to_be_bytes()),
        sealed: with_text.then(|| Sealed {
            key_id: id(number % 7).parse::<KeyId>().unwrap(),
            ciphertext: Sha256Digest::of(&number.to_le_bytes()).as_bytes().repeat(8),
        }),
    };
    (PairPlace { partition: u32::try_from(number % 3).unwrap(), position: format!("{number:020}") }, pair)
}

fn part_of(pairs: &[PlacedPair], limits: RowGroupLimits) -> Bytes {
    let group = PartGroup::of(&pairs[0].1);
    let metadata = PartMetadata::of("preference.pairs.v1", Some(group), 2, pairs).unwrap();
    write_part(&metadata, pairs, limits).unwrap()
}

fn sorted(mut pairs: Vec<PlacedPair>) -> Vec<PlacedPair> {
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    pairs
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        numbers in prop::collection::btree_map(0..100_000_u64, any::<bool>(), 1..80),
        pairs in 0..30_usize,
        bytes in 0..20_000_usize,
    ) {
        let limits = RowGroupLimits { pairs, bytes };
        let written: Vec<PlacedPair> =
            numbers.into_iter().map(|(number, with_text)| placed(number, with_text)).collect();
        let part = part_of(&written, limits);
        let mut reversed = written.clone();
        reversed.reverse();
        prop_assert_eq!(&part_of(&reversed, limits), &part, "the same pairs are the same bytes");
        let facts = decode_part(part.clone(), SealedText::LeftOut).unwrap().pairs;
        let emptied = |(place, pair): PlacedPair| {
            let sealed = pair.sealed.map(|sealed| Sealed { ciphertext: Vec::new(), ..sealed });
            (place, PreferencePair { sealed, ..pair })
        };
        let expected: Vec<PlacedPair> = written.iter().cloned().map(emptied).collect();
        prop_assert_eq!(sorted(facts), sorted(expected));
        let read = decode_part(part, SealedText::Taken).unwrap();
        prop_assert!(!read.is_of_newer_release);
        let written = sorted(written);
        prop_assert_eq!(&read.metadata.first_position, &written[0].0.position);
        prop_assert_eq!(read.metadata.pairs, written.len() as u64);
        prop_assert_eq!(sorted(read.pairs), written);
    }

    #[test]
    fn what_was_cut_off_is_refused(at in 0.0..1.0_f64) {
        let whole = part_of(&(0..50).map(|number| placed(number, true)).collect::<Vec<_>>(), LIMITS);
        let rest = whole.slice(..(whole.len() as f64 * at) as usize);
        prop_assert!(read_part(rest).is_err());
    }
}

#[test]
fn names_that_many_rows_have_lie_in_memory_once() {
    let pairs: Vec<PlacedPair> = (0..300).map(|number| placed(number, false)).collect();
    let (_, read) = read_part(part_of(&pairs, LIMITS)).unwrap();
    let of_person = |pair: &PlacedPair| (pair.1.person.to_string(), pair.1.person.as_str().as_ptr());
    assert_eq!(read.iter().map(of_person).collect::<std::collections::BTreeSet<_>>().len(), 7);
}

#[test]
fn readers_can_leave_out_what_they_do_not_want() {
    let pairs: Vec<PlacedPair> = (0..950).map(|number| placed(number, true)).collect();
    let reader = SerializedFileReader::new(part_of(&pairs, LIMITS)).unwrap();
    let groups = reader.metadata().row_groups();
    assert_eq!(groups.len(), 10);
    assert!(groups.iter().all(|group| group.num_rows() <= 100));
    let column = |name: &str| {
        let descriptor = reader.metadata().file_metadata().schema_descr();
        descriptor.columns().iter().position(|column| column.name() == name).unwrap()
    };
    let bounds = |group: usize, name: &str| match groups[group].column(column(name)).statistics().unwrap() {
        Statistics::ByteArray(of) => {
            let text = |value: Option<&ByteArray>| value.unwrap().as_utf8().unwrap().to_owned();
            (text(of.min_opt()), text(of.max_opt()))
        }
        of => panic!("{of:?}"),
    };
    // Sorted by repository: each one lies in few row groups, and the bounds of groups hardly overlap.
    for group in 1..groups.len() {
        assert!(bounds(group - 1, "repository").1 <= bounds(group, "repository").0);
    }
    let holding = (0..groups.len()).filter(|group| {
        let (least, greatest) = bounds(*group, "repository");
        (least..=greatest).contains(&"kövi-3".to_owned())
    });
    assert!(holding.count() <= 3);
    for group in groups {
        let sorted_by: Vec<usize> =
            group.sorting_columns().unwrap().iter().map(|column| usize::try_from(column.column_idx).unwrap()).collect();
        assert_eq!(sorted_by, SORTED_BY.map(column));
        for name in LOOKED_UP {
            let filter = group.column(column(name)).bloom_filter_length().unwrap();
            assert!(filter < 1_024, "a filter of {filter} bytes for 100 rows");
        }
        for chunk in group.columns().iter().filter(|chunk| chunk.column_descr().name() != "ciphertext") {
            let name = chunk.column_descr().name();
            assert!(chunk.statistics().is_some() && chunk.column_index_offset().is_some(), "{name}");
        }
        let sealed = group.column(column("ciphertext"));
        assert!(sealed.statistics().is_none_or(|of| of.min_bytes_opt().is_none()));
        assert_eq!(sealed.compression(), Compression::UNCOMPRESSED);
        assert!(matches!(group.column(column("repository")).compression(), Compression::ZSTD(_)));
    }
}

/// Values in each data page of a column of a row group.
fn pages(reader: &SerializedFileReader<Bytes>, group: usize, column: &str) -> Vec<u32> {
    let descriptor = reader.metadata().file_metadata().schema_descr();
    let index = descriptor.columns().iter().position(|one| one.name() == column).unwrap();
    let pages = reader.get_row_group(group).unwrap().get_column_page_reader(index).unwrap();
    pages.map(Result::unwrap).filter(|page| page.is_data_page()).map(|page| page.num_values()).collect()
}

#[test]
fn row_groups_and_pages_are_as_small_as_they_are_promised_to_be() {
    let pairs: Vec<PlacedPair> = (0..2_500).map(|number| placed(number, true)).collect();
    let rows_of = |limits: RowGroupLimits| {
        let reader = SerializedFileReader::new(part_of(&pairs, limits)).unwrap();
        reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect::<Vec<_>>()
    };
    assert_eq!(rows_of(RowGroupLimits { pairs: 1_000, bytes: 1 << 30 }), [1_000, 1_000, 500]);
    // By bytes: a row counts with 512 and its 256 of text. One that is larger than the limit is a group of its own.
    let by_bytes = rows_of(RowGroupLimits { pairs: 10_000, bytes: 1_000 * 768 });
    assert_eq!(by_bytes, [1_000, 1_000, 500]);
    let two = part_of(&pairs[..2], RowGroupLimits { pairs: 10_000, bytes: 1 });
    assert_eq!(SerializedFileReader::new(two).unwrap().metadata().row_groups().len(), 2);

    let reader = SerializedFileReader::new(part_of(&pairs, RowGroupLimits { pairs: 10_000, bytes: 1 << 30 })).unwrap();
    for column in ["labeled_at", "repository", "pair_id", "ciphertext"] {
        let pages = pages(&reader, 0, column);
        assert!(pages.iter().all(|rows| *rows as usize <= PAGE_ROWS), "{column}: {pages:?}");
        assert_eq!(pages.iter().sum::<u32>(), 2_500, "{column}");
    }
}

#[test]
fn half_of_what_belongs_together_is_a_fault_and_nothing_that_is_passed_over() {
    assert_eq!(divergence_of(Some(1), Some(2)).unwrap(), Some(DivergencePoint { action_index: 1, byte: 2 }));
    assert_eq!(divergence_of(None, None).unwrap(), None);
    for (action_index, byte, wrong) in [
        (Some(1), None, "divergence_byte"),
        (None, Some(1), "divergence_byte"),
        (Some(-1), Some(1), "divergence_action_index"),
        (Some(1), Some(i64::MAX), "divergence_byte"),
    ] {
        let refused = divergence_of(action_index, byte).unwrap_err();
        assert!(matches!(refused, PartError::Column { column } if column == wrong), "{refused}");
    }
    let without_its_text: Option<Vec<u8>> = None;
    assert!(matches!(
        together(Some(1), without_its_text, "ciphertext"),
        Err(PartError::Column { column: "ciphertext" })
    ));
}

#[test]
fn another_format_and_a_part_without_a_description_are_named() {
    let pairs = [placed(1, true)];
    let metadata = PartMetadata::of("preference.pairs.v1", None, 0, &pairs).unwrap();
    let other = PartMetadata { format: FORMAT + 1, ..metadata };
    let read = read_part(write_part(&other, &pairs, LIMITS).unwrap()).unwrap_err();
    assert!(matches!(read, PartError::Format { found } if found == FORMAT + 1), "{read}");
    let read = read_part(Bytes::from_static(b"PAR1 and nothing else PAR1")).unwrap_err();
    assert!(matches!(read, PartError::Parquet(_)), "{read}");
}

#[test]
fn a_reason_of_a_newer_release_marks_a_part_as_its_own() {
    let mut pairs = [placed(1, true), placed(2, true)];
    pairs[1].1.reason = PairReason::Unknown;
    assert!(decode_part(part_of(&pairs, LIMITS), SealedText::Taken).unwrap().is_of_newer_release);
}

#[test]
fn descriptions_of_older_releases_are_read() {
    let older = r#"{"format":1,"tenant":"default","topic":"t","partition":2,"first_position":"1","last_position":"2",
        "pairs":2}"#;
    let read: PartMetadata = serde_json::from_str(older).unwrap();
    assert_eq!((read.group, read.generation, read.partition), (None, 0, 2));
}

#[test]
fn every_column_is_explained_to_whoever_reads_a_part_with_something_else() {
    let page = include_str!("../../../docs/lake.md");
    let explained: Vec<(&str, &str, &str)> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, nulls, _unit, meaning] = cells[..] else { return None };
            (meaning.len() > 10).then_some((name.trim_matches('`'), kind, nulls))
        })
        .collect();
    let schema = parse_message_type(SCHEMA).unwrap();
    let columns: Vec<(&str, &str, &str)> = schema
        .get_fields()
        .iter()
        .map(|field| {
            let is_annotated = field.get_basic_info().converted_type() != ConvertedType::NONE;
            let kind = match (field.get_physical_type(), is_annotated) {
                (Physical::BYTE_ARRAY, true) => "text",
                (Physical::BYTE_ARRAY, false) => "bytes",
                (Physical::INT64, true) => "timestamp",
                (Physical::INT64, false) => "integer",
                (Physical::DOUBLE, _) => "number",
                (Physical::BOOLEAN, _) => "boolean",
                other => panic!("{other:?}"),
            };
            (field.name(), kind, if field.is_optional() { "may be null" } else { "never null" })
        })
        .collect();
    // One by one, and none that is not there.
    assert_eq!(explained, columns);
}
