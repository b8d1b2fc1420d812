//! A Parquet part: the readable columns of its pairs, and their text as it was sealed.
//!
//! Written and read with Parquet's own column interface: the columns are few, and Arrow is a large dependency. Any
//! Parquet reader can open a part (`docs/lake.md` explains the columns); without the person's data key the text is noise.
//!
//! Rows are sorted by repository, reason and time, and row groups and pages are small: whoever asks for one repository
//! or one reason reads the few pages whose statistics admit it. Who looks for one pair, opportunity or person asks the
//! Bloom filters. Columns are only ever added: an older release reads what it knows by name.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use events::{
    Audience, DivergencePoint, ModelName, ModelVersion, PairReason, PersonPseudonym, PreferencePair, Probabilities,
    Sealed, TenantId, Timestamp,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, Type};
use serde::{Deserialize, Serialize};

use super::group::PartGroup;

/// Key under which a part carries [`PartMetadata`] as JSON.
pub const METADATA_KEY: &str = "flywheel.part";
/// Version of the columns.
pub const FORMAT: u32 = 1;

/// Columns of a part, in Parquet's own notation.
pub const SCHEMA: &str = "
message preference_pairs {
  required binary position (UTF8);
  required int64 partition;
  required binary pair_id (UTF8);
  required binary tenant (UTF8);
  required binary person (UTF8);
  required binary session_id (UTF8);
  required binary opportunity_id (UTF8);
  optional binary suggestion_id (UTF8);
  required int64 action_index;
  required binary reason (UTF8);
  required int64 label_policy_version;
  required double weight;
  optional int64 divergence_action_index;
  optional int64 divergence_byte;
  required binary audience (UTF8);
  required binary repository (UTF8);
  required binary language (UTF8);
  required binary model (UTF8);
  required int64 model_version;
  required double arm_probability;
  required double p_show;
  required double log_p_text;
  required double gate_score;
  required double threshold;
  required boolean explored;
  required boolean altered;
  required boolean off_policy;
  required int64 opened_at (TIMESTAMP(MICROS,true));
  required int64 labeled_at (TIMESTAMP(MICROS,true));
  required int64 last_signal_at (TIMESTAMP(MICROS,true));
  required binary event_id (UTF8);
  required binary content_digest (UTF8);
  optional binary key_id (UTF8);
  optional binary ciphertext;
}
";

/// By what the rows of a part are sorted.
const SORTED_BY: [&str; 3] = ["repository", "reason", "labeled_at"];
/// Columns that single rows are looked for by.
const LOOKED_UP: [&str; 3] = ["pair_id", "opportunity_id", "person"];
/// Columns whose values are all different: a dictionary of them is as long as they are.
const WITHOUT_DICTIONARY: [&str; 6] =
    ["position", "pair_id", "opportunity_id", "event_id", "content_digest", "ciphertext"];
/// Rows of a page: the unit that statistics leave out.
const PAGE_ROWS: usize = 1_024;
/// What a row takes beside its sealed text, about.
const ROW_BYTES: usize = 512;

/// What a part says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMetadata {
    /// Version of the columns.
    pub format: u32,
    /// Owner of the data.
    pub tenant: String,
    /// The topic that it was read from.
    pub topic: String,
    /// The partition of the first pair, in the order of partitions and positions.
    pub partition: u32,
    /// Position of the first pair in that order.
    pub first_position: String,
    /// Position of the last one, in its partition.
    pub last_position: String,
    /// Number of pairs.
    pub pairs: u64,
    /// What all pairs have in common; none: whatever was read together.
    #[serde(default)]
    pub group: Option<PartGroup>,
    /// How often what lies in it was written again. Grows with every rewriting, so that no two objects that ever named
    /// the same pairs are the same.
    #[serde(default)]
    pub generation: u32,
}

impl PartMetadata {
    /// Describes `pairs`, which are of one tenant; none without pairs.
    #[must_use]
    pub fn of(topic: &str, group: Option<PartGroup>, generation: u32, pairs: &[PlacedPair]) -> Option<Self> {
        let (first, pair) = pairs.iter().min_by(|(one, _), (other, _)| one.cmp(other))?;
        let (last, _) = pairs.iter().max_by(|(one, _), (other, _)| one.cmp(other))?;
        Some(Self {
            format: FORMAT,
            tenant: pair.tenant.to_string(),
            topic: topic.to_owned(),
            partition: first.partition,
            first_position: first.position.clone(),
            last_position: last.position.clone(),
            pairs: u64::try_from(pairs.len()).unwrap_or(u64::MAX),
            group,
            generation,
        })
    }
}

