//! Matrix products by cuBLASLt, whose algorithms are chosen by timing once and remembered, and by
//! cuBLAS where a batch has two levels.
//!
//! One long file: what upholds the contracts of the library's handles is in one place.

mod pointers;

use ailora_graph::ir::DType;

use std::{collections::HashMap, ffi::c_void, path::PathBuf};

use ailora_graph::ir::ops::matmul::MatMul;
use cudarc::{
    cublaslt::{
        result::{self as lt, CublasError},
        sys,
    },
    driver::sys::{CUdeviceptr, CUevent_flags},
};

use super::{CudaError, Device, device::no_other_captures, error::During, kept};
use crate::{
    backend::Precision,
    kernels::device::{Matrix, Product},
};
use pointers::Pointers;

/// Algorithms that are timed, of those that the library thinks fastest.
const CANDIDATES: usize = 16;
/// How often each is timed; the least counts.
const TIMES: usize = 2;
/// Milliseconds that a timing takes, and the most runs that it goes over.
const TIMING: f32 = 0.3;
const MOST_RUNS: f32 = 30.0;

/// The library of products, and the algorithms chosen so far.
#[derive(Debug)]
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    precision: Precision,
    /// By what distinguishes a product: sizes, types, layout, alignment.
    chosen: HashMap<String, [u64; 8]>,
    /// Where they are kept, and whether there are new ones.
    file: Option<PathBuf>,
    changed: bool,
}

// SAFETY: a handle of this library may be used from any thread.
unsafe impl Send for Products {}

/// A product with its pointers, to be launched any number of times.
#[derive(Debug)]
pub(super) enum Launch {
    Matmul(Box<Matmul>),
    Pointers(Pointers),
}

impl Products {
    /// The algorithms are kept in a file of `folder` for this device and version of the library.
    ///
    /// # Errors
    /// The library does not start.
    pub fn new(
        device: &Device,
        precision: Precision,
        folder: Option<&PathBuf>,
    ) -> Result<Self, CudaError> {
        // SAFETY: takes nothing.
        let version = unsafe { sys::cublasLtGetVersion() };
        let name = device.name().replace(' ', "-");
        let file = folder.map(|folder| folder.join(format!("products-{name}-{version}.kept")));
        let kept = file.as_deref().and_then(kept::read);
        let chosen = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(Self {
            handle: lt::create_handle()?,
            precision,
            chosen: chosen.unwrap_or_default(),
            file,
            changed: false,
        })
    }

    /// A product at these addresses. Choosing an algorithm runs it.
    ///
    /// # Errors
    /// The library has none for it, or the device fails.
    ///
    /// # Safety
    /// At the addresses are the product's operands, in memory of the device that is not freed until this
    /// returns, and is the result's to be written.
    pub unsafe fn prepare(
        &mut self,
        device: &Device,
        product: &Product,
        addresses: [CUdeviceptr; 4],
    ) -> Result<Option<Launch>, CudaError> {
        let [outer, inner] = product.batches;
        if product.sizes[..2].contains(&0) || outer.0 * inner.0 == 0 {
            return Ok(None);
        }
        let one_level = match (outer.0, inner.0) {
            (1, _) => Some(inner),
            (_, 1) => Some(outer),
            _ => (0..4)
                .all(|i| outer.1[i] == inner.0 * inner.1[i])
                .then_some((outer.0 * inner.0, inner.1)),
        };
        if let Some(batch) = one_level.filter(|_| product.sizes[2] > 0) {
            let mut matmul = Matmul::new(product, self.precision, addresses, batch)?;
            // SAFETY: by the caller's promise.
            if unsafe { self.choose(device, &mut matmul)? } {
                return Ok(Some(Launch::Matmul(Box::new(matmul))));
            }
        }
        let pointers = Pointers::new(device, product, self.precision, addresses)?;
        Ok(Some(Launch::Pointers(pointers)))
    }

    /// Queues a product.
    ///
    /// # Errors
    /// The library refuses it.
    ///
    /// # Safety
    /// The operands are still at the addresses that it was prepared with, and are not freed until it is
    /// done.
    pub unsafe fn run(&self, device: &Device, launch: &Launch) -> Result<(), CudaError> {
        // SAFETY: by the caller's promise.
        unsafe {
            match launch {
                Launch::Matmul(matmul) => Ok(matmul.run(self.handle, device, &matmul.algorithm)?),
                Launch::Pointers(pointers) => pointers.run(device),
            }
        }
    }

