//! The decoder: forward and backward over ragged batches, and cached decoding.
//!
//! Sequences are concatenated without padding. What a sequence begins with as one before it did goes through once: of the
//! two answers to one prompt, the prompt and what both write before they differ. Logits exist only where a loss or a decision needs them. A training pass
//! returns log p of every target and takes d loss / d(-log p) back, so that likelihood, DPO and ActionRL are the same
//! code with other coefficients.

mod attention;
mod decode;
mod int8;
mod matmul;
mod parameters;
mod vector;

pub(crate) use decode::{KeyValueCache, ReadBuffers, Reading};
pub(crate) use int8::Int8Weights;
pub use parameters::NamedTensor;
pub(crate) use parameters::{EMBEDDING, LayerLayout, Layout, OUTPUT, standard_normal};

use attention::Span;
pub(crate) use matmul::{MatrixView, multiply};
use rand_chacha::ChaCha8Rng;
use vector::Rotary;

use crate::config::ModelConfig;
use crate::error::ModelError;

/// One sequence of a batch: its tokens, and the places whose next token is a target.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Token ids from position 0.
    pub tokens: &'a [u32],
    /// Ascending positions `p`; the target at `p` is `tokens[p + 1]`.
    pub target_positions: &'a [u32],
}

/// The architecture with everything that follows from the configuration.
#[derive(Debug, Clone)]
pub struct Network {
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
    pub(crate) rotary: Rotary,
}

/// What one layer keeps for its backward pass.
#[derive(Default)]
struct LayerTape {
    input: Vec<f32>,
    inverse_rms: Vec<f32>,
    normalized: Vec<f32>,
    /// What the projections gave, where heads are normalised: rows of queries, keys and values.
    projected: Vec<f32>,
    query_inverse_rms: Vec<f32>,
    key_inverse_rms: Vec<f32>,
    query_key_value: Vec<f32>,
    probabilities: Vec<f32>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    middle_inverse_rms: Vec<f32>,
    middle_normalized: Vec<f32>,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
}

/// Reusable memory of one worker.
#[derive(Default)]
pub struct Workspace {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    spans: Vec<Span>,
    layers: Vec<LayerTape>,
    output: Vec<f32>,
    rows: Vec<usize>,
    targets: Vec<u32>,
    selected: Vec<f32>,
    selected_inverse_rms: Vec<f32>,
    selected_normalized: Vec<f32>,
    probabilities: Vec<f32>,
    gradient: Vec<f32>,
    wide_gradient: Vec<f32>,
    narrow_gradient: Vec<f32>,
    score_gradient: Vec<f32>,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Workspace").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    buffer.resize(length, 0.0);
    &mut buffer[..length]
}

impl Network {
    /// The architecture of `config`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for shapes that are not implemented.
    pub fn new(config: ModelConfig) -> Result<Self, ModelError> {
        config.validate()?;
        let layout = Layout::new(&config);
        let rotary = Rotary::new(config.max_position_embeddings, &config.rotary_frequencies()?);
        Ok(Self { config, layout, rotary })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of weights.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.layout.total
    }

    /// The weights of the output layer for all tokens that may be written: their embeddings, where both are tied.
    pub(crate) fn output_layer(&self) -> std::ops::Range<usize> {
        let tied = self.layout.output.is_empty();
        let start = if tied { self.layout.embedding.start } else { self.layout.output.start };
        start..start + self.config.written() * self.config.hidden_size
    }

    /// The weights by which the output layer finds `token`: its embedding, where both are tied.
    #[must_use]
    pub fn output_row(&self, token: u32) -> std::ops::Range<usize> {
        let width = self.config.hidden_size;
        let start = self.output_layer().start + token as usize * width;
        start..start + width
    }

    /// Every tensor under its Hugging Face name.
    #[must_use]
    pub fn tensors(&self) -> Vec<NamedTensor> {
        self.layout.named(&self.config)
    }

    /// Fresh random weights.
    #[must_use]
    pub fn initialize(&self, random: &mut ChaCha8Rng) -> Vec<f32> {
        self.layout.initialize(&self.config, random)
    }

