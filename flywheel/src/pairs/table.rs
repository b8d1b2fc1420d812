//! The file of an export: named columns without nulls, as Parquet or as JSON lines, written beside its place and put
//! there when it is whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value};
use tempfile::TempPath;

use crate::cli::ExportFormat;
use crate::data_dir::beside;
use crate::failure::Failure;

/// Rows of a row group at most, and bytes of its text.
const GROUP_ROWS: usize = 5_000;
const GROUP_BYTES: usize = 32 << 20;

/// A value of a row.
#[derive(Clone)]
pub(super) enum Cell {
    Text(String),
    Integer(i64),
    Real(f64),
    Flag(bool),
}

impl Cell {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Integer(_) | Self::Real(_) => 8,
            Self::Flag(_) => 1,
        }
    }

    fn text(&self) -> Option<ByteArray> {
        if let Self::Text(text) = self { Some(ByteArray::from(text.clone().into_bytes())) } else { None }
    }

    fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    fn real(&self) -> Option<f64> {
        if let Self::Real(number) = self { Some(*number) } else { None }
    }

    fn flag(&self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(*flag) } else { None }
    }
}

/// A row: names, the same for every row, and their values.
pub(super) type Row = Vec<(&'static str, Cell)>;

type ParquetFile = SerializedFileWriter<BufWriter<File>>;

/// A file on its way. Dropping it removes what was written.
pub(super) struct Table {
    place: PathBuf,
    beside: TempPath,
    writer: Writer,
    rows: u64,
}

enum Writer {
    Lines(BufWriter<File>),
    /// The first row says what the columns are.
    Parquet {
        file: Option<File>,
        open: Option<Box<ParquetFile>>,
        waiting: Vec<Row>,
        bytes: usize,
    },
    Finished,
}

impl Table {
    /// Begins a file that only its owner may read: it holds people's code.
    pub(super) fn create(place: &Path, format: ExportFormat) -> Result<Self, Failure> {
        if place.file_name().is_none() {
            return Err(Failure::refused(format!("--output {}: name a file, not a directory", place.display())));
        }
        if place.is_dir() {
            return Err(Failure::refused(format!("--output {} is a directory; name a file in it", place.display())));
        }
        let (file, beside) = beside(place, 0o600)
            .map_err(|error| Failure::refused(format!("--output {} can not be written: {error}", place.display())))?
            .into_parts();
        let writer = match format {
            ExportFormat::Jsonl => Writer::Lines(BufWriter::new(file)),
            ExportFormat::Parquet => Writer::Parquet { file: Some(file), open: None, waiting: Vec::new(), bytes: 0 },
        };
        Ok(Self { place: place.to_owned(), beside, writer, rows: 0 })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn add(&mut self, row: Row) -> Result<(), Failure> {
        self.rows += 1;
        match &mut self.writer {
            Writer::Lines(file) => {
                serde_json::to_writer(&mut *file, &object(row))?;
                file.write_all(b"\n")?;
            }
            Writer::Parquet { file, open, waiting, bytes } => {
                if let Some(file) = file.take() {
                    *open = Some(Box::new(begin(file, &row)?));
                }
                *bytes += row.iter().map(|(_, cell)| cell.bytes()).sum::<usize>();
                waiting.push(row);
                if let Some(open) = open
                    && (waiting.len() >= GROUP_ROWS || *bytes >= GROUP_BYTES)
                {
                    write_group(open, &std::mem::take(waiting))?;
                    *bytes = 0;
                }
            }
            Writer::Finished => {}
        }
        Ok(())
    }

    /// Writes what waits, down to the disk. The file is not in its place yet.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        let written = match std::mem::replace(&mut self.writer, Writer::Finished) {
            Writer::Lines(file) => Some(file),
            Writer::Parquet { open: Some(mut open), waiting, .. } => {
                write_group(&mut open, &waiting)?;
                Some((*open).into_inner()?)
            }
            Writer::Parquet { .. } | Writer::Finished => None,
        };
        if let Some(written) = written {
            written.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        }
        Ok(())
    }

    /// Puts the finished file in its place.
    pub(super) fn place(self) -> Result<(), Failure> {
        let Self { place, beside, .. } = self;
        beside
            .persist(&place)
            .map_err(|failed| Failure::refused(format!("--output {}: {}", place.display(), failed.error)))
    }
}

fn object(row: Row) -> Map<String, Value> {
    let value = |cell: Cell| match cell {
        Cell::Text(text) => Value::from(text),
        Cell::Integer(number) => Value::from(number),
        Cell::Real(number) => Value::from(number),
        Cell::Flag(flag) => Value::from(flag),
    };
    row.into_iter().map(|(name, cell)| (name.to_owned(), value(cell))).collect()
}