    /// Keeps the algorithms that were chosen since.
    pub fn keep(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.changed) {
            // What another process chose first stays, so that its runs can be repeated.
            let kept = kept::read(file);
            let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let kept: HashMap<String, [u64; 8]> = kept.unwrap_or_default();
            let mut all = self.chosen.clone();
            all.extend(kept);
            let text = serde_json::to_vec(&all).unwrap_or_default();
            if let Err(error) = kept::write(file, &text) {
                tracing::debug!(%error, "chosen algorithms are not kept");
            }
        }
        self.changed = false;
    }

    /// Gives a product the fastest algorithm; whether there is one, which depends on the alignment of
    /// its operands.
    ///
    /// # Safety
    /// As [`Matmul::run`].
    unsafe fn choose(&mut self, device: &Device, matmul: &mut Matmul) -> Result<bool, CudaError> {
        if let Some(&data) = self.chosen.get(&matmul.key) {
            matmul.algorithm.data = data;
            return Ok(true);
        }
        // Finding none is an error to the library.
        let candidates = matmul.candidates(self.handle).unwrap_or_default();
        let mut best = (f32::INFINITY, None);
        for candidate in &candidates {
            // The first run may load code.
            // SAFETY: by the caller's promise.
            if unsafe { matmul.run(self.handle, device, candidate) }.is_err() {
                continue;
            }
            // What is shorter than its launch would hide behind it.
            // SAFETY: by the caller's promise, here and below.
            let once = unsafe { self.time(device, matmul, candidate, 1)? };
            let runs = (TIMING / once.max(f32::MIN_POSITIVE)).clamp(1.0, MOST_RUNS) as u32;
            for _ in 0..TIMES {
                let took = unsafe { self.time(device, matmul, candidate, runs)? };
                if took < best.0 {
                    best = (took, Some(*candidate));
                }
            }
        }
        let Some(best) = best.1 else {
            return Ok(false);
        };
        matmul.algorithm = best;
        self.chosen
            .insert(matmul.key.clone(), matmul.algorithm.data);
        self.changed = true;
        Ok(true)
    }
}

impl Products {
    /// Milliseconds of a product, as the mean of some runs.
    ///
    /// # Safety
    /// As [`Matmul::run`].
    unsafe fn time(
        &self,
        device: &Device,
        matmul: &Matmul,
        algorithm: &sys::cublasLtMatmulAlgo_t,
        runs: u32,
    ) -> Result<f32, CudaError> {
        let event = || {
            let flags = CUevent_flags::CU_EVENT_DEFAULT;
            device
                .context()
                .new_event(Some(flags))
                .during("making an event")
        };
        let (start, end) = (event()?, event()?);
        start.record(device.stream()).during("timing")?;
        for _ in 0..runs {
            // SAFETY: by the caller's promise.
            unsafe { matmul.run(self.handle, device, algorithm)? };
        }
        end.record(device.stream()).during("timing")?;
        let took = start.elapsed_ms(&end).during("timing a product")?;
        Ok(took / runs as f32)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let _guard = no_other_captures();
        // SAFETY: used no more.
        unsafe { lt::destroy_handle(self.handle) }.ok();
    }
}

/// The library's name of what a kernel has brought its sides into.
fn element_type(dtype: DType) -> sys::cudaDataType_t {
    match dtype {
        DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        _ => sys::cudaDataType_t::CUDA_R_32F,
    }
}

/// What the library, which counts by columns, is given: the transpose of the result, so that `b`
/// comes first, as rows read as columns are transposed.
struct ByColumns {
    /// Of the result, and the depth.
    m: usize,
    n: usize,
    k: usize,
    transposed: [bool; 2],
}

impl ByColumns {
    fn new(product: &Product) -> Self {
        let MatMul { trans_a, trans_b } = product.op;
        let [rows, columns, depth] = product.sizes;
        Self {
            m: columns,
            n: rows,
            k: depth,
            transposed: [trans_b, trans_a],
        }
    }
}

/// A product of one batch.
#[derive(Debug)]
pub(super) struct Matmul {
    description: sys::cublasLtMatmulDesc_t,
    /// Of the first side, the second, what is added and the result, as the library counts.
    layouts: Vec<sys::cublasLtMatrixLayout_t>,
    pointers: [CUdeviceptr; 4],
    factors: [f32; 2],
    algorithm: sys::cublasLtMatmulAlgo_t,
    key: String,
}

impl Matmul {
    fn new(
        product: &Product,
        precision: Precision,
        addresses: [CUdeviceptr; 4],
        (count, steps): (usize, [usize; 4]),
    ) -> Result<Self, CublasError> {
        let ByColumns {
            m,
            n,
            k,
            transposed,
        } = ByColumns::new(product);
        let [a, b, c, d] = &product.operands;
        let narrow = a.dtype == DType::Bf16;
        let compute = match precision {
            Precision::Tf32 if !narrow => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let place = |i: usize| {
            let operand = &product.operands[i];
            addresses[i] + (operand.offset * operand.dtype.bytes()) as CUdeviceptr
        };
        let pointers = [place(1), place(0), place(2), place(3)];
        let aligned = pointers.map(|pointer| 1_u32 << pointer.trailing_zeros().min(8));
        let mut matmul = Self {
            description: lt::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?,
            layouts: Vec::new(),
            pointers,
            factors: [product.alpha, f32::from(u8::from(product.accumulate))],
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            key: format!(
                "{m}x{n}x{k} {transposed:?} {:?} x{count} by {steps:?} {:?} {compute:?} at \
                 {aligned:?} {}",
                [b.stride, a.stride, c.stride, d.stride],
                [b.dtype, a.dtype, d.dtype],
                product.accumulate,
            ),
        };
        matmul.transpose(transposed)?;
        let oriented = |[rows, columns]: [usize; 2], transposed| match transposed {
            true => [columns, rows],
            false => [rows, columns],
        };
        let shapes = [
            (b, oriented([m, k], transposed[0]), steps[1]),
            (a, oriented([k, n], transposed[1]), steps[0]),
            (c, [m, n], steps[2]),
            (d, [m, n], steps[3]),
        ];
        for (operand, shape, step) in shapes {
            matmul.add_layout(operand, shape, [count, step])?;
        }
        Ok(matmul)
    }

    /// Sets which sides are transposed, as the library counts.
    fn transpose(&mut self, transposed: [bool; 2]) -> Result<(), CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Of;
        let sides = [
            Of::CUBLASLT_MATMUL_DESC_TRANSA,
            Of::CUBLASLT_MATMUL_DESC_TRANSB,
        ];
        for (attribute, transposed) in sides.into_iter().zip(transposed) {
            let value = i32::from(transposed);
            // SAFETY: the attribute has this type.
            unsafe {
                lt::set_matmul_desc_attribute(
                    self.description,
                    attribute,
                    (&raw const value).cast(),
                    size_of_val(&value),
                )?;
            }
        }
        Ok(())
    }

