//! The shape of the network, in the names of Hugging Face's `config.json`, for the Llama, Qwen2 and Qwen3 families.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ModelError;

/// Longest context: the table of rotary angles holds one row for each position.
const MAX_POSITIONS: usize = 1 << 18;
/// Most angles in that table: what the longest context takes with heads of the usual 128, twice 64 MiB.
const MAX_ANGLES: usize = MAX_POSITIONS * 64;

/// The decoder families that the network computes, by the `model_type` of `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Llama 2 and 3, and whatever is built alike: DeepSeek-Coder, Yi, SmolLM.
    Llama,
    /// Qwen2 and Qwen2.5: queries, keys and values have biases.
    Qwen2,
    /// Qwen3: queries and keys are normalised, each head by itself.
    Qwen3,
}

impl Family {
    /// Its entry in `architectures`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The token that ends an answer, or several of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// One.
    One(u32),
    /// Any of these.
    Many(Vec<u32>),
}

/// Sizes of a decoder. Field names are those of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The class of `transformers` that loads it: that of `model_type`.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Which family it is.
    pub model_type: Family,
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
    /// Heads of keys and values; each serves `num_attention_heads / num_key_value_heads` neighbouring heads of queries
    /// (Ainslie et al. 2023, "GQA").
    pub num_key_value_heads: usize,
    /// Longest sequence of prompt and answer together.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies; transformers 5 reads `rope_parameters` instead, so both are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// The form that transformers 5 writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_parameters: Option<RopeParameters>,
    /// The form in which transformers 4 writes scaled frequencies; says the same as `rope_parameters` if both are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeParameters>,
    /// Width of one attention head; absent: 128 for Qwen3, else `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Whether all four projections of attention have biases. Qwen2 does not read it: its queries, keys and values
    /// always have biases and its output never.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// Must be absent or false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    /// Whether the output layer is the embedding table.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Always `silu`.
    pub hidden_act: String,
    /// Token that starts a sequence, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<TokenIds>,
    /// Name of the stored number format.
    #[serde(default = "default_dtype")]
    pub torch_dtype: String,
}

/// Rotary settings, in the names of `rope_parameters` and `rope_scaling`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RopeParameters {
    /// Base of the frequencies; in `rope_scaling` it is absent and stands in the field of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// `default`: no scaling. `linear`: all frequencies divided by `factor`. `llama3`: low ones divided by `factor`, high
    /// ones not, between them a ramp. Others are refused.
    #[serde(default = "default_rope_type")]
    pub rope_type: String,
    /// By how much the context grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// `llama3`: frequencies with at most so many turns in the original context are divided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// `llama3`: frequencies with at least so many turns in the original context stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// `llama3`: context before it grew, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<usize>,
}

/// How rotary frequencies are scaled, with every number that it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RopeScaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
}

impl RopeParameters {
    fn plain(theta: f64) -> Self {
        Self {
            rope_theta: Some(theta),
            rope_type: default_rope_type(),
            factor: None,
            low_freq_factor: None,
            high_freq_factor: None,
            original_max_position_embeddings: None,
        }
    }

    fn scaling(&self) -> Result<RopeScaling, ModelError> {
        let positive = |value: Option<f64>, name: &str| {
            value.filter(|value| value.is_finite() && *value > 0.0).ok_or_else(|| {
                ModelError::Config(format!("rope_type is {} and {name} is absent or not positive", self.rope_type))
            })
        };
        match self.rope_type.as_str() {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: positive(self.factor, "factor")? }),
            "llama3" => {
                let low = positive(self.low_freq_factor, "low_freq_factor")?;
                let high = positive(self.high_freq_factor, "high_freq_factor")?;
                if high <= low {
                    return Err(ModelError::Config("high_freq_factor is not above low_freq_factor".to_owned()));
                }
                let original = self.original_max_position_embeddings.map(|positions| positions as f64);
                Ok(RopeScaling::Llama3 {
                    factor: positive(self.factor, "factor")?,
                    low,
                    high,
                    original: positive(original, "original_max_position_embeddings")?,
                })
            }
            other => {
                Err(ModelError::Config(format!("rope_type is {other:?}; default, linear and llama3 are computed")))
            }
        }
    }
}

