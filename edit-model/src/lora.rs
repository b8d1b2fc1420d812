//! Low-rank adapters of the projections of a decoder: `W + scale B A` (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large
//! Language Models"), read and written in the layout of PEFT.
//!
//! An adapter is one flat vector, as weights are. Its gradient follows from the gradient of the weights that it changes
//! (`dA = scale B^T dW`, `dB = scale dW A^T`), so that every backend trains it and every loss stays as it is; what is saved
//! against training all weights is the optimiser's memory and what has to be stored, not the backward pass.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::backend::NetworkBackend;
use crate::checkpoint::{decode, encode};
use crate::directory::read_file;
use crate::error::ModelError;
use crate::network::{MatrixView, NamedTensor, Network, Sequence, multiply};
use crate::whole::{remove_file, write_whole};

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT writes before the name of a module.
pub(crate) const PREFIX: &str = "base_model.model.";

/// A projection that an adapter changes, in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// Queries.
    QProj,
    /// Keys.
    KProj,
    /// Values.
    VProj,
    /// Output of attention.
    OProj,
    /// Gate of the feed-forward layer.
    GateProj,
    /// Input of the feed-forward layer.
    UpProj,
    /// Output of the feed-forward layer.
    DownProj,
}

impl Projection {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// Its name in a checkpoint.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

/// What an adapter changes and how strongly.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the change.
    pub rank: usize,
    /// The change is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Projections that are changed.
    pub projections: BTreeSet<Projection>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, projections: Projection::ALL.into_iter().collect() }
    }
}

/// One changed matrix: `rows` outputs of `columns` inputs.
#[derive(Debug, Clone)]
struct Target {
    /// Name of the module, such as `model.layers.0.self_attn.q_proj`.
    module: String,
    rows: usize,
    columns: usize,
    /// The matrix in the weights of the network.
    matrix: Range<usize>,
    /// `A`, of `rank` rows and `columns` columns, in the adapter; `B`, of `rows` rows and `rank` columns, follows it.
    first: Range<usize>,
    second: Range<usize>,
}

/// The architecture of an adapter over one network.
#[derive(Debug, Clone)]
pub struct Lora {
    config: LoraConfig,
    targets: Vec<Target>,
    total: usize,
    network_total: usize,
}

impl Lora {
    /// The adapter that `config` describes over `network`.
    ///
    /// # Errors
    /// [`ModelError::Config`] for a rank or a scale that is out of range, or when nothing is changed.
    pub fn new(config: LoraConfig, network: &Network) -> Result<Self, ModelError> {
        let refuse = |reason: &str| Err(ModelError::Config(reason.to_owned()));
        if !(1..=1024).contains(&config.rank) {
            return refuse("the rank of the adapter is out of range");
        }
        if !(config.alpha.is_finite() && config.alpha > 0.0) {
            return refuse("lora_alpha is not positive");
        }
        if config.projections.is_empty() {
            return refuse("the adapter changes no projection");
        }
        let names: BTreeSet<&str> = config.projections.iter().map(|projection| projection.name()).collect();
        let mut total = 0;
        let mut targets = Vec::new();
        for tensor in network.tensors() {
            let Some(module) = tensor.name.strip_suffix(".weight") else { continue };
            let is_changed = module.rsplit('.').next().is_some_and(|name| names.contains(name));
            let (true, [rows, columns]) = (is_changed, tensor.shape.as_slice()) else { continue };
            let first = total..total + config.rank * columns;
            let second = first.end..first.end + rows * config.rank;
            total = second.end;
            targets.push(Target {
                module: module.to_owned(),
                rows: *rows,
                columns: *columns,
                matrix: tensor.range,
                first,
                second,
            });
        }
        Ok(Self { config, targets, total, network_total: network.parameter_count() })
    }

