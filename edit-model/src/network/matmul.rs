//! Dense f32 matrix products on one core, without `unsafe`: packed panels and a register-blocked kernel.
//!
//! Callers parallelise over sequences, which needs no synchronisation inside a product; so nothing here starts a
//! thread, and results do not depend on how many run.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use super::vector::arch;

/// A strided view of a matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct MatrixView<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// Rows of `columns` values, each `row_stride` after the one before.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        debug_assert!(rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= data.len());
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Contiguous rows.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// The transposed view.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Depth of a packed block: one panel of each side stays in the first-level cache.
const DEPTH_BLOCK: usize = 256;
/// Rows of the left side packed at once: they stay in the second-level cache.
const ROW_BLOCK: usize = 192;

#[derive(Default)]
struct Scratch {
    left: Vec<f32>,
    right: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// `output = scale * left * right`, or `output += ...` when `accumulate`. Rows of the output start `output_stride`
/// apart.
pub(crate) fn multiply(
    left: MatrixView<'_>,
    right: MatrixView<'_>,
    output: &mut [f32],
    output_stride: usize,
    scale: f32,
    accumulate: bool,
) {
    debug_assert_eq!(left.columns, right.rows);
    SCRATCH.with_borrow_mut(|scratch| {
        arch().dispatch(Product { left, right, output, output_stride, scale, accumulate, scratch });
    });
}

struct Product<'a, 's> {
    left: MatrixView<'a>,
    right: MatrixView<'a>,
    output: &'a mut [f32],
    output_stride: usize,
    scale: f32,
    accumulate: bool,
    scratch: &'s mut Scratch,
}

impl WithSimd for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The accumulators, one row of the right side and a broadcast value must fit in the registers.
        if S::REGISTER_COUNT >= 32 { self.run::<S, 12, 2>(simd) } else { self.run::<S, 6, 2>(simd) }
    }
}

impl Product<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const TILE_ROWS: usize, const TILE_VECTORS: usize>(self, simd: S) {
        let Self { left, right, output, output_stride, scale, accumulate, scratch } = self;
        let (rows, depth, columns) = (left.rows, left.columns, right.columns);
        let tile_columns = TILE_VECTORS * S::F32_LANES;
        if rows == 0 || columns == 0 {
            return;
        }
        if depth == 0 {
            if !accumulate {
                for row in 0..rows {
                    output[row * output_stride..row * output_stride + columns].fill(0.0);
                }
            }
            return;
        }
        let panels = columns.div_ceil(tile_columns);
        let mut depth_start = 0;
        while depth_start < depth {
            let block_depth = DEPTH_BLOCK.min(depth - depth_start);
            let add = accumulate || depth_start > 0;
            pack_right(right, depth_start, block_depth, tile_columns, panels, &mut scratch.right);
            let right_panels = aligned(&scratch.right, panels * block_depth * tile_columns);
            let mut row_start = 0;
            while row_start < rows {
                let block_rows = ROW_BLOCK.min(rows - row_start);
                pack_left::<TILE_ROWS>(left, row_start, block_rows, depth_start, block_depth, scale, &mut scratch.left);
                for panel in 0..panels {
                    let right_panel = &right_panels[panel * block_depth * tile_columns..][..block_depth * tile_columns];
                    let (right_vectors, _) = S::as_simd_f32s(right_panel);
                    let column = panel * tile_columns;
                    let width = tile_columns.min(columns - column);
                    for (tile, left_panel) in scratch.left[..block_rows.div_ceil(TILE_ROWS) * TILE_ROWS * block_depth]
                        .chunks_exact(TILE_ROWS * block_depth)
                        .enumerate()
                    {
                        let tile_values = tile_product::<S, TILE_ROWS, TILE_VECTORS>(simd, left_panel, right_vectors);
                        let row = row_start + tile * TILE_ROWS;
                        let height = TILE_ROWS.min(row_start + block_rows - row);
                        for (index, values) in tile_values.iter().enumerate() {
                            if index >= height {
                                break;
                            }
                            let start = (row + index) * output_stride + column;
                            store_row::<S, TILE_VECTORS>(simd, values, &mut output[start..start + width], add);
                        }
                    }
                }
                row_start += block_rows;
            }
            depth_start += block_depth;
        }
    }
}