fn default_rope_type() -> String {
    "default".to_owned()
}

fn default_dtype() -> String {
    "bfloat16".to_owned()
}

/// Refuses fields that are not kept and that change what a network computes.
fn check_unkept(fields: &Map<String, Value>) -> Result<(), ModelError> {
    let refuse = |reason: &str| Err(ModelError::Config(reason.to_owned()));
    if fields.contains_key("quantization_config") {
        return refuse("quantization_config is set; weights are read in bf16, f16 or f32");
    }
    if fields.get("use_sliding_window").is_some_and(|value| value != &Value::Bool(false)) {
        return refuse("use_sliding_window is set; every layer attends to the whole context");
    }
    let sliding = |layers: &Value| layers.as_array().is_none_or(|layers| layers.iter().any(|l| l != "full_attention"));
    if fields.get("layer_types").is_some_and(sliding) {
        return refuse("layer_types names another type than full_attention");
    }
    let rope = ["rope_parameters", "rope_scaling"].into_iter().filter_map(|name| fields.get(name)?.as_object());
    for settings in rope.chain(std::iter::once(fields)) {
        if settings.get("partial_rotary_factor").is_some_and(|value| value.as_f64() != Some(1.0)) {
            return refuse("partial_rotary_factor is not 1");
        }
    }
    Ok(())
}

/// Brings rotary settings of any release into one form: `rope_type`, which was `type`, and no nulls.
fn normalize_rope(fields: &mut Map<String, Value>, name: &str) -> Result<(), ModelError> {
    let Some(settings) = fields.get_mut(name).and_then(Value::as_object_mut) else { return Ok(()) };
    settings.retain(|_, value| !value.is_null());
    if settings.values().any(Value::is_object) {
        return Err(ModelError::Config(format!("{name} differs between layers")));
    }
    if let Some(old) = settings.remove("type") {
        let new = settings.entry("rope_type").or_insert_with(|| old.clone());
        if *new != old {
            return Err(ModelError::Config(format!("type and rope_type of {name} differ")));
        }
    }
    Ok(())
}

impl ModelConfig {
    /// The base model of this repository for a vocabulary of `vocab_size` tokens.
    #[must_use]
    pub fn base(vocab_size: usize, bos_token_id: u32, eos_token_id: u32) -> Self {
        Self {
            architectures: vec![Family::Llama.architecture().to_owned()],
            model_type: Family::Llama,
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
            rope_parameters: Some(RopeParameters::plain(10_000.0)),
            rope_scaling: None,
            head_dim: None,
            attention_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            hidden_act: "silu".to_owned(),
            bos_token_id: Some(bos_token_id),
            eos_token_id: Some(TokenIds::One(eos_token_id)),
            torch_dtype: default_dtype(),
        }
    }

    /// The same sizes in another family.
    #[must_use]
    pub fn of_family(self, family: Family) -> Self {
        Self { architectures: vec![family.architecture().to_owned()], model_type: family, ..self }
    }

