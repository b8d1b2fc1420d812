use proptest::prelude::*;
use rand::SeedableRng as _;

use super::*;
use crate::config::Family;

fn tiny_config() -> ModelConfig {
    // Four tokens more than are ever written.
    let mut config = ModelConfig::base(41, 0, 1);
    config.written_vocab_size = Some(37);
    config.hidden_size = 24;
    config.intermediate_size = 20;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 2;
    config.max_position_embeddings = 128;
    config
}

fn tiny() -> Network {
    Network::new(tiny_config()).unwrap()
}

/// Every family, with what makes it differ: four heads of queries over two of keys, heads of another width than the
/// stream divided by them, an output layer of its own, biases.
fn of_every_family() -> Vec<(&'static str, Network)> {
    let of = |family: Family, is_tied: bool, has_biases: bool| {
        let mut config = tiny_config().of_family(family);
        config.num_attention_heads = 4;
        config.head_dim = Some(10);
        config.tie_word_embeddings = is_tied;
        config.attention_bias = has_biases;
        Network::new(config).unwrap()
    };
    vec![
        ("base", tiny()),
        ("llama", of(Family::Llama, false, false)),
        ("llama with biases", of(Family::Llama, true, true)),
        ("qwen2", of(Family::Qwen2, true, false)),
        ("qwen3", of(Family::Qwen3, false, false)),
        ("qwen3 with biases", of(Family::Qwen3, true, true)),
    ]
}

fn weights(network: &Network, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = network.initialize(&mut random);
    for value in &mut weights {
        *value += 0.1 * (random.random::<f32>() - 0.5);
    }
    weights
}

#[test]
fn the_gradient_agrees_with_finite_differences() {
    for (family, network) in of_every_family() {
        assert_gradient(family, &network);
    }
}

fn assert_gradient(family: &str, network: &Network) {
    let mut weights = weights(network, 1);
    let mut first: Vec<u32> = (0..61).map(|i| (i * 7 + i * i) % 37).collect();
    // Read and never a target: targets are the tokens after every third.
    (first[6], first[9]) = (38, 40);
    let second: Vec<u32> = (0..9).map(|i| (i * 5 + 3) % 37).collect();
    let first_targets: Vec<u32> = (0..60).step_by(3).collect();
    let sequences = [
        Sequence { tokens: &first, target_positions: &first_targets },
        Sequence { tokens: &second, target_positions: &[2, 5, 7] },
    ];
    let count = first_targets.len() + 3;
    let coefficients: Vec<f32> = (0..count).map(|i| ((i % 5) as f32 - 1.5) * 0.4).collect();
    let mut workspace = Workspace::default();
    let loss = |weights: &[f32], workspace: &mut Workspace| -> f64 {
        let log_p = network.forward(weights, &sequences, workspace).unwrap();
        log_p.iter().zip(&coefficients).map(|(l, c)| -f64::from(*l) * f64::from(*c)).sum()
    };
    loss(&weights, &mut workspace);
    let mut gradients = vec![0.0; network.parameter_count()];
    network.backward(&weights, &coefficients, &mut workspace, &mut gradients).unwrap();
    let mut checked = 0;
    for tensor in network.tensors() {
        for step in 0..12 {
            let index = tensor.range.start + (step * 7919 + 13) % tensor.range.len();
            let original = weights[index];
            let delta = 4e-3;
            weights[index] = original + delta;
            let above = loss(&weights, &mut workspace);
            weights[index] = original - delta;
            let below = loss(&weights, &mut workspace);
            weights[index] = original;
            let numeric = (above - below) / (2.0 * f64::from(delta));
            let analytic = f64::from(gradients[index]);
            assert!(
                (numeric - analytic).abs() < 4e-3 + 2e-2 * numeric.abs(),
                "{family}: {} [{index}]: numeric {numeric} analytic {analytic}",
                tensor.name
            );
            checked += 1;
        }
    }
    assert!(checked > 100);
}

/// Logits behind each of `tokens`, of one sequence.
fn read_tokens(
    network: &Network,
    weights: &[f32],
    tokens: &[u32],
    cache: &mut KeyValueCache,
    buffers: &mut ReadBuffers,
) -> Vec<f32> {
    network.read_tokens(weights, None, &mut [Reading { tokens, cache }], buffers).unwrap()
}

