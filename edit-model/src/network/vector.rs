//! Element-wise kernels, written as plain loops that the compiler vectorises for the CPU found at run time.

use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

/// The instruction set of this CPU, detected once.
pub(crate) fn arch() -> pulp::Arch {
    static ARCH: OnceLock<pulp::Arch> = OnceLock::new();
    *ARCH.get_or_init(pulp::Arch::new)
}

/// The body of a kernel. It must be inlined into the function that enables the instruction set, or it is compiled for
/// the oldest CPU and calls `fmaf` for every product: that is sure for always-inline trait functions, not for closures.
trait Kernel<A> {
    fn run(arguments: A);
}

/// A kernel with its arguments.
struct Call<K, A>(A, PhantomData<K>);

impl<K: Kernel<A>, A> pulp::WithSimd for Call<K, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _simd: S) {
        K::run(self.0);
    }
}

/// Defines functions whose bodies are compiled for the instruction set found at run time.
macro_rules! kernels {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$attribute])*
            pub(crate) fn $name($($argument: $type),*) {
                struct Body;
                impl Kernel<($($type,)*)> for Body {
                    #[inline(always)]
                    fn run(($($argument,)*): ($($type,)*)) $body
                }
                arch().dispatch(Call(($($argument,)*), PhantomData::<Body>));
            }
        )*
    };
}

/// Width of the accumulators of a reduction: floats are not re-associated by the compiler, so lanes are written out.
const LANES: usize = 16;

#[inline(always)]
fn sum_of_products(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left_chunks, left_tail) = left.as_chunks::<LANES>();
    let (right_chunks, right_tail) = right.as_chunks::<LANES>();
    for (a, b) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] = a[lane].mul_add(b[lane], sums[lane]);
        }
    }
    let mut total: f32 = sums.iter().sum();
    for (a, b) in left_tail.iter().zip(right_tail) {
        total += a * b;
    }
    total
}

#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let mut result = f32::NEG_INFINITY;
    for value in lanes.iter().chain(tail) {
        result = if *value > result { *value } else { result };
    }
    result
}

/// e^x to about 1e-7 relative; saturates outside [-87, 88].
#[inline(always)]
fn exponential(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 5.0e-1);
    let p = (p * r).mul_add(r, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(0x4B40_0000).wrapping_add(127) << 23;
    p * f32::from_bits(exponent as u32)
}

/// `exp(x - max)` in place; returns (max, sum).
#[inline(always)]
fn exponentials_in_place(values: &mut [f32]) -> (f32, f32) {
    let largest = maximum(values);
    let mut sums = [0.0_f32; LANES];
    let (chunks, tail) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = exponential(chunk[lane] - largest);
            chunk[lane] = value;
            sums[lane] += value;
        }
    }
    let mut total: f32 = sums.iter().sum();
    for value in tail {
        *value = exponential(*value - largest);
        total += *value;
    }
    (largest, total)
}

kernels! {
    /// Softmax of row `i` over its first `first_row + i + 1` values, zero behind them.
    fn causal_softmax_rows(scores: &mut [f32], columns: usize, first_row: usize) {
        for (index, row) in scores.chunks_exact_mut(columns).enumerate() {
            let visible = (first_row + index + 1).min(columns);
            let (seen, unseen) = row.split_at_mut(visible);
            let (_, total) = exponentials_in_place(seen);
            let factor = 1.0 / total;
            for value in seen {
                *value *= factor;
            }
            unseen.fill(0.0);
        }
    }
}

kernels! {
    /// Replaces each row of logits by probabilities and returns log p(target) for each row.
    fn softmax_with_targets(logits: &mut [f32], columns: usize, targets: &[u32], log_probabilities: &mut [f32]) {
        for ((row, target), result) in
            logits.chunks_exact_mut(columns).zip(targets).zip(log_probabilities.iter_mut())
        {
            let target_logit = row[*target as usize];
            let (largest, total) = exponentials_in_place(row);
            *result = target_logit - largest - total.ln();
            let factor = 1.0 / total;
            for value in row {
                *value *= factor;
            }
        }
    }
}

