//! Llama, Qwen2 and Qwen3 in burn's tensor operations, on padded batches: RMSNorm, half-split rotary positions, grouped
//! queries, SwiGLU.
//!
//! Weights come in as the flat vector of `edit-model` and gradients go out the same way, so nothing of burn's modules,
//! records or optimisers is used. Padding stands behind its sequence, where causal attention never looks.

use std::ops::Range;

use burn_tensor::backend::AutodiffBackend;
use burn_tensor::{Bool, Int, Tensor, TensorData, activation, module};
use edit_model::{ModelError, NamedTensor, Network, NetworkBackend, Sequence};

/// A matrix of weights (norm gains and biases are one row) and its place in the flat vector.
struct Parameter<B: AutodiffBackend> {
    tensor: Tensor<B, 2>,
    range: Range<usize>,
}

/// One layer, with what is adjacent in the flat vector read as one matrix.
struct Layer<B: AutodiffBackend> {
    attention_norm: Parameter<B>,
    query_key_value: Parameter<B>,
    query_key_value_bias: Option<Parameter<B>>,
    query_norm: Option<Parameter<B>>,
    key_norm: Option<Parameter<B>>,
    attention_output: Parameter<B>,
    attention_output_bias: Option<Parameter<B>>,
    feed_forward_norm: Parameter<B>,
    gate_up: Parameter<B>,
    down: Parameter<B>,
}

struct Parameters<B: AutodiffBackend> {
    embedding: Parameter<B>,
    layers: Vec<Layer<B>>,
    final_norm: Parameter<B>,
    /// The output layer, where it is not the embedding.
    output: Option<Parameter<B>>,
}

/// What a forward pass keeps for the backward pass.
struct Tape<B: AutodiffBackend> {
    parameters: Parameters<B>,
    log_probabilities: Tensor<B, 1>,
}

/// A [`NetworkBackend`] by burn on one device.
pub struct BurnBackend<B: AutodiffBackend> {
    name: &'static str,
    network: Network,
    device: B::Device,
    batch_tokens: usize,
    padded_length: usize,
    tape: Option<Tape<B>>,
}

impl<B: AutodiffBackend> std::fmt::Debug for BurnBackend<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BurnBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::Backend(format!("burn: {error}"))
}

/// Reads the tensors in the order in which the network names them.
struct Reader<'a, B: AutodiffBackend> {
    weights: &'a [f32],
    tensors: std::vec::IntoIter<NamedTensor>,
    device: &'a B::Device,
}

impl<B: AutodiffBackend> Reader<'_, B> {
    /// The next `count` tensors, which lie side by side, stacked by rows.
    fn take(&mut self, count: usize) -> Result<Parameter<B>, ModelError> {
        let parts: Vec<NamedTensor> = self.tensors.by_ref().take(count).collect();
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(failed("the network names too few tensors"));
        };
        let range = first.range.start..last.range.end;
        let columns = if first.shape.len() > 1 { first.shape.last().copied().unwrap_or(1) } else { range.len() };
        let rows = range.len() / columns.max(1);
        let data = TensorData::new(self.weights[range.clone()].to_vec(), [rows, columns]);
        Ok(Parameter { tensor: Tensor::from_data(data, self.device).require_grad(), range })
    }

    /// The same, where the family has them.
    fn take_if(&mut self, is_present: bool, count: usize) -> Result<Option<Parameter<B>>, ModelError> {
        is_present.then(|| self.take(count)).transpose()
    }
}

