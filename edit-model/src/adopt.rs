//! Taking over a decoder that others made: its tokenizer gets our structuring tokens, its embedding their rows.

use std::path::Path;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::config::{ModelConfig, TokenIds};
use crate::dialect::MAX_SEQUENCE_TOKENS;
use crate::directory::{TOKENIZER_FILE, read_file};
use crate::error::ModelError;
use crate::model::EditModel;
use crate::network::{EMBEDDING, Network, OUTPUT, standard_normal};
use crate::tokenizer::CodeTokenizer;

/// How far new rows lie from the mean of the old ones, in deviations of theirs: far enough that no two are alike.
const SPREAD: f64 = 0.1;

impl EditModel {
    /// The model of a Hugging Face directory (`config.json`, weights, `tokenizer.json`; no manifest), ready to be taught
    /// here. It answers nothing sensible before that: it has never seen the structuring tokens.
    ///
    /// The embedding has as many rows as the tokenizer then has tokens: those of its own tokens stay, rows that pad it go,
    /// and those of new tokens are drawn with `seed` around the mean of its own (Hewitt 2021, "Initializing new word
    /// embeddings for pretrained language models"); new habits start as the untaught one.
    ///
    /// # Errors
    /// As [`Network::load`] and [`CodeTokenizer::adopt`]; [`ModelError::Room`] for a model of shorter sequences than the
    /// dialect writes.
    pub fn adopt(directory: &Path, seed: u64) -> Result<Self, ModelError> {
        let (network, weights) = Network::load(directory)?;
        let bytes = read_file(&directory.join(TOKENIZER_FILE))?;
        let (tokenizer, own) = CodeTokenizer::adopt(&bytes, network.config().vocab_size)?;
        if network.config().max_position_embeddings < MAX_SEQUENCE_TOKENS {
            return Err(ModelError::Room { needed: MAX_SEQUENCE_TOKENS });
        }
        let special = tokenizer.special();
        let config = ModelConfig {
            vocab_size: tokenizer.vocabulary_size(),
            written_vocab_size: Some(tokenizer.written_size()),
            bos_token_id: Some(special.start),
            eos_token_id: Some(TokenIds::One(special.stop)),
            ..network.config().clone()
        };
        let width = config.hidden_size;
        let adopted = Network::new(config.clone())?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut grown = vec![0.0; adopted.parameter_count()];
        // Both name the same tensors in the same order; what differs is how many rows two of them have.
        for (from, to) in network.tensors().into_iter().zip(adopted.tensors()) {
            let (source, target) = (&weights[from.range], &mut grown[to.range]);
            if to.name != EMBEDDING && to.name != OUTPUT {
                target.copy_from_slice(source);
                continue;
            }
            let (kept, new) = target.split_at_mut(own * width);
            kept.copy_from_slice(&source[..own * width]);
            draw_rows(kept, new, width, &mut random);
            let habits = special.habits.iter().flat_map(|habit| special.untaught.iter().zip(habit));
            // What it was taught of habits here stays as well.
            for (from, to) in habits.filter(|(_, to)| **to as usize >= own) {
                let row = *from as usize * width;
                target.copy_within(row..row + width, *to as usize * width);
            }
        }
        Self::new(config, grown, tokenizer)
    }
}

/// Fills `new` with rows around the mean of `old`.
fn draw_rows(old: &[f32], new: &mut [f32], width: usize, random: &mut ChaCha8Rng) {
    let count = (old.len() / width).max(1) as f64;
    let (mut mean, mut square) = (vec![0.0_f64; width], vec![0.0_f64; width]);
    for row in old.chunks_exact(width) {
        for ((value, mean), square) in row.iter().zip(&mut mean).zip(&mut square) {
            *mean += f64::from(*value) / count;
            *square += f64::from(*value).powi(2) / count;
        }
    }
    for row in new.chunks_exact_mut(width) {
        for ((value, mean), square) in row.iter_mut().zip(&mean).zip(&square) {
            let deviation = (square - mean * mean).max(0.0).sqrt();
            *value = (mean + SPREAD * deviation * standard_normal(random)) as f32;
        }
    }
}
