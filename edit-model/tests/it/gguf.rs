//! Files for llama.cpp, read back by a reader of their own.

use std::collections::BTreeMap;
use std::path::Path;

use edit_model::{
    CodeTokenizer, EditModel, Family, GgufWeights, Lora, LoraConfig, ModelConfig, ModelError, Network, RopeParameters,
};
use half::bf16;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::TEXT;

const ALIGNMENT: usize = 32;
const F32: u32 = 0;
const BF16: u32 = 30;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
}

#[derive(Debug)]
struct Tensor {
    /// The fastest dimension first.
    dimensions: Vec<usize>,
    kind: u32,
    values: Vec<f32>,
}

#[derive(Debug)]
struct Gguf {
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk::<N>().unwrap();
        self.0 = rest;
        *taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn length(&mut self) -> usize {
        usize::try_from(u64::from_le_bytes(self.take())).unwrap()
    }

    fn text(&mut self) -> String {
        let length = self.length();
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8(text.to_vec()).unwrap()
    }

    fn value(&mut self) -> Value {
        match self.u32() {
            4 => Value::U32(self.u32()),
            6 => Value::F32(f32::from_le_bytes(self.take())),
            7 => Value::Bool(self.take::<1>() == [1]),
            8 => Value::Text(self.text()),
            9 => {
                let (kind, length) = (self.u32(), self.length());
                match kind {
                    5 => Value::Integers((0..length).map(|_| i32::from_le_bytes(self.take())).collect()),
                    8 => Value::Texts((0..length).map(|_| self.text()).collect()),
                    other => panic!("an array of type {other}"),
                }
            }
            other => panic!("a value of type {other}"),
        }
    }
}

impl Gguf {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut reader = Reader(&bytes);
        assert_eq!((&reader.take::<4>(), reader.u32()), (b"GGUF", 3));
        let (tensor_count, value_count) = (reader.length(), reader.length());
        let mut values = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.text();
            assert!(values.insert(key.clone(), reader.value()).is_none(), "{key} is there twice");
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            let name = reader.text();
            let dimensions: Vec<usize> = (0..reader.u32()).map(|_| reader.length()).collect();
            infos.push((name, dimensions, reader.u32(), reader.length()));
        }
        let start = (bytes.len() - reader.0.len()).next_multiple_of(ALIGNMENT);
        let (mut tensors, mut end) = (BTreeMap::new(), 0);
        for (name, dimensions, kind, offset) in infos {
            // One behind the other, each as soon as it may begin.
            assert_eq!(offset, usize::next_multiple_of(end, ALIGNMENT), "{name}");
            let count: usize = dimensions.iter().product();
            let stored = &bytes[start + offset..];
            let values: Vec<f32> = match kind {
                F32 => stored.as_chunks::<4>().0[..count].iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
                BF16 => stored.as_chunks::<2>().0[..count]
                    .iter()
                    .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                    .collect(),
                other => panic!("{name} has the type {other}"),
            };
            end = offset + count * if kind == F32 { 4 } else { 2 };
            assert!(
                tensors.insert(name.clone(), Tensor { dimensions, kind, values }).is_none(),
                "{name} is there twice"
            );
        }
        assert_eq!(bytes.len(), start + end.next_multiple_of(ALIGNMENT));
        Self { values, tensors }
    }

    fn u32(&self, key: &str) -> u32 {
        let Some(Value::U32(value)) = self.values.get(key) else { panic!("{key} is {:?}", self.values.get(key)) };
        *value
    }

    fn text(&self, key: &str) -> &str {
        let Some(Value::Text(value)) = self.values.get(key) else { panic!("{key} is {:?}", self.values.get(key)) };
        value
    }
}

/// A random model of `family`, with four heads of queries over two of keys, of a width of their own.
fn of(family: Family, is_tied: bool) -> EditModel {
    let tokenizer = CodeTokenizer::train(std::iter::repeat_n(TEXT, 3), 330).unwrap();
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop).of_family(family);
    config.written_vocab_size = Some(tokenizer.written_size());
    config.hidden_size = 20;
    config.head_dim = Some(6);
    config.intermediate_size = 28;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.tie_word_embeddings = is_tied;
    let network = Network::new(config.clone()).unwrap();
    let mut weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(3));
    // Biases, too, are other than zero.
    weights.iter_mut().enumerate().for_each(|(index, weight)| *weight += (index % 97) as f32 / 500.0);
    EditModel::new(config, weights, tokenizer).unwrap()
}

/// What llama.cpp should find under the name of `hugging_face`.
fn named<'a>(file: &'a Gguf, hugging_face: &str) -> &'a Tensor {
    let name = hugging_face
        .replace("model.embed_tokens", "token_embd")
        .replace("lm_head", "output")
        .replace("model.norm", "output_norm")
        .replace("model.layers", "blk")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("input_layernorm", "attn_norm")
        .replace("self_attn.o_proj", "attn_output")
        .replace("self_attn.", "attn_")
        .replace("mlp.", "ffn_")
        .replace("_proj", "");
    file.tensors.get(&name).unwrap_or_else(|| panic!("{name} of {hugging_face} is missing"))
}

