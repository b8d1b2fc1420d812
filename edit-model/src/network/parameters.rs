//! All weights in one vector, so that optimisers, norms and checkpoints are loops over a slice.

use std::ops::Range;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::config::ModelConfig;

/// Where one layer's weights lie. Query, key and value are adjacent, as are gate and up: each pair is one product.
#[derive(Debug, Clone)]
pub(crate) struct LayerLayout {
    pub(crate) attention_norm: Range<usize>,
    pub(crate) query_key_value: Range<usize>,
    pub(crate) attention_output: Range<usize>,
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

impl Layout {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
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
                query_key_value: take(3 * width * width),
                attention_output: take(width * width),
                feed_forward_norm: take(width),
                gate_up: take(2 * inner * width),
                down: take(width * inner),
            })
            .collect();
        let final_norm = take(width);
        Self { embedding, layers, final_norm, total: next }
    }

    /// Every tensor in the order of the file.
    pub(crate) fn named(&self, config: &ModelConfig) -> Vec<NamedTensor> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut tensors = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, start: usize| {
            let size: usize = shape.iter().product();
            tensors.push(NamedTensor { name, shape, range: start..start + size });
        };
        push("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, width], self.embedding.start);
        for (index, layer) in self.layers.iter().enumerate() {
            let prefix = format!("model.layers.{index}");
            push(format!("{prefix}.input_layernorm.weight"), vec![width], layer.attention_norm.start);
            for (part, name) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
                let start = layer.query_key_value.start + part * width * width;
                push(format!("{prefix}.self_attn.{name}.weight"), vec![width, width], start);
            }
            push(format!("{prefix}.self_attn.o_proj.weight"), vec![width, width], layer.attention_output.start);
            push(format!("{prefix}.post_attention_layernorm.weight"), vec![width], layer.feed_forward_norm.start);
            push(format!("{prefix}.mlp.gate_proj.weight"), vec![inner, width], layer.gate_up.start);
            push(format!("{prefix}.mlp.up_proj.weight"), vec![inner, width], layer.gate_up.start + inner * width);
            push(format!("{prefix}.mlp.down_proj.weight"), vec![width, inner], layer.down.start);
        }
        push("model.norm.weight".to_owned(), vec![width], self.final_norm.start);
        tensors
    }

    /// Fresh weights: normal with deviation 0.02 (halved by depth for what writes to the residual stream), norms one.
    pub(crate) fn initialize(&self, config: &ModelConfig, random: &mut ChaCha8Rng) -> Vec<f32> {
        let mut weights = vec![0.0; self.total];
        let mut fill = |range: &Range<usize>, deviation: f64| {
            for value in &mut weights[range.clone()] {
                let (first, second): (f64, f64) = (random.random::<f64>().max(1e-12), random.random());
                *value = (deviation * (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos()) as f32;
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
        for layer in &self.layers {
            weights[layer.attention_norm.clone()].fill(1.0);
            weights[layer.feed_forward_norm.clone()].fill(1.0);
        }
        weights[self.final_norm.clone()].fill(1.0);
        weights
    }
}
