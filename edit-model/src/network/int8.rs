//! Matrices in 8 bits, for the products of decoding: a quarter of the bytes come from memory.
//!
//! A row of a matrix, which makes one value of a product, is rounded to multiples of its greatest value over 127. What it
//! is multiplied with is rounded to integers of up to 16 bits, so many that no sum of products exceeds 32: that costs next
//! to nothing beside the rounding of the weights. Sums of integers do not depend on their order, so a product is the same to
//! the bit on every processor, whatever stands beside it.

use std::collections::BTreeMap;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::vector::{self, arch, greatest};
use super::{Layout, Network};
use crate::error::ModelError;

/// The greatest of a row.
const GREATEST: f32 = 127.0;

/// A matrix, row by row.
#[derive(Debug)]
pub(crate) struct Int8Matrix {
    values: Vec<i8>,
    /// What a 1 in a row stands for.
    scales: Vec<f32>,
}

/// The matrices of a network, by where they start in the vector of its weights.
#[derive(Debug)]
pub(crate) struct Int8Weights(BTreeMap<usize, Int8Matrix>);

impl Int8Weights {
    /// Rounds all matrices of products in `weights`, and returns them in 8 bits. Embeddings that are only read stay as they
    /// are, as do norms and biases.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`] for weights that are no numbers.
    pub(crate) fn round(network: &Network, weights: &mut [f32]) -> Result<Self, ModelError> {
        let mut matrices = BTreeMap::new();
        for (range, width) in matrices_of(network) {
            let matrix = Int8Matrix::round(&mut weights[range.clone()], width).ok_or(ModelError::NotFinite)?;
            matrices.insert(range.start, matrix);
        }
        Ok(Self(matrices))
    }

    /// The matrix that starts at `start`.
    pub(crate) fn matrix(&self, start: usize) -> Option<&Int8Matrix> {
        self.0.get(&start)
    }
}

/// Every matrix of a product, and the width of its rows.
fn matrices_of(network: &Network) -> Vec<(Range<usize>, usize)> {
    let Layout { layers, .. } = &network.layout;
    let (width, inner) = (network.config.hidden_size, network.config.intermediate_size);
    let query = network.config.query_size();
    let mut matrices = vec![(network.output_layer(), width)];
    for layer in layers {
        matrices.push((layer.query_key_value.clone(), width));
        matrices.push((layer.attention_output.clone(), query));
        matrices.push((layer.gate_up.clone(), width));
        matrices.push((layer.down.clone(), inner));
    }
    matrices
}

impl Int8Matrix {
    /// Rounds `weights`, rows of `width`; none when some of them are no numbers.
    fn round(weights: &mut [f32], width: usize) -> Option<Self> {
        let mut values = Vec::with_capacity(weights.len());
        let mut scales = Vec::with_capacity(weights.len() / width);
        for row in weights.chunks_exact_mut(width) {
            if !row.iter().all(|value| value.is_finite()) {
                return None;
            }
            let scale = greatest(row) / GREATEST;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for value in row {
                // A scale below the least normal number has no inverse: such weights are as good as none.
                let rounded = if inverse.is_finite() { (*value * inverse).round_ties_even() } else { 0.0 };
                let rounded = rounded.clamp(-GREATEST, GREATEST);
                values.push(rounded as i8);
                *value = rounded * scale;
            }
            scales.push(scale);
        }
        Some(Self { values, scales })
    }

    /// The product with each of `vectors`, one behind the other, each as if it were alone.
    pub(crate) fn multiply(&self, vectors: &[f32], products: &mut [f32]) {
        let rows = self.scales.len();
        if rows == 0 {
            return;
        }
        let width = self.values.len() / rows;
        debug_assert_eq!(vectors.len() / width * rows, products.len());
        let (mut rounded, mut scales) = (vec![0_i16; vectors.len()], vec![0.0; vectors.len() / width]);
        let limit = limit(width);
        let each = vectors.chunks_exact(width).zip(rounded.chunks_exact_mut(width)).zip(&mut scales);
        for ((vector, rounded), scale) in each {
            vector::round_to_integers(vector, limit, rounded, scale);
        }
        let arguments = Arguments { matrix: self, width, rounded: &rounded, scales: &scales, products };
        #[cfg(target_arch = "x86_64")]
        match arch() {
            pulp::Arch::V4(simd) => return Simd::vectorize(simd, Products { dot: simd, arguments }),
            pulp::Arch::V3(simd) => return Simd::vectorize(simd, Products { dot: simd, arguments }),
            _ => {}
        }
        arch().dispatch(Products { dot: Plain, arguments });
    }
}