impl<B: AutodiffBackend> Parameters<B> {
    fn read(network: &Network, weights: &[f32], device: &B::Device) -> Result<Self, ModelError> {
        let mut reader: Reader<'_, B> = Reader { weights, tensors: network.tensors().into_iter(), device };
        let config = network.config();
        let embedding = reader.take(1)?;
        let layers = (0..config.num_hidden_layers)
            .map(|_| {
                Ok(Layer {
                    attention_norm: reader.take(1)?,
                    query_key_value: reader.take(3)?,
                    query_key_value_bias: reader.take_if(config.has_query_key_value_bias(), 3)?,
                    query_norm: reader.take_if(config.normalizes_heads(), 1)?,
                    key_norm: reader.take_if(config.normalizes_heads(), 1)?,
                    attention_output: reader.take(1)?,
                    attention_output_bias: reader.take_if(config.has_output_bias(), 1)?,
                    feed_forward_norm: reader.take(1)?,
                    gate_up: reader.take(2)?,
                    down: reader.take(1)?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let final_norm = reader.take(1)?;
        Ok(Self { embedding, layers, final_norm, output: reader.take_if(!config.tie_word_embeddings, 1)? })
    }

    fn all(&self) -> impl Iterator<Item = &Parameter<B>> {
        let layers = self.layers.iter().flat_map(|layer| {
            let always = [
                &layer.attention_norm,
                &layer.query_key_value,
                &layer.attention_output,
                &layer.feed_forward_norm,
                &layer.gate_up,
                &layer.down,
            ];
            let biases = layer.query_key_value_bias.iter().chain(&layer.attention_output_bias);
            always.into_iter().chain(biases).chain(&layer.query_norm).chain(&layer.key_norm)
        });
        std::iter::once(&self.embedding).chain(layers).chain(std::iter::once(&self.final_norm)).chain(&self.output)
    }
}

/// Cosines and sines for every position, as rows of half a head.
struct Rotary<B: AutodiffBackend> {
    cosines: Tensor<B, 4>,
    sines: Tensor<B, 4>,
}

impl<B: AutodiffBackend> Rotary<B> {
    fn new(length: usize, frequencies: &[f64], device: &B::Device) -> Self {
        let half = frequencies.len();
        let angles: Vec<f64> =
            (0..length).flat_map(|place| frequencies.iter().map(move |frequency| place as f64 * frequency)).collect();
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|angle| function(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, length, half]), device)
        };
        Self { cosines: table(f64::cos), sines: table(f64::sin) }
    }

    fn rotate(&self, heads: Tensor<B, 4>) -> Tensor<B, 4> {
        let half = heads.dims()[3] / 2;
        let (low, high) = (heads.clone().narrow(3, 0, half), heads.narrow(3, half, half));
        let (cosines, sines) = (|| self.cosines.clone(), || self.sines.clone());
        let rotated_low = low.clone() * cosines() - high.clone() * sines();
        Tensor::cat(vec![rotated_low, high * cosines() + low * sines()], 3)
    }
}

impl<B: AutodiffBackend> BurnBackend<B> {
    /// The network on `device`, reading about `batch_tokens` tokens at once.
    #[must_use]
    pub fn new(name: &'static str, network: Network, device: B::Device, batch_tokens: usize) -> Self {
        Self { name, network, device, batch_tokens, padded_length: 0, tape: None }
    }

    /// The same, reading about `batch_tokens` tokens at once.
    #[must_use]
    pub fn reading(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }

    /// The same, padding every sequence to at least `length` tokens instead of the longest of its batch.
    #[must_use]
    pub fn padded_to(self, length: usize) -> Self {
        Self { padded_length: length, ..self }
    }

    fn normalize(&self, input: Tensor<B, 2>, gain: &Parameter<B>) -> Tensor<B, 2> {
        let mean_square = input.clone().square().mean_dim(1);
        input / (mean_square + self.network.config().rms_norm_eps).sqrt() * gain.tensor.clone()
    }

    /// Each head divided by its root mean square, where the family does so.
    fn normalize_heads(&self, heads: Tensor<B, 4>, gain: Option<&Parameter<B>>) -> Tensor<B, 4> {
        let Some(gain) = gain else { return heads };
        let mean_square = heads.clone().square().mean_dim(3);
        let gain = gain.tensor.clone().unsqueeze::<4>();
        heads / (mean_square + self.network.config().rms_norm_eps).sqrt() * gain
    }

