//! The container.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use half::bf16;

use super::{GgufSummary, GgufWeights};
use crate::error::ModelError;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Where tensors start: the default of `general.alignment`.
const ALIGNMENT: u64 = 32;
/// The format's numbers of the types of values.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A named value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
}

/// A tensor with its values in our order.
pub(super) struct Tensor<'a> {
    pub(super) name: String,
    /// Row-major.
    pub(super) shape: Vec<usize>,
    pub(super) values: Cow<'a, [f32]>,
    pub(super) weights: GgufWeights,
    /// Whether the rows are so many heads, whose halves are to be interleaved.
    pub(super) interleaved_heads: Option<usize>,
}

impl Tensor<'_> {
    fn bytes(&self) -> u64 {
        let each = match self.weights {
            GgufWeights::Bf16 => 2,
            GgufWeights::F32 => 4,
        };
        each * self.values.len() as u64
    }

    /// ggml's number of the type.
    fn kind(&self) -> u32 {
        match self.weights {
            GgufWeights::F32 => 0,
            GgufWeights::Bf16 => 30,
        }
    }

    /// The rows in the order in which they are written.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        let count = self.shape.first().copied().unwrap_or(1).max(1);
        let width = (self.values.len() / count).max(1);
        let head = self.interleaved_heads.map_or(count, |heads| count / heads);
        let is_interleaved = self.interleaved_heads.is_some();
        // Llama's rotation is computed there on neighbours and here on halves: row 2i comes from i, row 2i + 1 from half + i.
        let source = move |row: usize| {
            let (start, place) = (row / head * head, row % head);
            if is_interleaved { start + place % 2 * (head / 2) + place / 2 } else { row }
        };
        (0..count).filter_map(move |row| self.values.get(source(row) * width..(source(row) + 1) * width))
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_array_head(bytes: &mut Vec<u8>, kind: u32, length: usize) {
    bytes.extend(ARRAY.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((length as u64).to_le_bytes());
}

impl Value {
    /// Its type, then itself.
    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::U32(value) => {
                bytes.extend(U32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                bytes.extend(F32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                bytes.extend(BOOL.to_le_bytes());
                bytes.push(u8::from(*value));
            }
            Self::Text(value) => {
                bytes.extend(TEXT.to_le_bytes());
                put_text(bytes, value);
            }
            Self::Texts(values) => {
                put_array_head(bytes, TEXT, values.len());
                values.iter().for_each(|value| put_text(bytes, value));
            }
            Self::Integers(values) => {
                put_array_head(bytes, I32, values.len());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn head(metadata: &[(String, Value)], tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut bytes, key);
        value.put(&mut bytes);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        put_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            bytes.extend((*size as u64).to_le_bytes());
        }
        bytes.extend(tensor.kind().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    bytes
}

fn write_to(file: &File, metadata: &[(String, Value)], tensors: &[Tensor<'_>]) -> std::io::Result<u64> {
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let head = head(metadata, tensors);
    writer.write_all(&head)?;
    let mut length = head.len() as u64;
    let mut encoded = Vec::new();
    for tensor in tensors {
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        writer.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        length += padding;
        for row in tensor.rows() {
            encoded.clear();
            match tensor.weights {
                GgufWeights::F32 => encoded.extend(row.iter().flat_map(|value| value.to_le_bytes())),
                GgufWeights::Bf16 => {
                    encoded.extend(row.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()));
                }
            }
            writer.write_all(&encoded)?;
            length += encoded.len() as u64;
        }
    }
    // Readers that map the file expect the last tensor to be filled up, too.
    let padding = length.next_multiple_of(ALIGNMENT) - length;
    writer.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
    writer.flush()?;
    file.sync_all()?;
    Ok(length + padding)
}

/// Writes a file beside `path` and puts it in its place when it is whole. It is begun under a name that nothing has, so that
/// no other file is written into, and two exports do not share one.
pub(super) fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Tensor<'_>],
) -> Result<GgufSummary, ModelError> {
    let bytes = write_beside(path, metadata, tensors);
    let bytes = bytes.map_err(|source| ModelError::File { path: path.to_owned(), source })?;
    Ok(GgufSummary { bytes, tensors: tensors.len() })
}

fn write_beside(path: &Path, metadata: &[(String, Value)], tensors: &[Tensor<'_>]) -> std::io::Result<u64> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let mut beginning = name.to_os_string();
    beginning.push(".");
    let mut beside = tempfile::Builder::new();
    beside.prefix(&beginning).suffix(".partial");
    // As readable for others as any file; that of a temporary one would be its owner's alone.
    #[cfg(unix)]
    beside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let beside = beside.tempfile_in(folder)?;
    let bytes = write_to(beside.as_file(), metadata, tensors)?;
    beside.persist(path)?;
    Ok(bytes)
}