/// A file with the columns of its first row, none of which may be null: trainers refuse columns that may.
fn begin(file: File, row: &[(&'static str, Cell)]) -> Result<ParquetFile, ParquetError> {
    let column = |(name, cell): &(&'static str, Cell)| match cell {
        Cell::Text(_) => format!("  required binary {name} (UTF8);\n"),
        Cell::Integer(_) => format!("  required int64 {name};\n"),
        Cell::Real(_) => format!("  required double {name};\n"),
        Cell::Flag(_) => format!("  required boolean {name};\n"),
    };
    let columns: String = row.iter().map(column).collect();
    let schema = parse_message_type(&format!("message preference_pairs {{\n{columns}}}"))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_created_by("flywheel".to_owned())
        .build();
    SerializedFileWriter::new(BufWriter::new(file), Arc::new(schema), Arc::new(properties))
}

fn write_group(open: &mut ParquetFile, rows: &[Row]) -> Result<(), ParquetError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let mut group = open.next_row_group()?;
    for index in 0..first.len() {
        let cells = || rows.iter().filter_map(move |row| row.get(index)).map(|(_, cell)| cell);
        match first.get(index) {
            Some((_, Cell::Text(_))) => {
                write_column::<ByteArrayType>(&mut group, cells().filter_map(Cell::text).collect())?;
            }
            Some((_, Cell::Integer(_))) => {
                write_column::<Int64Type>(&mut group, cells().filter_map(Cell::integer).collect())?;
            }
            Some((_, Cell::Real(_))) => {
                write_column::<DoubleType>(&mut group, cells().filter_map(Cell::real).collect())?;
            }
            Some((_, Cell::Flag(_))) => {
                write_column::<BoolType>(&mut group, cells().filter_map(Cell::flag).collect())?;
            }
            None => {}
        }
    }
    group.close()?;
    Ok(())
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, BufWriter<File>>,
    values: Vec<T::T>,
) -> Result<(), ParquetError> {
    let wrong = |what: &str| ParquetError::General(format!("an export has {what} than its schema"));
    let mut column = group.next_column()?.ok_or_else(|| wrong("more columns"))?;
    let writer = T::get_column_writer_mut(column.untyped()).ok_or_else(|| wrong("another type in a column"))?;
    writer.write_batch(&values, None, None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use parquet::record::RowAccessor as _;

    use super::*;

    fn row(number: i64) -> Row {
        vec![
            ("prompt", Cell::Text(format!("ask {number}"))),
            ("chosen_bdp_byte", Cell::Integer(number)),
            ("weight", Cell::Real(0.5)),
            ("label", Cell::Flag(number % 2 == 0)),
        ]
    }

    fn entries(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn parquet_has_the_columns_without_nulls_in_groups() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("pairs.parquet");
        let mut table = Table::create(&place, ExportFormat::Parquet).unwrap();
        let count = i64::try_from(GROUP_ROWS).unwrap() + 3;
        for number in 0..count {
            table.add(row(number)).unwrap();
        }
        table.finish().unwrap();
        assert!(!place.exists(), "not before it is placed");
        table.place().unwrap();
        assert_eq!(entries(directory.path()), 1);
        let reader = SerializedFileReader::new(File::open(&place).unwrap()).unwrap();
        let metadata = reader.metadata();
        assert_eq!((metadata.num_row_groups(), metadata.file_metadata().num_rows()), (2, count));
        let schema = metadata.file_metadata().schema_descr();
        assert!(schema.columns().iter().all(|column| column.max_def_level() == 0), "no column may be null");
        let last = reader.get_row_iter(None).unwrap().last().unwrap().unwrap();
        assert_eq!(last.get_string(0).unwrap(), &format!("ask {}", count - 1));
        assert_eq!((last.get_long(1).unwrap(), last.get_double(2).unwrap()), (count - 1, 0.5));
        assert_eq!(last.get_bool(3).unwrap(), (count - 1) % 2 == 0);
    }

    #[test]
    fn lines_are_objects_with_the_same_names() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("pairs.jsonl");
        let mut table = Table::create(&place, ExportFormat::Jsonl).unwrap();
        table.add(row(7)).unwrap();
        table.add(row(8)).unwrap();
        assert_eq!(table.rows(), 2);
        table.finish().unwrap();
        table.place().unwrap();
        let text = std::fs::read_to_string(&place).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = serde_json::json!({ "prompt": "ask 8", "chosen_bdp_byte": 8, "weight": 0.5, "label": true });
        assert_eq!((lines.len(), &lines[1]), (2, &expected));
    }

    #[test]
    fn what_is_not_placed_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("pairs.parquet");
        std::fs::write(&place, "before").unwrap();
        let mut table = Table::create(&place, ExportFormat::Parquet).unwrap();
        table.add(row(1)).unwrap();
        table.finish().unwrap();
        drop(table);
        assert_eq!((entries(directory.path()), std::fs::read_to_string(&place).unwrap().as_str()), (1, "before"));
        assert!(matches!(Table::create(directory.path(), ExportFormat::Jsonl), Err(Failure::Refused(_))));
        let absent = directory.path().join("absent").join("pairs.jsonl");
        assert!(matches!(Table::create(&absent, ExportFormat::Jsonl), Err(Failure::Refused(_))));
    }

    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("pairs.jsonl");
        let mut table = Table::create(&place, ExportFormat::Jsonl).unwrap();
        table.finish().unwrap();
        table.place().unwrap();
        assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn two_exports_to_one_place_do_not_meet() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("pairs.jsonl");
        let [mut one, mut other] = [(), ()].map(|()| Table::create(&place, ExportFormat::Jsonl).unwrap());
        one.add(row(1)).unwrap();
        other.add(row(2)).unwrap();
        one.finish().unwrap();
        one.place().unwrap();
        drop(other);
        assert!(std::fs::read_to_string(&place).unwrap().contains("ask 1"));
        assert_eq!(entries(directory.path()), 1);
    }
}
