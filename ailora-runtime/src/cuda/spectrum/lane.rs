//! A stream of a device, memory that is used again, and the dense operations in float64 on them.

use std::{cell::RefCell, ops::Deref, sync::Arc};

use cudarc::{
    cublas::sys::{self as blas, cublasOperation_t},
    cusolver::{
        result as dense,
        sys::{self, cublasFillMode_t, cusolverDnHandle_t, cusolverEigMode_t, cusolverEigRange_t},
    },
    driver::{CudaFunction, sys::CUdeviceptr},
    nvrtc::Ptx,
};
use faer::MatRef;

use crate::{
    cuda::{
        CudaError, Device,
        compile::{Compiler, ENTRY},
        device::{Buffer, no_other_captures},
        error::During,
        library,
    },
    spectrum::{End, Matrix},
};

const WIDEN: &str = "extern \"C\" __global__ void KERNEL(const float* x, double* y, u64 n) {
    const u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}
";

// SplitMix64 of an element's place: numbers spread evenly over [-1, 1).
const RANDOM: &str = "extern \"C\" __global__ void KERNEL(double* y, u64 n) {
    const u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    u64 z = (i + 1) * 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    if (i < n) y[i] = double((z ^ (z >> 31)) >> 11) / double(u64(1) << 52) - 1.0;
}
";

const IDENTITY: &str = "extern \"C\" __global__ void KERNEL(double* y, u64 rows, u64 n) {
    const u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = i % (rows + 1) == 0;
}
";

/// What no library has.
pub(in crate::cuda) const KERNELS: [&str; 3] = [WIDEN, RANDOM, IDENTITY];

/// The same, on a device.
#[derive(Clone, Debug)]
pub(super) struct Kernels {
    widen: CudaFunction,
    random: CudaFunction,
    identity: CudaFunction,
}

impl Kernels {
    pub fn load(device: &Device) -> Result<Self, CudaError> {
        let compiler = Compiler::new(device.arch(), None)?;
        let mut binaries = compiler.compile(&KERNELS)?.into_iter();
        let mut next = || {
            let binary = Ptx::from_binary(binaries.next().unwrap_or_default());
            let module = device.context().load_module(binary);
            let function = module.and_then(|module| module.load_function(ENTRY));
            function.during("loading a kernel")
        };
        Ok(Self {
            widen: next()?,
            random: next()?,
            identity: next()?,
        })
    }
}

/// A stream of a device with its libraries' handles and its memory.
#[derive(Debug)]
pub(super) struct Lane {
    device: Device,
    handle: cusolverDnHandle_t,
    kernels: Kernels,
    /// All memory ever allocated, as allocating and freeing make the device wait. What nothing else
    /// refers to is free, and may be written again at once: the stream keeps the order.
    memory: RefCell<Vec<Arc<Buffer>>>,
}

// SAFETY: the handle and the memory are used by one thread at a time, behind a lock.
unsafe impl Send for Lane {}

impl Drop for Lane {
    fn drop(&mut self) {
        let _guard = no_other_captures();
        // SAFETY: used no more.
        unsafe { dense::dn_destroy(self.handle) }.ok();
    }
}

/// Columns of a column-major matrix of float64 on the device. Its fields are private, as the libraries
/// read and write as many elements as they say.
#[derive(Clone, Copy)]
pub(super) struct View {
    at: CUdeviceptr,
    rows: usize,
    columns: usize,
}

impl View {
    pub fn rows(self) -> usize {
        self.rows
    }

    pub fn columns(self) -> usize {
        self.columns
    }

    /// Its first columns, of which it has as many.
    pub fn first(self, columns: usize) -> Self {
        assert!(columns <= self.columns, "columns of the matrix");
        Self { columns, ..self }
    }

    /// Its last columns, of which it has as many.
    pub fn last(self, columns: usize) -> Self {
        assert!(columns <= self.columns, "columns of the matrix");
        let before = 8 * self.rows * (self.columns - columns);
        Self {
            at: self.at + before as CUdeviceptr,
            columns,
            ..self
        }
    }
}

/// A matrix and its memory.
pub(super) struct Columnwise {
    buffer: Arc<Buffer>,
    view: View,
}