/// When a row group is closed, at whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroupLimits {
    /// Pairs.
    pub pairs: usize,
    /// Bytes before compression, about.
    pub bytes: usize,
}

/// A part that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// The Parquet library refused it.
    #[error("Parquet part: {0}")]
    Parquet(#[from] ParquetError),
    /// A column is not there, has another type, or holds something that it may not.
    #[error("Parquet part: column {column} cannot be read")]
    Column {
        /// Its name.
        column: &'static str,
    },
    /// It has columns of another version.
    #[error("Parquet part: format {found}, this release reads format {FORMAT}")]
    Format {
        /// What was found.
        found: u32,
    },
    /// It does not describe itself.
    #[error("Parquet part: no readable description under {METADATA_KEY}")]
    Metadata,
    /// The Parquet library gave up in the middle.
    #[error("Parquet part: it cannot be decoded or encoded")]
    GaveUp,
}

/// Where a pair stands in its topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairPlace {
    /// The partition.
    pub partition: u32,
    /// The position in it, in text form, which sorts as positions do.
    pub position: String,
}

/// A pair with its place.
pub type PlacedPair = (PairPlace, PreferencePair);

/// A part, decoded.
#[derive(Debug)]
pub(crate) struct DecodedPart {
    pub(crate) metadata: PartMetadata,
    pub(crate) pairs: Vec<PlacedPair>,
    /// A newer release has put something into it that this one does not know, and would lose by writing it again.
    pub(crate) is_of_newer_release: bool,
}

/// Whether a reading takes the sealed text along: most of a part is sealed text, and most readers open none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealedText {
    Taken,
    /// `ciphertext` is empty; whose key it is under is told.
    LeftOut,
}

/// Encodes a part.
///
/// # Errors
/// When the library fails.
pub fn write_part(metadata: &PartMetadata, pairs: &[PlacedPair], limits: RowGroupLimits) -> Result<Bytes, PartError> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut rows: Vec<&PlacedPair> = pairs.iter().collect();
    rows.sort_by(|(one_place, one), (other_place, other)| {
        let key = |pair: &PreferencePair| (pair.reason.as_str(), pair.labeled_at);
        one.repository
            .cmp(&other.repository)
            .then_with(|| key(one).cmp(&key(other)))
            .then_with(|| one_place.cmp(other_place))
    });
    let properties = properties(metadata, &schema, rows.len().min(limits.pairs.max(1)))?;
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let mut rest = &rows[..];
    while !rest.is_empty() {
        let (group, later) = rest.split_at(fitting(rest, limits));
        write_group(&mut writer, group)?;
        rest = later;
    }
    Ok(Bytes::from(writer.into_inner()?))
}

/// How many of the rows make one row group: at least one.
fn fitting(rows: &[&PlacedPair], limits: RowGroupLimits) -> usize {
    let mut bytes = 0;
    let fits = |row: &&&PlacedPair| {
        let has_room = bytes < limits.bytes;
        bytes += ROW_BYTES + row.1.sealed.as_ref().map_or(0, |sealed| sealed.ciphertext.len());
        has_room
    };
    rows.iter().take(limits.pairs).take_while(fits).count().max(1).min(rows.len())
}

