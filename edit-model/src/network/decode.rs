//! Cached decoding: the prompt in one batch of products, then one token at a time.

use super::matmul::{MatrixView, multiply, multiply_vector};
use super::{Network, Sequence, Workspace, vector};
use crate::error::ModelError;

/// Keys and values of every layer for the tokens read so far, and the buffers of one step.
#[derive(Debug)]
pub(crate) struct KeyValueCache {
    /// Per layer: rows of (query, key, value) as the forward pass lays them out.
    rows: Vec<Vec<f32>>,
    length: usize,
    stream: Vec<f32>,
    normalized: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
    scores: Vec<f32>,
    query_inverse_rms: Vec<f32>,
    key_inverse_rms: Vec<f32>,
}

impl Network {
    /// Logits of one row to log-probabilities in place.
    pub(crate) fn log_softmax(logits: &mut [f32]) {
        vector::log_softmax(logits);
    }

    /// Reads the prompt and returns the cache and the logits of the next token.
    pub(crate) fn read_prompt(
        &self,
        weights: &[f32],
        tokens: &[u32],
        workspace: &mut Workspace,
    ) -> Result<(KeyValueCache, Vec<f32>), ModelError> {
        self.forward(weights, &[Sequence { tokens, target_positions: &[] }], workspace)?;
        let width = self.config.hidden_size;
        let mut cache = KeyValueCache {
            rows: workspace.layers.iter().map(|layer| layer.query_key_value.clone()).collect(),
            length: tokens.len(),
            stream: workspace.output[(tokens.len() - 1) * width..].to_vec(),
            normalized: vec![0.0; width],
            attended: vec![0.0; self.config.query_size()],
            gate_up: vec![0.0; 2 * self.config.intermediate_size],
            activated: vec![0.0; self.config.intermediate_size],
            scores: Vec::new(),
            query_inverse_rms: vec![0.0; self.config.num_attention_heads],
            key_inverse_rms: vec![0.0; self.config.num_key_value_heads],
        };
        let logits = self.logits(weights, &mut cache);
        Ok((cache, logits))
    }

    fn logits(&self, weights: &[f32], cache: &mut KeyValueCache) -> Vec<f32> {
        let mut inverse = [0.0];
        vector::normalize_rows(
            &cache.stream,
            &weights[self.layout.final_norm.clone()],
            self.config.rms_norm_eps as f32,
            &mut cache.normalized,
            &mut inverse,
        );
        let mut logits = vec![0.0; self.config.written()];
        multiply_vector(&weights[self.output_layer()], &cache.normalized, &mut logits);
        logits
    }

    /// Appends one token and returns the logits of the next.
    pub(crate) fn read_token(
        &self,
        weights: &[f32],
        token: u32,
        cache: &mut KeyValueCache,
    ) -> Result<Vec<f32>, ModelError> {
        let (width, inner, head) = (self.config.hidden_size, self.config.intermediate_size, self.config.head_size());
        let (query, key_value, stride) = self.attention_widths();
        let position = cache.length;
        if position >= self.config.max_position_embeddings || token as usize >= self.config.vocab_size {
            return Err(ModelError::Sequence("the sequence is full or the token unknown"));
        }
        let epsilon = self.config.rms_norm_eps as f32;
        let mut inverse = [0.0];
        cache.stream.copy_from_slice(&weights[self.layout.embedding.clone()][token as usize * width..][..width]);
        for (layer, rows) in self.layout.layers.iter().zip(&mut cache.rows) {
            vector::normalize_rows(
                &cache.stream,
                &weights[layer.attention_norm.clone()],
                epsilon,
                &mut cache.normalized,
                &mut inverse,
            );
            rows.resize((position + 1) * stride, 0.0);
            let (_, row) = rows.split_at_mut(position * stride);
            multiply_vector(&weights[layer.query_key_value.clone()], &cache.normalized, row);
            if !layer.query_key_value_bias.is_empty() {
                vector::add_in_place(row, &weights[layer.query_key_value_bias.clone()]);
            }
            if self.config.normalizes_heads() {
                let (queries, keys) = (&mut cache.query_inverse_rms, &mut cache.key_inverse_rms);
                self.normalize_heads(weights, layer, row, queries, keys);
            }
            self.rotary.rotate(row, stride, query + key_value, &[position as u32], 1.0);
            cache.scores.resize(position + 1, 0.0);
            for index in 0..self.config.num_attention_heads {
                let (query_start, key_start, value_start) = self.head_offsets(index);
                vector::attend_one(
                    &rows[position * stride + query_start..][..head],
                    &rows[key_start..],
                    &rows[value_start..],
                    stride,
                    &mut cache.scores,
                    &mut cache.attended[query_start..query_start + head],
                );
            }
            multiply_vector(&weights[layer.attention_output.clone()], &cache.attended, &mut cache.normalized);
            if !layer.attention_output_bias.is_empty() {
                vector::add_in_place(&mut cache.normalized, &weights[layer.attention_output_bias.clone()]);
            }
            vector::add_in_place(&mut cache.stream, &cache.normalized);
            vector::normalize_rows(
                &cache.stream,
                &weights[layer.feed_forward_norm.clone()],
                epsilon,
                &mut cache.normalized,
                &mut inverse,
            );
            multiply_vector(&weights[layer.gate_up.clone()], &cache.normalized, &mut cache.gate_up);
            vector::gated_activation(&cache.gate_up, inner, &mut cache.activated);
            multiply_vector(&weights[layer.down.clone()], &cache.activated, &mut cache.normalized);
            vector::add_in_place(&mut cache.stream, &cache.normalized);
        }
        cache.length += 1;
        Ok(self.logits(weights, cache))
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
