//! What the parts of a decoder are called there, and where they are laid out in another order.

use super::GgufWeights;
use super::file::Value;
use crate::config::{Family, ModelConfig};
use crate::error::ModelError;
use crate::network::{EMBEDDING, OUTPUT};

/// The architecture's name, with which the names of its sizes begin.
pub(super) fn architecture(config: &ModelConfig) -> &'static str {
    match config.model_type {
        Family::Llama => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
    }
}

/// Refuses what llama.cpp would compute otherwise.
pub(super) fn check(config: &ModelConfig) -> Result<(), ModelError> {
    if config.model_type == Family::Qwen3 && config.attention_bias {
        return Err(ModelError::Config("llama.cpp computes Qwen3 without attention_bias".to_owned()));
    }
    Ok(())
}

/// The name of a tensor of a checkpoint.
pub(super) fn tensor_name(name: &str) -> Result<String, ModelError> {
    let translated = match name {
        EMBEDDING => Some("token_embd.weight".to_owned()),
        OUTPUT => Some("output.weight".to_owned()),
        "model.norm.weight" => Some("output_norm.weight".to_owned()),
        _ => in_layer(name),
    };
    translated.ok_or_else(|| ModelError::Config(format!("{name} has no name in GGUF")))
}

fn in_layer(name: &str) -> Option<String> {
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = part.rsplit_once('.')?;
    let module = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{module}.{kind}"))
}

/// How many heads the rows of a tensor are, if they are rotated: those of Llama are laid out for a rotation of
/// neighbours there, those of the other families are not.
pub(super) fn query_heads(config: &ModelConfig, name: &str) -> Option<usize> {
    let module = name.rsplit_once('.')?.0;
    match config.model_type {
        Family::Llama if module.ends_with(".q_proj") => Some(config.num_attention_heads),
        Family::Llama if module.ends_with(".k_proj") => Some(config.num_key_value_heads),
        _ => None,
    }
}

/// By what each frequency of the rotation is divided.
fn frequency_divisors(config: &ModelConfig) -> Result<Vec<f64>, ModelError> {
    let (head, theta) = (config.head_size() as f64, config.theta());
    let divisor = |(index, frequency): (usize, f64)| theta.powf(-2.0 * index as f64 / head) / frequency;
    Ok(config.rotary_frequencies()?.into_iter().enumerate().map(divisor).collect())
}

/// The one number by which all frequencies are divided, if there is one.
fn common_divisor(divisors: &[f64]) -> Option<f64> {
    let first = *divisors.first()?;
    divisors.iter().all(|divisor| (divisor / first - 1.0).abs() < 1e-9).then_some(first)
}

/// By what each frequency is divided, where it is not the same for all.
pub(super) fn frequency_factors(config: &ModelConfig) -> Result<Option<Vec<f32>>, ModelError> {
    let divisors = frequency_divisors(config)?;
    if common_divisor(&divisors).is_some() {
        return Ok(None);
    }
    if config.model_type != Family::Llama {
        return Err(ModelError::Config(
            "llama.cpp computes rotary scaling of the type llama3 for Llama alone".to_owned(),
        ));
    }
    Ok(Some(divisors.into_iter().map(|divisor| divisor as f32).collect()))
}

/// What `general.file_type` calls the type of most weights.
fn file_type(weights: GgufWeights) -> u32 {
    match weights {
        GgufWeights::F32 => 0,
        GgufWeights::Bf16 => 32,
    }
}

/// Sizes and settings.
pub(super) fn describe(
    config: &ModelConfig,
    name: &str,
    weights: GgufWeights,
) -> Result<Vec<(String, Value)>, ModelError> {
    let architecture = architecture(config);
    let size = |size: usize| {
        u32::try_from(size).map(Value::U32).map_err(|_| ModelError::Config(format!("{size} is too large for GGUF")))
    };
    let head = config.head_size();
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", head),
        ("attention.value_length", head),
        ("rope.dimension_count", head),
    ];
    let text = |text: &str| Value::Text(text.to_owned());
    let mut metadata = vec![
        ("general.architecture".to_owned(), text(architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(name)),
        ("general.file_type".to_owned(), Value::U32(file_type(weights))),
    ];
    let own = |key: &str| format!("{architecture}.{key}");
    for (key, value) in sizes {
        metadata.push((own(key), size(value)?));
    }
    metadata.push((own("attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_eps as f32)));
    metadata.push((own("rope.freq_base"), Value::F32(config.theta() as f32)));
    if let Some(factor) = common_divisor(&frequency_divisors(config)?)
        && (factor - 1.0).abs() > 1e-9
    {
        metadata.push((own("rope.scaling.type"), text("linear")));
        metadata.push((own("rope.scaling.factor"), Value::F32(factor as f32)));
    }
    if let Some(written) = config.written_vocab_size {
        // Nobody else's key: llama.cpp leaves it alone.
        metadata.push(("flywheel.written_vocab_size".to_owned(), size(written)?));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_llama_cpp_computes_alike_is_written() {
        let mut config = ModelConfig::base(40, 0, 1);
        assert_eq!(frequency_factors(&config).unwrap(), None);
        let scaled = |kind: &str| -> crate::config::RopeParameters {
            serde_json::from_value(serde_json::json!({
                "rope_theta": 10_000.0, "rope_type": kind, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }))
            .unwrap()
        };
        config.rope_parameters = Some(scaled("linear"));
        assert_eq!(frequency_factors(&config).unwrap(), None);
        let metadata = describe(&config, "x", GgufWeights::F32).unwrap();
        assert!(metadata.contains(&("llama.rope.scaling.factor".to_owned(), Value::F32(8.0))), "{metadata:?}");
        config.rope_parameters = Some(scaled("llama3"));
        let factors = frequency_factors(&config).unwrap().unwrap();
        assert_eq!(factors.len(), config.head_size() / 2);
        // The fastest stay and the slowest are divided.
        assert_eq!((factors[0], *factors.last().unwrap()), (1.0, 8.0));
        config.model_type = Family::Qwen2;
        assert!(frequency_factors(&config).unwrap_err().to_string().contains("llama3"));
        config.model_type = Family::Qwen3;
        config.attention_bias = true;
        assert!(check(&config).unwrap_err().to_string().contains("attention_bias"));
        assert!(tensor_name("model.layers.0.mlp.gate_proj.scales.weight").is_err());
    }
}
