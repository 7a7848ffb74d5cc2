//! Singular triplets on a device: eigenvectors of the Gram matrix in float64, and a Rayleigh-Ritz
//! step on the matrix itself.
//!
//! With `W = U S V^T`, the eigenvectors of `W^T W` at one end of its spectrum are the right singular
//! vectors there: subspace iteration finds a few of them, cuSOLVER's eigendecomposition many, or
//! those that the iteration does not separate. The Gram matrix squares the condition number, so they
//! are taken as a basis only: a small singular value decomposition of `W` between them and an
//! orthonormal basis of their images turns them into triplets, for which `W v = s u` holds to
//! rounding. How far `W^T u` is from `s v` is measured, and the processor takes over what is too far.

mod lane;
mod subspace;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use faer::{MatRef, Par};

use super::{CudaError, Device};
use crate::spectrum::{Accuracy, Columns, End, Matrix, Solver, dense::thin_svd};
pub(super) use lane::KERNELS;
use lane::{Columnwise, Kernels, Lane, View};

/// Matrices that are decomposed at a time: what the processor and the bus do for one of them then
/// costs no time on the device.
const LANES: usize = 3;

/// cuBLAS and cuSOLVER on a device.
#[derive(Debug)]
pub struct CudaSolver {
    lanes: [Mutex<Lane>; LANES],
    turn: AtomicUsize,
}

impl CudaSolver {
    /// A solver on the device of that number.
    ///
    /// # Errors
    /// A library is missing, or there is no such device.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let device = Device::open(ordinal)?;
        let kernels = Kernels::load(&device)?;
        let first = Lane::new(device, kernels.clone())?;
        let another = || Lane::new(Device::open(ordinal)?, kernels.clone());
        Ok(Self {
            lanes: [first, another()?, another()?].map(Mutex::new),
            turn: AtomicUsize::new(0),
        })
    }

    fn find(&self, matrix: &Matrix<'_>, end: End, k: usize) -> Result<Option<Found>, String> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let lane = self.lanes[turn % LANES].lock();
        let lane = lane.map_err(|error| error.to_string())?;
        find(&lane, matrix, end, k).map_err(|error| error.to_string())
    }
}

impl Solver for CudaSolver {
    fn triplets(&self, matrix: &Matrix<'_>, end: End, k: usize) -> Result<Columns, String> {
        let found = self.find(matrix, end, k)?;
        let found = found.ok_or("the decomposition did not converge")?;
        let left = |data| MatRef::from_column_major_slice(data, matrix.rows(), k);
        let right = |data| MatRef::from_column_major_slice(data, matrix.cols(), k);
        // On many threads, so never behind a lock: a thread that waits takes up other matrices.
        let accuracy = Accuracy::from_images(
            (left(&found.images.0), right(&found.images.1)),
            left(&found.u),
            &found.s,
            right(&found.v),
            found.norm,
        );
        Ok(Columns {
            u: found.u,
            s: found.s,
            v: found.v,
            accuracy,
        })
    }
}

/// Triplets of `W`, with `W V`, `W^T U` and the Frobenius norm of `W`.
struct Found {
    u: Vec<f64>,
    s: Vec<f64>,
    v: Vec<f64>,
    images: (Vec<f64>, Vec<f64>),
    norm: f64,
}

/// An orthonormal basis of the outermost right singular vectors, of decreasing singular values.
struct Basis {
    vectors: Columnwise,
    /// How many of the last ones are null vectors to rounding of the Gram matrix, and the Cholesky
    /// factor of that plus a shift.
    null: Option<(usize, Columnwise)>,
}

/// Triplets of a matrix; none if an iteration does not converge.
fn find(lane: &Lane, matrix: &Matrix<'_>, end: End, k: usize) -> Result<Option<Found>, CudaError> {
    // `w` is the transpose. Here "right" is the smaller side, whichever of the matrix it is.
    let (m, n) = (matrix.rows(), matrix.cols());
    let wide = m < n;
    let (large, small) = (m.max(n), m.min(n));
    let w = lane.widened(matrix)?;
    let norm = lane.norm(*w)?;
    let gram = || {
        let gram = lane.new_matrix(small, small)?;
        lane.multiply(1.0, (*w, wide), (*w, !wide), 0.0, *gram)?;
        Ok::<_, CudaError>(gram)
    };
    let forth = |x: View| {
        let y = lane.new_matrix(large, x.columns())?;
        lane.multiply(1.0, (*w, !wide), (x, false), 0.0, *y)?;
        Ok::<_, CudaError>(y)
    };
    let back = |y: View| {
        let x = lane.new_matrix(small, y.columns())?;
        lane.multiply(1.0, (*w, wide), (y, false), 0.0, *x)?;
        Ok::<_, CudaError>(x)
    };

    let mut basis = None;
    if let Some(width) = subspace::width(small, k) {
        basis = subspace::outermost(lane, gram()?, norm, end, (k, width))?;
    }
    if basis.is_none() {
        basis = lane.eigenvectors(gram()?, end, k)?.map(|vectors| Basis {
            vectors,
            null: None,
        });
    }
    let Some(Basis { vectors, null }) = basis else {
        return Ok(None);
    };
    let images = forth(*vectors)?;
    let left = lane.copied(*images)?;
    lane.orthonormalise(*left)?;
    if let Some((count, factor)) = null {
        // The images of null vectors are rounding errors. One step of inverse iteration leaves of
        // them what belongs to the null vectors of the other side, by Woodbury's identity:
        // `(W W^T + d I)^-1 = (I - W (W^T W + d I)^-1 W^T) / d`.
        let left_null = left.last(count);
        for _ in 0..2 {
            let x = back(left_null)?;
            lane.solve_cholesky(*factor, *x)?;
            lane.multiply(-1.0, (*w, !wide), (*x, false), 1.0, left_null)?;
            lane.orthonormalise(*left)?;
        }
    }
    let core = lane.new_matrix(k, k)?;
    lane.multiply(1.0, (*left, true), (*images, false), 0.0, *core)?;
    let core = lane.download(&core)?;
    let Some(ritz) = thin_svd(MatRef::from_column_major_slice(&core, k, k), Par::Seq) else {
        return Ok(None);
    };
    let left = lane.times(*left, ritz.u.as_ref())?;
    let right = lane.times(*vectors, ritz.v.as_ref())?;
    let (of_left, of_right) = (back(*left)?, forth(*right)?);
    let [left, right, of_left, of_right] =
        [left, right, of_left, of_right].map(|matrix| lane.download(&matrix));
    let (u, v, images) = match wide {
        false => (left?, right?, (of_right?, of_left?)),
        true => (right?, left?, (of_left?, of_right?)),
    };
    Ok(Some(Found {
        u,
        s: ritz.s,
        v,
        images,
        norm,
    }))
}