kernels! {
    /// Logits of one row to log-probabilities in place.
    fn log_softmax(values: &mut [f32]) {
        let largest = maximum(values);
        let mut total = 0.0_f32;
        for value in values.iter() {
            total += exponential(*value - largest);
        }
        let shift = largest + total.ln();
        for value in values {
            *value -= shift;
        }
    }
}

kernels! {
    /// `gradient of log-probability losses`: row i of `probabilities` becomes `coefficient[i] * (p - one_hot(target))`.
    fn cross_entropy_gradient(probabilities: &mut [f32], columns: usize, targets: &[u32], coefficients: &[f32]) {
        for ((row, target), coefficient) in probabilities.chunks_exact_mut(columns).zip(targets).zip(coefficients) {
            for value in row.iter_mut() {
                *value *= *coefficient;
            }
            row[*target as usize] -= *coefficient;
        }
    }
}

kernels! {
    /// Root-mean-square normalisation of each row: `output = input * scale / rms`; stores 1 / rms.
    fn normalize_rows(input: &[f32], gain: &[f32], epsilon: f32, output: &mut [f32], inverse_rms: &mut [f32]) {
        let width = gain.len();
        for ((row, target), inverse) in
            input.chunks_exact(width).zip(output.chunks_exact_mut(width)).zip(inverse_rms.iter_mut())
        {
            let mean_square = sum_of_products(row, row) / width as f32;
            let factor = 1.0 / (mean_square + epsilon).sqrt();
            *inverse = factor;
            for ((value, x), g) in target.iter_mut().zip(row).zip(gain) {
                *value = x * factor * g;
            }
        }
    }
}

kernels! {
    /// Backward of [`normalize_rows`]: adds to `input_gradient` and `gain_gradient`.
    fn normalize_rows_backward(
        input: &[f32],
        gain: &[f32],
        inverse_rms: &[f32],
        output_gradient: &[f32],
        input_gradient: &mut [f32],
        gain_gradient: &mut [f32],
    ) {
        let width = gain.len();
        let mut weighted = vec![0.0_f32; width];
        for (((row, upstream), target), inverse) in input
            .chunks_exact(width)
            .zip(output_gradient.chunks_exact(width))
            .zip(input_gradient.chunks_exact_mut(width))
            .zip(inverse_rms)
        {
            for (((w, u), x), (g, gg)) in
                weighted.iter_mut().zip(upstream).zip(row).zip(gain.iter().zip(gain_gradient.iter_mut()))
            {
                *w = u * g;
                *gg = (u * x).mul_add(*inverse, *gg);
            }
            let projection = sum_of_products(&weighted, row) * inverse * inverse / width as f32;
            for ((value, w), x) in target.iter_mut().zip(&weighted).zip(row) {
                *value += inverse * (w - x * projection);
            }
        }
    }
}

kernels! {
    /// [`normalize_rows`] of every head in the first `width` values of each row, in place; stores 1 / rms head by head.
    fn normalize_heads(
        rows: &mut [f32],
        stride: usize,
        width: usize,
        gain: &[f32],
        epsilon: f32,
        inverse_rms: &mut [f32],
    ) {
        let size = gain.len();
        let heads = width / size;
        for (row, inverses) in rows.chunks_mut(stride).zip(inverse_rms.chunks_exact_mut(heads)) {
            for (head, inverse) in row[..width].chunks_exact_mut(size).zip(inverses) {
                let factor = 1.0 / (sum_of_products(head, head) / size as f32 + epsilon).sqrt();
                *inverse = factor;
                for (value, g) in head.iter_mut().zip(gain) {
                    *value = *value * factor * g;
                }
            }
        }
    }
}

