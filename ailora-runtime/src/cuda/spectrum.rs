//! Singular triplets on a device: cuSOLVER's eigendecomposition of the Gram matrix in float64, and a
//! Rayleigh-Ritz step on the matrix itself.
//!
//! With `W = U S V^T`, the eigenvectors of `W^T W` at one end of its spectrum are the right singular
//! vectors there. The Gram matrix squares the condition number, so they are taken as a basis only:
//! the small side of the singular value decomposition of `W V` turns them into triplets whose left
//! vectors are orthonormal and for which `W v = s u` holds to rounding. How far `W^T u` is from `s v`
//! is measured, and the processor takes over what is too far.

use std::sync::Mutex;

use cudarc::{
    cublas::sys::{self as blas, cublasOperation_t},
    cusolver::{
        result as dense,
        sys::{self, cusolverDnHandle_t, cusolverEigMode_t, cusolverEigRange_t},
    },
    driver::CudaFunction,
    nvrtc::Ptx,
};
use faer::{Mat, MatRef, Par};

use super::{CudaError, Device, compile::Compiler, device::Buffer, error::During, library};
use crate::spectrum::{Accuracy, Columns, End, Matrix, Solver, thin_svd};

const WIDEN: &str = "extern \"C\" __global__ void KERNEL(const float* x, double* y, u64 n) {
    const u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}
";

/// cuSOLVER on a device.
#[derive(Debug)]
pub struct CudaSolver {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    device: Device,
    handle: cusolverDnHandle_t,
    widen: CudaFunction,
}

// SAFETY: the handle is used by one thread at a time, behind the lock.
unsafe impl Send for State {}

impl CudaSolver {
    /// A solver on the device of that number.
    ///
    /// # Errors
    /// A library is missing, or there is no such device.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let device = Device::open(ordinal)?;
        library::load_solver()?;
        let binary = Compiler::new(device.arch(), None)?
            .compile(&[WIDEN])?
            .concat();
        let module = device.context().load_module(Ptx::from_binary(binary));
        let widen = module.and_then(|module| module.load_function("KERNEL"));
        let handle = dense::dn_create()?;
        // SAFETY: the stream lives as long as the handle.
        unsafe { dense::dn_set_stream(handle, device.stream().cu_stream().cast())? };
        let state = State {
            widen: widen.during("loading a kernel")?,
            device,
            handle,
        };
        Ok(Self {
            state: Mutex::new(state),
        })
    }
}

impl Solver for CudaSolver {
    fn triplets(&self, matrix: &Matrix<'_>, end: End, k: usize) -> Result<Columns, String> {
        let state = self.state.lock().map_err(|error| error.to_string())?;
        let found = state.triplets(matrix, end, k).map_err(|e| e.to_string())?;
        found.ok_or_else(|| "the decomposition did not converge".into())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: used no more.
        unsafe { dense::dn_destroy(self.handle) }.ok();
    }
}

/// A column-major matrix of float64 on the device.
struct Columnwise {
    buffer: Buffer,
    rows: usize,
    columns: usize,
}

impl State {
    fn triplets(
        &self,
        matrix: &Matrix<'_>,
        end: End,
        k: usize,
    ) -> Result<Option<Columns>, CudaError> {
        // Row by row, which is the transpose column by column.
        let (m, n) = (matrix.rows(), matrix.cols());
        let w = self.widened(matrix)?;
        // The Gram matrix of the smaller side, whose eigenvectors are `x`; `y` is the other side's.
        let wide = m < n;
        let small = m.min(n);
        let mut gram = self.new_matrix(small, small)?;
        self.multiply(1.0, (&w, wide), (&w, !wide), 0.0, &mut gram)?;
        let Some(vectors) = self.eigenvectors(gram, end, k)? else {
            return Ok(None);
        };
        let x = self.upload(&vectors, small, k)?;
        let mut y = self.new_matrix(m.max(n), k)?;
        self.multiply(1.0, (&w, !wide), (&x, false), 0.0, &mut y)?;
        let images = self.download(&y)?;
        let images = MatRef::from_column_major_slice(&images, m.max(n), k);
        let Some(ritz) = thin_svd(images, Par::Seq) else {
            return Ok(None);
        };
        let vectors = MatRef::from_column_major_slice(&vectors, small, k);
        let turned = vectors * &ritz.v;
        let (u, v) = match wide {
            true => (turned, ritz.u),
            false => (ritz.u, turned),
        };
        let accuracy = self.accuracy(&w, &u, &ritz.s, &v)?;
        Ok(Some(Columns {
            u: flat(&u),
            s: ritz.s,
            v: flat(&v),
            accuracy,
        }))
    }