fn properties(metadata: &PartMetadata, schema: &Type, group_rows: usize) -> Result<WriterProperties, PartError> {
    let description = serde_json::to_string(metadata).map_err(|_| PartError::Metadata)?;
    let index_of = |name: &str| schema.get_fields().iter().position(|field| field.name() == name);
    let sorting = SORTED_BY.into_iter().filter_map(|name| {
        let column_idx = i32::try_from(index_of(name)?).ok()?;
        Some(SortingColumn { column_idx, descending: false, nulls_first: false })
    });
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by("flywheel".to_owned())
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_sorting_columns(Some(sorting.collect()))
        .set_key_value_metadata(Some(vec![KeyValue::new(METADATA_KEY.to_owned(), description)]))
        // Sealed text does not become smaller, and there is nothing to be told of its order.
        .set_column_compression(ColumnPath::from("ciphertext"), Compression::UNCOMPRESSED)
        .set_column_statistics_enabled(ColumnPath::from("ciphertext"), EnabledStatistics::None);
    for name in WITHOUT_DICTIONARY {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    let distinct = u64::try_from(group_rows.max(1)).unwrap_or(u64::MAX);
    for name in LOOKED_UP {
        builder = builder
            .set_column_bloom_filter_fpp(ColumnPath::from(name), 0.01)
            .set_column_bloom_filter_max_ndv(ColumnPath::from(name), distinct);
    }
    Ok(builder.build())
}

fn write_group(writer: &mut SerializedFileWriter<Vec<u8>>, pairs: &[&PlacedPair]) -> Result<(), PartError> {
    let mut group = writer.next_row_group()?;
    let text = |value: String| ByteArray::from(value.into_bytes());
    macro_rules! texts {
        ($field:expr) => {
            write_column::<ByteArrayType>(&mut group, pairs.iter().map(|pair| Some(text($field(*pair)))).collect())?
        };
    }
    macro_rules! values {
        ($kind:ty, $field:expr) => {
            write_column::<$kind>(&mut group, pairs.iter().map(|(_, pair)| Some($field(pair))).collect())?
        };
    }
    macro_rules! options {
        ($kind:ty, $field:expr) => {
            write_column::<$kind>(&mut group, pairs.iter().map(|(_, pair)| $field(pair)).collect())?
        };
    }
    // In the order of SCHEMA.
    texts!(|(place, _): &PlacedPair| place.position.clone());
    write_column::<Int64Type>(&mut group, pairs.iter().map(|(place, _)| Some(i64::from(place.partition))).collect())?;
    texts!(|(_, pair): &PlacedPair| pair.pair_id.to_string());
    texts!(|(_, pair): &PlacedPair| pair.tenant.to_string());
    texts!(|(_, pair): &PlacedPair| pair.person.to_string());
    texts!(|(_, pair): &PlacedPair| pair.session_id.to_string());
    texts!(|(_, pair): &PlacedPair| pair.opportunity_id.to_string());
    options!(ByteArrayType, |pair: &PreferencePair| pair.suggestion_id.map(|id| text(id.to_string())));
    values!(Int64Type, |pair: &PreferencePair| i64::from(pair.action_index));
    texts!(|(_, pair): &PlacedPair| pair.reason.as_str().to_owned());
    values!(Int64Type, |pair: &PreferencePair| i64::from(pair.label_policy_version));
    values!(DoubleType, |pair: &PreferencePair| pair.weight);
    options!(Int64Type, |pair: &PreferencePair| pair.divergence.map(|point| i64::from(point.action_index)));
    options!(Int64Type, |pair: &PreferencePair| pair.divergence.map(|point| i64::from(point.byte)));
    texts!(|(_, pair): &PlacedPair| pair.audience.to_string());
    texts!(|(_, pair): &PlacedPair| pair.repository.clone());
    texts!(|(_, pair): &PlacedPair| pair.language.clone());
    texts!(|(_, pair): &PlacedPair| pair.model.to_string());
    values!(Int64Type, |pair: &PreferencePair| pair.model_version.0);
    values!(DoubleType, |pair: &PreferencePair| pair.probabilities.arm_probability);
    values!(DoubleType, |pair: &PreferencePair| pair.probabilities.p_show);
    values!(DoubleType, |pair: &PreferencePair| pair.probabilities.log_p_text);
    values!(DoubleType, |pair: &PreferencePair| pair.probabilities.gate_score);
    values!(DoubleType, |pair: &PreferencePair| pair.probabilities.threshold);
    values!(BoolType, |pair: &PreferencePair| pair.probabilities.explored);
    values!(BoolType, |pair: &PreferencePair| pair.altered);
    values!(BoolType, |pair: &PreferencePair| pair.off_policy);
    values!(Int64Type, |pair: &PreferencePair| pair.opened_at.as_micros());
    values!(Int64Type, |pair: &PreferencePair| pair.labeled_at.as_micros());
    values!(Int64Type, |pair: &PreferencePair| pair.last_signal_at.as_micros());
    texts!(|(_, pair): &PlacedPair| pair.event_id.to_string());
    texts!(|(_, pair): &PlacedPair| pair.content_digest.to_string());
    options!(ByteArrayType, |pair: &PreferencePair| pair.sealed.as_ref().map(|sealed| text(sealed.key_id.to_string())));
    options!(ByteArrayType, |pair: &PreferencePair| {
        pair.sealed.as_ref().map(|sealed| ByteArray::from(sealed.ciphertext.clone()))
    });
    group.close()?;
    Ok(())
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    cells: Vec<Option<T::T>>,
) -> Result<(), PartError> {
    let mut column = group.next_column()?.ok_or(PartError::Column { column: "one more" })?;
    let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    let values: Vec<T::T> = cells.into_iter().flatten().collect();
    let writer = T::get_column_writer_mut(column.untyped()).ok_or(PartError::Column { column: "of another type" })?;
    // Levels of a required column are left out by the library: its greatest level is 0.
    let optional = writer.get_descriptor().max_def_level() > 0;
    writer.write_batch(&values, optional.then_some(&levels[..]), None)?;
    column.close()?;
    Ok(())
}

/// Decodes a part. The order of its pairs is that of its rows.
///
/// # Errors
/// A part of another format, or one whose columns do not hold what they should.
pub fn read_part(bytes: Bytes) -> Result<(PartMetadata, Vec<PlacedPair>), PartError> {
    decode_part(bytes, SealedText::Taken).map(|part| (part.metadata, part.pairs))
}

/// [`read_part`], for whoever writes again what was read.
pub(crate) fn decode_part(bytes: Bytes, text: SealedText) -> Result<DecodedPart, PartError> {
    let reader = SerializedFileReader::new(bytes)?;
    let metadata = reader
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .and_then(|entries| entries.iter().find(|entry| entry.key == METADATA_KEY))
        .and_then(|entry| serde_json::from_str::<PartMetadata>(entry.value.as_deref()?).ok())
        .ok_or(PartError::Metadata)?;
    if metadata.format != FORMAT {
        return Err(PartError::Format { found: metadata.format });
    }
    let (mut pairs, mut names) = (Vec::new(), PartNames::new());
    for index in 0..reader.num_row_groups() {
        let group = reader.get_row_group(index)?;
        read_group(&*group, metadata.partition, text, &mut names, &mut pairs)?;
    }
    let known = parse_message_type(SCHEMA)?;
    let is_known = |name: &str| known.get_fields().iter().any(|field| field.name() == name);
    let columns = reader.metadata().file_metadata().schema_descr();
    let is_of_newer_release = columns.columns().iter().any(|column| !is_known(column.name()))
        || pairs.iter().any(|(_, pair)| pair.reason == PairReason::Unknown);
    Ok(DecodedPart { metadata, pairs, is_of_newer_release })
}

struct Columns<'a> {
    group: &'a dyn RowGroupReader,
    rows: usize,
}