    /// Reads the content of a `config.json` that any release of `transformers` wrote. Sizes must be there, but for
    /// `head_dim` and, of Llama, `num_key_value_heads`; these and whatever else is absent have the default of the family's
    /// class there. Fields that change nothing here are dropped.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the architecture or the field that can not be computed.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|error| ModelError::Config(format!("it is not a JSON object: {error}")))?;
        // An attribute that is None in Python is written as null.
        fields.retain(|_, value| !value.is_null());
        let named = fields.get("model_type").cloned().unwrap_or_default();
        let Ok(family) = serde_json::from_value::<Family>(named.clone()) else {
            return Err(ModelError::Config(format!("model_type is {named}; llama, qwen2 and qwen3 can be read")));
        };
        check_unkept(&fields)?;
        for name in ["rope_parameters", "rope_scaling"] {
            normalize_rope(&mut fields, name)?;
        }
        if let (Family::Llama, Some(heads)) = (family, fields.get("num_attention_heads").cloned()) {
            fields.entry("num_key_value_heads").or_insert(heads);
        }
        fields.entry("rms_norm_eps").or_insert(Value::from(1e-6_f64));
        fields.entry("hidden_act").or_insert(Value::from("silu"));
        let config: Self =
            serde_json::from_value(Value::Object(fields)).map_err(|error| ModelError::Config(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// The same network in the words that old and new readers share: rotary settings in both forms, the class of the
    /// family, and the number format that weights are written in.
    #[must_use]
    pub fn as_written(&self) -> Self {
        let theta = self.theta();
        let new = RopeParameters { rope_theta: Some(theta), ..self.rope().into_owned() };
        let old = (new.rope_type != "default").then(|| RopeParameters { rope_theta: None, ..new.clone() });
        Self {
            architectures: vec![self.model_type.architecture().to_owned()],
            rope_theta: Some(theta),
            rope_parameters: Some(new),
            rope_scaling: old,
            head_dim: if self.model_type == Family::Qwen3 { Some(self.head_size()) } else { self.head_dim },
            torch_dtype: default_dtype(),
            ..self.clone()
        }
    }

    /// Width of one attention head.
    #[must_use]
    pub fn head_size(&self) -> usize {
        match (self.head_dim, self.model_type) {
            (Some(size), _) => size,
            (None, Family::Qwen3) => 128,
            (None, _) => self.hidden_size / self.num_attention_heads.max(1),
        }
    }

    /// Width of the queries of one token.
    #[must_use]
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_size()
    }

    /// Width of the keys of one token, and of its values.
    #[must_use]
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_size()
    }