#[test]
fn cached_decoding_agrees_with_the_batch() {
    for (family, network) in of_every_family() {
        let weights = weights(&network, 2);
        let tokens: Vec<u32> = (0..70).map(|i| (i * 11 + 2) % 37).collect();
        let all = network.all_logits(&weights, &tokens).unwrap();
        let (mut cache, mut buffers) = (network.empty_cache(), ReadBuffers::default());
        let mut logits = network.read_prompt(&weights, &tokens[..50], &mut cache, &mut buffers).unwrap();
        for position in 49..69 {
            for (got, want) in logits.iter().zip(&all[position * 37..]) {
                assert!((got - want).abs() < 1e-4, "{family}: {got} {want}");
            }
            logits = read_tokens(&network, &weights, &tokens[position + 1..position + 2], &mut cache, &mut buffers);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn a_prompt_read_in_parts_is_the_prompt_read_at_once(
        tokens in proptest::collection::vec(0_u32..41, 2..128),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        for (family, network) in of_every_family() {
            let weights = weights(&network, 5);
            let (mut whole, mut buffers) = (network.empty_cache(), ReadBuffers::default());
            let wanted = network.read_prompt(&weights, &tokens, &mut whole, &mut buffers).unwrap();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| 1 + cut.index(tokens.len() - 1)).collect();
            ends.push(tokens.len());
            ends.sort_unstable();
            ends.dedup();
            let (mut parts, mut logits, mut start) = (network.empty_cache(), Vec::new(), 0);
            for end in ends {
                logits = network.read_prompt(&weights, &tokens[start..end], &mut parts, &mut buffers).unwrap();
                prop_assert_eq!(&parts, &whole.prefix(end), "{}", family);
                start = end;
            }
            prop_assert_eq!(&logits, &wanted, "{}", family);
        }
    }

    #[test]
    fn tokens_read_together_are_the_tokens_read_one_by_one(
        prompt in proptest::collection::vec(0_u32..41, 1..60),
        written in proptest::collection::vec(0_u32..37, 1..12),
        dropped in any::<prop::sample::Index>(),
    ) {
        for (family, network) in of_every_family() {
            let weights = weights(&network, 6);
            let (mut cache, mut buffers) = (network.empty_cache(), ReadBuffers::default());
            network.read_prompt(&weights, &prompt, &mut cache, &mut buffers).unwrap();
            let mut together = cache.clone();
            let rows = read_tokens(&network, &weights, &written, &mut together, &mut buffers);
            for (token, row) in written.iter().zip(rows.chunks_exact(37)) {
                let alone = read_tokens(&network, &weights, &[*token], &mut cache, &mut buffers);
                prop_assert_eq!(alone.as_slice(), row, "{}", family);
            }
            prop_assert_eq!(&together, &cache, "{}", family);
            // What is taken back leaves no trace.
            let length = prompt.len() + dropped.index(written.len());
            together.truncate(length);
            prop_assert_eq!(&together, &cache.prefix(length), "{}", family);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn sequences_read_together_are_the_sequences_read_one_by_one(
        prompts in proptest::collection::vec(proptest::collection::vec(0_u32..41, 1..60), 1..6),
        passes in proptest::collection::vec(proptest::collection::vec(0_usize..4, 6), 1..5),
    ) {
        for (family, network) in of_every_family() {
            let weights = weights(&network, 9);
            let mut buffers = ReadBuffers::default();
            let mut alone: Vec<KeyValueCache> = prompts
                .iter()
                .map(|prompt| {
                    let mut cache = network.empty_cache();
                    network.read_prompt(&weights, prompt, &mut cache, &mut buffers).unwrap();
                    cache
                })
                .collect();
            let mut together = alone.clone();
            for (number, counts) in passes.iter().enumerate() {
                // Some read nothing in this pass, others a token or a few.
                let tokens: Vec<Vec<u32>> = (0..prompts.len())
                    .map(|sequence| (0..counts[sequence]).map(|place| ((number * 7 + sequence * 5 + place) % 37) as u32).collect())
                    .collect();
                let mut wanted = Vec::new();
                for (tokens, cache) in tokens.iter().zip(&mut alone) {
                    if !tokens.is_empty() {
                        wanted.extend(read_tokens(&network, &weights, tokens, cache, &mut buffers));
                    }
                }
                let mut readings: Vec<Reading<'_>> = tokens
                    .iter()
                    .zip(&mut together)
                    .filter(|(tokens, _)| !tokens.is_empty())
                    .map(|(tokens, cache)| Reading { tokens, cache })
                    .collect();
                let rows = network.read_tokens(&weights, None, &mut readings, &mut buffers).unwrap();
                prop_assert_eq!(&rows, &wanted, "{}", family);
                prop_assert_eq!(&together, &alone, "{}", family);
            }
        }
    }
}

#[test]
fn matrices_in_8_bits_say_what_the_rounded_weights_say() {
    for (family, network) in of_every_family() {
        let mut weights = weights(&network, 11);
        let original = weights.clone();
        let int8 = Int8Weights::round(&network, &mut weights).unwrap();
        assert_ne!(original, weights, "{family}");
        let prompt: Vec<u32> = (0..40).map(|i| (i * 11 + 2) % 41).collect();
        let (mut cache, mut buffers) = (network.empty_cache(), ReadBuffers::default());
        network.read_prompt(&weights, &prompt, &mut cache, &mut buffers).unwrap();
        let (mut plain, mut alone) = (cache.clone(), cache.clone());
        let written: Vec<u32> = (0..20).map(|i| (i * 5 + 1) % 37).collect();
        let mut reading = [Reading { tokens: &written, cache: &mut cache }];
        let rows = network.read_tokens(&weights, Some(&int8), &mut reading, &mut buffers).unwrap();
        let wanted = read_tokens(&network, &weights, &written, &mut plain, &mut buffers);
        for (got, want) in rows.iter().zip(&wanted) {
            assert!((got - want).abs() < 5e-3, "{family}: {got} {want}");
        }
        assert_ne!(rows, wanted, "{family}: nothing was computed with them");
        // To the bit what each is alone.
        for (token, row) in written.iter().zip(rows.chunks_exact(37)) {
            let mut reading = [Reading { tokens: std::slice::from_ref(token), cache: &mut alone }];
            assert_eq!(
                network.read_tokens(&weights, Some(&int8), &mut reading, &mut buffers).unwrap(),
                row,
                "{family}"
            );
        }
        assert_eq!(alone, cache, "{family}");
    }
}

#[test]
fn of_sequences_of_which_one_is_full_none_is_read() {
    let network = tiny();
    let weights = weights(&network, 10);
    let mut buffers = ReadBuffers::default();
    let (mut full, mut short) = (network.empty_cache(), network.empty_cache());
    network.read_prompt(&weights, &[3; 128], &mut full, &mut buffers).unwrap();
    network.read_prompt(&weights, &[4; 5], &mut short, &mut buffers).unwrap();
    let before = short.clone();
    let mut readings = [Reading { tokens: &[1], cache: &mut short }, Reading { tokens: &[2], cache: &mut full }];
    assert!(network.read_tokens(&weights, None, &mut readings, &mut buffers).is_err());
    assert_eq!(short, before);
}

/// Log p of all targets and the gradient, of batches that go through one after the other; and the rows that did.
fn computed(network: &Network, weights: &[f32], batches: &[&[Sequence<'_>]]) -> (Vec<f32>, Vec<f32>, usize) {
    let (mut all, mut gradients, mut rows) = (Vec::new(), vec![0.0; network.parameter_count()], 0);
    for batch in batches {
        let mut workspace = Workspace::default();
        let log_p = network.forward(weights, batch, &mut workspace).unwrap();
        let coefficients: Vec<f32> =
            (all.len()..all.len() + log_p.len()).map(|target| ((target % 7) as f32 - 2.5) * 0.3).collect();
        network.backward(weights, &coefficients, &mut workspace, &mut gradients).unwrap();
        all.extend(log_p);
        rows += workspace.tokens.len();
    }
    (all, gradients, rows)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, fork: false, ..ProptestConfig::default() })]

    #[test]
    fn answers_to_one_prompt_are_computed_as_if_each_were_alone(
        prompt in proptest::collection::vec(0_u32..37, 1..90),
        answers in proptest::collection::vec(proptest::collection::vec(0_u32..37, 1..30), 1..4),
        other in proptest::collection::vec(0_u32..37, 2..20),
        stride in 1_usize..4,
    ) {
        let mut texts: Vec<Vec<u32>> = answers.iter().map(|answer| [&prompt[..], &answer[..]].concat()).collect();
        // One that is another's beginning, one that is nothing to do with any, and the first again.
        texts.push(prompt.iter().copied().chain(answers[0].first().copied()).collect());
        texts.push(other);
        texts.push(texts[0].clone());
        let targets: Vec<Vec<u32>> =
            texts.iter().map(|text| (0..text.len() as u32 - 1).rev().step_by(stride).collect::<Vec<_>>()).collect();
        let targets: Vec<Vec<u32>> = targets.into_iter().map(|list| list.into_iter().rev().collect()).collect();
        let sequences: Vec<Sequence<'_>> = texts
            .iter()
            .zip(&targets)
            .map(|(tokens, target_positions)| Sequence { tokens, target_positions })
            .collect();
        let alone: Vec<&[Sequence<'_>]> = sequences.iter().map(std::slice::from_ref).collect();
        for (family, network) in of_every_family() {
            let weights = weights(&network, 7);
            let (log_p, gradients, rows) = computed(&network, &weights, &[&sequences[..]]);
            let (wanted_log_p, wanted, wanted_rows) = computed(&network, &weights, &alone);
            prop_assert!(rows < wanted_rows, "{}: {} {}", family, rows, wanted_rows);
            for (got, want) in log_p.iter().zip(&wanted_log_p) {
                prop_assert!((got - want).abs() < 1e-4, "{}: {} {}", family, got, want);
            }
            let square = |value: f64| value * value;
            let length = wanted.iter().map(|value| square(f64::from(*value))).sum::<f64>().sqrt();
            let off = gradients.iter().zip(&wanted).map(|(got, want)| square(f64::from(*got) - f64::from(*want)));
            let off = off.sum::<f64>().sqrt();
            prop_assert!(off < 1e-4 * length + 1e-4, "{}: {} of {}", family, off, length);
        }
    }
}

#[test]
fn what_sequences_begin_with_alike_goes_through_once_where_it_is_half_of_them() {
    let network = tiny();
    let weights = weights(&network, 8);
    let prompt: Vec<u32> = (0..40).map(|i| (i * 3) % 37).collect();
    let after = |last: &[u32]| [&prompt[..], last].concat();
    let rows = |texts: &[Vec<u32>]| {
        let sequences: Vec<Sequence<'_>> =
            texts.iter().map(|tokens| Sequence { tokens, target_positions: &[] }).collect();
        let mut workspace = Workspace::default();
        network.forward(&weights, &sequences, &mut workspace).unwrap();
        workspace.tokens.len()
    };
    assert_eq!(rows(&[after(&[1, 2, 3, 4]), after(&[1, 2, 5])]), 44 + 1);
    assert_eq!(rows(&[after(&[1, 2]), after(&[3; 50])]), 42 + 90);
    // A row is left of what stands there already.
    assert_eq!(rows(&[after(&[1, 2]), after(&[1]), after(&[1, 2])]), 42 + 1 + 1);
}

#[test]
fn tensors_cover_the_weights_once() {
    for (family, network) in of_every_family() {
        let mut next = 0;
        for tensor in network.tensors() {
            assert_eq!(tensor.range.start, next, "{family}: {}", tensor.name);
            next = tensor.range.end;
        }
        assert_eq!(next, network.parameter_count(), "{family}");
    }
}

#[test]
fn a_token_that_is_never_written_is_no_target() {
    let network = tiny();
    let weights = weights(&network, 4);
    let tokens = [1, 2, 39, 3];
    let ask = |targets: &[u32]| {
        let sequences = [Sequence { tokens: &tokens, target_positions: targets }];
        network.forward(&weights, &sequences, &mut Workspace::default()).map(|log_p| log_p.len())
    };
    assert_eq!(ask(&[0, 2]).unwrap(), 2);
    let refused = ask(&[1]).unwrap_err().to_string();
    assert!(refused.contains("never written"), "{refused}");
    // The probabilities of those that are written add up to one.
    let mut logits = network.all_logits(&weights, &tokens).unwrap();
    assert_eq!(logits.len(), tokens.len() * 37);
    Network::log_softmax(&mut logits[..37]);
    assert!((logits[..37].iter().map(|value| value.exp()).sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn batching_sequences_changes_nothing() {
    let network = tiny();
    let weights = weights(&network, 3);
    let first: Vec<u32> = (0..33).map(|i| (i * 3) % 37).collect();
    let second: Vec<u32> = (0..50).map(|i| (i * 5 + 1) % 37).collect();
    let targets: Vec<u32> = (0..30).collect();
    let mut workspace = Workspace::default();
    let both = network
        .forward(
            &weights,
            &[
                Sequence { tokens: &first, target_positions: &targets },
                Sequence { tokens: &second, target_positions: &targets },
            ],
            &mut workspace,
        )
        .unwrap();
    let alone =
        network.forward(&weights, &[Sequence { tokens: &second, target_positions: &targets }], &mut workspace).unwrap();
    assert!(both[30..].iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-4));
}