impl Columns<'_> {
    fn has(&self, name: &str) -> bool {
        self.group.metadata().schema_descr().columns().iter().any(|column| column.name() == name)
    }

    fn cells<T: DataType>(&self, name: &'static str) -> Result<Cells<T::T>, PartError> {
        let wrong = || PartError::Column { column: name };
        let descriptor = self.group.metadata().schema_descr_ptr();
        let index = descriptor.columns().iter().position(|column| column.name() == name).ok_or_else(wrong)?;
        let mut reader = T::get_column_reader(self.group.get_column_reader(index)?).ok_or_else(wrong)?;
        let optional = descriptor.column(index).max_def_level() > 0;
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        while levels.len().max(if optional { 0 } else { values.len() }) < self.rows {
            let (records, _, _) = reader.read_records(self.rows, optional.then_some(&mut levels), None, &mut values)?;
            if records == 0 {
                return Err(wrong());
            }
        }
        Ok(Cells { levels: optional.then(|| levels.into_iter()), values: values.into_iter() })
    }

    fn texts(&self, name: &'static str) -> Result<Texts, PartError> {
        Ok(Texts { name, cells: self.cells::<ByteArrayType>(name)? })
    }

    fn numbers(&self, name: &'static str) -> Result<Values<i64>, PartError> {
        Ok(Values { name, cells: self.cells::<Int64Type>(name)? })
    }

    fn reals(&self, name: &'static str) -> Result<Values<f64>, PartError> {
        Ok(Values { name, cells: self.cells::<DoubleType>(name)? })
    }

    fn flags(&self, name: &'static str) -> Result<Values<bool>, PartError> {
        Ok(Values { name, cells: self.cells::<BoolType>(name)? })
    }
}