    fn layer(
        &self,
        layer: &Layer<B>,
        stream: Tensor<B, 2>,
        shape: [usize; 2],
        rotary: &Rotary<B>,
        hidden: &Tensor<B, 4, Bool>,
    ) -> Tensor<B, 2> {
        let config = self.network.config();
        let (heads, shared, head) = (config.num_attention_heads, config.num_key_value_heads, config.head_size());
        let (query_size, key_value_size) = (config.query_size(), config.key_value_size());
        let [count, length] = shape;
        let normalized = self.normalize(stream.clone(), &layer.attention_norm);
        let projected = normalized.matmul(layer.query_key_value.tensor.clone().transpose());
        let projected = plus(projected, layer.query_key_value_bias.as_ref());
        let part = |start: usize, heads: usize| -> Tensor<B, 4> {
            let columns = projected.clone().narrow(1, start, heads * head);
            columns.reshape([count, length, heads, head]).swap_dims(1, 2)
        };
        // A head of keys or values, once for each head of queries that it serves.
        let repeated = |heads_of: Tensor<B, 4>| -> Tensor<B, 4> {
            if heads == shared {
                return heads_of;
            }
            let grouped = heads_of.unsqueeze_dim::<5>(2).expand([count, shared, heads / shared, length, head]);
            grouped.reshape([count, heads, length, head])
        };
        let (query, key) = (part(0, heads), part(query_size, shared));
        let query = rotary.rotate(self.normalize_heads(query, layer.query_norm.as_ref()));
        let key = repeated(rotary.rotate(self.normalize_heads(key, layer.key_norm.as_ref())));
        let value = repeated(part(query_size + key_value_size, shared));
        let scores = query.matmul(key.swap_dims(2, 3)) * (1.0 / (head as f64).sqrt());
        let [_, _, rows, columns] = scores.dims();
        let hidden = hidden.clone().expand([count, heads, rows, columns]);
        let probabilities = activation::softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 3);
        let attended = probabilities.matmul(value).swap_dims(1, 2).reshape([count * length, query_size]);
        let attended = attended.matmul(layer.attention_output.tensor.clone().transpose());
        let stream = stream + plus(attended, layer.attention_output_bias.as_ref());

        let normalized = self.normalize(stream.clone(), &layer.feed_forward_norm);
        let projected = normalized.matmul(layer.gate_up.tensor.clone().transpose());
        let inner = config.intermediate_size;
        let (gate, up) = (projected.clone().narrow(1, 0, inner), projected.narrow(1, inner, inner));
        stream + (activation::silu(gate) * up).matmul(layer.down.tensor.clone().transpose())
    }

