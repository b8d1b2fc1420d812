//! Cached decoding: the prompt in one batch of products, then a token, or a few, at a time; of one sequence, or of several
//! in one pass over the weights.
//!
//! Keys and values of a token depend on it and on the tokens before it alone, and every row of a product is computed in
//! the same order whatever rows stand beside it. So a prompt read in two parts leaves the bits that it leaves when it is
//! read at once, and the same holds for tokens read one by one or together, and for sequences read alone or beside others.
//! The two kinds of reading differ from each other in the last bits, as their products do: what one wrote is not to be
//! taken for what the other would write.

use std::ops::Range;

use super::attention::QUERY_BLOCK;
use super::int8::Int8Weights;
use super::matmul::{MatrixView, multiply, multiply_vectors};
use super::parameters::LayerLayout;
use super::{Network, Sequence, Workspace, sized, vector};
use crate::error::ModelError;

/// Keys and values of every layer for the tokens read so far.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KeyValueCache {
    /// Per layer: a row of keys, then values, of every token.
    rows: Vec<Vec<f32>>,
    length: usize,
}

impl KeyValueCache {
    /// Number of tokens read.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Forgets all tokens but the first `length`.
    pub(crate) fn truncate(&mut self, length: usize) {
        if length < self.length {
            for rows in &mut self.rows {
                rows.truncate(rows.len() / self.length * length);
            }
            self.length = length;
        }
    }

    /// What the first `length` tokens left.
    pub(crate) fn prefix(&self, length: usize) -> Self {
        let length = length.min(self.length);
        let floats = |rows: &Vec<f32>| rows.len().checked_div(self.length).unwrap_or(0) * length;
        Self { rows: self.rows.iter().map(|rows| rows[..floats(rows)].to_vec()).collect(), length }
    }

    /// Memory of its keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.iter().map(|rows| rows.len() * size_of::<f32>()).sum()
    }
}

/// What is to be read of one sequence.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    /// At least one.
    pub(crate) tokens: &'a [u32],
    /// What the tokens before them left; theirs is put behind it.
    pub(crate) cache: &'a mut KeyValueCache,
}

/// Reusable memory of reading.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffers {
    positions: Vec<u32>,
    stream: Vec<f32>,
    inverse_rms: Vec<f32>,
    normalized: Vec<f32>,
    query_key_value: Vec<f32>,
    query_inverse_rms: Vec<f32>,
    key_inverse_rms: Vec<f32>,
    scores: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
}

/// A matrix of a product: where it lies in the weights, and the width of its rows.
struct Matrix<'a> {
    weights: &'a [f32],
    range: Range<usize>,
    width: usize,
}

/// How the rows of a reading are multiplied: as one product, or each as if it were alone, with the matrices in 8 bits where
/// there are any.
#[derive(Debug, Clone, Copy)]
enum Rows<'a> {
    Together,
    Alone(Option<&'a Int8Weights>),
}

impl Rows<'_> {
    /// The matrix times each of `vectors`.
    fn multiply(self, matrix: &Matrix<'_>, vectors: &[f32], products: &mut [f32]) {
        let Matrix { weights, range, width } = matrix;
        let int8 = match self {
            Self::Together => return multiply_all(&weights[range.clone()], vectors, *width, products, false),
            Self::Alone(int8) => int8.and_then(|int8| int8.matrix(range.start)),
        };
        match int8 {
            Some(int8) => int8.multiply(vectors, products),
            None => multiply_vectors(&weights[range.clone()], vectors, *width, products),
        }
    }

    /// The same, added to `sums`. What is in `scratch`, as long as they are, is lost.
    fn add_product(self, matrix: &Matrix<'_>, vectors: &[f32], sums: &mut [f32], scratch: &mut [f32]) {
        match self {
            Self::Together => multiply_all(&matrix.weights[matrix.range.clone()], vectors, matrix.width, sums, true),
            Self::Alone(_) => {
                self.multiply(matrix, vectors, scratch);
                vector::add_in_place(sums, scratch);
            }
        }
    }
}