    /// Log p of every target, in the order of `sequences`; what a backward pass needs stays in `workspace`.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for an empty or too long sequence, an unknown token or a target outside.
    pub fn forward(
        &self,
        weights: &[f32],
        sequences: &[Sequence<'_>],
        workspace: &mut Workspace,
    ) -> Result<Vec<f32>, ModelError> {
        self.stage(weights, sequences, workspace)?;
        let count = workspace.tokens.len();
        let width = self.config.hidden_size;
        workspace.layers.resize_with(self.config.num_hidden_layers, LayerTape::default);
        let mut stream = std::mem::take(&mut workspace.output);
        sized(&mut stream, count * width);
        for (row, token) in stream.chunks_exact_mut(width).zip(&workspace.tokens) {
            row.copy_from_slice(&weights[self.layout.embedding.clone()][*token as usize * width..][..width]);
        }
        for (layer, tape) in self.layout.layers.iter().zip(&mut workspace.layers) {
            self.layer_forward(weights, layer, &mut stream, tape, &workspace.positions, &workspace.spans);
        }
        workspace.output = stream;

        let selected_count = workspace.rows.len();
        let selected = sized(&mut workspace.selected, selected_count * width);
        for (target, row) in selected.chunks_exact_mut(width).zip(&workspace.rows) {
            target.copy_from_slice(&workspace.output[row * width..][..width]);
        }
        vector::normalize_rows(
            &workspace.selected,
            &weights[self.layout.final_norm.clone()],
            self.config.rms_norm_eps as f32,
            sized(&mut workspace.selected_normalized, selected_count * width),
            sized(&mut workspace.selected_inverse_rms, selected_count),
        );
        let vocabulary = self.config.written();
        multiply(
            MatrixView::new(&workspace.selected_normalized, selected_count, width),
            MatrixView::new(&weights[self.output_layer()], vocabulary, width).transposed(),
            sized(&mut workspace.probabilities, selected_count * vocabulary),
            vocabulary,
            1.0,
            false,
        );
        let mut log_probabilities = vec![0.0; selected_count];
        vector::softmax_with_targets(
            &mut workspace.probabilities,
            vocabulary,
            &workspace.targets,
            &mut log_probabilities,
        );
        Ok(log_probabilities)
    }

    /// Refuses weights and sequences that a forward pass cannot take.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for weights of another architecture, an empty or too long sequence, an unknown token or
    /// a target outside.
    pub fn check(&self, weights: &[f32], sequences: &[Sequence<'_>]) -> Result<(), ModelError> {
        if weights.len() != self.layout.total {
            return Err(ModelError::Sequence("the weights do not fit the architecture"));
        }
        for sequence in sequences {
            let length = sequence.tokens.len();
            if length == 0 || length > self.config.max_position_embeddings {
                return Err(ModelError::Sequence("a sequence is empty or longer than max_position_embeddings"));
            }
            if sequence.tokens.iter().any(|token| *token as usize >= self.config.vocab_size) {
                return Err(ModelError::Sequence("a token is outside the vocabulary"));
            }
            if sequence.target_positions.iter().any(|position| *position as usize + 1 >= length) {
                return Err(ModelError::Sequence("a target is outside its sequence"));
            }
            let mut targets = sequence.target_positions.iter().map(|position| sequence.tokens[*position as usize + 1]);
            if targets.any(|target| target as usize >= self.config.written()) {
                return Err(ModelError::Sequence("a target is a token that is never written"));
            }
        }
        Ok(())
    }

    fn stage(&self, weights: &[f32], sequences: &[Sequence<'_>], workspace: &mut Workspace) -> Result<(), ModelError> {
        self.check(weights, sequences)?;
        workspace.tokens.clear();
        workspace.positions.clear();
        workspace.spans.clear();
        workspace.rows.clear();
        workspace.targets.clear();
        // The last sequence that stands whole, and where.
        let mut whole: (&[u32], usize) = (&[], 0);
        for sequence in sequences {
            let tokens = sequence.tokens;
            let start = workspace.tokens.len();
            let mut shared = tokens.iter().zip(whole.0).take_while(|(one, other)| one == other).count();
            // One row of its own at least, so that there is something to attend from.
            shared = shared.min(tokens.len().saturating_sub(1));
            // Little is not worth the products that are then made in two parts.
            if shared * 2 < tokens.len() {
                (whole, shared) = ((tokens, start), 0);
            }
            for position in sequence.target_positions {
                let place = *position as usize;
                workspace.targets.push(tokens[place + 1]);
                workspace.rows.push(if place < shared { whole.1 + place } else { start + place - shared });
            }
            workspace.tokens.extend_from_slice(&tokens[shared..]);
            workspace.positions.extend(shared as u32..tokens.len() as u32);
            workspace.spans.push(Span { prefix_start: whole.1, prefix: shared, start, length: tokens.len() - shared });
        }
        Ok(())
    }

    fn layer_forward(
        &self,
        weights: &[f32],
        layer: &LayerLayout,
        stream: &mut [f32],
        tape: &mut LayerTape,
        positions: &[u32],
        spans: &[Span],
    ) {
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let epsilon = self.config.rms_norm_eps as f32;
        let count = positions.len();
        sized(&mut tape.input, count * width).copy_from_slice(stream);
        vector::normalize_rows(
            stream,
            &weights[layer.attention_norm.clone()],
            epsilon,
            sized(&mut tape.normalized, count * width),
            sized(&mut tape.inverse_rms, count),
        );
        let (query, key_value, row) = self.attention_widths();
        multiply(
            MatrixView::new(&tape.normalized, count, width),
            MatrixView::new(&weights[layer.query_key_value.clone()], row, width).transposed(),
            sized(&mut tape.query_key_value, count * row),
            row,
            1.0,
            false,
        );
        if !layer.query_key_value_bias.is_empty() {
            vector::add_to_rows(&mut tape.query_key_value, &weights[layer.query_key_value_bias.clone()]);
        }
        if self.config.normalizes_heads() {
            sized(&mut tape.projected, count * row).copy_from_slice(&tape.query_key_value);
            sized(&mut tape.query_inverse_rms, count * self.config.num_attention_heads);
            sized(&mut tape.key_inverse_rms, count * self.config.num_key_value_heads);
            self.normalize_heads(
                weights,
                layer,
                &mut tape.query_key_value,
                &mut tape.query_inverse_rms,
                &mut tape.key_inverse_rms,
            );
        }
        self.rotary.rotate(&mut tape.query_key_value, row, query + key_value, positions, 1.0);
        self.attention_forward(tape, spans);
        multiply(
            MatrixView::new(&tape.attended, count, query),
            MatrixView::new(&weights[layer.attention_output.clone()], width, query).transposed(),
            stream,
            width,
            1.0,
            true,
        );
        if !layer.attention_output_bias.is_empty() {
            vector::add_to_rows(stream, &weights[layer.attention_output_bias.clone()]);
        }
        sized(&mut tape.middle, count * width).copy_from_slice(stream);
        vector::normalize_rows(
            stream,
            &weights[layer.feed_forward_norm.clone()],
            epsilon,
            sized(&mut tape.middle_normalized, count * width),
            sized(&mut tape.middle_inverse_rms, count),
        );
        multiply(
            MatrixView::new(&tape.middle_normalized, count, width),
            MatrixView::new(&weights[layer.gate_up.clone()], 2 * inner, width).transposed(),
            sized(&mut tape.gate_up, count * 2 * inner),
            2 * inner,
            1.0,
            false,
        );
        vector::gated_activation(&tape.gate_up, inner, sized(&mut tape.activated, count * inner));
        multiply(
            MatrixView::new(&tape.activated, count, inner),
            MatrixView::new(&weights[layer.down.clone()], width, inner).transposed(),
            stream,
            width,
            1.0,
            true,
        );
    }

    /// Widths of the queries of a token, of its keys (and of its values), and of a row of all three.
    fn attention_widths(&self) -> (usize, usize, usize) {
        let (query, key_value) = (self.config.query_size(), self.config.key_value_size());
        (query, key_value, query + 2 * key_value)
    }

    /// Where the query, the key and the value of head `index` start in a row; heads of a group share the latter two.
    fn head_offsets(&self, index: usize) -> (usize, usize, usize) {
        let (query, key_value, _) = self.attention_widths();
        let head = self.config.head_size();
        let shared = index / self.config.group_size() * head;
        (index * head, query + shared, query + key_value + shared)
    }

    /// Normalises queries and keys of `rows` head by head, as Qwen3 does before it rotates them.
    fn normalize_heads(
        &self,
        weights: &[f32],
        layer: &LayerLayout,
        rows: &mut [f32],
        query_inverse_rms: &mut [f32],
        key_inverse_rms: &mut [f32],
    ) {
        let (query, key_value, row) = self.attention_widths();
        let epsilon = self.config.rms_norm_eps as f32;
        let gain = &weights[layer.query_norm.clone()];
        vector::normalize_heads(rows, row, query, gain, epsilon, query_inverse_rms);
        let gain = &weights[layer.key_norm.clone()];
        vector::normalize_heads(&mut rows[query..], row, key_value, gain, epsilon, key_inverse_rms);
    }

    /// Adds the gradient of `sum_i coefficient[i] * (-log p_i)` to `gradients`, after [`Network::forward`].
    ///
    /// # Errors
    /// [`ModelError::Sequence`] when the lengths do not fit the forward pass.
    pub fn backward(
        &self,
        weights: &[f32],
        coefficients: &[f32],
        workspace: &mut Workspace,
        gradients: &mut [f32],
    ) -> Result<(), ModelError> {
        if coefficients.len() != workspace.rows.len() || gradients.len() != self.layout.total {
            return Err(ModelError::Sequence("coefficients or gradients do not fit the forward pass"));
        }
        let (width, vocabulary) = (self.config.hidden_size, self.config.written());
        let (count, selected) = (workspace.tokens.len(), workspace.rows.len());
        vector::cross_entropy_gradient(&mut workspace.probabilities, vocabulary, &workspace.targets, coefficients);
        let narrow = sized(&mut workspace.narrow_gradient, selected * width);
        multiply(
            MatrixView::new(&workspace.probabilities, selected, vocabulary),
            MatrixView::new(&weights[self.output_layer()], vocabulary, width),
            narrow,
            width,
            1.0,
            false,
        );
        multiply(
            MatrixView::new(&workspace.probabilities, selected, vocabulary).transposed(),
            MatrixView::new(&workspace.selected_normalized, selected, width),
            &mut gradients[self.output_layer()],
            width,
            1.0,
            true,
        );
        let selected_gradient = sized(&mut workspace.wide_gradient, selected * width);
        selected_gradient.fill(0.0);
        vector::normalize_rows_backward(
            &workspace.selected,
            &weights[self.layout.final_norm.clone()],
            &workspace.selected_inverse_rms,
            &workspace.narrow_gradient,
            selected_gradient,
            &mut gradients[self.layout.final_norm.clone()],
        );
        let stream = sized(&mut workspace.gradient, count * width);
        stream.fill(0.0);
        for (source, row) in workspace.wide_gradient.chunks_exact(width).zip(&workspace.rows) {
            vector::add_in_place(&mut stream[row * width..][..width], source);
        }
        for (layer, tape) in self.layout.layers.iter().zip(&mut workspace.layers).rev() {
            self.layer_backward(
                weights,
                layer,
                tape,
                &workspace.positions,
                &workspace.spans,
                &mut workspace.gradient,
                &mut workspace.wide_gradient,
                &mut workspace.narrow_gradient,
                &mut workspace.score_gradient,
                gradients,
            );
        }
        let embedding = &mut gradients[self.layout.embedding.clone()];
        for (source, token) in workspace.gradient.chunks_exact(width).zip(&workspace.tokens) {
            vector::add_in_place(&mut embedding[*token as usize * width..][..width], source);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the buffers are fields of one workspace, borrowed apart")]
    fn layer_backward(
        &self,
        weights: &[f32],
        layer: &LayerLayout,
        tape: &mut LayerTape,
        positions: &[u32],
        spans: &[Span],
        stream: &mut [f32],
        wide: &mut Vec<f32>,
        narrow: &mut Vec<f32>,
        score: &mut Vec<f32>,
        gradients: &mut [f32],
    ) {
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let count = positions.len();
        // Feed-forward.
        multiply(
            MatrixView::new(stream, count, width).transposed(),
            MatrixView::new(&tape.activated, count, inner),
            &mut gradients[layer.down.clone()],
            inner,
            1.0,
            true,
        );
        multiply(
            MatrixView::new(stream, count, width),
            MatrixView::new(&weights[layer.down.clone()], width, inner),
            sized(wide, count * inner),
            inner,
            1.0,
            false,
        );
        vector::gated_activation_backward(&mut tape.gate_up, inner, wide);
        multiply(
            MatrixView::new(&tape.gate_up, count, 2 * inner).transposed(),
            MatrixView::new(&tape.middle_normalized, count, width),
            &mut gradients[layer.gate_up.clone()],
            width,
            1.0,
            true,
        );
        multiply(
            MatrixView::new(&tape.gate_up, count, 2 * inner),
            MatrixView::new(&weights[layer.gate_up.clone()], 2 * inner, width),
            sized(narrow, count * width),
            width,
            1.0,
            false,
        );
        vector::normalize_rows_backward(
            &tape.middle,
            &weights[layer.feed_forward_norm.clone()],
            &tape.middle_inverse_rms,
            narrow,
            stream,
            &mut gradients[layer.feed_forward_norm.clone()],
        );
        // Attention.
        let (query, key_value, row) = self.attention_widths();
        if !layer.attention_output_bias.is_empty() {
            vector::add_rows(stream, &mut gradients[layer.attention_output_bias.clone()]);
        }
        multiply(
            MatrixView::new(stream, count, width).transposed(),
            MatrixView::new(&tape.attended, count, query),
            &mut gradients[layer.attention_output.clone()],
            query,
            1.0,
            true,
        );
        multiply(
            MatrixView::new(stream, count, width),
            MatrixView::new(&weights[layer.attention_output.clone()], width, query),
            sized(narrow, count * query),
            query,
            1.0,
            false,
        );
        self.attention_backward(tape, spans, narrow, sized(wide, count * row), score);
        self.rotary.rotate(wide, row, query + key_value, positions, -1.0);
        if self.config.normalizes_heads() {
            vector::normalize_heads_backward(
                &tape.projected,
                row,
                wide,
                row,
                query,
                &weights[layer.query_norm.clone()],
                &tape.query_inverse_rms,
                &mut gradients[layer.query_norm.clone()],
            );
            vector::normalize_heads_backward(
                &tape.projected[query..],
                row,
                &mut wide[query..],
                row,
                key_value,
                &weights[layer.key_norm.clone()],
                &tape.key_inverse_rms,
                &mut gradients[layer.key_norm.clone()],
            );
        }
        if !layer.query_key_value_bias.is_empty() {
            vector::add_rows(wide, &mut gradients[layer.query_key_value_bias.clone()]);
        }
        multiply(
            MatrixView::new(wide, count, row).transposed(),
            MatrixView::new(&tape.normalized, count, width),
            &mut gradients[layer.query_key_value.clone()],
            width,
            1.0,
            true,
        );
        multiply(
            MatrixView::new(wide, count, row),
            MatrixView::new(&weights[layer.query_key_value.clone()], row, width),
            sized(narrow, count * width),
            width,
            1.0,
            false,
        );
        vector::normalize_rows_backward(
            &tape.input,
            &weights[layer.attention_norm.clone()],
            &tape.inverse_rms,
            narrow,
            stream,
            &mut gradients[layer.attention_norm.clone()],
        );
    }
}

#[cfg(test)]
mod tests;