impl Deref for Columnwise {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Lane {
    pub fn new(device: Device, kernels: Kernels) -> Result<Self, CudaError> {
        library::load_solver()?;
        let lane = Self {
            handle: dense::dn_create()?,
            device,
            kernels,
            memory: RefCell::default(),
        };
        // SAFETY: the stream lives as long as the handle.
        unsafe { dense::dn_set_stream(lane.handle, lane.device.stream().cu_stream().cast())? };
        Ok(lane)
    }

    pub fn new_matrix(&self, rows: usize, columns: usize) -> Result<Columnwise, CudaError> {
        let bytes = 8 * rows * columns;
        let mut memory = self.memory.borrow_mut();
        let unused = |buffer: &&Arc<Buffer>| {
            Arc::strong_count(buffer) == 1 && (bytes..=2 * bytes).contains(&buffer.bytes())
        };
        let found = memory.iter().filter(unused).min_by_key(|b| b.bytes());
        let buffer = match found {
            Some(buffer) => buffer.clone(),
            None => {
                let what = "a decomposition";
                let fresh = self.device.allocate(bytes, what).or_else(|_| {
                    memory.retain(|buffer| Arc::strong_count(buffer) > 1);
                    self.device.allocate(bytes, what)
                })?;
                let fresh = Arc::new(fresh);
                memory.push(fresh.clone());
                fresh
            }
        };
        let at = buffer.at(0);
        let view = View { at, rows, columns };
        Ok(Columnwise { buffer, view })
    }

    /// A matrix in float64, as its transpose column by column: row by row.
    pub fn widened(&self, matrix: &Matrix<'_>) -> Result<Columnwise, CudaError> {
        let data = matrix.data();
        let narrow = self.new_matrix(data.len().div_ceil(2), 1)?;
        self.device.upload(&data, &narrow.buffer, 0)?;
        let wide = self.new_matrix(matrix.cols(), matrix.rows())?;
        let len = data.len();
        // SAFETY: both have room for as many elements.
        unsafe { self.launch(&self.kernels.widen, &[narrow.at, wide.at, len as u64], len)? };
        Ok(wide)
    }

    /// Numbers in [-1, 1), the same each time.
    pub fn random(&self, rows: usize, columns: usize) -> Result<Columnwise, CudaError> {
        let matrix = self.new_matrix(rows, columns)?;
        let len = rows * columns;
        // SAFETY: it has as many elements.
        unsafe { self.launch(&self.kernels.random, &[matrix.at, len as u64], len)? };
        Ok(matrix)
    }

    pub fn identity(&self, n: usize) -> Result<Columnwise, CudaError> {
        let matrix = self.new_matrix(n, n)?;
        let arguments = [matrix.at, n as u64, (n * n) as u64];
        // SAFETY: it has as many elements.
        unsafe { self.launch(&self.kernels.identity, &arguments, n * n)? };
        Ok(matrix)
    }

    /// Queues a kernel with a thread for each element.
    ///
    /// # Safety
    /// As [`Device::launch`].
    unsafe fn launch(
        &self,
        kernel: &CudaFunction,
        arguments: &[CUdeviceptr],
        elements: usize,
    ) -> Result<(), CudaError> {
        const BLOCK: usize = 256;
        let blocks = elements.div_ceil(BLOCK) as u32;
        let block = (BLOCK as u32, 0);
        // SAFETY: by the caller's promise; memory is freed when the work before is done.
        unsafe { self.device.launch(kernel, (blocks, 1, 1), block, arguments) }
    }

    pub fn copied(&self, x: View) -> Result<Columnwise, CudaError> {
        let copy = self.new_matrix(x.rows, x.columns)?;
        self.combine((1.0, x), (0.0, x), *copy)?;
        Ok(copy)
    }

    /// The elements, column by column, when all work before is done.
    pub fn download(&self, matrix: &Columnwise) -> Result<Vec<f64>, CudaError> {
        let mut data = vec![0.0; matrix.rows * matrix.columns];
        self.device.download(&matrix.buffer, 0, &mut data)?;
        Ok(data)
    }