kernels! {
    /// Backward of [`normalize_heads`]: `input` has rows of `input_stride` values; what was the gradient of the normalised
    /// heads in `gradient` becomes that of the heads; adds to `gain_gradient`.
    #[allow(clippy::too_many_arguments, reason = "one kernel, called from one place")]
    fn normalize_heads_backward(
        input: &[f32],
        input_stride: usize,
        gradient: &mut [f32],
        stride: usize,
        width: usize,
        gain: &[f32],
        inverse_rms: &[f32],
        gain_gradient: &mut [f32],
    ) {
        let size = gain.len();
        let heads = width / size;
        let mut weighted = vec![0.0_f32; size];
        for ((row, upstream), inverses) in
            input.chunks(input_stride).zip(gradient.chunks_mut(stride)).zip(inverse_rms.chunks_exact(heads))
        {
            for ((head, upstream), inverse) in
                row[..width].chunks_exact(size).zip(upstream[..width].chunks_exact_mut(size)).zip(inverses)
            {
                for (((w, u), x), (g, gg)) in
                    weighted.iter_mut().zip(upstream.iter()).zip(head).zip(gain.iter().zip(gain_gradient.iter_mut()))
                {
                    *w = u * g;
                    *gg = (u * x).mul_add(*inverse, *gg);
                }
                let projection = sum_of_products(&weighted, head) * inverse * inverse / size as f32;
                for ((value, w), x) in upstream.iter_mut().zip(&weighted).zip(head) {
                    *value = inverse * (w - x * projection);
                }
            }
        }
    }
}

kernels! {
    /// Rotates every head in the first `width` values of each row (half-split form).
    #[allow(clippy::too_many_arguments, reason = "one kernel, called from one place")]
    fn rotate_rows(
        cosines: &[f32],
        sines: &[f32],
        half: usize,
        rows: &mut [f32],
        stride: usize,
        width: usize,
        positions: &[u32],
        direction: f32,
    ) {
        for (row, position) in rows.chunks_exact_mut(stride).zip(positions) {
            let place = *position as usize * half;
            let (cosines, sines) = (&cosines[place..place + half], &sines[place..place + half]);
            for head in row[..width].chunks_exact_mut(2 * half) {
                let (low, high) = head.split_at_mut(half);
                for ((l, h), (c, s)) in low.iter_mut().zip(high.iter_mut()).zip(cosines.iter().zip(sines)) {
                    let s = s * direction;
                    let (a, b) = (*l, *h);
                    *l = a * c - b * s;
                    *h = b * c + a * s;
                }
            }
        }
    }
}

/// Cosines and sines of rotary position embedding, one row of `head / 2` per position; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    half: usize,
    cosines: Arc<[f32]>,
    sines: Arc<[f32]>,
}

impl Rotary {
    /// For `positions` positions; `frequencies` are in radians per position.
    pub(crate) fn new(positions: usize, frequencies: &[f64]) -> Self {
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency))
            .collect();
        Self {
            half: frequencies.len(),
            cosines: angles.iter().map(|angle| angle.cos() as f32).collect(),
            sines: angles.iter().map(|angle| angle.sin() as f32).collect(),
        }
    }

    /// Rotates the first `width` values of each row of `rows` (stride `stride`) by its position.
    pub(crate) fn rotate(&self, rows: &mut [f32], stride: usize, width: usize, positions: &[u32], direction: f32) {
        rotate_rows(&self.cosines, &self.sines, self.half, rows, stride, width, positions, direction);
    }
}

kernels! {
    /// `output = silu(gate) * up`, where each input row holds gate then up.
    fn gated_activation(gate_up: &[f32], width: usize, output: &mut [f32]) {
        for (row, target) in gate_up.chunks_exact(2 * width).zip(output.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((value, g), u) in target.iter_mut().zip(gate).zip(up) {
                *value = g / (1.0 + exponential(-g)) * u;
            }
        }
    }
}

kernels! {
    /// Backward of [`gated_activation`]: writes the gradient of gate and up over `gate_up`.
    fn gated_activation_backward(gate_up: &mut [f32], width: usize, output_gradient: &[f32]) {
        for (row, upstream) in gate_up.chunks_exact_mut(2 * width).zip(output_gradient.chunks_exact(width)) {
            let (gate, up) = row.split_at_mut(width);
            for ((g, u), d) in gate.iter_mut().zip(up.iter_mut()).zip(upstream) {
                let sigmoid = 1.0 / (1.0 + exponential(-*g));
                let silu = *g * sigmoid;
                let gate_gradient = d * *u * (sigmoid + silu * (1.0 - sigmoid));
                *u = d * silu;
                *g = gate_gradient;
            }
        }
    }
}