fn multiply_all(matrix: &[f32], vectors: &[f32], width: usize, products: &mut [f32], accumulate: bool) {
    let rows = matrix.len() / width;
    multiply(
        MatrixView::new(vectors, vectors.len() / width, width),
        MatrixView::new(matrix, rows, width).transposed(),
        products,
        rows,
        1.0,
        accumulate,
    );
}

impl Network {
    /// Logits of one row to log-probabilities in place.
    pub(crate) fn log_softmax(logits: &mut [f32]) {
        vector::log_softmax(logits);
    }

    /// A cache in which nothing was read.
    pub(crate) fn empty_cache(&self) -> KeyValueCache {
        KeyValueCache { rows: vec![Vec::new(); self.config.num_hidden_layers], length: 0 }
    }

    /// Reads the tokens of a prompt behind those in `cache` in one batch, and returns the logits of the next token.
    pub(crate) fn read_prompt(
        &self,
        weights: &[f32],
        tokens: &[u32],
        cache: &mut KeyValueCache,
        buffers: &mut ReadBuffers,
    ) -> Result<Vec<f32>, ModelError> {
        self.read(Rows::Together, weights, &mut [Reading { tokens, cache }], buffers)?;
        // Only what follows the last one is asked for.
        buffers.stream.drain(..(tokens.len() - 1) * self.config.hidden_size);
        Ok(self.logits(Rows::Alone(None), weights, buffers))
    }