    /// `x small`, for a small matrix of the host.
    pub fn times(&self, x: View, small: MatRef<'_, f64>) -> Result<Columnwise, CudaError> {
        let right = self.new_matrix(small.nrows(), small.ncols())?;
        let columns = small.col_iter();
        let data: Vec<f64> = columns.flat_map(|c| c.iter().copied()).collect();
        self.device.upload(&data, &right.buffer, 0)?;
        let y = self.new_matrix(x.rows, right.columns)?;
        self.multiply(1.0, (x, false), (*right, false), 0.0, *y)?;
        Ok(y)
    }

    /// The Frobenius norm.
    pub fn norm(&self, x: View) -> Result<f64, CudaError> {
        let mut norm = 0.0;
        let len = (x.rows * x.columns) as i32;
        // SAFETY: the matrix has as many elements.
        unsafe {
            blas::cublasDnrm2_v2(self.device.blas(), len, x.at as *const f64, 1, &mut norm)
                .result()?;
        }
        Ok(norm)
    }

    /// `c = alpha op(a) op(b) + beta c`, where `op` transposes if asked.
    pub fn multiply(
        &self,
        alpha: f64,
        (a, a_transposed): (View, bool),
        (b, b_transposed): (View, bool),
        beta: f64,
        c: View,
    ) -> Result<(), CudaError> {
        let shape = |x: View, transposed| match transposed {
            true => [x.columns, x.rows],
            false => [x.rows, x.columns],
        };
        let ([m, depth], [inner, n]) = (shape(a, a_transposed), shape(b, b_transposed));
        assert_eq!(
            [m, depth, n],
            [c.rows, inner, c.columns],
            "sizes of a product"
        );
        // SAFETY: the matrices have these sizes.
        unsafe {
            blas::cublasDgemm_v2(
                self.device.blas(),
                op(a_transposed),
                op(b_transposed),
                c.rows as i32,
                c.columns as i32,
                depth as i32,
                &alpha,
                a.at as *const f64,
                a.rows as i32,
                b.at as *const f64,
                b.rows as i32,
                &beta,
                c.at as *mut f64,
                c.rows as i32,
            )
            .result()?;
        }
        Ok(())
    }

    /// `c = alpha a + beta b`, of which `c` may be one.
    pub fn combine(
        &self,
        (alpha, a): (f64, View),
        (beta, b): (f64, View),
        c: View,
    ) -> Result<(), CudaError> {
        for x in [a, b] {
            assert_eq!([x.rows, x.columns], [c.rows, c.columns], "sizes of a sum");
        }
        let rows = c.rows as i32;
        // SAFETY: the matrices have the same sizes.
        unsafe {
            blas::cublasDgeam(
                self.device.blas(),
                op(false),
                op(false),
                rows,
                c.columns as i32,
                &alpha,
                a.at as *const f64,
                rows,
                &beta,
                b.at as *const f64,
                rows,
                c.at as *mut f64,
                rows,
            )
            .result()?;
        }
        Ok(())
    }

    /// `x = L^-1 x` for the lower triangle of a matrix, or `L^-T x`.
    pub fn solve(&self, triangle: View, transposed: bool, x: View) -> Result<(), CudaError> {
        let expected = [x.rows; 2];
        assert_eq!(
            [triangle.rows, triangle.columns],
            expected,
            "sizes of a system"
        );
        // SAFETY: the matrices have these sizes.
        unsafe {
            blas::cublasDtrsm_v2(
                self.device.blas(),
                blas::cublasSideMode_t::CUBLAS_SIDE_LEFT,
                blas::cublasFillMode_t::CUBLAS_FILL_MODE_LOWER,
                op(transposed),
                blas::cublasDiagType_t::CUBLAS_DIAG_NON_UNIT,
                x.rows as i32,
                x.columns as i32,
                &1.0,
                triangle.at as *const f64,
                triangle.rows as i32,
                x.at as *mut f64,
                x.rows as i32,
            )
            .result()?;
        }
        Ok(())
    }

    /// `x = (L L^T)^-1 x`.
    pub fn solve_cholesky(&self, factor: View, x: View) -> Result<(), CudaError> {
        self.solve(factor, false, x)?;
        self.solve(factor, true, x)
    }

