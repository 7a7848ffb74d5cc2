//! Block subspace iteration with a Chebyshev filter (Rutishauser 1969; Zhou, Saad, Tiago and
//! Chelikowsky 2006): the leading eigenvectors of a Gram matrix or of its inverse.
//!
//! Each round orthonormalises a block of vectors, rotates it to Ritz vectors, and applies a Chebyshev
//! polynomial that is at most one in magnitude up to the smallest Ritz value. That never exceeds the
//! eigenvalue of its place, so whatever lies beyond the block is damped against what is wanted. The
//! block is wider than that, by guard vectors: random in the beginning, it meets every direction, so
//! nothing wanted is missed, and copies of an eigenvalue are found as any others.

use faer::{
    ColMut, Mat, MatRef, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::evd::{self, ComputeEigenvectors},
};

use super::{
    Basis, CudaError, End,
    lane::{Columnwise, Lane, View},
};

/// Vectors beyond twice the wanted ones.
const GUARD: usize = 32;
/// Bounds of a block's width, in vectors and as a part of all of them: beyond, a full decomposition
/// is not far.
const WIDEST: usize = 256;
const PART: usize = 8;
/// Convergence: what `|W^T u - s v|` will be, relative to the largest singular value.
const CONVERGED: f64 = 5e-10;
/// What will do where more takes too long: inside a cluster of singular values.
const TOLERABLE: f64 = 5e-9;
/// A Ritz pair whose residual is this relative to its value gets no better.
const SETTLED: f64 = 1e-13;
/// How much a filter may raise what has not settled, and what has over the least of the wanted:
/// beyond that, rounding errors of the former hide the latter.
const RAISED: f64 = 1e10;
const APART: f64 = 1e20;
/// What lies below this part of the largest value is not damped further.
const DAMPED: f64 = 1e-8;
/// Bounds of a filter's degree, of the rounds, and of the applications altogether.
const DEGREE: f64 = 40.0;
const ROUNDS: usize = 12;
const APPLICATIONS: f64 = 160.0;
/// The first rounds know too little to give up.
const EARLY: usize = 2;

/// The columns of the block for `k` triplets, if the iteration is worth it.
pub(super) fn width(small: usize, k: usize) -> Option<usize> {
    let width = 2 * k + GUARD;
    (width <= WIDEST && PART * width <= small).then_some(width)
}

/// The basis of `k` outermost eigenvectors of a Gram matrix, from a block of `width` columns; none
/// if the iteration does not converge. `norm` is the Frobenius norm of the matrix.
pub(super) fn outermost(
    lane: &Lane,
    gram: Columnwise,
    norm: f64,
    end: End,
    (k, width): (usize, usize),
) -> Result<Option<Basis>, CudaError> {
    let n = gram.rows();
    let mean = norm / (n as f64).sqrt();
    if end == End::Principal {
        let operator = Operator::Gram(*gram);
        let Some((found, _)) = leading(lane, &operator, mean, (k, width))? else {
            return Ok(None);
        };
        let vectors = lane.new_matrix(n, k)?;
        operator.apply(lane, 1.0, found.first(k), 0.0, *vectors)?;
        lane.orthonormalise(*vectors)?;
        return Ok(Some(Basis {
            vectors,
            null: None,
        }));
    }
    // Large enough for the factorisation to succeed whatever the rounding of the Gram matrix.
    let shift = 16.0 * f64::EPSILON * norm * norm;
    let inverse = lane.identity(n)?;
    lane.combine((1.0, *gram), (shift, *inverse), *gram)?;
    if !lane.cholesky(*gram)? {
        return Ok(None);
    }
    // The factor's inverse makes products of solutions, which are many times faster.
    lane.solve(*gram, false, *inverse)?;
    let operator = Operator::Inverse(*inverse);
    let Some((found, values)) = leading(lane, &operator, mean, (k, width))? else {
        return Ok(None);
    };
    let null = values[..k].iter().filter(|v| 1.0 / **v <= 3.0 * shift);
    let null = null.count();
    let reversed = Mat::from_fn(k, k, |i, j| f64::from(u8::from(i + j + 1 == k)));
    let vectors = lane.times(found.first(k), reversed.as_ref())?;
    // The inverse is off by rounding times the factor's condition number, solutions are not.
    lane.solve_cholesky(*gram, *vectors)?;
    lane.orthonormalise(*vectors)?;
    Ok(Some(Basis {
        vectors,
        null: (null > 0).then_some((null, gram)),
    }))
}

/// A matrix whose leading eigenvectors are wanted.
enum Operator {
    Gram(View),
    /// The inverse of the Gram matrix, as that of its triangular factor.
    Inverse(View),
}

impl Operator {
    /// `y = alpha A x + beta y`.
    fn apply(&self, lane: &Lane, alpha: f64, x: View, beta: f64, y: View) -> Result<(), CudaError> {
        match *self {
            Self::Gram(gram) => lane.multiply(alpha, (gram, false), (x, false), beta, y),
            Self::Inverse(inverse) => {
                let half = lane.new_matrix(x.rows(), x.columns())?;
                lane.multiply(1.0, (inverse, false), (x, false), 0.0, *half)?;
                lane.multiply(alpha, (inverse, true), (*half, false), beta, y)
            }
        }
    }

    /// The singular value that belongs to an eigenvalue.
    fn singular(&self, value: f64) -> f64 {
        match self {
            Self::Gram(_) => value.max(0.0).sqrt(),
            Self::Inverse(_) => value.sqrt().recip(),
        }
    }
}