    /// What it changes and how strongly.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Number of weights of the adapter.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.total
    }

    fn scale(&self) -> f32 {
        (self.config.alpha / self.config.rank as f64) as f32
    }

    /// A fresh adapter, which changes nothing yet: `A` uniform within `1 / sqrt(columns)`, as PEFT draws it, `B` zero.
    #[must_use]
    pub fn initialize(&self, random: &mut ChaCha8Rng) -> Vec<f32> {
        let mut adapter = vec![0.0; self.total];
        for target in &self.targets {
            let bound = 1.0 / (target.columns as f32).sqrt();
            for value in &mut adapter[target.first.clone()] {
                *value = bound * (2.0 * random.random::<f32>() - 1.0);
            }
        }
        adapter
    }

    fn check(&self, adapter: usize, weights: usize) -> Result<(), ModelError> {
        if adapter == self.total && weights == self.network_total {
            return Ok(());
        }
        Err(ModelError::Sequence("the adapter does not fit the architecture"))
    }

    /// Adds the change of `adapter` to `weights`, in the order of [`Network::tensors`]. Of several adapters over one base
    /// the changes add up, whatever the order.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] when the adapter or the weights are of another architecture.
    pub fn add_to(&self, weights: &mut [f32], adapter: &[f32]) -> Result<(), ModelError> {
        self.check(adapter.len(), weights.len())?;
        for target in &self.targets {
            let Target { rows, columns, .. } = *target;
            multiply(
                MatrixView::new(&adapter[target.second.clone()], rows, self.config.rank),
                MatrixView::new(&adapter[target.first.clone()], self.config.rank, columns),
                &mut weights[target.matrix.clone()],
                columns,
                self.scale(),
                true,
            );
        }
        Ok(())
    }

    /// Adds to `gradients` that of the adapter, given that of the weights which it changes.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] when a length is that of another architecture.
    pub fn gradient(&self, adapter: &[f32], weight_gradients: &[f32], gradients: &mut [f32]) -> Result<(), ModelError> {
        self.check(adapter.len(), weight_gradients.len())?;
        self.check(gradients.len(), weight_gradients.len())?;
        for target in &self.targets {
            let Target { rows, columns, .. } = *target;
            let (rank, scale) = (self.config.rank, self.scale());
            let change = MatrixView::new(&weight_gradients[target.matrix.clone()], rows, columns);
            let first = MatrixView::new(&adapter[target.first.clone()], rank, columns);
            let second = MatrixView::new(&adapter[target.second.clone()], rows, rank);
            multiply(second.transposed(), change, &mut gradients[target.first.clone()], columns, scale, true);
            multiply(change, first.transposed(), &mut gradients[target.second.clone()], rank, scale, true);
        }
        Ok(())
    }

    /// Every tensor of an adapter, under its name in PEFT's file and in the order of the vector.
    #[must_use]
    pub fn tensors(&self) -> Vec<NamedTensor> {
        let rank = self.config.rank;
        let parts = self.targets.iter().flat_map(|target| {
            let name = |part: &str| format!("{PREFIX}{}.{part}.weight", target.module);
            [
                NamedTensor { name: name("lora_A"), shape: vec![rank, target.columns], range: target.first.clone() },
                NamedTensor { name: name("lora_B"), shape: vec![target.rows, rank], range: target.second.clone() },
            ]
        });
        parts.collect()
    }

    /// Writes `adapter` as PEFT loads it, in f32. The configuration of what was there before goes first and the new one is
    /// written last, without which there is no adapter. `base` says which model it is for, as a person reads it.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::NoSpace`] when a file cannot be written, [`ModelError::Sequence`] for an adapter
    /// of another architecture.
    pub fn save(&self, adapter: &[f32], directory: &Path, base: &str) -> Result<(), ModelError> {
        self.check(adapter.len(), self.network_total)?;
        std::fs::create_dir_all(directory).map_err(|source| ModelError::File { path: directory.to_owned(), source })?;
        remove_file(&directory.join(CONFIG_FILE))?;
        let weights = encode(WEIGHTS_FILE, &self.tensors(), adapter, Dtype::F32, f32::to_le_bytes)?;
        write_whole(&directory.join(WEIGHTS_FILE), &weights)?;
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": 0.0,
            "target_modules": self.config.projections,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
            "use_dora": false,
            "use_rslora": false,
            "rank_pattern": {},
            "alpha_pattern": {},
        });
        write_whole(&directory.join(CONFIG_FILE), format!("{config:#}\n").as_bytes())
    }

    /// The adapter of a directory of PEFT's over `network`.
    ///
    /// # Errors
    /// [`ModelError::File`] for a missing file, [`ModelError::Config`] for a kind of adapter that is not computed,
    /// [`ModelError::Damaged`] for tensors that are missing, unknown, of another shape or not finite.
    pub fn load(directory: &Path, network: &Network) -> Result<(Self, Vec<f32>), ModelError> {
        let lora = Self::new(config_from_json(&read_file(&directory.join(CONFIG_FILE))?)?, network)?;
        let path = directory.join(WEIGHTS_FILE);
        let bytes = read_file(&path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| ModelError::damaged(&path, error.to_string()))?;
        let tensors = lora.tensors();
        let wanted: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        if let Some(name) = file.names().into_iter().find(|name| !wanted.contains(*name)) {
            return Err(ModelError::damaged(
                &path,
                format!("it holds {name}, which the adapter does not have over this model"),
            ));
        }
        let mut adapter = vec![0.0; lora.total];
        for NamedTensor { name, shape, range } in &tensors {
            let view = file.tensor(name).map_err(|error| ModelError::damaged(&path, error.to_string()))?;
            if view.shape() != shape {
                let found = view.shape();
                return Err(ModelError::damaged(
                    &path,
                    format!("{name} has the shape {found:?}; over this model it is {shape:?}"),
                ));
            }
            decode(&path, name, &view, &mut adapter[range.clone()])?;
        }
        Ok((lora, adapter))
    }
}