    /// Replaces the lower triangle of a matrix by its Cholesky factor; false if it is not positive
    /// definite.
    pub fn cholesky(&self, a: View) -> Result<bool, CudaError> {
        assert_eq!(a.rows, a.columns, "a square matrix");
        let (n, at, handle) = (a.rows as i32, a.at as *mut f64, self.handle);
        let mut room = 0;
        // SAFETY: the arrays have these sizes.
        unsafe {
            sys::cusolverDnDpotrf_bufferSize(handle, LOWER, n, at, n, &mut room).result()?;
            let work = self.new_matrix(room as usize, 1)?;
            self.checked(|status| {
                sys::cusolverDnDpotrf(handle, LOWER, n, at, n, work.at as _, room, status)
            })
        }
    }

    /// Replaces the columns by an orthonormal basis that spans what they span, in order. Columns
    /// that depend on those before them become others.
    pub fn orthonormalise(&self, x: View) -> Result<(), CudaError> {
        let (m, n, at, handle) = (
            x.rows as i32,
            x.columns as i32,
            x.at as *mut f64,
            self.handle,
        );
        let tau = self.new_matrix(x.columns, 1)?;
        let status = self.new_matrix(1, 1)?;
        let (tau, status) = (tau.at as *mut f64, status.at as *mut i32);
        let (mut first, mut second) = (0, 0);
        // SAFETY: the arrays have these sizes.
        unsafe {
            sys::cusolverDnDgeqrf_bufferSize(handle, m, n, at, m, &mut first).result()?;
            sys::cusolverDnDorgqr_bufferSize(handle, m, n, n, at, m, tau, &mut second).result()?;
            let room = first.max(second);
            let work = self.new_matrix(room as usize, 1)?;
            let work = work.at as *mut f64;
            sys::cusolverDnDgeqrf(handle, m, n, at, m, tau, work, room, status).result()?;
            sys::cusolverDnDorgqr(handle, m, n, n, at, m, tau, work, room, status).result()?;
        }
        Ok(())
    }

    /// The eigenvectors of a symmetric matrix at an end, by a full tridiagonalisation; none if the
    /// iteration does not converge.
    pub fn eigenvectors(
        &self,
        a: Columnwise,
        end: End,
        k: usize,
    ) -> Result<Option<Columnwise>, CudaError> {
        assert!(a.rows == a.columns && k <= a.rows, "a square matrix");
        let n = a.rows;
        let (first, last) = match end {
            End::Minor => (1, k),
            End::Principal => (n - k + 1, n),
        };
        let values = self.new_matrix(n, 1)?;
        let (handle, at, w) = (self.handle, a.at as *mut f64, values.at as *mut f64);
        let (mode, range) = (
            cusolverEigMode_t::CUSOLVER_EIG_MODE_VECTOR,
            cusolverEigRange_t::CUSOLVER_EIG_RANGE_I,
        );
        let (n, first, last) = (n as i32, first as i32, last as i32);
        let (mut found, mut room) = (0, 0);
        // SAFETY: the arrays have these sizes, and the results of the calls room.
        let converged = unsafe {
            sys::cusolverDnDsyevdx_bufferSize(
                handle, mode, range, LOWER, n, at, n, 0.0, 0.0, first, last, &mut found, w,
                &mut room,
            )
            .result()?;
            let work = self.new_matrix(room as usize, 1)?;
            self.checked(|status| {
                sys::cusolverDnDsyevdx(
                    handle,
                    mode,
                    range,
                    LOWER,
                    n,
                    at,
                    n,
                    0.0,
                    0.0,
                    first,
                    last,
                    &mut found,
                    w,
                    work.at as _,
                    room,
                    status,
                )
            })?
        };
        let view = a.first(k);
        Ok((converged && found as usize == k).then_some(Columnwise { view, ..a }))
    }

    /// Whether a call of the library leaves a status of zero.
    fn checked(
        &self,
        call: impl FnOnce(*mut i32) -> sys::cusolverStatus_t,
    ) -> Result<bool, CudaError> {
        let status = self.new_matrix(1, 1)?;
        call(status.at as *mut i32).result()?;
        let mut failed = [0_i32];
        self.device.download(&status.buffer, 0, &mut failed)?;
        Ok(failed == [0])
    }
}

const LOWER: cublasFillMode_t = cublasFillMode_t::CUBLAS_FILL_MODE_LOWER;

fn op(transposed: bool) -> cublasOperation_t {
    match transposed {
        true => cublasOperation_t::CUBLAS_OP_T,
        false => cublasOperation_t::CUBLAS_OP_N,
    }
}