    /// Reads written tokens of several sequences in one pass over the weights, and returns the logits of the next token
    /// behind each of them, a row each, sequence by sequence. However many tokens and sequences are read together, every row
    /// is what it is when they are read one by one. When one of `readings` cannot be read, none is. Matrices are taken from
    /// `int8`, if it is there: the same as in `weights`.
    pub(crate) fn read_tokens(
        &self,
        weights: &[f32],
        int8: Option<&Int8Weights>,
        readings: &mut [Reading<'_>],
        buffers: &mut ReadBuffers,
    ) -> Result<Vec<f32>, ModelError> {
        if readings.is_empty() {
            return Ok(Vec::new());
        }
        self.read(Rows::Alone(int8), weights, readings, buffers)?;
        Ok(self.logits(Rows::Alone(int8), weights, buffers))
    }

    /// Takes tokens through all layers; what they leave is in the stream and in their caches.
    fn read(
        &self,
        reading: Rows<'_>,
        weights: &[f32],
        readings: &mut [Reading<'_>],
        buffers: &mut ReadBuffers,
    ) -> Result<(), ModelError> {
        self.embed(weights, readings, buffers)?;
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let (query, _, row) = self.attention_widths();
        let epsilon = self.config.rms_norm_eps as f32;
        let count = buffers.positions.len();
        sized(&mut buffers.attended, count * query);
        let matrix = |range: &Range<usize>, width: usize| Matrix { weights, range: range.clone(), width };
        for (index, layer) in self.layout.layers.iter().enumerate() {
            vector::normalize_rows(
                &buffers.stream,
                &weights[layer.attention_norm.clone()],
                epsilon,
                sized(&mut buffers.normalized, count * width),
                sized(&mut buffers.inverse_rms, count),
            );
            let products = sized(&mut buffers.query_key_value, count * row);
            reading.multiply(&matrix(&layer.query_key_value, width), &buffers.normalized, products);
            self.place(weights, layer, buffers);
            let mut first = 0;
            for Reading { tokens, cache } in readings.iter_mut() {
                let rows = &mut cache.rows[index];
                for read in buffers.query_key_value[first * row..].chunks_exact(row).take(tokens.len()) {
                    rows.extend_from_slice(&read[query..]);
                }
                match reading {
                    Rows::Together => self.attend_in_blocks(buffers, rows, cache.length, first, tokens.len()),
                    Rows::Alone(_) => self.attend_one_by_one(buffers, rows, cache.length, first, tokens.len()),
                }
                first += tokens.len();
            }
            let output = matrix(&layer.attention_output, query);
            reading.add_product(&output, &buffers.attended, &mut buffers.stream, &mut buffers.normalized);
            if !layer.attention_output_bias.is_empty() {
                vector::add_to_rows(&mut buffers.stream, &weights[layer.attention_output_bias.clone()]);
            }
            vector::normalize_rows(
                &buffers.stream,
                &weights[layer.feed_forward_norm.clone()],
                epsilon,
                &mut buffers.normalized,
                &mut buffers.inverse_rms,
            );
            let products = sized(&mut buffers.gate_up, count * 2 * inner);
            reading.multiply(&matrix(&layer.gate_up, width), &buffers.normalized, products);
            vector::gated_activation(&buffers.gate_up, inner, sized(&mut buffers.activated, count * inner));
            let down = matrix(&layer.down, inner);
            reading.add_product(&down, &buffers.activated, &mut buffers.stream, &mut buffers.normalized);
        }
        for Reading { tokens, cache } in readings {
            cache.length += tokens.len();
        }
        Ok(())
    }

    /// Checks the tokens of all `readings` and puts their embeddings into the stream.
    fn embed(&self, weights: &[f32], readings: &[Reading<'_>], buffers: &mut ReadBuffers) -> Result<(), ModelError> {
        buffers.positions.clear();
        for Reading { tokens, cache } in readings {
            if weights.len() != self.layout.total || cache.rows.len() != self.layout.layers.len() {
                return Err(ModelError::Sequence("the weights or the cache do not fit the architecture"));
            }
            let end = cache.length + tokens.len();
            let is_known = |token: &u32| (*token as usize) < self.config.vocab_size;
            if tokens.is_empty() || end > self.config.max_position_embeddings || !tokens.iter().all(is_known) {
                return Err(ModelError::Sequence("nothing is to be read, the sequence is full or a token unknown"));
            }
            buffers.positions.extend(cache.length as u32..end as u32);
        }
        let width = self.config.hidden_size;
        let stream = sized(&mut buffers.stream, buffers.positions.len() * width);
        let tokens = readings.iter().flat_map(|reading| reading.tokens);
        for (row, token) in stream.chunks_exact_mut(width).zip(tokens) {
            row.copy_from_slice(&weights[self.layout.embedding.clone()][*token as usize * width..][..width]);
        }
        Ok(())
    }

    /// Makes queries, keys and values of the products in `query_key_value`.
    fn place(&self, weights: &[f32], layer: &LayerLayout, buffers: &mut ReadBuffers) {
        let (query, key_value, row) = self.attention_widths();
        let count = buffers.positions.len();
        if !layer.query_key_value_bias.is_empty() {
            vector::add_to_rows(&mut buffers.query_key_value, &weights[layer.query_key_value_bias.clone()]);
        }
        if self.config.normalizes_heads() {
            self.normalize_heads(
                weights,
                layer,
                &mut buffers.query_key_value,
                sized(&mut buffers.query_inverse_rms, count * self.config.num_attention_heads),
                sized(&mut buffers.key_inverse_rms, count * self.config.num_key_value_heads),
            );
        }
        self.rotary.rotate(&mut buffers.query_key_value, row, query + key_value, &buffers.positions, 1.0);
    }

    /// Attention of the `count` tokens from `at` on, which are the last of their sequence, over its `rows`, which hold
    /// `start` tokens before them.
    fn attend_in_blocks(&self, buffers: &mut ReadBuffers, rows: &[f32], start: usize, at: usize, count: usize) {
        let (width, key_value, stride) = self.attention_widths();
        let (head, cached) = (self.config.head_size(), 2 * key_value);
        let length = start + count;
        let scale = 1.0 / (head as f32).sqrt();
        sized(&mut buffers.scores, QUERY_BLOCK.min(count) * length);
        for index in 0..self.config.num_attention_heads {
            let (query_start, key_start, value_start) = self.head_offsets(index);
            // The cache keeps no queries.
            let (key, value) = (&rows[key_start - width..], &rows[value_start - width..]);
            for first in (0..count).step_by(QUERY_BLOCK) {
                let block_rows = QUERY_BLOCK.min(count - first);
                // Later keys of the block get the weight zero, which adds nothing.
                let visible = start + first + block_rows;
                let block = &mut buffers.scores[..block_rows * length];
                let queries = &buffers.query_key_value[(at + first) * stride + query_start..];
                multiply(
                    MatrixView::strided(queries, block_rows, head, stride),
                    MatrixView::strided(key, visible, head, cached).transposed(),
                    block,
                    length,
                    scale,
                    false,
                );
                vector::causal_softmax_rows(block, length, start + first);
                multiply(
                    MatrixView::strided(block, block_rows, visible, length),
                    MatrixView::strided(value, visible, head, cached),
                    &mut buffers.attended[(at + first) * width + index * head..],
                    width,
                    1.0,
                    false,
                );
            }
        }
    }

    /// The same for a few tokens, each on its own.
    fn attend_one_by_one(&self, buffers: &mut ReadBuffers, rows: &[f32], start: usize, at: usize, count: usize) {
        let (width, key_value, stride) = self.attention_widths();
        let head = self.config.head_size();
        for token in 0..count {
            let scores = sized(&mut buffers.scores, start + token + 1);
            for index in 0..self.config.num_attention_heads {
                let (query_start, key_start, value_start) = self.head_offsets(index);
                vector::attend_one(
                    &buffers.query_key_value[(at + token) * stride + query_start..][..head],
                    &rows[key_start - width..],
                    &rows[value_start - width..],
                    2 * key_value,
                    scores,
                    &mut buffers.attended[(at + token) * width + query_start..][..head],
                );
            }
        }
    }

    /// Logits behind every row of the stream.
    fn logits(&self, rows: Rows<'_>, weights: &[f32], buffers: &mut ReadBuffers) -> Vec<f32> {
        let width = self.config.hidden_size;
        let count = buffers.stream.len() / width;
        vector::normalize_rows(
            &buffers.stream,
            &weights[self.layout.final_norm.clone()],
            self.config.rms_norm_eps as f32,
            sized(&mut buffers.normalized, count * width),
            sized(&mut buffers.inverse_rms, count),
        );
        let mut logits = vec![0.0; count * self.config.written()];
        rows.multiply(&Matrix { weights, range: self.output_layer(), width }, &buffers.normalized, &mut logits);
        logits
    }

    /// Logits after every token of `tokens`, one row each; for tests and for parity with other implementations.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for an empty or too long sequence or an unknown token.
    pub fn all_logits(&self, weights: &[f32], tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut workspace = Workspace::default();
        self.forward(weights, &[Sequence { tokens, target_positions: &[] }], &mut workspace)?;
        let (width, vocabulary) = (self.config.hidden_size, self.config.written());
        let mut normalized = vec![0.0; tokens.len() * width];
        let mut inverse = vec![0.0; tokens.len()];
        vector::normalize_rows(
            &workspace.output,
            &weights[self.layout.final_norm.clone()],
            self.config.rms_norm_eps as f32,
            &mut normalized,
            &mut inverse,
        );
        let mut logits = vec![0.0; tokens.len() * vocabulary];
        multiply(
            MatrixView::new(&normalized, tokens.len(), width),
            MatrixView::new(&weights[self.output_layer()], vocabulary, width).transposed(),
            &mut logits,
            vocabulary,
            1.0,
            false,
        );
        Ok(logits)
    }
}
