//! Folds an adapter into weights.

use ailora_graph::adapter::Layout;
use ailora_runtime::store::Array;
use rayon::prelude::*;

/// A matrix and what it multiplies: `[out, in]` or `[in, out]` in memory. A table of embeddings is
/// the latter, `[rows, width]`.
pub struct Weight<'a> {
    /// Its numbers.
    pub array: &'a mut Array,
    /// How they lie.
    pub layout: Layout,
}

impl Weight<'_> {
    /// Adds `scale B A`, of `A` `[r, in]` and `B` `[out, r]`, summed in float64.
    pub fn add(&mut self, scale: f64, a: &Array, b: &Array) {
        let rank = a.shape().first().copied().unwrap_or_default().max(1);
        match self.layout {
            Layout::OutIn => add_product(
                self.array.floats_mut(),
                scale,
                &b.floats(),
                &a.floats(),
                rank,
            ),
            Layout::InOut => {
                let (left, right) = (
                    transposed(&a.floats(), rank),
                    transposed_to(&b.floats(), rank),
                );
                add_product(self.array.floats_mut(), scale, &left, &right, rank);
            }
        }
    }

    /// Scales what belongs to each output to the length that `magnitudes` gives, as DoRA does. An
    /// output of zeros stays as it is.
    pub fn rescale(&mut self, magnitudes: &[f32]) {
        let outputs = magnitudes.len();
        let mut squares = vec![0.0_f64; outputs];
        let output = self.output(outputs);
        for (i, &x) in self.array.floats().iter().enumerate() {
            squares[output(i)] += f64::from(x) * f64::from(x);
        }
        let factors: Vec<f64> = squares
            .iter()
            .zip(magnitudes)
            .map(|(square, &magnitude)| match square.sqrt() {
                0.0 => 1.0,
                length => f64::from(magnitude) / length,
            })
            .collect();
        self.multiply(&factors);
    }

    /// Multiplies what belongs to each output by its factor.
    pub fn scale(&mut self, factors: &[f32]) {
        let factors: Vec<f64> = factors.iter().copied().map(f64::from).collect();
        self.multiply(&factors);
    }

    fn multiply(&mut self, factors: &[f64]) {
        let output = self.output(factors.len());
        for (i, x) in self.array.floats_mut().iter_mut().enumerate() {
            *x = (f64::from(*x) * factors[output(i)]) as f32;
        }
    }

    /// Which of so many outputs an element belongs to.
    fn output(&self, outputs: usize) -> impl Fn(usize) -> usize + use<> {
        let columns = (self.array.len() / outputs.max(1)).max(1);
        let layout = self.layout;
        move |i| match layout {
            Layout::OutIn => i / columns,
            Layout::InOut => i % outputs.max(1),
        }
    }
}

/// Adds `scale left right`, of `[n, rank]` and `[rank, m]`, to `[n, m]`.
fn add_product(data: &mut [f32], scale: f64, left: &[f32], right: &[f32], rank: usize) {
    let columns = (right.len() / rank).max(1);
    let rows = data.par_chunks_exact_mut(columns);
    rows.zip(left.par_chunks_exact(rank))
        .for_each(|(row, left)| {
            let mut sum = vec![0.0_f64; columns];
            for (&factor, right) in left.iter().zip(right.chunks_exact(columns)) {
                let factor = f64::from(factor);
                for (sum, &x) in sum.iter_mut().zip(right) {
                    *sum += factor * f64::from(x);
                }
            }
            for (x, sum) in row.iter_mut().zip(sum) {
                *x = (f64::from(*x) + scale * sum) as f32;
            }
        });
}

/// `[rows, n]` as `[n, rows]`.
fn transposed(data: &[f32], rows: usize) -> Vec<f32> {
    let columns = data.len() / rows;
    let column = |column| (0..rows).map(move |row| data[row * columns + column]);
    (0..columns).flat_map(column).collect()
}

/// `[n, columns]` as `[columns, n]`.
fn transposed_to(data: &[f32], columns: usize) -> Vec<f32> {
    transposed(data, (data.len() / columns).max(1))
}

/// The rows of `b` below those of `a`.
pub fn below(a: Array, b: &Array) -> Array {
    let mut shape = a.shape().to_vec();
    if let (Some(rows), Some(more)) = (shape.first_mut(), b.shape().first()) {
        *rows += more;
    }
    let mut floats = a.into_floats();
    floats.extend(b.floats().iter());
    Array::new(shape, floats)
}

/// The columns of `-b` beside those of `a`, each `rank` wide.
pub fn beside_negative(a: &Array, b: &Array, rank: usize) -> Array {
    let (left, right) = (a.floats(), b.floats());
    let rows = left.chunks_exact(rank).zip(right.chunks_exact(rank));
    Array::new(
        vec![a.len() / rank.max(1), 2 * rank],
        rows.flat_map(|(a, b)| a.iter().copied().chain(b.iter().map(|x| -x)))
            .collect(),
    )
}

/// The first number of an array that is none.
pub fn not_finite(array: &Array) -> Option<f32> {
    array.floats().iter().copied().find(|x| !x.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: [usize; 2], data: &[f32]) -> Array {
        let (shape, data) = (shape.to_vec(), data.to_vec());
        Array::new(shape, data)
    }

    #[test]
    fn products_are_added_in_either_layout() {
        // B A = [[1, 2, 3], [10, 20, 30]] + [[4, 5, 6], [-4, -5, -6]], of rank 2.
        let a = array([2, 3], &[1., 2., 3., 4., 5., 6.]);
        let b = array([2, 2], &[1., 1., 10., -1.]);
        let expected = [5., 7., 9., 6., 15., 24.];
        let mut weight = array([2, 3], &[1.; 6]);
        let mut lying = array([3, 2], &[1.; 6]);
        for (array, layout) in [(&mut weight, Layout::OutIn), (&mut lying, Layout::InOut)] {
            Weight { array, layout }.add(0.5, &a, &b);
        }
        assert_eq!(*weight.floats(), expected.map(|x| 1.0 + 0.5 * x));
        assert_eq!(*lying.floats(), transposed(&weight.floats(), 2));
    }

    #[test]
    fn outputs_get_their_magnitudes_and_zeros_stay() {
        let mut weight = array([2, 2], &[3., 4., 0., 0.]);
        Weight {
            array: &mut weight,
            layout: Layout::OutIn,
        }
        .rescale(&[10., 7.]);
        assert_eq!(*weight.floats(), [6., 8., 0., 0.]);
        let mut table = array([2, 2], &[3., 1., 4., 0.]);
        Weight {
            array: &mut table,
            layout: Layout::InOut,
        }
        .rescale(&[10., 7.]);
        assert_eq!(*table.floats(), [6., 7., 8., 0.]);
    }
}