    /// The columns of the eigenvectors of a symmetric matrix at an end, of increasing eigenvalues;
    /// none if the iteration does not converge.
    fn eigenvectors(
        &self,
        gram: Columnwise,
        end: End,
        k: usize,
    ) -> Result<Option<Vec<f64>>, CudaError> {
        let n = gram.rows;
        let (first, last) = match end {
            End::Minor => (1, k),
            End::Principal => (n - k + 1, n),
        };
        let values = self.device.allocate(8 * n, "eigenvalues")?;
        let status = self.device.allocate(4, "a status")?;
        let [a, w] = [gram.buffer.at(0), values.at(0)].map(|at| at as *mut f64);
        let (mode, range) = (
            cusolverEigMode_t::CUSOLVER_EIG_MODE_VECTOR,
            cusolverEigRange_t::CUSOLVER_EIG_RANGE_I,
        );
        let triangle = sys::cublasFillMode_t::CUBLAS_FILL_MODE_LOWER;
        let (size, first, last) = (n as i32, first as i32, last as i32);
        let (mut found, mut room) = (0, 0);
        // SAFETY: the arrays have these sizes, and the results of the calls room.
        unsafe {
            sys::cusolverDnDsyevdx_bufferSize(
                self.handle,
                mode,
                range,
                triangle,
                size,
                a,
                size,
                0.0,
                0.0,
                first,
                last,
                &mut found,
                w,
                &mut room,
            )
            .result()?;
        }
        let work = self
            .device
            .allocate(8 * room as usize, "an eigendecomposition")?;
        // SAFETY: as above.
        unsafe {
            sys::cusolverDnDsyevdx(
                self.handle,
                mode,
                range,
                triangle,
                size,
                a,
                size,
                0.0,
                0.0,
                first,
                last,
                &mut found,
                w,
                work.at(0) as *mut f64,
                room,
                status.at(0) as *mut i32,
            )
            .result()?;
        }
        let mut failed = [0_i32];
        self.device.download(&status, 0, &mut failed)?;
        if failed != [0] || found as usize != k {
            return Ok(None);
        }
        let mut vectors = vec![0.0; n * k];
        self.device.download(&gram.buffer, 0, &mut vectors)?;
        Ok(Some(vectors))
    }

    /// As [`Accuracy::measure`], with the products on the device.
    fn accuracy(
        &self,
        w: &Columnwise,
        u: &Mat<f64>,
        s: &[f64],
        v: &Mat<f64>,
    ) -> Result<Accuracy, CudaError> {
        let k = s.len();
        let image = |x: &Mat<f64>, turned, rows| {
            let x = self.upload(&flat(x), x.nrows(), k)?;
            let mut y = self.new_matrix(rows, k)?;
            self.multiply(1.0, (w, turned), (&x, false), 0.0, &mut y)?;
            self.download(&y)
        };
        // `w` holds the transpose.
        let right = image(v, true, u.nrows())?;
        let left = image(u, false, v.nrows())?;
        let mut norm = 0.0;
        let len = (w.rows * w.columns) as i32;
        // SAFETY: the matrix has as many elements.
        unsafe {
            let w = w.buffer.at(0) as *const f64;
            blas::cublasDnrm2_v2(self.device.blas(), len, w, 1, &mut norm).result()?;
        }
        Ok(Accuracy::from_images(
            (
                MatRef::from_column_major_slice(&right, u.nrows(), k),
                MatRef::from_column_major_slice(&left, v.nrows(), k),
            ),
            u.as_ref(),
            s,
            v.as_ref(),
            norm,
        ))
    }

    /// A matrix in float64, as its transpose column by column.
    fn widened(&self, matrix: &Matrix<'_>) -> Result<Columnwise, CudaError> {
        let data = matrix.data();
        let narrow = self.device.allocate(4 * data.len(), "a weight")?;
        self.device.upload(data, &narrow, 0)?;
        let wide = self.new_matrix(matrix.cols(), matrix.rows())?;
        let arguments = [narrow.at(0), wide.buffer.at(0), data.len() as u64];
        const BLOCK: usize = 256;
        let blocks = data.len().div_ceil(BLOCK) as u32;
        self.device
            .launch(&self.widen, (blocks, 1, 1), (BLOCK as u32, 0), &arguments)?;
        // Before what is read is freed.
        self.device.synchronize()?;
        Ok(wide)
    }

    fn new_matrix(&self, rows: usize, columns: usize) -> Result<Columnwise, CudaError> {
        Ok(Columnwise {
            buffer: self
                .device
                .allocate(8 * rows * columns, "a decomposition")?,
            rows,
            columns,
        })
    }

    fn upload(&self, data: &[f64], rows: usize, columns: usize) -> Result<Columnwise, CudaError> {
        let matrix = self.new_matrix(rows, columns)?;
        self.device.upload(data, &matrix.buffer, 0)?;
        Ok(matrix)
    }

    fn download(&self, matrix: &Columnwise) -> Result<Vec<f64>, CudaError> {
        let mut data = vec![0.0; matrix.rows * matrix.columns];
        self.device.download(&matrix.buffer, 0, &mut data)?;
        Ok(data)
    }

    /// `c = alpha op(a) op(b) + beta c`, where `op` transposes if asked.
    fn multiply(
        &self,
        alpha: f64,
        a: (&Columnwise, bool),
        b: (&Columnwise, bool),
        beta: f64,
        c: &mut Columnwise,
    ) -> Result<(), CudaError> {
        let op = |turned| match turned {
            true => cublasOperation_t::CUBLAS_OP_T,
            false => cublasOperation_t::CUBLAS_OP_N,
        };
        let depth = if a.1 { a.0.rows } else { a.0.columns };
        // SAFETY: the matrices have these sizes.
        unsafe {
            blas::cublasDgemm_v2(
                self.device.blas(),
                op(a.1),
                op(b.1),
                c.rows as i32,
                c.columns as i32,
                depth as i32,
                &alpha,
                a.0.buffer.at(0) as *const f64,
                a.0.rows as i32,
                b.0.buffer.at(0) as *const f64,
                b.0.rows as i32,
                &beta,
                c.buffer.at(0) as *mut f64,
                c.rows as i32,
            )
            .result()?;
        }
        Ok(())
    }
}

/// The elements of a matrix, column by column.
fn flat(matrix: &Mat<f64>) -> Vec<f64> {
    matrix
        .col_iter()
        .flat_map(|column| column.iter().copied())
        .collect()
}
