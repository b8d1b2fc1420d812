//! Our engine and burn compute the same network: logits, losses and gradients, on random weights and sequences.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail like tests")]

use edit_model::{CpuBackend, Family, ModelConfig, ModelError, Network, NetworkBackend, RopeParameters, Sequence};
use edit_model_burn::flex;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// A network with weights that are not at rest: gains differ from one.
fn network(config: ModelConfig, random: &mut ChaCha8Rng) -> (Network, Vec<f32>) {
    let network = Network::new(config).unwrap();
    let mut weights = network.initialize(random);
    for value in &mut weights {
        *value += 0.06 * (random.random::<f32>() - 0.5);
    }
    (network, weights)
}

fn tiny(layers: usize, heads: usize, half_head: usize, inner: usize, vocabulary: usize) -> ModelConfig {
    let mut config = ModelConfig::base(vocabulary, 0, 1);
    config.hidden_size = heads * 2 * half_head;
    config.intermediate_size = inner;
    config.num_hidden_layers = layers;
    config.num_attention_heads = heads;
    config.num_key_value_heads = heads;
    config
}

/// What families differ in.
#[derive(Debug, Clone)]
struct Variant {
    family: Family,
    /// Heads of queries for each head of keys.
    group: usize,
    half_head: usize,
    is_tied: bool,
    has_biases: bool,
    scales_rotation: bool,
}

fn variants() -> impl Strategy<Value = Variant> {
    let families = prop::sample::select(vec![Family::Llama, Family::Qwen2, Family::Qwen3]);
    (families, 1..4_usize, 1..9_usize, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(family, group, half_head, is_tied, has_biases, scales_rotation)| Variant {
            family,
            group,
            half_head,
            is_tied,
            has_biases,
            scales_rotation,
        },
    )
}

impl Variant {
    /// `config`, whose heads become those of keys, with heads as wide as this says.
    fn of(&self, config: ModelConfig) -> ModelConfig {
        let mut config = config.of_family(self.family);
        config.num_attention_heads *= self.group;
        config.head_dim = Some(2 * self.half_head);
        config.tie_word_embeddings = self.is_tied;
        config.attention_bias = self.has_biases;
        if self.scales_rotation {
            config.rope_parameters = Some(RopeParameters {
                rope_theta: Some(10_000.0),
                rope_type: "llama3".to_owned(),
                factor: Some(8.0),
                low_freq_factor: Some(1.0),
                high_freq_factor: Some(4.0),
                original_max_position_embeddings: Some(32),
            });
        }
        config
    }
}

struct Batch {
    tokens: Vec<Vec<u32>>,
    targets: Vec<Vec<u32>>,
}

impl Batch {
    /// Sequences of the given lengths, with about half of their places as targets.
    fn draw(vocabulary: usize, lengths: &[usize], random: &mut ChaCha8Rng) -> Self {
        let tokens: Vec<Vec<u32>> = lengths
            .iter()
            .map(|length| (0..*length).map(|_| random.random_range(0..vocabulary as u32)).collect())
            .collect();
        let targets = lengths
            .iter()
            .map(|length| (0..*length as u32 - 1).filter(|place| *place == 0 || random.random::<bool>()).collect())
            .collect();
        Self { tokens, targets }
    }

    fn sequences(&self) -> Vec<Sequence<'_>> {
        let pairs = self.tokens.iter().zip(&self.targets);
        pairs.map(|(tokens, target_positions)| Sequence { tokens, target_positions }).collect()
    }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let product: f64 = left.iter().zip(right).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    product / (norm(left) * norm(right))
}

/// Compares what a training step uses, log p and gradients, of our engine and `other`; positive and negative
/// coefficients, as preferences have them.
fn assert_same_step(
    network: &Network,
    weights: &[f32],
    batch: &Batch,
    other: &mut dyn NetworkBackend,
    tolerance: f64,
    random: &mut ChaCha8Rng,
) {
    let sequences = batch.sequences();
    let mut own = CpuBackend::new(network.clone());
    let ours = own.forward(weights, &sequences).unwrap();
    let theirs = other.forward(weights, &sequences).unwrap();
    assert_near(&ours, &theirs, tolerance, "log-probabilities");
    let coefficients: Vec<f32> = ours.iter().map(|_| random.random::<f32>() - 0.3).collect();
    let loss = |values: &[f32]| -> f64 {
        let sum: f64 = values.iter().zip(&coefficients).map(|(l, c)| -f64::from(*l) * f64::from(*c)).sum();
        sum / coefficients.len() as f64
    };
    assert!((loss(&ours) - loss(&theirs)).abs() < tolerance);

    let mut own_gradient = vec![0.0; weights.len()];
    let mut other_gradient = vec![0.0; weights.len()];
    own.backward(weights, &coefficients, &mut own_gradient).unwrap();
    other.backward(weights, &coefficients, &mut other_gradient).unwrap();
    let least_agreement = 1.0 - tolerance;
    assert!(cosine(&own_gradient, &other_gradient) > least_agreement);
    let whole = norm(&other_gradient);
    for tensor in network.tensors() {
        let (ours, theirs) = (&own_gradient[tensor.range.clone()], &other_gradient[tensor.range.clone()]);
        let difference: Vec<f32> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
        assert!(norm(&difference) < tolerance * (10.0 * norm(theirs) + 0.1 * whole), "{}", tensor.name);
        // Where attention sees one token alone, queries and keys have no gradient but rounding.
        if norm(theirs) > 1e-3 * whole {
            let agreement = cosine(ours, theirs);
            assert!(agreement > least_agreement, "{}: cosine {agreement}", tensor.name);
        }
    }
}