/// `values` of `heads` heads in rows of `width` values, with the two halves of each head interleaved.
fn interleaved(values: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let head = values.len() / heads;
    let mut turned = Vec::new();
    for head in values.chunks_exact(head) {
        let (low, high) = head.split_at(head.len() / 2);
        for (low, high) in low.chunks_exact(width).zip(high.chunks_exact(width)) {
            turned.extend_from_slice(low);
            turned.extend_from_slice(high);
        }
    }
    turned
}

#[test]
fn every_tensor_of_every_family_is_where_llama_cpp_looks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    for (family, is_tied) in
        [(Family::Llama, true), (Family::Llama, false), (Family::Qwen2, true), (Family::Qwen3, false)]
    {
        let model = of(family, is_tied);
        let config = model.network().config();
        for weights in [GgufWeights::F32, GgufWeights::Bf16] {
            let path = folder.path().join("model.gguf");
            let made = model.export_gguf(&path, "tiny", weights).unwrap();
            let file = Gguf::read(&path);
            assert_eq!(made.file.bytes, std::fs::metadata(&path).unwrap().len());
            let tensors = model.network().tensors();
            assert_eq!((made.file.tensors, file.tensors.len()), (tensors.len(), tensors.len()), "{family:?}");
            for tensor in tensors {
                let found = named(&file, &tensor.name);
                let dimensions: Vec<usize> = tensor.shape.iter().rev().copied().collect();
                assert_eq!(found.dimensions, dimensions, "{family:?}: {}", tensor.name);
                let is_stored_whole = weights == GgufWeights::F32 || tensor.shape.len() == 1;
                assert_eq!(found.kind, if is_stored_whole { F32 } else { BF16 }, "{family:?}: {}", tensor.name);
                let values = &model.weights()[tensor.range];
                let width = if tensor.shape.len() == 1 { 1 } else { tensor.shape[1] };
                let mut wanted = match family {
                    Family::Llama if tensor.name.contains("q_proj") => interleaved(values, 4, width),
                    Family::Llama if tensor.name.contains("k_proj") => interleaved(values, 2, width),
                    _ => values.to_vec(),
                };
                if !is_stored_whole {
                    wanted.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
                }
                assert_eq!(found.values, wanted, "{family:?}: {}", tensor.name);
            }
            let name = file.text("general.architecture");
            assert_eq!(name, format!("{family:?}").to_lowercase());
            assert_eq!(file.u32("general.file_type"), if weights == GgufWeights::F32 { 0 } else { 32 });
            let sizes = [
                ("vocab_size", config.vocab_size),
                ("context_length", 256),
                ("embedding_length", 20),
                ("block_count", 2),
                ("feed_forward_length", 28),
                ("attention.head_count", 4),
                ("attention.head_count_kv", 2),
                ("attention.key_length", 6),
                ("attention.value_length", 6),
                ("rope.dimension_count", 6),
            ];
            for (key, wanted) in sizes {
                assert_eq!(file.u32(&format!("{name}.{key}")) as usize, wanted, "{key}");
            }
            assert_eq!(file.values[&format!("{name}.rope.freq_base")], Value::F32(10_000.0));
            assert_eq!(file.values[&format!("{name}.attention.layer_norm_rms_epsilon")], Value::F32(1e-5));
            assert_eq!(file.u32("flywheel.written_vocab_size") as usize, config.written());
        }
    }
}

#[test]
fn the_tokenizer_is_inside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = of(Family::Llama, true);
    let made = model.export_gguf(&path, "tiny", GgufWeights::Bf16).unwrap();
    let file = Gguf::read(&path);
    assert_eq!((file.text("tokenizer.ggml.model"), file.text("tokenizer.ggml.pre")), ("gpt2", made.pre_tokenizer));
    // Ours splits as nobody else does.
    assert_eq!((made.pre_tokenizer, made.splits_alike), ("gpt-2", false));
    let special = model.tokenizer().special();
    assert_eq!(file.u32("tokenizer.ggml.bos_token_id"), special.start);
    assert_eq!(file.u32("tokenizer.ggml.eos_token_id"), special.stop);
    assert_eq!(file.values["tokenizer.ggml.add_bos_token"], Value::Bool(false));
    let (Some(Value::Texts(tokens)), Some(Value::Integers(kinds)), Some(Value::Texts(merges))) = (
        file.values.get("tokenizer.ggml.tokens"),
        file.values.get("tokenizer.ggml.token_type"),
        file.values.get("tokenizer.ggml.merges"),
    ) else {
        panic!("the vocabulary is missing");
    };
    assert_eq!((tokens.len(), kinds.len()), (model.tokenizer().vocabulary_size(), tokens.len()));
    assert!(!merges.is_empty());
    // The tokens of a text, put together, are the text as byte-level BPE writes it.
    let text: String = model.tokenizer().encode(TEXT).unwrap().iter().map(|id| tokens[*id as usize].as_str()).collect();
    assert_eq!(text, TEXT.replace(' ', "Ġ").replace('\n', "Ċ"));
    assert_eq!((tokens[special.to as usize].as_str(), kinds[special.to as usize]), ("<to>", 3));
}