    /// The residual stream after the last norm at `rows` of the padded batch, as logits.
    fn logits(
        &self,
        parameters: &Parameters<B>,
        sequences: &[Sequence<'_>],
        length: usize,
        rows: Vec<i32>,
    ) -> Result<Tensor<B, 2>, ModelError> {
        let config = self.network.config();
        let count = sequences.len();
        let mut tokens = vec![0_i32; count * length];
        for (row, sequence) in tokens.chunks_exact_mut(length).zip(sequences) {
            for (place, token) in row.iter_mut().zip(sequence.tokens) {
                *place = *token as i32;
            }
        }
        let tokens = Tensor::<B, 2, Int>::from_data(TensorData::new(tokens, [count, length]), &self.device);
        let rotary = Rotary::new(length, &config.rotary_frequencies()?, &self.device);
        // True where a key lies behind its query.
        let hidden = Tensor::<B, 2, Bool>::tril_mask([length, length], 0, &self.device).unsqueeze::<4>();
        let embedded = module::embedding(parameters.embedding.tensor.clone(), tokens);
        let mut stream = embedded.reshape([count * length, config.hidden_size]);
        for layer in &parameters.layers {
            stream = self.layer(layer, stream, [count, length], &rotary, &hidden);
        }
        let selected_count = rows.len();
        let rows = Tensor::<B, 1, Int>::from_data(TensorData::new(rows, [selected_count]), &self.device);
        let selected = self.normalize(stream.select(0, rows), &parameters.final_norm);
        // Tokens that are never written are in no denominator.
        let output = parameters.output.as_ref().unwrap_or(&parameters.embedding);
        Ok(selected.matmul(output.tensor.clone().narrow(0, 0, config.written()).transpose()))
    }

    fn padded(&self, sequences: &[Sequence<'_>]) -> usize {
        sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(1).max(self.padded_length)
    }

    /// Logits after every token of `tokens`, one row each: what `Network::all_logits` gives.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for what the network refuses, [`ModelError::Backend`] when the device fails.
    pub fn all_logits(&self, weights: &[f32], tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let sequences = [Sequence { tokens, target_positions: &[] }];
        self.network.check(weights, &sequences)?;
        let parameters = Parameters::<B>::read(&self.network, weights, &self.device)?;
        let rows = (0..tokens.len() as i32).collect();
        values(self.logits(&parameters, &sequences, self.padded(&sequences), rows)?.inner())
    }
}

/// `rows` with `bias` added to each, if there is one.
fn plus<B: AutodiffBackend>(rows: Tensor<B, 2>, bias: Option<&Parameter<B>>) -> Tensor<B, 2> {
    match bias {
        Some(bias) => rows + bias.tensor.clone(),
        None => rows,
    }
}

fn values<B: burn_tensor::backend::Backend, const D: usize>(tensor: Tensor<B, D>) -> Result<Vec<f32>, ModelError> {
    tensor.try_into_data().map_err(failed)?.to_vec().map_err(|error| failed(format!("{error:?}")))
}

impl<B: AutodiffBackend> NetworkBackend for BurnBackend<B> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    fn forward(&mut self, weights: &[f32], sequences: &[Sequence<'_>]) -> Result<Vec<f32>, ModelError> {
        self.tape = None;
        self.network.check(weights, sequences)?;
        let length = self.padded(sequences);
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (index, sequence) in sequences.iter().enumerate() {
            for position in sequence.target_positions {
                rows.push((index * length) as i32 + *position as i32);
                targets.push(sequence.tokens[*position as usize + 1] as i32);
            }
        }
        let count = rows.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        let parameters = Parameters::read(&self.network, weights, &self.device)?;
        let logits = self.logits(&parameters, sequences, length, rows)?;
        let targets = Tensor::<B, 2, Int>::from_data(TensorData::new(targets, [count, 1]), &self.device);
        let log_probabilities = activation::log_softmax(logits, 1).gather(1, targets).reshape([count]);
        let result = values(log_probabilities.clone().inner())?;
        self.tape = Some(Tape { parameters, log_probabilities });
        Ok(result)
    }

    fn backward(&mut self, _weights: &[f32], coefficients: &[f32], gradients: &mut [f32]) -> Result<(), ModelError> {
        let refused = ModelError::Sequence("coefficients or gradients do not fit the forward pass");
        let tape = self.tape.take();
        let kept = tape.as_ref().map_or(0, |tape| tape.log_probabilities.dims()[0]);
        if coefficients.len() != kept || gradients.len() != self.network.parameter_count() {
            return Err(refused);
        }
        let Some(Tape { parameters, log_probabilities }) = tape else { return Ok(()) };
        let coefficients = TensorData::new(coefficients.to_vec(), [coefficients.len()]);
        let loss = (log_probabilities * Tensor::from_data(coefficients, &self.device)).sum().neg();
        let derivatives = loss.backward();
        for parameter in parameters.all() {
            // A weight that no target depends on has no gradient.
            let Some(derivative) = parameter.tensor.grad(&derivatives) else { continue };
            for (sum, value) in gradients[parameter.range.clone()].iter_mut().zip(values(derivative)?) {
                *sum += value;
            }
        }
        Ok(())
    }
}
