//! Losses and gradients beside PyTorch's, and TRL's where it has the method (`tests/fixtures/methods`).

use edit_model::{Device, ModelConfig, Network};
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::device::backends;
use crate::engine::Engine;
use crate::methods::{Method, MethodConfig, MethodData, fine_tuning_optimizer};
use crate::objective::LossParts;
use crate::prepared::{Prepared, PreparedPair, Side};

#[derive(Deserialize)]
struct Shape {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    max_position_embeddings: usize,
    no_edit: usize,
}

#[derive(Deserialize)]
struct Pair {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    common: usize,
    chosen_end: usize,
    rejected_end: usize,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    loss: f64,
    config: MethodConfig,
}

#[derive(Deserialize)]
struct Fixture {
    shape: Shape,
    pairs: Vec<Pair>,
    cases: Vec<Case>,
    first_dpo_loss: f64,
}

impl Fixture {
    fn read() -> (Self, Network, SafeTensors<'static>) {
        let fixture: Self = serde_json::from_str(include_str!("../tests/fixtures/methods/reference.json")).unwrap();
        let tensors = include_bytes!("../tests/fixtures/methods/reference.safetensors");
        let network = fixture.network();
        (fixture, network, SafeTensors::deserialize(tensors).unwrap())
    }

    fn network(&self) -> Network {
        let shape = &self.shape;
        let mut config = ModelConfig::base(shape.vocab_size, 0, 1);
        config.hidden_size = shape.hidden_size;
        config.intermediate_size = shape.intermediate_size;
        config.num_hidden_layers = shape.num_hidden_layers;
        config.num_attention_heads = shape.num_attention_heads;
        config.num_key_value_heads = shape.num_key_value_heads;
        config.max_position_embeddings = shape.max_position_embeddings;
        Network::new(config).unwrap()
    }

    fn prepared(&self) -> Vec<Prepared> {
        let of = |(number, pair): (usize, &Pair)| Prepared {
            id: format!("{number}"),
            pair: PreparedPair::Preference {
                chosen: Side::new(&pair.prompt, &pair.chosen, pair.common, pair.chosen_end),
                rejected: Side::new(&pair.prompt, &pair.rejected, pair.common, pair.rejected_end),
            },
            weight: 1.0,
        };
        self.pairs.iter().enumerate().map(of).collect()
    }

    /// The loss of the first step and its gradient.
    fn first_step(
        &self,
        config: &MethodConfig,
        network: &Network,
        policy: Vec<f32>,
        reference: &[f32],
    ) -> (LossParts, Vec<f32>) {
        let data = MethodData::of_prepared(config, network, reference, self.prepared()).unwrap();
        let backends = backends(Device::Cpu, network, config.threads).unwrap();
        let mut engine = Engine::new(network.clone(), policy, fine_tuning_optimizer(config), backends);
        let groups = data.measured_batch(config, 0, &mut engine).unwrap();
        engine.gradient(&groups, 1.0).unwrap()
    }
}

/// All tensors under `prefix`, in the order of our weights.
fn flat(network: &Network, tensors: &SafeTensors<'_>, prefix: &str) -> Vec<f32> {
    let mut all = vec![0.0; network.parameter_count()];
    for tensor in network.tensors() {
        let view = tensors.tensor(&format!("{prefix}/{}", tensor.name)).unwrap();
        assert_eq!(view.shape(), tensor.shape, "{}", tensor.name);
        for (value, bytes) in all[tensor.range].iter_mut().zip(view.data().as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
    all
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn losses_and_gradients_agree_with_the_references() {
    let (fixture, network, tensors) = Fixture::read();
    let (policy, reference) = (flat(&network, &tensors, "policy"), flat(&network, &tensors, "reference"));
    assert_eq!(fixture.cases.len(), 12);
    for Case { name, loss, config } in &fixture.cases {
        let (parts, gradient) = fixture.first_step(config, &network, policy.clone(), &reference);
        let expected = flat(&network, &tensors, name);
        // What learns. Of the decision to speak alone the rest of the loss is a constant, and so is its gradient.
        let learns = if config.method == Method::ThresholdOnly {
            let width = fixture.shape.hidden_size;
            fixture.shape.no_edit * width..(fixture.shape.no_edit + 1) * width
        } else {
            assert!((parts.total - loss).abs() < 1e-4, "{name}: {} instead of {loss}", parts.total);
            0..expected.len()
        };
        let (gradient, expected) = (&gradient[learns.clone()], &expected[learns]);
        let lengths = (dot(gradient, gradient).sqrt(), dot(expected, expected).sqrt());
        let cosine = dot(gradient, expected) / (lengths.0 * lengths.1);
        assert!(cosine > 0.9999, "{name}: cosine {cosine}");
        assert!((lengths.0 / lengths.1 - 1.0).abs() < 1e-3, "{name}: lengths {lengths:?}");
    }
}

#[test]
fn the_first_loss_of_dpo_is_the_logarithm_of_two_there_and_here() {
    let (fixture, network, tensors) = Fixture::read();
    let reference = flat(&network, &tensors, "reference");
    let config = MethodConfig { lambda: 0.0, ..fixture.cases[1].config.clone() };
    assert_eq!(config.method, Method::Dpo);
    let (parts, _) = fixture.first_step(&config, &network, reference.clone(), &reference);
    assert!((parts.total - std::f64::consts::LN_2).abs() < 1e-6, "{}", parts.total);
    assert!((fixture.first_dpo_loss - std::f64::consts::LN_2).abs() < 1e-6, "{}", fixture.first_dpo_loss);
}