fn assert_near(ours: &[f32], theirs: &[f32], tolerance: f64, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    let worst = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    assert!(worst < tolerance, "{what} differ by {worst}");
}

/// Compares our engine with burn on this machine's processors, logits included.
fn assert_parity(config: ModelConfig, lengths: &[usize], padded: usize, seed: u64) {
    const TOLERANCE: f64 = 1e-4;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (network, weights) = network(config, &mut random);
    let batch = Batch::draw(network.config().vocab_size, lengths, &mut random);
    let mut burn = flex(network.clone()).padded_to(padded);
    for tokens in &batch.tokens {
        let ours = network.all_logits(&weights, tokens).unwrap();
        assert_near(&ours, &burn.all_logits(&weights, tokens).unwrap(), TOLERANCE, "logits");
    }
    assert_same_step(&network, &weights, &batch, &mut burn, TOLERANCE, &mut random);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_tiny_network_computes_the_same(
        layers in 1..4_usize,
        heads in 1..4_usize,
        half_head in 1..9_usize,
        inner in 3..40_usize,
        vocabulary in 8..90_usize,
        lengths in prop::collection::vec(2..70_usize, 1..5),
        padded in 0..80_usize,
        seed: u64,
    ) {
        assert_parity(tiny(layers, heads, half_head, inner, vocabulary), &lengths, padded, seed);
    }

    #[test]
    fn any_tiny_network_of_any_family_computes_the_same(
        variant in variants(),
        heads in 1..4_usize,
        inner in 3..40_usize,
        lengths in prop::collection::vec(2..70_usize, 1..4),
        seed: u64,
    ) {
        assert_parity(variant.of(tiny(2, heads, 5, inner, 60)), &lengths, 0, seed);
    }
}

#[test]
fn the_base_size_computes_the_same() {
    assert_parity(ModelConfig::base(2624, 0, 13), &[160, 97, 41, 2], 0, 7);
    assert_parity(ModelConfig::base(2624, 0, 13), &[120, 33], 160, 8);
}

#[test]
fn both_refuse_the_same_batches() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (network, weights) = network(tiny(1, 2, 4, 16, 40), &mut random);
    let long = vec![1; network.config().max_position_embeddings + 1];
    let refused: [(&[f32], &[u32], &[u32]); 5] = [
        (&weights[1..], &[1, 2], &[0]),
        (&weights, &[], &[]),
        (&weights, &long, &[0]),
        (&weights, &[1, 40], &[0]),
        (&weights, &[1, 2], &[1]),
    ];
    let backends: [Box<dyn NetworkBackend>; 2] =
        [Box::new(CpuBackend::new(network.clone())), Box::new(flex(network.clone()))];
    for mut backend in backends {
        for (weights, tokens, target_positions) in &refused {
            let result = backend.forward(weights, &[Sequence { tokens, target_positions }]);
            assert!(matches!(result, Err(ModelError::Sequence(_))), "{}: {result:?}", backend.name());
        }
        backend.forward(&weights, &[Sequence { tokens: &[1, 2, 3], target_positions: &[0, 1] }]).unwrap();
        let mut gradients = vec![0.0; weights.len()];
        assert!(backend.backward(&weights, &[1.0], &mut gradients).is_err(), "{}", backend.name());
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_machine_without_cuda_is_told_so_and_one_with_it_computes_the_same() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let (network, weights) = network(ModelConfig::base(512, 0, 13), &mut random);
    match edit_model_burn::cuda(network.clone()) {
        Err(error) => assert!(error.to_string().starts_with("device cuda can not be used: "), "{error}"),
        Ok(mut cuda) => {
            let batch = Batch::draw(512, &[160, 20], &mut random);
            assert_same_step(&network, &weights, &batch, cuda.as_mut(), 1e-3, &mut random);
        }
    }
}