/// The cells of a column: its values, and of one that may be null whether each row has one.
struct Cells<V> {
    levels: Option<std::vec::IntoIter<i16>>,
    values: std::vec::IntoIter<V>,
}

impl<V> Cells<V> {
    fn next(&mut self) -> Option<V> {
        if let Some(levels) = &mut self.levels
            && levels.next()? == 0
        {
            return None;
        }
        self.values.next()
    }
}

struct Texts {
    name: &'static str,
    cells: Cells<ByteArray>,
}

impl Texts {
    fn wrong(&self) -> PartError {
        PartError::Column { column: self.name }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        self.cells.next().map(|cell| cell.data().to_vec())
    }

    fn parsed<V: FromStr>(&self, cell: &ByteArray) -> Result<V, PartError> {
        let text = std::str::from_utf8(cell.data()).map_err(|_| self.wrong())?;
        text.parse().map_err(|_| self.wrong())
    }

    fn optional<V: FromStr>(&mut self) -> Result<Option<V>, PartError> {
        let cell = self.cells.next();
        cell.map(|cell| self.parsed(&cell)).transpose()
    }

    fn next<V: FromStr>(&mut self) -> Result<V, PartError> {
        self.optional()?.ok_or_else(|| self.wrong())
    }

    fn reason(&mut self) -> Result<PairReason, PartError> {
        let cell = self.cells.next().ok_or_else(|| self.wrong())?;
        let text = std::str::from_utf8(cell.data()).map_err(|_| self.wrong())?;
        Ok(PairReason::from_symbol(text))
    }
}

/// Names that many rows of a part have: each is read once, and lies in memory once.
struct Names<V> {
    last: Option<(ByteArray, V)>,
    known: HashMap<Vec<u8>, V>,
}

impl<V: FromStr + Clone> Names<V> {
    fn new() -> Self {
        Self { last: None, known: HashMap::new() }
    }

    /// The name in the next cell of a column.
    fn next(&mut self, column: &mut Texts) -> Result<V, PartError> {
        let cell = column.cells.next().ok_or_else(|| column.wrong())?;
        if let Some((last, name)) = &self.last
            && last.data() == cell.data()
        {
            return Ok(name.clone());
        }
        let name = match self.known.get(cell.data()) {
            Some(name) => name.clone(),
            None => {
                let name: V = column.parsed(&cell)?;
                self.known.insert(cell.data().to_vec(), name.clone());
                name
            }
        };
        self.last = Some((cell, name.clone()));
        Ok(name)
    }
}

/// Names of a part, whatever row group they are in.
struct PartNames {
    tenants: Names<TenantId>,
    persons: Names<PersonPseudonym>,
    audiences: Names<Audience>,
    models: Names<ModelName>,
}

impl PartNames {
    fn new() -> Self {
        Self { tenants: Names::new(), persons: Names::new(), audiences: Names::new(), models: Names::new() }
    }
}

struct Values<V> {
    name: &'static str,
    cells: Cells<V>,
}

impl<V> Values<V> {
    fn next(&mut self) -> Result<V, PartError> {
        self.optional().ok_or(PartError::Column { column: self.name })
    }

    fn optional(&mut self) -> Option<V> {
        self.cells.next()
    }
}

impl Values<i64> {
    fn small<V: TryFrom<i64>>(&mut self) -> Result<V, PartError> {
        let column = self.name;
        V::try_from(self.next()?).map_err(|_| PartError::Column { column })
    }

    fn time(&mut self) -> Result<Timestamp, PartError> {
        Ok(Timestamp::from_micros(self.next()?))
    }
}

/// Two columns that are null together. A part where they are not would be read as one that says less than it does.
fn together<A, B>(one: Option<A>, other: Option<B>, column: &'static str) -> Result<Option<(A, B)>, PartError> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        _ => Err(PartError::Column { column }),
    }
}

fn divergence_of(action_index: Option<i64>, byte: Option<i64>) -> Result<Option<DivergencePoint>, PartError> {
    let Some((action_index, byte)) = together(action_index, byte, "divergence_byte")? else { return Ok(None) };
    let at = |value: i64, column| u32::try_from(value).map_err(|_| PartError::Column { column });
    let action_index = at(action_index, "divergence_action_index")?;
    Ok(Some(DivergencePoint { action_index, byte: at(byte, "divergence_byte")? }))
}