/// Reads `adapter_config.json`; refuses by name what would be computed wrongly.
fn config_from_json(bytes: &[u8]) -> Result<LoraConfig, ModelError> {
    let refuse = |reason: String| Err(ModelError::Config(reason));
    let fields: Map<String, Value> = serde_json::from_slice(bytes)
        .map_err(|error| ModelError::Config(format!("{CONFIG_FILE} is not a JSON object: {error}")))?;
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    if field("peft_type").and_then(Value::as_str) != Some("LORA") {
        return refuse("peft_type is not LORA".to_owned());
    }
    let is_empty = |value: &Value| match value {
        Value::Bool(is_set) => !is_set,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text == "none",
        _ => false,
    };
    let unread = [
        "modules_to_save",
        "bias",
        "lora_bias",
        "use_dora",
        "use_rslora",
        "use_qalora",
        "use_bdlora",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
        "layers_to_transform",
        "layer_replication",
        "exclude_modules",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
    ];
    for name in unread {
        if field(name).is_some_and(|value| !is_empty(value)) {
            return refuse(format!("{name} of the adapter is set"));
        }
    }
    // Others may have taken what they began with out of the base, and are wrong over all of it.
    if let Some(value) = field("init_lora_weights").filter(|value| !value.is_boolean() && *value != "gaussian") {
        return refuse(format!("init_lora_weights of the adapter is {value}; true, false and \"gaussian\" are read"));
    }
    let Some(rank) = field("r").and_then(Value::as_u64) else {
        return refuse("r of the adapter is not a number".to_owned());
    };
    let Some(alpha) = field("lora_alpha").and_then(Value::as_f64) else {
        return refuse("lora_alpha of the adapter is not a number".to_owned());
    };
    let modules = field("target_modules").cloned().unwrap_or_default();
    let projections = serde_json::from_value(modules)
        .map_err(|error| ModelError::Config(format!("target_modules of the adapter are not projections: {error}")))?;
    Ok(LoraConfig { rank: rank as usize, alpha, projections })
}

/// Trains an adapter: its weights are those of the adapter, and another backend computes the network.
pub struct LoraBackend {
    lora: Lora,
    base: Arc<Vec<f32>>,
    inner: Box<dyn NetworkBackend>,
    merged: Vec<f32>,
    gradients: Vec<f32>,
}

impl std::fmt::Debug for LoraBackend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LoraBackend").field("lora", &self.lora.config).finish_non_exhaustive()
    }
}

impl LoraBackend {
    /// An adapter over `base`, which stays as it is; `inner` computes the network.
    #[must_use]
    pub fn new(lora: Lora, base: Arc<Vec<f32>>, inner: Box<dyn NetworkBackend>) -> Self {
        Self { lora, base, inner, merged: Vec::new(), gradients: Vec::new() }
    }
}

impl NetworkBackend for LoraBackend {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn batch_tokens(&self) -> usize {
        self.inner.batch_tokens()
    }

    fn forward(&mut self, weights: &[f32], sequences: &[Sequence<'_>]) -> Result<Vec<f32>, ModelError> {
        self.merged.clone_from(&self.base);
        self.lora.add_to(&mut self.merged, weights)?;
        self.inner.forward(&self.merged, sequences)
    }

    fn backward(&mut self, weights: &[f32], coefficients: &[f32], gradients: &mut [f32]) -> Result<(), ModelError> {
        self.gradients.clear();
        self.gradients.resize(self.merged.len(), 0.0);
        self.inner.backward(&self.merged, coefficients, &mut self.gradients)?;
        self.lora.gradient(weights, &self.gradients, gradients)
    }
}