/// The greatest integer of a vector of `width` values for which no sum of products leaves 32 bits.
fn limit(width: usize) -> f32 {
    let most = i32::MAX as usize / (GREATEST as usize * width.max(1));
    most.min(i16::MAX as usize) as f32
}

struct Arguments<'a> {
    matrix: &'a Int8Matrix,
    width: usize,
    rounded: &'a [i16],
    scales: &'a [f32],
    products: &'a mut [f32],
}

/// The sum of products of integers, as a processor does it best.
trait Dot: Copy {
    fn dot(self, row: &[i8], vector: &[i16]) -> i32;
}

struct Products<'a, D> {
    dot: D,
    arguments: Arguments<'a>,
}

impl<D: Dot> WithSimd for Products<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Arguments { matrix, width, rounded, scales, products } = self.arguments;
        let rows = matrix.scales.len();
        for (index, (row, row_scale)) in matrix.values.chunks_exact(width).zip(&matrix.scales).enumerate() {
            let each = rounded.chunks_exact(width).zip(scales).zip(products.chunks_exact_mut(rows));
            for ((vector, scale), products) in each {
                products[index] = self.dot.dot(row, vector) as f32 * (row_scale * scale);
            }
        }
    }
}

/// Any processor.
#[derive(Clone, Copy)]
struct Plain;

impl Dot for Plain {
    #[inline(always)]
    fn dot(self, row: &[i8], vector: &[i16]) -> i32 {
        let mut sum = 0_i32;
        for (left, right) in row.iter().zip(vector) {
            sum += i32::from(*left) * i32::from(*right);
        }
        sum
    }
}

#[cfg(target_arch = "x86_64")]
impl Dot for pulp::x86::V4 {
    #[inline(always)]
    fn dot(self, row: &[i8], vector: &[i16]) -> i32 {
        let (row, row_tail) = row.as_chunks::<32>();
        let (vector, vector_tail) = vector.as_chunks::<32>();
        let mut sums = self.splat_u32s(0);
        for (left, right) in row.iter().zip(vector) {
            let left = self.convert_i8x32_to_i16x32(pulp::cast(*left));
            let pairs = self.multiply_wrapping_add_adjacent_i16x32(left, pulp::cast(*right));
            sums = self.add_u32s(sums, pulp::cast(pairs));
        }
        let sums: [i32; 16] = pulp::cast(sums);
        let mut sum = Plain.dot(row_tail, vector_tail);
        for part in sums {
            sum += part;
        }
        sum
    }
}

#[cfg(target_arch = "x86_64")]
impl Dot for pulp::x86::V3 {
    #[inline(always)]
    fn dot(self, row: &[i8], vector: &[i16]) -> i32 {
        let (row, row_tail) = row.as_chunks::<16>();
        let (vector, vector_tail) = vector.as_chunks::<16>();
        let mut sums = self.splat_u32s(0);
        for (left, right) in row.iter().zip(vector) {
            let left = self.convert_i8x16_to_i16x16(pulp::cast(*left));
            let pairs = self.multiply_wrapping_add_adjacent_i16x16(left, pulp::cast(*right));
            sums = self.add_u32s(sums, pulp::cast(pairs));
        }
        let sums: [i32; 8] = pulp::cast(sums);
        let mut sum = Plain.dot(row_tail, vector_tail);
        for part in sums {
            sum += part;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The products by their definition, of weights as they were rounded.
    fn slow(weights: &[f32], vectors: &[f32], width: usize) -> Vec<f64> {
        let dot = |row: &[f32], vector: &[f32]| -> f64 {
            row.iter().zip(vector).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
        };
        vectors
            .chunks_exact(width)
            .flat_map(|vector| weights.chunks_exact(width).map(move |row| dot(row, vector)).collect::<Vec<_>>())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, fork: false, ..ProptestConfig::default() })]

