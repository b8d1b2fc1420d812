//! The shape of the network, in the names of Hugging Face's Llama `config.json`.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;

/// Sizes of a Llama-shaped decoder. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Always `["LlamaForCausalLM"]`.
    pub architectures: Vec<String>,
    /// Always `llama`.
    pub model_type: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Tokens that a model may write: the first so many. The others, the places of habits, are only ever read, so they
    /// are in no denominator and may be near copies of tokens that are written. Absent: all of them. No field of
    /// Hugging Face's: who does not know it should mask the tokens from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Equal to `num_attention_heads`: grouped queries are not used.
    pub num_key_value_heads: usize,
    /// Longest sequence of prompt and answer together.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies; transformers 5 reads `rope_parameters` instead, so both are written.
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// The form that transformers 5 writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// The form in which transformers 4 writes scaled frequencies; must be absent or null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<serde_json::Value>,
    /// Must be absent or `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Must be absent or false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// Must be absent or false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    /// Whether the output layer is the embedding table; always true here.
    pub tie_word_embeddings: bool,
    /// Always `silu`.
    pub hidden_act: String,
    /// Token that starts a sequence.
    pub bos_token_id: u32,
    /// Token that ends an answer.
    pub eos_token_id: u32,
    /// Name of the stored number format.
    #[serde(default = "default_dtype")]
    pub torch_dtype: String,
}

/// Rotary settings as transformers 5 stores them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeParameters {
    /// Base of the frequencies.
    pub rope_theta: f64,
    /// `default`: no scaling.
    #[serde(default = "default_rope_type")]
    pub rope_type: String,
}

fn default_rope_type() -> String {
    "default".to_owned()
}

fn default_dtype() -> String {
    "bfloat16".to_owned()
}

impl ModelConfig {
    /// The base model of this repository for a vocabulary of `vocab_size` tokens.
    #[must_use]
    pub fn base(vocab_size: usize, bos_token_id: u32, eos_token_id: u32) -> Self {
        Self {
            architectures: vec!["LlamaForCausalLM".to_owned()],
            model_type: "llama".to_owned(),
            vocab_size,
            written_vocab_size: None,
            hidden_size: 192,
            intermediate_size: 512,
            num_hidden_layers: 4,
            num_attention_heads: 6,
            num_key_value_heads: 6,
            max_position_embeddings: 256,
            rms_norm_eps: 1e-5,
            rope_theta: Some(10_000.0),
            rope_parameters: Some(RopeParameters { rope_theta: 10_000.0, rope_type: default_rope_type() }),
            rope_scaling: None,
            head_dim: None,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            hidden_act: "silu".to_owned(),
            bos_token_id,
            eos_token_id,
            torch_dtype: default_dtype(),
        }
    }