    /// Adds how an operand lies: its rows and columns as the library counts, in `count` matrices that are
    /// `step` elements apart.
    fn add_layout(
        &mut self,
        operand: &Matrix,
        [rows, columns]: [usize; 2],
        [count, step]: [usize; 2],
    ) -> Result<(), CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t as Of;
        let layout = lt::create_matrix_layout(
            element_type(operand.dtype),
            rows as u64,
            columns as u64,
            operand.stride.max(rows) as i64,
        )?;
        self.layouts.push(layout);
        let (count, step) = (count as i32, step as i64);
        // SAFETY: the attributes have these types.
        unsafe {
            lt::set_matrix_layout_attribute(
                layout,
                Of::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                (&raw const count).cast(),
                size_of_val(&count),
            )?;
            lt::set_matrix_layout_attribute(
                layout,
                Of::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                (&raw const step).cast(),
                size_of_val(&step),
            )?;
        }
        Ok(())
    }

    /// The algorithms that the library thinks fastest.
    fn candidates(
        &self,
        handle: sys::cublasLtHandle_t,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Of;
        let preference = lt::create_matmul_pref()?;
        let workspace = Device::PRODUCT_WORKSPACE;
        let aligned = self
            .pointers
            .map(|pointer| 1_u32 << pointer.trailing_zeros().min(8));
        let alignments = [
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned[0]),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned[1]),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, aligned[2]),
            (Of::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned[3]),
        ];
        let unknown = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut found = [unknown; CANDIDATES];
        let mut count = 0;
        let layouts = &self.layouts;
        // SAFETY: everything is alive, the attributes have these types, and there is room for as
        // many results as are asked for.
        let result = unsafe {
            lt::set_matmul_pref_attribute(
                preference,
                Of::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of_val(&workspace),
            )
            .and_then(|()| {
                alignments.iter().try_for_each(|(attribute, bytes)| {
                    lt::set_matmul_pref_attribute(
                        preference,
                        *attribute,
                        std::ptr::from_ref(bytes).cast(),
                        size_of_val(bytes),
                    )
                })
            })
            .and_then(|()| {
                sys::cublasLtMatmulAlgoGetHeuristic(
                    handle,
                    self.description,
                    layouts[0],
                    layouts[1],
                    layouts[2],
                    layouts[3],
                    preference,
                    CANDIDATES as i32,
                    found.as_mut_ptr(),
                    &mut count,
                )
                .result()
            })
        };
        // SAFETY: used no more.
        unsafe { lt::destroy_matmul_pref(preference) }.ok();
        result?;
        let success = sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        let found = found[..count as usize].iter();
        Ok(found
            .filter(|result| result.state == success)
            .map(|result| result.algo)
            .collect())
    }

    /// Queues the product.
    ///
    /// # Safety
    /// At the pointers are operands of these layouts, which are not freed until it is done.
    unsafe fn run(
        &self,
        handle: sys::cublasLtHandle_t,
        device: &Device,
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<(), CublasError> {
        let [a, b, c, d] = self.pointers.map(|pointer| pointer as *mut c_void);
        let [alpha, beta] = &self.factors;
        // SAFETY: by the caller's promise, and everything else is alive.
        unsafe {
            lt::matmul(
                handle,
                self.description,
                std::ptr::from_ref(alpha).cast(),
                std::ptr::from_ref(beta).cast(),
                a,
                self.layouts[0],
                b,
                self.layouts[1],
                c,
                self.layouts[2],
                d,
                self.layouts[3],
                algorithm,
                device.workspace() as *mut c_void,
                Device::PRODUCT_WORKSPACE,
                device.stream().cu_stream().cast(),
            )
        }
    }
}

impl Drop for Matmul {
    fn drop(&mut self) {
        // SAFETY: made once, and used no more.
        unsafe {
            for layout in self.layouts.drain(..) {
                lt::destroy_matrix_layout(layout).ok();
            }
            lt::destroy_matmul_desc(self.description).ok();
        }
    }
}
