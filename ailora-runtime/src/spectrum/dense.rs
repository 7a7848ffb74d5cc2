//! The few dense operations the methods are written in, over faer's allocation-free routines: those
//! take the parallelism as an argument, where faer's operators read a process-wide setting.

use faer::diag::DiagMut;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{
    qr_in_place, qr_in_place_scratch, recommended_block_size,
};
use faer::linalg::svd::{self, ComputeSvdVectors};
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Accum, ColMut, Conj, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Bands of rows a product is cut into. Their number is fixed, so the bits of a product do not
/// depend on the threads.
const BANDS: usize = 16;
/// Rows of a band at least, and of a diagonal block of a triangular solve.
const BAND: usize = 32;
const DIAGONAL: usize = 128;

/// `a b`.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    accumulate(out.as_mut(), 1.0, a, b);
    out
}

/// `out += alpha a b`.
pub(super) fn accumulate(out: MatMut<'_, f64>, alpha: f64, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    let band = a.nrows().div_ceil(BANDS).max(BAND);
    out.par_row_chunks_mut(band)
        .zip(a.par_row_chunks(band))
        .for_each(|(out, a)| matmul(out, Accum::Add, a, b, alpha, Par::Seq));
}

/// `x = R^-1 x` for an upper triangular `R`, of which only the upper part is read.
pub(super) fn solve_upper(triangle: MatRef<'_, f64>, x: &mut Mat<f64>) {
    let mut end = triangle.nrows();
    while end > 0 {
        let start = end.saturating_sub(DIAGONAL);
        let (above, mut block) = x.as_mut().subrows_mut(0, end).split_at_row_mut(start);
        let width = end - start;
        solve_upper_triangular_in_place(
            triangle.submatrix(start, start, width, width),
            block.as_mut(),
            Par::Seq,
        );
        accumulate(
            above,
            -1.0,
            triangle.submatrix(0, start, start, width),
            block.as_ref(),
        );
        end = start;
    }
}

/// `x = R^-T x` for an upper triangular `R`, of which only the upper part is read.
pub(super) fn solve_upper_transposed(triangle: MatRef<'_, f64>, x: &mut Mat<f64>) {
    let n = triangle.nrows();
    for start in (0..n).step_by(DIAGONAL) {
        let end = n.min(start + DIAGONAL);
        let width = end - start;
        let (block, below) = x
            .as_mut()
            .subrows_mut(start, n - start)
            .split_at_row_mut(width);
        let mut block = block;
        let diagonal = triangle.submatrix(start, start, width, width).transpose();
        solve_lower_triangular_in_place(diagonal, block.as_mut(), Par::Seq);
        accumulate(
            below,
            -1.0,
            triangle.submatrix(start, end, width, n - end).transpose(),
            block.as_ref(),
        );
    }
}

/// A thin singular value decomposition, singular values in non-increasing order.
pub(crate) struct ThinSvd {
    /// `[m, min(m, n)]`.
    pub u: Mat<f64>,
    /// `[min(m, n)]`.
    pub s: Vec<f64>,
    /// `[n, min(m, n)]`.
    pub v: Mat<f64>,
}

/// The thin decomposition of `a`, or `None` if the iteration does not converge.
pub(crate) fn thin_svd(a: MatRef<'_, f64>, par: Par) -> Option<ThinSvd> {
    let (m, n) = a.shape();
    let size = m.min(n);
    let (mut u, mut s, mut v) = (Mat::zeros(m, size), vec![0.0; size], Mat::zeros(n, size));
    let thin = ComputeSvdVectors::Thin;
    let mut memory = MemBuffer::new(svd::svd_scratch::<f64>(
        m,
        n,
        thin,
        thin,
        par,
        Default::default(),
    ));
    let diagonal = ColMut::from_slice_mut(&mut s).as_diagonal_mut();
    decompose(a, diagonal, Some((&mut u, &mut v)), par, &mut memory)?;
    Some(ThinSvd { u, s, v })
}

/// The singular values of `a` in non-increasing order, or `None` if the iteration does not
/// converge.
pub(super) fn singular_values(a: MatRef<'_, f64>, par: Par) -> Option<Vec<f64>> {
    let (m, n) = a.shape();
    let mut s = vec![0.0; m.min(n)];
    let no = ComputeSvdVectors::No;
    let mut memory = MemBuffer::new(svd::svd_scratch::<f64>(
        m,
        n,
        no,
        no,
        par,
        Default::default(),
    ));
    decompose(
        a,
        ColMut::from_slice_mut(&mut s).as_diagonal_mut(),
        None,
        par,
        &mut memory,
    )?;
    Some(s)
}

fn decompose(
    a: MatRef<'_, f64>,
    s: DiagMut<'_, f64>,
    vectors: Option<(&mut Mat<f64>, &mut Mat<f64>)>,
    par: Par,
    memory: &mut MemBuffer,
) -> Option<()> {
    let (u, v) = vectors.map(|(u, v)| (u.as_mut(), v.as_mut())).unzip();
    svd::svd(a, s, u, v, par, MemStack::new(memory), Default::default()).ok()
}

/// `a = Q R` with `Q: [m, n]` orthonormal and `R: [n, n]` upper triangular and regular to rounding,
/// for `m >= n`.
pub(super) struct Qr {
    reflectors: Mat<f64>,
    coefficients: Mat<f64>,
    triangle: Mat<f64>,
}

impl Qr {
    /// The factorisation of `a`, or `None` if a column depends on those before it to rounding
    /// error.
    pub(super) fn new(a: MatRef<'_, f64>, par: Par) -> Option<Self> {
        let (m, n) = a.shape();
        let block = recommended_block_size::<f64>(m, n);
        let (mut reflectors, mut coefficients) = (a.to_owned(), Mat::zeros(block, n));
        let mut memory = MemBuffer::new(qr_in_place_scratch::<f64>(
            m,
            n,
            block,
            par,
            Default::default(),
        ));
        let stack = MemStack::new(&mut memory);
        let info = qr_in_place(
            reflectors.as_mut(),
            coefficients.as_mut(),
            par,
            stack,
            Default::default(),
        );
        let mut triangle = Mat::zeros(n, n);
        triangle.copy_from_triangular_upper(reflectors.subrows(0, n));
        (info.rank == n).then_some(Self {
            reflectors,
            coefficients,
            triangle,
        })
    }

    /// `R`.
    pub(super) fn triangle(&self) -> MatRef<'_, f64> {
        self.triangle.as_ref()
    }

    /// `Q x` for `x: [n, k]`.
    pub(super) fn apply_q(&self, x: MatRef<'_, f64>, par: Par) -> Mat<f64> {
        let (m, block) = (self.reflectors.nrows(), self.coefficients.nrows());
        let mut out = Mat::zeros(m, x.ncols());
        out.subrows_mut(0, x.nrows()).copy_from(x);
        let scratch = apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(
            m,
            block,
            x.ncols(),
        );
        apply_block_householder_sequence_on_the_left_in_place_with_conj(
            self.reflectors.as_ref(),
            self.coefficients.as_ref(),
            Conj::No,
            out.as_mut(),
            par,
            MemStack::new(&mut MemBuffer::new(scratch)),
        );
        out
    }
}