    /// Heads of queries that share one head of keys and values.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads.max(1)
    }

    /// Whether queries, keys and values have biases.
    #[must_use]
    pub fn has_query_key_value_bias(&self) -> bool {
        self.attention_bias || self.model_type == Family::Qwen2
    }

    /// Whether the output of attention has a bias.
    #[must_use]
    pub fn has_output_bias(&self) -> bool {
        self.attention_bias && self.model_type != Family::Qwen2
    }

    /// Whether each head of queries and keys is normalised before it is rotated.
    #[must_use]
    pub fn normalizes_heads(&self) -> bool {
        self.model_type == Family::Qwen3
    }

    /// Number of tokens that a model may write.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written_vocab_size.unwrap_or(self.vocab_size)
    }

    fn rope(&self) -> Cow<'_, RopeParameters> {
        match self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()) {
            Some(parameters) => Cow::Borrowed(parameters),
            None => Cow::Owned(RopeParameters::plain(self.theta())),
        }
    }

    /// Base of the rotary frequencies.
    #[must_use]
    pub fn theta(&self) -> f64 {
        let new = self.rope_parameters.as_ref().and_then(|parameters| parameters.rope_theta);
        new.or(self.rope_theta).unwrap_or(10_000.0)
    }

    /// Radians that each pair of a head turns from one position to the next, `head_size / 2` of them: `theta^(-2i/head)`
    /// (Su et al. 2021, "RoFormer"), scaled as the rotary settings say.
    ///
    /// # Errors
    /// [`ModelError::Config`] for settings that are not computed.
    pub fn rotary_frequencies(&self) -> Result<Vec<f64>, ModelError> {
        let scaling = self.rope().scaling()?;
        let (head, theta) = (self.head_size(), self.theta());
        let plain = (0..head / 2).map(|index| theta.powf(-2.0 * index as f64 / head as f64));
        Ok(plain
            .map(|frequency| match scaling {
                RopeScaling::None => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 { factor, low, high, original } => {
                    let turns = original * frequency / std::f64::consts::TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                }
            })
            .collect())
    }

    /// Refuses shapes that the network does not implement.
    ///
    /// # Errors
    /// [`ModelError::Config`] names the field.
    pub fn validate(&self) -> Result<(), ModelError> {
        let refuse = |reason: &str| Err(ModelError::Config(reason.to_owned()));
        let class = self.model_type.architecture();
        if let Some(other) = self.architectures.iter().find(|name| *name != class) {
            return Err(ModelError::Config(format!("architectures names {other}, which is not the decoder {class}")));
        }
        if !(8..=1 << 20).contains(&self.vocab_size) {
            return refuse("vocab_size is out of range");
        }
        if !(1..=self.vocab_size).contains(&self.written()) {
            return refuse("written_vocab_size is out of range");
        }
        if !(1..=1 << 14).contains(&self.hidden_size) || !(1..=1 << 10).contains(&self.num_attention_heads) {
            return refuse("hidden_size or num_attention_heads is out of range");
        }
        if self.head_dim.is_none()
            && self.model_type != Family::Qwen3
            && !self.hidden_size.is_multiple_of(self.num_attention_heads)
        {
            return refuse("hidden_size is not a multiple of num_attention_heads, and head_dim is absent");
        }
        if !(2..=1 << 9).contains(&self.head_size()) || !self.head_size().is_multiple_of(2) {
            return refuse("head_dim (or hidden_size / num_attention_heads) is odd or out of range");
        }
        if self.num_key_value_heads == 0 || !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return refuse("num_attention_heads is not a multiple of num_key_value_heads");
        }
        if !(1..=256).contains(&self.num_hidden_layers) || !(1..=1 << 17).contains(&self.intermediate_size) {
            return refuse("num_hidden_layers or intermediate_size is out of range");
        }
        if !(16..=MAX_POSITIONS).contains(&self.max_position_embeddings) {
            return refuse("max_position_embeddings is out of range");
        }
        // A file of a few hundred bytes must not ask for a gigabyte.
        if self.max_position_embeddings * (self.head_size() / 2) > MAX_ANGLES {
            return refuse("max_position_embeddings is out of range for heads of this width (head_dim)");
        }
        if self.hidden_act != "silu" {
            return refuse("hidden_act is not silu");
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return refuse("rms_norm_eps is out of range");
        }
        if self.mlp_bias {
            return refuse("mlp_bias is true");
        }
        self.validate_rope()
    }

    fn validate_rope(&self) -> Result<(), ModelError> {
        let refuse = |reason: &str| Err(ModelError::Config(reason.to_owned()));
        if !(self.theta().is_finite() && self.theta() > 1.0) {
            return refuse("rope_theta is out of range");
        }
        let new = self.rope_parameters.as_ref().and_then(|parameters| parameters.rope_theta);
        if let (Some(old), Some(new)) = (self.rope_theta, new)
            && old != new
        {
            return refuse("rope_theta and rope_parameters.rope_theta differ");
        }
        let scaling = self.rope().scaling()?;
        if let Some(old) = &self.rope_scaling
            && (old.scaling()? != scaling || old.rope_theta.is_some_and(|theta| theta != self.theta()))
        {
            return refuse("rope_scaling and rope_parameters differ");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(change: impl FnOnce(&mut Map<String, Value>)) -> Result<ModelConfig, ModelError> {
        let mut value = serde_json::to_value(ModelConfig::base(100, 0, 1)).unwrap();
        change(value.as_object_mut().unwrap());
        ModelConfig::from_json(&serde_json::to_vec(&value).unwrap())
    }

    fn changed(change: &Value) -> Result<ModelConfig, ModelError> {
        with(|fields| fields.extend(change.as_object().unwrap().clone()))
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
        for config in [old.unwrap(), new.unwrap()] {
            assert_eq!(config.theta(), 50_000.0);
            let written = serde_json::to_value(config.as_written()).unwrap();
            assert_eq!(written["rope_theta"], json!(50_000.0));
            assert_eq!(written["rope_parameters"], json!({ "rope_theta": 50_000.0, "rope_type": "default" }));
            assert_eq!(written.get("rope_scaling"), None);
        }
        let base = ModelConfig::base(100, 0, 1);
        assert_eq!(base.as_written(), base);
    }

    #[test]
    fn scaled_frequencies_say_the_same_in_every_form() {
        let numbers = json!({ "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64 });
        let form = |extra: Value| {
            let mut form = numbers.as_object().unwrap().clone();
            form.extend(extra.as_object().unwrap().clone());
            Value::Object(form)
        };
        let new = form(json!({ "rope_type": "llama3", "rope_theta": 10_000.0 }));
        let forms = [
            json!({ "rope_parameters": null, "rope_scaling": form(json!({ "rope_type": "llama3" })) }),
            json!({ "rope_parameters": null, "rope_scaling": form(json!({ "type": "llama3" })) }),
            json!({ "rope_parameters": null,
                "rope_scaling": form(json!({ "type": "llama3", "rope_type": "llama3" })) }),
            json!({ "rope_parameters": new.clone(), "rope_theta": null }),
            json!({ "rope_parameters": new.clone(), "rope_scaling": form(json!({ "rope_type": "llama3" })) }),
        ];
        let read: Vec<ModelConfig> = forms.iter().map(|form| changed(form).unwrap().as_written()).collect();
        assert!(read.windows(2).all(|pair| pair[0] == pair[1]));
        let written = serde_json::to_value(&read[0]).unwrap();
        assert_eq!(written["rope_parameters"], new);
        assert_eq!(written["rope_scaling"], form(json!({ "rope_type": "llama3" })));

        let plain = ModelConfig::base(100, 0, 1).rotary_frequencies().unwrap();
        let scaled = read[0].rotary_frequencies().unwrap();
        // 64 positions of the fastest pair are 10 turns: kept. Of the slowest they are less than one: divided.
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[15] - plain[15] / 8.0).abs() < 1e-18);
        assert!(scaled.iter().zip(&plain).any(|(s, p)| *s < 0.99 * p && *s > 1.01 * p / 8.0));
        let linear = changed(&json!({ "rope_parameters": { "rope_type": "linear", "factor": 4.0 } })).unwrap();
        assert!(linear.rotary_frequencies().unwrap().iter().zip(&plain).all(|(s, p)| (s * 4.0 - p).abs() < 1e-15));
    }

    #[test]
    fn the_same_sizes_in_another_family_are_read_as_that_family() {
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let config = ModelConfig::base(100, 0, 1).of_family(family);
            let read = ModelConfig::from_json(&serde_json::to_vec(&config).unwrap()).unwrap();
            assert_eq!((read.model_type, read), (family, config));
        }
    }

    #[test]
    fn what_a_writer_leaves_out_has_the_default_of_its_family() {
        let sizes = json!({ "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 128 });
        let read = |change: Value| {
            let mut fields = sizes.as_object().unwrap().clone();
            fields.extend(change.as_object().unwrap().clone());
            ModelConfig::from_json(&serde_json::to_vec(&fields).unwrap())
        };
        let llama = read(json!({ "model_type": "llama" })).unwrap();
        assert_eq!((llama.num_key_value_heads, llama.head_size(), llama.tie_word_embeddings), (4, 8, false));
        assert_eq!((llama.rms_norm_eps, llama.theta()), (1e-6, 10_000.0));
        assert_eq!((llama.bos_token_id, llama.eos_token_id.clone()), (None, None));
        assert!(!llama.has_query_key_value_bias() && !llama.normalizes_heads());
        let qwen2 = read(json!({ "model_type": "qwen2", "num_key_value_heads": 2, "eos_token_id": [5, 6] })).unwrap();
        assert!(qwen2.has_query_key_value_bias() && !qwen2.has_output_bias());
        assert_eq!((qwen2.group_size(), qwen2.key_value_size()), (2, 16));
        assert_eq!(serde_json::to_value(&qwen2).unwrap()["eos_token_id"], json!([5, 6]));
        let qwen3 = read(json!({ "model_type": "qwen3", "num_key_value_heads": 2, "attention_bias": true })).unwrap();
        assert!(qwen3.has_query_key_value_bias() && qwen3.has_output_bias() && qwen3.normalizes_heads());
        assert_eq!((qwen3.head_size(), qwen3.query_size()), (128, 512));
        assert_eq!(qwen3.as_written().head_dim, Some(128));
        let missing = read(json!({ "model_type": "qwen2" })).unwrap_err().to_string();
        assert!(missing.contains("num_key_value_heads"), "{missing}");
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        let yarn = json!({ "rope_theta": 10_000.0, "rope_type": "yarn", "factor": 4.0 });
        let refusals = [
            (json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0 } }), "low_freq_factor"),
            (json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0 } }), "rope_scaling"),
            (json!({ "rope_parameters": yarn }), "rope_type"),
            (json!({ "rope_parameters": { "rope_theta": 500_000.0 } }), "rope_parameters.rope_theta"),
            (json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e6 } } }), "between layers"),
            (json!({ "rope_parameters": { "type": "linear", "rope_type": "default" } }), "rope_type"),
            (json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
            (json!({ "rope_parameters": null, "rope_theta": 0.5 }), "rope_theta"),
            (json!({ "head_dim": 63 }), "head_dim"),
            (json!({ "num_attention_heads": 7 }), "num_attention_heads"),
            (json!({ "mlp_bias": true }), "mlp_bias"),
            (json!({ "num_key_value_heads": 4 }), "num_key_value_heads"),
            (json!({ "num_key_value_heads": 0 }), "num_key_value_heads"),
            (json!({ "hidden_act": "gelu" }), "hidden_act"),
            (json!({ "model_type": "gpt2" }), "gpt2"),
            (json!({ "model_type": null }), "model_type"),
            (json!({ "model_type": "qwen3" }), "architectures"),
            (json!({ "architectures": ["LlamaForSequenceClassification"] }), "LlamaForSequenceClassification"),
            (json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
            (json!({ "use_sliding_window": true }), "use_sliding_window"),
            (json!({ "layer_types": ["full_attention", "sliding_attention"] }), "layer_types"),
            (json!({ "rms_norm_eps": 0.0 }), "rms_norm_eps"),
            (json!({ "vocab_size": 0 }), "vocab_size"),
            (json!({ "vocab_size": "many" }), "string"),
            (json!({ "max_position_embeddings": 1 << 20 }), "max_position_embeddings"),
            (json!({ "max_position_embeddings": 1 << 18, "head_dim": 130 }), "max_position_embeddings"),
            (json!({ "intermediate_size": 1_u64 << 40 }), "intermediate_size"),
            (json!({ "written_vocab_size": 0 }), "written_vocab_size"),
            (json!({ "written_vocab_size": 1 << 30 }), "written_vocab_size"),
        ];
        for (change, field) in refusals {
            let error = changed(&change).unwrap_err();
            assert!(matches!(error, ModelError::Config(_)));
            assert!(error.to_string().contains(field), "{error}");
        }
        for bytes in [&b""[..], b"[]", b"{", b"{}"] {
            assert!(matches!(ModelConfig::from_json(bytes), Err(ModelError::Config(_))));
        }
        let harmless = json!({ "rope_scaling": null, "head_dim": 32, "attention_bias": false, "mlp_bias": false,
            "pretraining_tp": 1, "use_cache": true, "transformers_version": "5.23.0", "dtype": "bfloat16",
            "use_sliding_window": false, "sliding_window": 4096, "layer_types": ["full_attention"] });
        changed(&harmless).unwrap();
        changed(&json!({ "max_position_embeddings": 1 << 18, "head_dim": 128 })).unwrap();
    }
}