#[inline(always)]
fn store_row<S: Simd, const TILE_VECTORS: usize>(
    simd: S,
    values: &[S::f32s; TILE_VECTORS],
    output: &mut [f32],
    add: bool,
) {
    if output.len() == TILE_VECTORS * S::F32_LANES {
        let (vectors, _) = S::as_mut_simd_f32s(output);
        for (target, value) in vectors.iter_mut().zip(values) {
            *target = if add { simd.add_f32s(*target, *value) } else { *value };
        }
        return;
    }
    let scalars: &[f32] = bytemuck::cast_slice(values);
    for (target, value) in output.iter_mut().zip(scalars) {
        *target = if add { *target + *value } else { *value };
    }
}

#[inline(always)]
fn tile_product<S: Simd, const TILE_ROWS: usize, const TILE_VECTORS: usize>(
    simd: S,
    left_panel: &[f32],
    right_panel: &[S::f32s],
) -> [[S::f32s; TILE_VECTORS]; TILE_ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); TILE_VECTORS]; TILE_ROWS];
    let (left_columns, _) = left_panel.as_chunks::<TILE_ROWS>();
    let (right_rows, _) = right_panel.as_chunks::<TILE_VECTORS>();
    for (left_column, right_row) in left_columns.iter().zip(right_rows) {
        let right_row = *right_row;
        for row in 0..TILE_ROWS {
            let value = simd.splat_f32s(left_column[row]);
            for vector in 0..TILE_VECTORS {
                sums[row][vector] = simd.mul_add_e_f32s(value, right_row[vector], sums[row][vector]);
            }
        }
    }
    sums
}

/// The part of `buffer` that starts at a cache line.
fn aligned(buffer: &[f32], length: usize) -> &[f32] {
    let offset = alignment_offset(buffer);
    &buffer[offset..offset + length]
}

fn alignment_offset(buffer: &[f32]) -> usize {
    let offset = buffer.as_ptr().align_offset(64);
    if offset < 16 { offset } else { 0 }
}