        #[test]
        fn products_are_those_of_the_rounded_weights_and_of_each_vector_alone(
            width in 1_usize..150,
            rows in 1_usize..12,
            count in 1_usize..5,
            seed in any::<u32>(),
            size in prop_oneof![Just(1e-3_f32), Just(1.0), Just(3e4)],
        ) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * size
            };
            let original: Vec<f32> = (0..rows * width).map(|_| next()).collect();
            let vectors: Vec<f32> = (0..count * width).map(|_| next()).collect();
            let mut weights = original.clone();
            let matrix = Int8Matrix::round(&mut weights, width).unwrap();
            for ((row, rounded), scale) in original.chunks(width).zip(weights.chunks(width)).zip(&matrix.scales) {
                for (value, rounded) in row.iter().zip(rounded) {
                    prop_assert!((value - rounded).abs() <= 0.501 * scale, "{} {}", value, rounded);
                }
            }
            let mut products = vec![0.0; count * rows];
            matrix.multiply(&vectors, &mut products);
            // Half a step of what a vector is rounded to, for every weight of a row.
            for (place, (got, want)) in products.iter().zip(slow(&weights, &vectors, width)).enumerate() {
                let (vector, row) = (place / rows, place % rows);
                let step = greatest(&vectors[vector * width..][..width]) / limit(width);
                let weight: f32 = weights[row * width..][..width].iter().map(|value| value.abs()).sum();
                let most = f64::from(0.51 * step * weight) + 1e-5 * want.abs() + 1e-12;
                prop_assert!((f64::from(*got) - want).abs() <= most, "{} {} {}", got, want, most);
            }
            for (vector, together) in vectors.chunks_exact(width).zip(products.chunks_exact(rows)) {
                let mut alone = vec![0.0; rows];
                matrix.multiply(vector, &mut alone);
                prop_assert_eq!(alone.as_slice(), together);
            }
        }

        #[test]
        fn every_processor_adds_up_the_same(
            values in proptest::collection::vec((any::<i8>(), any::<i16>()), 0..300),
        ) {
            let row: Vec<i8> = values.iter().map(|(value, _)| (*value).max(-127)).collect();
            let greatest = limit(values.len()) as i16;
            let vector: Vec<i16> = values.iter().map(|(_, value)| (*value).clamp(-greatest, greatest)).collect();
            let wanted: i64 = row.iter().zip(&vector).map(|(left, right)| i64::from(*left) * i64::from(*right)).sum();
            prop_assert_eq!(i64::from(Plain.dot(&row, &vector)), wanted);
            #[cfg(target_arch = "x86_64")]
            {
                if let Some(simd) = pulp::x86::V3::try_new() {
                    prop_assert_eq!(i64::from(simd.dot(&row, &vector)), wanted);
                }
                if let Some(simd) = pulp::x86::V4::try_new() {
                    prop_assert_eq!(i64::from(simd.dot(&row, &vector)), wanted);
                }
            }
        }
    }

    #[test]
    fn the_greatest_values_fit_and_rows_of_nothing_stay_nothing() {
        for width in [1, 32, 33, 512, 1408, 8960] {
            let mut weights = vec![-2.5; width];
            let matrix = Int8Matrix::round(&mut weights, width).unwrap();
            let mut product = [0.0];
            matrix.multiply(&vec![-4.0; width], &mut product);
            let wanted = 10.0 * width as f32;
            assert!((product[0] - wanted).abs() < 1e-4 * wanted, "{width}: {}", product[0]);
        }
        let mut weights = vec![0.0, 0.0, 1.0, -1.0, 1e-45, 0.0];
        let matrix = Int8Matrix::round(&mut weights, 2).unwrap();
        let mut products = [1.0; 6];
        matrix.multiply(&[0.0, 0.0, 2.0, 1.0], &mut products);
        assert_eq!(products[..3], [0.0; 3]);
        assert!((products[4] - 1.0).abs() < 1e-3 && products[3] == 0.0 && products[5] == 0.0);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(Int8Matrix::round(&mut [1.0, bad], 2).is_none());
            // What is no number is not taken for nothing.
            matrix.multiply(&[0.0, 0.0, 2.0, bad], &mut products);
            assert!(products[..3] == [0.0; 3] && products[4].is_nan());
        }
    }
}