#[test]
fn an_adapter_is_laid_out_as_the_model_that_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    for family in [Family::Llama, Family::Qwen3] {
        let model = of(family, true);
        let lora = Lora::new(LoraConfig { rank: 3, alpha: 12.0, ..LoraConfig::default() }, model.network()).unwrap();
        let adapter: Vec<f32> = (0..lora.parameter_count()).map(|index| index as f32).collect();
        let made = lora.export_gguf(&adapter, model.network(), &path, "habit").unwrap();
        let file = Gguf::read(&path);
        assert_eq!((file.text("general.type"), file.text("adapter.type")), ("adapter", "lora"));
        assert_eq!(file.text("general.architecture"), format!("{family:?}").to_lowercase());
        assert_eq!(file.values["adapter.lora.alpha"], Value::F32(12.0));
        // Seven projections of two layers, each of two factors.
        assert_eq!((made.tensors, file.tensors.len()), (28, 28));
        for tensor in lora.tensors() {
            let name = tensor.name.strip_prefix("base_model.model.").unwrap();
            let (module, factor) = name.trim_end_matches(".weight").rsplit_once('.').unwrap();
            let found = named(&file, &format!("{module}.weight.{}", factor.to_lowercase()));
            let dimensions: Vec<usize> = tensor.shape.iter().rev().copied().collect();
            assert_eq!((&found.dimensions, found.kind), (&dimensions, F32), "{name}");
            let values = &adapter[tensor.range];
            let wanted = match (family, factor) {
                (Family::Llama, "lora_B") if name.contains("q_proj") => interleaved(values, 4, 3),
                (Family::Llama, "lora_B") if name.contains("k_proj") => interleaved(values, 2, 3),
                _ => values.to_vec(),
            };
            assert_eq!(found.values, wanted, "{name}");
        }
        let other = of(if family == Family::Llama { Family::Qwen3 } else { Family::Llama }, true);
        let mut config = other.network().config().clone();
        config.intermediate_size += 2;
        let refused = lora.export_gguf(&adapter, &Network::new(config).unwrap(), &path, "habit").unwrap_err();
        assert!(matches!(refused, ModelError::Sequence(_)), "{refused}");
        assert_eq!(Gguf::read(&path).tensors.len(), 28);
    }
}

#[test]
fn what_can_not_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let model = of(Family::Qwen2, true);
    // A directory stands in its place.
    let taken = folder.path().join("taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    let absent = folder.path().join("absent").join("model.gguf");
    for path in [&taken, &absent] {
        let refused = model.export_gguf(path, "tiny", GgufWeights::F32).unwrap_err();
        assert!(matches!(&refused, ModelError::File { path: named, .. } if named == path), "{refused}");
    }
    let mut config = model.network().config().clone();
    config.rope_parameters = Some(RopeParameters {
        rope_theta: Some(10_000.0),
        rope_type: "llama3".to_owned(),
        factor: Some(8.0),
        low_freq_factor: Some(1.0),
        high_freq_factor: Some(4.0),
        original_max_position_embeddings: Some(64),
    });
    let scaled = EditModel::new(config, model.weights().to_vec(), model.tokenizer().clone()).unwrap();
    let refused = scaled.export_gguf(&folder.path().join("model.gguf"), "tiny", GgufWeights::F32).unwrap_err();
    assert!(refused.to_string().contains("llama3"), "{refused}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["taken"]);
}

#[test]
fn what_others_have_beside_the_file_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, theirs) = (folder.path().join("model.gguf"), folder.path().join("model.gguf.partial"));
    let model = of(Family::Qwen2, true);
    std::fs::write(&theirs, "theirs").unwrap();
    model.export_gguf(&path, "tiny", GgufWeights::F32).unwrap();
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "theirs");
    // Nor is it removed with what could not be written.
    let taken = folder.path().join("taken");
    std::fs::create_dir_all(taken.join("inside")).unwrap();
    std::fs::write(folder.path().join("taken.partial"), "theirs").unwrap();
    model.export_gguf(&taken, "tiny", GgufWeights::F32).unwrap_err();
    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = entries.collect();
    left.sort();
    assert_eq!(left, ["model.gguf", "model.gguf.partial", "taken", "taken.partial"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), mode(&theirs), "as readable as any other file");
    }
}
