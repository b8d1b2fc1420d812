//! Attention over ragged batches, forward and backward. A sequence may begin with rows of another one: what it attends to
//! is then in two places, and what it says of them is added to what the other says.

use super::matmul::{MatrixView, multiply};
use super::{LayerTape, Network, sized, vector};

/// Rows of queries whose scores are computed at once; later keys are skipped, which saves up to half of attention.
pub(super) const QUERY_BLOCK: usize = 48;

/// Where a sequence stands in a batch: `prefix` rows of an earlier sequence that begins alike, then its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) prefix_start: usize,
    pub(super) prefix: usize,
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Span {
    /// Tokens of the sequence.
    fn total(self) -> usize {
        self.prefix + self.length
    }
}

impl Network {
    pub(super) fn attention_forward(&self, tape: &mut LayerTape, spans: &[Span]) {
        let (width, _, stride) = self.attention_widths();
        let (heads, head) = (self.config.num_attention_heads, self.config.head_size());
        let scale = 1.0 / (head as f32).sqrt();
        let scores: usize = spans.iter().map(|span| span.length * span.total()).sum();
        let count: usize = spans.iter().map(|span| span.length).sum();
        sized(&mut tape.probabilities, scores * heads);
        sized(&mut tape.attended, count * width);
        let mut score_start = 0;
        for span in spans {
            let Span { prefix_start, prefix, start, length } = *span;
            let total = span.total();
            for index in 0..heads {
                let (query_start, key_start, value_start) = self.head_offsets(index);
                let rows_here = &tape.query_key_value[start * stride..];
                let (query, key, value) =
                    (&rows_here[query_start..], &rows_here[key_start..], &rows_here[value_start..]);
                let rows_before = &tape.query_key_value[prefix_start * stride..];
                let (key_before, value_before) = (&rows_before[key_start..], &rows_before[value_start..]);
                let scores = &mut tape.probabilities[score_start..score_start + length * total];
                score_start += length * total;
                for first in (0..length).step_by(QUERY_BLOCK) {
                    let rows = QUERY_BLOCK.min(length - first);
                    let visible = first + rows;
                    let block = &mut scores[first * total..(first + rows) * total];
                    let queries = MatrixView::strided(&query[first * stride..], rows, head, stride);
                    if prefix > 0 {
                        let keys = MatrixView::strided(key_before, prefix, head, stride).transposed();
                        multiply(queries, keys, block, total, scale, false);
                    }
                    let keys = MatrixView::strided(key, visible, head, stride).transposed();
                    multiply(queries, keys, &mut block[prefix..], total, scale, false);
                    vector::causal_softmax_rows(block, total, prefix + first);
                    let attended = &mut tape.attended[(start + first) * width + index * head..];
                    if prefix > 0 {
                        let weights = MatrixView::strided(block, rows, prefix, total);
                        let values = MatrixView::strided(value_before, prefix, head, stride);
                        multiply(weights, values, attended, width, 1.0, false);
                    }
                    let weights = MatrixView::strided(&block[prefix..], rows, visible, total);
                    let values = MatrixView::strided(value, visible, head, stride);
                    multiply(weights, values, attended, width, 1.0, prefix > 0);
                }
            }
        }
    }

    pub(super) fn attention_backward(
        &self,
        tape: &LayerTape,
        spans: &[Span],
        attended_gradient: &[f32],
        gradient: &mut [f32],
        score_buffer: &mut Vec<f32>,
    ) {
        let (width, _, stride) = self.attention_widths();
        let (heads, head) = (self.config.num_attention_heads, self.config.head_size());
        let scale = 1.0 / (head as f32).sqrt();
        gradient.fill(0.0);
        let mut score_start = 0;
        for span in spans {
            let Span { prefix_start, prefix, start, length } = *span;
            let total = span.total();
            let (here, before) = (start * stride, prefix_start * stride);
            for index in 0..heads {
                let (query_start, key_start, value_start) = self.head_offsets(index);
                let rows_here = &tape.query_key_value[here..];
                let (query, key, value) =
                    (&rows_here[query_start..], &rows_here[key_start..], &rows_here[value_start..]);
                let rows_before = &tape.query_key_value[before..];
                let (key_before, value_before) = (&rows_before[key_start..], &rows_before[value_start..]);
                let probabilities = &tape.probabilities[score_start..score_start + length * total];
                score_start += length * total;
                for first in (0..length).step_by(QUERY_BLOCK) {
                    let rows = QUERY_BLOCK.min(length - first);
                    let visible = first + rows;
                    let block = &probabilities[first * total..(first + rows) * total];
                    let upstream = MatrixView::strided(
                        &attended_gradient[(start + first) * width + index * head..],
                        rows,
                        head,
                        width,
                    );
                    let scores = sized(score_buffer, rows * total);
                    if prefix > 0 {
                        let values = MatrixView::strided(value_before, prefix, head, stride).transposed();
                        multiply(upstream, values, scores, total, 1.0, false);
                        let weights = MatrixView::strided(block, rows, prefix, total).transposed();
                        multiply(weights, upstream, &mut gradient[before + value_start..], stride, 1.0, true);
                    }
                    let values = MatrixView::strided(value, visible, head, stride).transposed();
                    multiply(upstream, values, &mut scores[prefix..], total, 1.0, false);
                    if visible < length {
                        for row in scores.chunks_exact_mut(total) {
                            row[prefix + visible..].fill(0.0);
                        }
                    }
                    let weights = MatrixView::strided(&block[prefix..], rows, visible, total).transposed();
                    multiply(weights, upstream, &mut gradient[here + value_start..], stride, 1.0, true);
                    vector::softmax_backward_rows(block, scores, total);
                    let queries = MatrixView::strided(&query[first * stride..], rows, head, stride);
                    let of_queries = here + query_start + first * stride;
                    if prefix > 0 {
                        let scores = MatrixView::strided(scores, rows, prefix, total);
                        let keys = MatrixView::strided(key_before, prefix, head, stride);
                        multiply(scores, keys, &mut gradient[of_queries..], stride, scale, false);
                        multiply(
                            scores.transposed(),
                            queries,
                            &mut gradient[before + key_start..],
                            stride,
                            scale,
                            true,
                        );
                    }
                    let scores = MatrixView::strided(&scores[prefix..], rows, visible, total);
                    let keys = MatrixView::strided(key, visible, head, stride);
                    multiply(scores, keys, &mut gradient[of_queries..], stride, scale, prefix > 0);
                    multiply(scores.transposed(), queries, &mut gradient[here + key_start..], stride, scale, true);
                }
            }
        }
    }
}
