//! All weights in one vector, so that optimisers, norms and checkpoints are loops over a slice.

use std::ops::Range;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::config::ModelConfig;

/// Name of the embedding table.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output layer, where it is not the embedding table.
pub(crate) const OUTPUT: &str = "lm_head.weight";

/// Where one layer's weights lie. Query, key and value are adjacent, as are gate and up: each pair is one product. What
/// a family does not have is an empty range.
#[derive(Debug, Clone)]
pub(crate) struct LayerLayout {
    pub(crate) attention_norm: Range<usize>,
    pub(crate) query_key_value: Range<usize>,
    pub(crate) query_key_value_bias: Range<usize>,
    pub(crate) query_norm: Range<usize>,
    pub(crate) key_norm: Range<usize>,
    pub(crate) attention_output: Range<usize>,
    pub(crate) attention_output_bias: Range<usize>,
    pub(crate) feed_forward_norm: Range<usize>,
    pub(crate) gate_up: Range<usize>,
    pub(crate) down: Range<usize>,
}

/// Where every weight lies in the vector.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) embedding: Range<usize>,
    pub(crate) layers: Vec<LayerLayout>,
    pub(crate) final_norm: Range<usize>,
    /// The output layer of its own; empty where it is the embedding.
    pub(crate) output: Range<usize>,
    pub(crate) total: usize,
}

/// A tensor under its Hugging Face name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Place in the parameter vector.
    pub range: Range<usize>,
}

/// A draw from the normal distribution of mean 0 and deviation 1 (Box and Muller 1958).
pub(crate) fn standard_normal(random: &mut ChaCha8Rng) -> f64 {
    let (first, second): (f64, f64) = (random.random::<f64>().max(1e-12), random.random());
    (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos()
}

impl Layout {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (query, key_value) = (config.query_size(), config.key_value_size());
        let present = |size: usize, is_present: bool| if is_present { size } else { 0 };
        let mut next = 0;
        let mut take = |size: usize| {
            let range = next..next + size;
            next += size;
            range
        };
        let embedding = take(config.vocab_size * width);
        let layers = (0..config.num_hidden_layers)
            .map(|_| LayerLayout {
                attention_norm: take(width),
                query_key_value: take((query + 2 * key_value) * width),
                query_key_value_bias: take(present(query + 2 * key_value, config.has_query_key_value_bias())),
                query_norm: take(present(config.head_size(), config.normalizes_heads())),
                key_norm: take(present(config.head_size(), config.normalizes_heads())),
                attention_output: take(width * query),
                attention_output_bias: take(present(width, config.has_output_bias())),
                feed_forward_norm: take(width),
                gate_up: take(2 * inner * width),
                down: take(width * inner),
            })
            .collect();
        let final_norm = take(width);
        let output = take(present(config.vocab_size * width, !config.tie_word_embeddings));
        Self { embedding, layers, final_norm, output, total: next }
    }

    /// Every tensor in the order of the vector.
    pub(crate) fn named(&self, config: &ModelConfig) -> Vec<NamedTensor> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let (query, key_value) = (config.query_size(), config.key_value_size());
        let parts = [("q_proj", query), ("k_proj", key_value), ("v_proj", key_value)];
        let mut tensors = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, start: usize| {
            let size: usize = shape.iter().product();
            tensors.push(NamedTensor { name, shape, range: start..start + size });
        };
        push(EMBEDDING.to_owned(), vec![config.vocab_size, width], self.embedding.start);
        for (index, layer) in self.layers.iter().enumerate() {
            let prefix = format!("model.layers.{index}");
            push(format!("{prefix}.input_layernorm.weight"), vec![width], layer.attention_norm.start);
            let mut start = layer.query_key_value.start;
            for (name, rows) in parts {
                push(format!("{prefix}.self_attn.{name}.weight"), vec![rows, width], start);
                start += rows * width;
            }
            if !layer.query_key_value_bias.is_empty() {
                let mut start = layer.query_key_value_bias.start;
                for (name, rows) in parts {
                    push(format!("{prefix}.self_attn.{name}.bias"), vec![rows], start);
                    start += rows;
                }
            }
            for (name, range) in [("q_norm", &layer.query_norm), ("k_norm", &layer.key_norm)] {
                if !range.is_empty() {
                    push(format!("{prefix}.self_attn.{name}.weight"), vec![range.len()], range.start);
                }
            }
            let shape = vec![width, query];
            push(format!("{prefix}.self_attn.o_proj.weight"), shape, layer.attention_output.start);
            if !layer.attention_output_bias.is_empty() {
                push(format!("{prefix}.self_attn.o_proj.bias"), vec![width], layer.attention_output_bias.start);
            }
            push(format!("{prefix}.post_attention_layernorm.weight"), vec![width], layer.feed_forward_norm.start);
            push(format!("{prefix}.mlp.gate_proj.weight"), vec![inner, width], layer.gate_up.start);
            push(format!("{prefix}.mlp.up_proj.weight"), vec![inner, width], layer.gate_up.start + inner * width);
            push(format!("{prefix}.mlp.down_proj.weight"), vec![width, inner], layer.down.start);
        }
        push("model.norm.weight".to_owned(), vec![width], self.final_norm.start);
        if !self.output.is_empty() {
            push(OUTPUT.to_owned(), vec![config.vocab_size, width], self.output.start);
        }
        tensors
    }

    /// Fresh weights: normal with deviation 0.02 (halved by depth for what writes to the residual stream), norms one,
    /// biases zero.
    pub(crate) fn initialize(&self, config: &ModelConfig, random: &mut ChaCha8Rng) -> Vec<f32> {
        let mut weights = vec![0.0; self.total];
        let mut fill = |range: &Range<usize>, deviation: f64| {
            for value in &mut weights[range.clone()] {
                *value = (deviation * standard_normal(random)) as f32;
            }
        };
        let inner = 1.0 / (config.hidden_size as f64).sqrt() * 0.5;
        let residual = inner / (2.0 * config.num_hidden_layers as f64).sqrt();
        fill(&self.embedding, 0.02);
        for layer in &self.layers {
            fill(&layer.query_key_value, inner);
            fill(&layer.attention_output, residual);
            fill(&layer.gate_up, inner);
            fill(&layer.down, residual);
        }
        fill(&self.output, 0.02);
        for layer in &self.layers {
            weights[layer.attention_norm.clone()].fill(1.0);
            weights[layer.feed_forward_norm.clone()].fill(1.0);
            weights[layer.query_norm.clone()].fill(1.0);
            weights[layer.key_norm.clone()].fill(1.0);
        }
        weights[self.final_norm.clone()].fill(1.0);
        weights
    }
}