kernels! {
    /// Backward of a softmax row by row, in place over `probability_gradient`: `p * (dp - sum(p * dp))`.
    fn softmax_backward_rows(probabilities: &[f32], probability_gradient: &mut [f32], columns: usize) {
        for (row, gradient) in
            probabilities.chunks_exact(columns).zip(probability_gradient.chunks_exact_mut(columns))
        {
            let projection = sum_of_products(row, gradient);
            for (d, p) in gradient.iter_mut().zip(row) {
                *d = p * (*d - projection);
            }
        }
    }
}

/// The greatest absolute value of those that are numbers.
#[inline(always)]
pub(crate) fn greatest(values: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, tail) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane].abs();
            lanes[lane] = if value > lanes[lane] { value } else { lanes[lane] };
        }
    }
    let mut result = 0.0_f32;
    for value in lanes.iter().chain(tail) {
        result = if value.abs() > result { value.abs() } else { result };
    }
    result
}

kernels! {
    /// `input` in integers up to `limit`, of which each stands for `scale`. When some of it are no numbers, `scale` is none.
    fn round_to_integers(input: &[f32], limit: f32, output: &mut [i16], scale: &mut f32) {
        let largest = greatest(input);
        let factor = if largest > 0.0 { limit / largest } else { 0.0 };
        let mut zeros = [0.0_f32; LANES];
        let (chunks, tail) = input.as_chunks::<LANES>();
        let (rounded_chunks, rounded_tail) = output.as_chunks_mut::<LANES>();
        for (chunk, rounded) in chunks.iter().zip(rounded_chunks) {
            for lane in 0..LANES {
                zeros[lane] += chunk[lane] * 0.0;
                rounded[lane] = (chunk[lane] * factor).round_ties_even() as i32 as i16;
            }
        }
        let mut zero: f32 = zeros.iter().sum();
        for (value, rounded) in tail.iter().zip(rounded_tail) {
            zero += value * 0.0;
            *rounded = (value * factor).round_ties_even() as i32 as i16;
        }
        *scale = largest / limit + zero;
    }
}

kernels! {
    /// `target += source`.
    fn add_in_place(target: &mut [f32], source: &[f32]) {
        for (t, s) in target.iter_mut().zip(source) {
            *t += s;
        }
    }
}

kernels! {
    /// Adds `bias` to every row.
    fn add_to_rows(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (value, b) in row.iter_mut().zip(bias) {
                *value += b;
            }
        }
    }
}

kernels! {
    /// Adds every row to `sum`: the backward of [`add_to_rows`].
    fn add_rows(rows: &[f32], sum: &mut [f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (total, value) in sum.iter_mut().zip(row) {
                *total += value;
            }
        }
    }
}

kernels! {
    /// Attention of one query over `length` cached keys and values of one head (rows `stride` apart), while decoding.
    fn attend_one(query: &[f32], keys: &[f32], values: &[f32], stride: usize, scores: &mut [f32], output: &mut [f32]) {
        let head = query.len();
        let scale = 1.0 / (head as f32).sqrt();
        for (index, score) in scores.iter_mut().enumerate() {
            *score = sum_of_products(query, &keys[index * stride..index * stride + head]) * scale;
        }
        let (_, total) = exponentials_in_place(scores);
        let factor = 1.0 / total;
        output.fill(0.0);
        for (index, score) in scores.iter().enumerate() {
            let weight = score * factor;
            for (target, value) in output.iter_mut().zip(&values[index * stride..index * stride + head]) {
                *target = weight.mul_add(*value, *target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_accurate() {
        let mut x = -80.0_f32;
        while x < 80.0 {
            let want = f64::from(x).exp();
            let got = f64::from(exponential(x));
            assert!(((got - want) / want).abs() < 5e-7, "{x}: {got} {want}");
            x += 0.0137;
        }
    }

    #[test]
    fn rotating_back_gives_the_row() {
        let frequencies: Vec<f64> =
            (0..16_u32).map(|index| 10_000.0_f64.powf(-2.0 * f64::from(index) / 32.0)).collect();
        let rotary = Rotary::new(50, &frequencies);
        let original: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut row = original.clone();
        rotary.rotate(&mut row, 64, 64, &[37], 1.0);
        assert!(row.iter().zip(&original).any(|(a, b)| (a - b).abs() > 0.1));
        rotary.rotate(&mut row, 64, 64, &[37], -1.0);
        assert!(row.iter().zip(&original).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