/// A block whose first `k` columns are the leading eigenvectors, and its Ritz values in
/// non-increasing order; none if it does not converge. `mean` is the root mean square of the
/// singular values.
fn leading(
    lane: &Lane,
    operator: &Operator,
    mean: f64,
    (k, width): (usize, usize),
) -> Result<Option<(Columnwise, Vec<f64>)>, CudaError> {
    let (Operator::Gram(matrix) | Operator::Inverse(matrix)) = *operator;
    let n = matrix.rows();
    let mut start = lane.random(n, width)?;
    let mut applied = 0;
    for round in 0..ROUNDS {
        lane.orthonormalise(*start)?;
        let images = lane.new_matrix(n, width)?;
        operator.apply(lane, 1.0, *start, 0.0, *images)?;
        applied += 1;
        let projected = lane.new_matrix(width, width)?;
        lane.multiply(1.0, (*start, true), (*images, false), 0.0, *projected)?;
        let projected = lane.download(&projected)?;
        let projected = MatRef::from_column_major_slice(&projected, width, width);
        let Some((values, rotation)) = symmetric_eigen(projected, Par::Seq) else {
            return Ok(None);
        };
        let mut before = lane.times(*start, rotation.as_ref())?;
        let mut now = lane.times(*images, rotation.as_ref())?;

        // The residuals `A x_i - x_i value_i`, of which a small product has the squared lengths.
        let scaled = Mat::from_fn(width, k, |i, j| -rotation[(i, j)] * values[j]);
        let residuals = lane.times(*start, scaled.as_ref())?;
        lane.combine((1.0, *residuals), (1.0, now.first(k)), *residuals)?;
        let squares = lane.new_matrix(k, k)?;
        lane.multiply(1.0, (*residuals, true), (*residuals, false), 0.0, *squares)?;
        let squares = lane.download(&squares)?;
        let least = (1e-10 * values[0]).max(f64::MIN_POSITIVE);
        let errors = (0..k).map(|i| squares[i * (k + 1)].sqrt() / values[i].max(least));
        let errors: Vec<f64> = errors.collect();
        let largest = operator.singular(values[0]).max(mean);
        let missed = errors.iter().zip(&values);
        let missed = missed.map(|(error, &value)| error * operator.singular(value) / largest);
        let missed = missed.fold(0.0, f64::max);
        if missed <= CONVERGED {
            return Ok(Some((before, values)));
        }

        let bound = values[width - 1].max(DAMPED * values[0]);
        let left = (round >= EARLY).then_some(APPLICATIONS - f64::from(applied));
        let Some(degree) = degree(&values, bound, &errors, missed, left) else {
            return Ok((missed <= TOLERABLE).then_some((before, values)));
        };
        lane.combine((2.0 / bound, *now), (-1.0, *before), *now)?;
        for _ in 1..degree {
            lane.combine((-1.0, *before), (-2.0, *now), *before)?;
            operator.apply(lane, 4.0 / bound, *now, 1.0, *before)?;
            std::mem::swap(&mut before, &mut now);
            applied += 1;
        }
        start = now;
    }
    Ok(None)
}

/// The degree of the filter that damps what lies below `bound`; none if what is `left` of the
/// applications does not suffice.
fn degree(
    values: &[f64],
    bound: f64,
    errors: &[f64],
    missed: f64,
    left: Option<f64>,
) -> Option<usize> {
    // Logarithms of how much a degree more raises something of that value.
    let rise = |value: f64| (2.0 * value / bound - 1.0).max(1.0).acosh();
    let wanted = rise(values[errors.len() - 1]).max(1e-9);
    let unsettled = errors.iter().position(|error| *error > SETTLED);
    let unsettled = unsettled.unwrap_or(errors.len() - 1);
    let needed = (2.0 * missed / CONVERGED).ln() / wanted;
    if bound <= 0.0 || left.is_some_and(|left| needed > left) {
        return None;
    }
    let degree = needed.ceil().min(DEGREE);
    let degree = degree.min(RAISED.ln() / rise(values[unsettled]).max(1e-9));
    let degree = degree.min(APART.ln() / (rise(values[0]) - wanted).max(1e-9));
    Some(degree.max(1.0) as usize)
}

/// The eigenvalues of a symmetric matrix in non-increasing order and its eigenvectors as columns, or
/// `None` if the iteration does not converge.
fn symmetric_eigen(a: MatRef<'_, f64>, par: Par) -> Option<(Vec<f64>, Mat<f64>)> {
    let n = a.nrows();
    let (mut values, mut vectors) = (vec![0.0; n], Mat::zeros(n, n));
    let scratch =
        evd::self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, Default::default());
    evd::self_adjoint_evd(
        a,
        ColMut::from_slice_mut(&mut values).as_diagonal_mut(),
        Some(vectors.as_mut()),
        par,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .ok()?;
    values.reverse();
    let vectors = vectors.as_ref().reverse_cols().to_owned();
    Some((values, vectors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degrees_are_bounded() {
        let errors = [1.0; 2];
        let near = [1.01, 1.0, 0.99];
        assert_eq!(
            degree(&near, 0.99, &errors, 0.1, None),
            Some(DEGREE as usize)
        );
        assert_eq!(degree(&near, 0.99, &errors, 0.1, Some(50.0)), None);
        // What is not settled is not raised out of reach of the rest, what is may be.
        let far = [1e6, 1.0, 0.5];
        assert_eq!(degree(&far, 0.5, &errors, 0.1, None), Some(1));
        assert_eq!(degree(&far, 0.5, &[0.0, 1.0], 0.1, None), Some(3));
        // Almost there.
        assert_eq!(degree(&[4.0, 2.0, 1.0], 1.0, &errors, 1e-9, None), Some(1));
        // Nothing but zeros.
        assert_eq!(degree(&[0.0; 3], 0.0, &errors, 1.0, None), None);
    }
}