    /// Width of one attention head.
    #[must_use]
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// Number of tokens that a model may write.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written_vocab_size.unwrap_or(self.vocab_size)
    }

    /// Base of the rotary frequencies.
    #[must_use]
    pub fn theta(&self) -> f64 {
        self.rope_parameters.as_ref().map(|parameters| parameters.rope_theta).or(self.rope_theta).unwrap_or(10_000.0)
    }

    /// Refuses shapes that the network does not implement.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the field.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |reason: &str| Err(ModelError::Config(reason.to_owned()));
        if self.model_type != "llama" {
            return refuse("model_type is not llama");
        }
        if !(8..=1 << 20).contains(&self.vocab_size) {
            return refuse("vocab_size is out of range");
        }
        if !(1..=self.vocab_size).contains(&self.written()) {
            return refuse("written_vocab_size is out of range");
        }
        if self.num_attention_heads == 0 || self.hidden_size == 0 || self.hidden_size > 1 << 14 {
            return refuse("hidden_size or num_attention_heads is out of range");
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) || !self.head_size().is_multiple_of(2) {
            return refuse("hidden_size is not a multiple of num_attention_heads with an even quotient");
        }
        if self.num_key_value_heads != self.num_attention_heads {
            return refuse("num_key_value_heads differs from num_attention_heads");
        }
        if self.num_hidden_layers == 0 || self.num_hidden_layers > 256 || self.intermediate_size == 0 {
            return refuse("num_hidden_layers or intermediate_size is out of range");
        }
        if !(16..=1 << 16).contains(&self.max_position_embeddings) {
            return refuse("max_position_embeddings is out of range");
        }
        if !self.tie_word_embeddings {
            return refuse("tie_word_embeddings is false");
        }
        if self.hidden_act != "silu" {
            return refuse("hidden_act is not silu");
        }
        if !(self.rms_norm_eps > 0.0 && self.theta() > 1.0) {
            return refuse("rms_norm_eps or rope_theta is out of range");
        }
        if self.rope_scaling.is_some() || self.rope_parameters.as_ref().is_some_and(|rope| rope.rope_type != "default")
        {
            return refuse("rope_type is not default, or rope_scaling is set");
        }
        if let (Some(old), Some(new)) = (self.rope_theta, &self.rope_parameters)
            && old != new.rope_theta
        {
            return refuse("rope_theta and rope_parameters.rope_theta differ");
        }
        if self.head_dim.is_some_and(|size| size != self.head_size()) {
            return refuse("head_dim is not hidden_size / num_attention_heads");
        }
        if self.attention_bias || self.mlp_bias {
            return refuse("attention_bias or mlp_bias is true");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> ModelConfig {
        let mut value = serde_json::to_value(ModelConfig::base(100, 0, 1)).unwrap();
        change(value.as_object_mut().unwrap());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn both_forms_of_the_rotary_base_are_read_and_written() {
        let old = with(|fields| {
            fields.remove("rope_parameters");
            fields.insert("rope_theta".to_owned(), json!(50_000.0));
        });
        let new = with(|fields| {
            fields.remove("rope_theta");
            fields.insert("rope_parameters".to_owned(), json!({ "rope_theta": 50_000.0, "rope_type": "default" }));
        });
        for config in [&old, &new] {
            config.validate().unwrap();
            assert_eq!(config.theta(), 50_000.0);
        }
        let written = serde_json::to_value(ModelConfig::base(100, 0, 1)).unwrap();
        assert_eq!(written["rope_theta"], json!(10_000.0));
        assert_eq!(written["rope_parameters"], json!({ "rope_theta": 10_000.0, "rope_type": "default" }));
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        let refusals = [
            (json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } }), "rope_scaling"),
            (json!({ "rope_parameters": { "rope_theta": 10_000.0, "rope_type": "yarn" } }), "rope_type"),
            (json!({ "rope_parameters": { "rope_theta": 500_000.0 } }), "rope_parameters.rope_theta"),
            (json!({ "head_dim": 64 }), "head_dim"),
            (json!({ "attention_bias": true }), "attention_bias"),
            (json!({ "mlp_bias": true }), "mlp_bias"),
            (json!({ "num_key_value_heads": 2 }), "num_key_value_heads"),
            (json!({ "tie_word_embeddings": false }), "tie_word_embeddings"),
            (json!({ "hidden_act": "gelu" }), "hidden_act"),
            (json!({ "model_type": "qwen2" }), "model_type"),
            (json!({ "vocab_size": 0 }), "vocab_size"),
            (json!({ "written_vocab_size": 0 }), "written_vocab_size"),
            (json!({ "written_vocab_size": 1 << 30 }), "written_vocab_size"),
        ];
        for (change, field) in refusals {
            let config = with(|fields| fields.extend(change.as_object().unwrap().clone()));
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let harmless = json!({ "rope_scaling": null, "head_dim": 32, "attention_bias": false, "mlp_bias": false,
            "pretraining_tp": 1, "use_cache": true, "transformers_version": "5.23.0", "dtype": "bfloat16" });
        with(|fields| fields.extend(harmless.as_object().unwrap().clone())).validate().unwrap();
    }
}