/// `part_partition`: of parts of older releases, whose pairs are of one partition and do not name it.
fn read_group(
    group: &dyn RowGroupReader,
    part_partition: u32,
    text: SealedText,
    names: &mut PartNames,
    pairs: &mut Vec<PlacedPair>,
) -> Result<(), PartError> {
    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
    let columns = Columns { group, rows };
    let mut position = columns.texts("position")?;
    let mut partition = if columns.has("partition") { Some(columns.numbers("partition")?) } else { None };
    let mut pair_id = columns.texts("pair_id")?;
    let mut tenant = columns.texts("tenant")?;
    let mut person = columns.texts("person")?;
    let mut session_id = columns.texts("session_id")?;
    let mut opportunity_id = columns.texts("opportunity_id")?;
    let mut suggestion_id = columns.texts("suggestion_id")?;
    let mut action_index = columns.numbers("action_index")?;
    let mut reason = columns.texts("reason")?;
    let mut label_policy_version = columns.numbers("label_policy_version")?;
    let mut weight = columns.reals("weight")?;
    let mut divergence_action_index = columns.numbers("divergence_action_index")?;
    let mut divergence_byte = columns.numbers("divergence_byte")?;
    let mut audience = columns.texts("audience")?;
    let mut repository = columns.texts("repository")?;
    let mut language = columns.texts("language")?;
    let mut model = columns.texts("model")?;
    let mut model_version = columns.numbers("model_version")?;
    let mut arm_probability = columns.reals("arm_probability")?;
    let mut p_show = columns.reals("p_show")?;
    let mut log_p_text = columns.reals("log_p_text")?;
    let mut gate_score = columns.reals("gate_score")?;
    let mut threshold = columns.reals("threshold")?;
    let mut explored = columns.flags("explored")?;
    let mut altered = columns.flags("altered")?;
    // Parts of a release before do not have it.
    let mut off_policy = if columns.has("off_policy") { Some(columns.flags("off_policy")?) } else { None };
    let mut opened_at = columns.numbers("opened_at")?;
    let mut labeled_at = columns.numbers("labeled_at")?;
    let mut last_signal_at = columns.numbers("last_signal_at")?;
    let mut event_id = columns.texts("event_id")?;
    let mut content_digest = columns.texts("content_digest")?;
    let mut key_id = columns.texts("key_id")?;
    let mut ciphertext = match text {
        SealedText::Taken => Some(columns.texts("ciphertext")?),
        SealedText::LeftOut => None,
    };
    for _ in 0..rows {
        let divergence = divergence_of(divergence_action_index.optional(), divergence_byte.optional())?;
        let key_id = key_id.optional()?;
        let sealed = match &mut ciphertext {
            Some(ciphertext) => together(key_id, ciphertext.bytes(), "ciphertext")?,
            None => key_id.zip(Some(Vec::new())),
        };
        let pair = PreferencePair {
            pair_id: pair_id.next()?,
            tenant: names.tenants.next(&mut tenant)?,
            person: names.persons.next(&mut person)?,
            session_id: session_id.next()?,
            opportunity_id: opportunity_id.next()?,
            suggestion_id: suggestion_id.optional()?,
            action_index: action_index.small()?,
            reason: reason.reason()?,
            label_policy_version: label_policy_version.small()?,
            weight: weight.next()?,
            divergence,
            audience: names.audiences.next(&mut audience)?,
            repository: repository.next()?,
            language: language.next()?,
            model: names.models.next(&mut model)?,
            model_version: ModelVersion(model_version.next()?),
            probabilities: Probabilities {
                arm_probability: arm_probability.next()?,
                p_show: p_show.next()?,
                log_p_text: log_p_text.next()?,
                gate_score: gate_score.next()?,
                threshold: threshold.next()?,
                explored: explored.next()?,
            },
            altered: altered.next()?,
            off_policy: off_policy.as_mut().map_or(Ok(false), Values::next)?,
            opened_at: opened_at.time()?,
            labeled_at: labeled_at.time()?,
            last_signal_at: last_signal_at.time()?,
            event_id: event_id.next()?,
            content_digest: content_digest.next()?,
            sealed: sealed.map(|(key_id, ciphertext)| Sealed { key_id, ciphertext }),
        };
        let partition = match &mut partition {
            Some(column) => column.small()?,
            None => part_partition,
        };
        pairs.push((PairPlace { partition, position: position.next()? }, pair));
    }
    Ok(())
}

#[cfg(test)]
#[path = "part_tests.rs"]
mod tests;