#[inline(always)]
fn pack_right(
    right: MatrixView<'_>,
    depth_start: usize,
    block_depth: usize,
    tile_columns: usize,
    panels: usize,
    buffer: &mut Vec<f32>,
) {
    let needed = panels * block_depth * tile_columns + 16;
    if buffer.len() < needed {
        buffer.resize(needed, 0.0);
    }
    let offset = alignment_offset(buffer);
    let packed = &mut buffer[offset..offset + needed - 16];
    for (panel, target) in packed.chunks_exact_mut(block_depth * tile_columns).enumerate() {
        let column = panel * tile_columns;
        let width = tile_columns.min(right.columns - column);
        if right.column_stride == 1 {
            for (index, row) in target.chunks_exact_mut(tile_columns).enumerate() {
                let start = (depth_start + index) * right.row_stride + column;
                row[..width].copy_from_slice(&right.data[start..start + width]);
                row[width..].fill(0.0);
            }
        } else {
            if width < tile_columns {
                target.fill(0.0);
            }
            for lane in 0..width {
                let start = (column + lane) * right.column_stride + depth_start * right.row_stride;
                if right.row_stride == 1 {
                    let source = &right.data[start..start + block_depth];
                    for (row, value) in target.chunks_exact_mut(tile_columns).zip(source) {
                        row[lane] = *value;
                    }
                } else {
                    for (row, value) in
                        target.chunks_exact_mut(tile_columns).zip(right.data[start..].iter().step_by(right.row_stride))
                    {
                        row[lane] = *value;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn pack_left<const TILE_ROWS: usize>(
    left: MatrixView<'_>,
    row_start: usize,
    block_rows: usize,
    depth_start: usize,
    block_depth: usize,
    scale: f32,
    buffer: &mut Vec<f32>,
) {
    let needed = block_rows.div_ceil(TILE_ROWS) * TILE_ROWS * block_depth;
    if buffer.len() < needed {
        buffer.resize(needed, 0.0);
    }
    for (tile, target) in buffer[..needed].chunks_exact_mut(TILE_ROWS * block_depth).enumerate() {
        let first_row = row_start + tile * TILE_ROWS;
        let height = TILE_ROWS.min(row_start + block_rows - first_row);
        let (columns, _) = target.as_chunks_mut::<TILE_ROWS>();
        if left.row_stride == 1 {
            for (index, column) in columns.iter_mut().enumerate() {
                let start = (depth_start + index) * left.column_stride + first_row;
                for (value, source) in column.iter_mut().zip(&left.data[start..start + height]) {
                    *value = *source * scale;
                }
                column[height..].fill(0.0);
            }
        } else {
            for lane in 0..height {
                let start = (first_row + lane) * left.row_stride + depth_start * left.column_stride;
                if left.column_stride == 1 {
                    let source = &left.data[start..start + block_depth];
                    for (column, value) in columns.iter_mut().zip(source) {
                        column[lane] = *value * scale;
                    }
                } else {
                    for (column, value) in columns.iter_mut().zip(left.data[start..].iter().step_by(left.column_stride))
                    {
                        column[lane] = *value * scale;
                    }
                }
            }
            for lane in height..TILE_ROWS {
                for column in columns.iter_mut() {
                    column[lane] = 0.0;
                }
            }
        }
    }
}

/// The product of a row-major `matrix` of `width` columns with each of `vectors` (`width` values each, one behind the
/// other); `output` gets the products one behind the other. It is the product of decoding a few tokens: the matrix is read
/// from memory once for all of them, and every vector's product is computed as if it were alone, to the bit.
pub(crate) fn multiply_vectors(matrix: &[f32], vectors: &[f32], width: usize, output: &mut [f32]) {
    debug_assert_eq!(matrix.len() / width * (vectors.len() / width), output.len());
    arch().dispatch(VectorProducts { matrix, vectors, width, output });
}

struct VectorProducts<'a> {
    matrix: &'a [f32],
    vectors: &'a [f32],
    width: usize,
    output: &'a mut [f32],
}

impl WithSimd for VectorProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { matrix, vectors, width, output } = self;
        let rows = matrix.len() / width;
        // Two by two, so that a weight is loaded once for both.
        let paired = vectors.len() / width / 2 * 2;
        let (pairs, last) = vectors.split_at(paired * width);
        let (pairs_output, last_output) = output.split_at_mut(paired * rows);
        for (index, row) in matrix.chunks_exact(width).enumerate() {
            for (pair, products) in pairs.chunks_exact(2 * width).zip(pairs_output.chunks_exact_mut(2 * rows)) {
                let (first, second) = pair.split_at(width);
                [products[index], products[rows + index]] = two_products::<S>(simd, row, first, second);
            }
            if !last.is_empty() {
                last_output[index] = product::<S>(simd, row, last);
            }
        }
    }
}

#[inline(always)]
fn product<S: Simd>(simd: S, row: &[f32], vector: &[f32]) -> f32 {
    let (row, row_tail) = S::as_simd_f32s(row);
    let (vector, vector_tail) = S::as_simd_f32s(vector);
    let mut sums = [simd.splat_f32s(0.0); 4];
    let (row_quads, row_rest) = row.as_chunks::<4>();
    let (vector_quads, vector_rest) = vector.as_chunks::<4>();
    for (left, right) in row_quads.iter().zip(vector_quads) {
        for lane in 0..4 {
            sums[lane] = simd.mul_add_e_f32s(left[lane], right[lane], sums[lane]);
        }
    }
    for (left, right) in row_rest.iter().zip(vector_rest) {
        sums[0] = simd.mul_add_e_f32s(*left, *right, sums[0]);
    }
    total::<S>(simd, sums, row_tail, vector_tail)
}

/// The products of `row` with both vectors, each summed as [`product`] sums it.
#[inline(always)]
fn two_products<S: Simd>(simd: S, row: &[f32], first: &[f32], second: &[f32]) -> [f32; 2] {
    let (row, row_tail) = S::as_simd_f32s(row);
    let (first, first_tail) = S::as_simd_f32s(first);
    let (second, second_tail) = S::as_simd_f32s(second);
    let mut first_sums = [simd.splat_f32s(0.0); 4];
    let mut second_sums = [simd.splat_f32s(0.0); 4];
    let (row_quads, row_rest) = row.as_chunks::<4>();
    let (first_quads, first_rest) = first.as_chunks::<4>();
    let (second_quads, second_rest) = second.as_chunks::<4>();
    for ((left, one), other) in row_quads.iter().zip(first_quads).zip(second_quads) {
        for lane in 0..4 {
            first_sums[lane] = simd.mul_add_e_f32s(left[lane], one[lane], first_sums[lane]);
            second_sums[lane] = simd.mul_add_e_f32s(left[lane], other[lane], second_sums[lane]);
        }
    }
    for ((left, one), other) in row_rest.iter().zip(first_rest).zip(second_rest) {
        first_sums[0] = simd.mul_add_e_f32s(*left, *one, first_sums[0]);
        second_sums[0] = simd.mul_add_e_f32s(*left, *other, second_sums[0]);
    }
    [total::<S>(simd, first_sums, row_tail, first_tail), total::<S>(simd, second_sums, row_tail, second_tail)]
}

/// The sums in one, and the products of what fills no register.
#[inline(always)]
fn total<S: Simd>(simd: S, sums: [S::f32s; 4], row_tail: &[f32], vector_tail: &[f32]) -> f32 {
    let total = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    let mut sum = simd.reduce_sum_f32s(total);
    for (left, right) in row_tail.iter().zip(vector_tail) {
        sum += left * right;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    #[test]
    fn agrees_with_the_definition_for_all_layouts_and_odd_sizes() {
        for (rows, depth, columns) in [(1, 1, 1), (13, 7, 33), (50, 300, 70), (200, 33, 65), (12, 256, 32)] {
            let left = values(rows * depth, 1);
            let right = values(depth * columns, 2);
            let mut expected = vec![0.0; rows * columns];
            for i in 0..rows {
                for j in 0..columns {
                    expected[i * columns + j] =
                        (0..depth).map(|p| left[i * depth + p] * right[p * columns + j]).sum::<f32>();
                }
            }
            let mut left_t = vec![0.0; rows * depth];
            for i in 0..rows {
                for p in 0..depth {
                    left_t[p * rows + i] = left[i * depth + p];
                }
            }
            let mut right_t = vec![0.0; depth * columns];
            for p in 0..depth {
                for j in 0..columns {
                    right_t[j * depth + p] = right[p * columns + j];
                }
            }
            let lefts = [MatrixView::new(&left, rows, depth), MatrixView::new(&left_t, depth, rows).transposed()];
            let rights =
                [MatrixView::new(&right, depth, columns), MatrixView::new(&right_t, columns, depth).transposed()];
            for left in lefts {
                for right in rights {
                    let mut output = vec![1.0; rows * columns];
                    multiply(left, right, &mut output, columns, 2.0, true);
                    for (got, want) in output.iter().zip(&expected) {
                        assert!((got - 1.0 - 2.0 * want).abs() < 1e-3, "{got} {want}");
                    }
                    multiply(left, right, &mut output, columns, 1.0, false);
                    for (got, want) in output.iter().zip(&expected) {
                        assert!((got - want).abs() < 1e-3, "{got} {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn vector_products_agree_with_the_definition_and_with_each_vector_alone() {
        // A vector alone, a pair, and pairs with one left; widths that fill registers and that do not.
        for (count, width) in [(1, 75), (2, 75), (3, 75), (8, 192), (5, 7)] {
            let matrix = values(37 * width, 3);
            let vectors = values(count * width, 4);
            let mut together = vec![0.0; count * 37];
            multiply_vectors(&matrix, &vectors, width, &mut together);
            for (vector, products) in vectors.chunks_exact(width).zip(together.chunks_exact(37)) {
                for (row, got) in products.iter().enumerate() {
                    let want: f32 = matrix[row * width..][..width].iter().zip(vector).map(|(a, b)| a * b).sum();
                    assert!((got - want).abs() < 1e-4);
                }
                let mut alone = vec![0.0; 37];
                multiply_vectors(&matrix, vector, width, &mut alone);
                assert_eq!(alone, products);
            }
        }
    }

    #[test]
    fn a_row_of_a_product_depends_on_no_other_row() {
        // Depths beyond a packed block, and fewer rows than a tile.
        for (rows, depth, columns) in [(29, 300, 33), (7, 64, 70)] {
            let left = values(rows * depth, 5);
            let right = values(columns * depth, 6);
            let right = MatrixView::new(&right, columns, depth).transposed();
            let mut whole = vec![0.0; rows * columns];
            multiply(MatrixView::new(&left, rows, depth), right, &mut whole, columns, 0.5, false);
            for first in 0..rows {
                let count = rows - first;
                let mut part = vec![0.0; count * columns];
                let below = MatrixView::new(&left[first * depth..], count, depth);
                multiply(below, right, &mut part, columns, 0.5, false);
                assert_eq!(part, whole[first * columns..]);
            }
        }
    }
}
