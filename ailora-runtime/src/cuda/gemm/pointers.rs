//! Products by cuBLAS, where a batch has two levels or cuBLASLt has nothing.

use ailora_graph::ir::DType;

use std::{ffi::c_void, sync::Arc};

use cudarc::{cublas::sys as blas, driver::sys::CUdeviceptr};

use super::ByColumns;
use crate::{
    backend::Precision,
    cuda::{
        CudaError, Device,
        device::{Buffer, Rectangle},
    },
    kernels::device::{Matrix, Product},
};

/// Bytes that the library's kernels load at a time.
const ALIGNMENT: CUdeviceptr = 16;

/// Products whose operands are at addresses that a list on the device holds.
#[derive(Debug)]
pub(in crate::cuda) struct Pointers {
    /// Of what is added to where the result is left.
    copies: Vec<Rectangle>,
    list: Arc<Buffer>,
    /// The same addresses, where the library has to see them: it takes those of a list for aligned.
    unaligned: Option<Vec<CUdeviceptr>>,
    count: usize,
    sizes: [i32; 3],
    transposed: [bool; 2],
    strides: [i32; 3],
    elements: [DType; 3],
    factors: [f32; 2],
    compute: blas::cublasComputeType_t,
}

impl Pointers {
    pub fn new(
        device: &Device,
        product: &Product,
        precision: Precision,
        addresses: [CUdeviceptr; 4],
    ) -> Result<Self, CudaError> {
        let [outer, inner] = product.batches;
        let count = outer.0 * inner.0;
        let mut list: Vec<CUdeviceptr> = Vec::with_capacity(4 * count);
        // The library's first side is `b`.
        for i in [1, 0, 3, 2] {
            let operand = &product.operands[i];
            for o in 0..outer.0 {
                list.extend((0..inner.0).map(|j| {
                    let elements = operand.offset + o * outer.1[i] + j * inner.1[i];
                    addresses[i] + (elements * operand.dtype.bytes()) as CUdeviceptr
                }));
            }
        }
        let [a, b, c, d] = &product.operands;
        let added = list.split_off(3 * count);
        let is_apart = product.accumulate && list[2 * count..] != added;
        let pitch = |matrix: &Matrix| matrix.stride * matrix.dtype.bytes();
        let copies = added.iter().zip(&list[2 * count..]);
        let copies = copies.filter(|_| is_apart).map(|(&from, &to)| Rectangle {
            from,
            to,
            pitches: [c, d].map(pitch),
            rows: product.sizes[0],
            bytes: product.sizes[1] * d.dtype.bytes(),
        });
        let strides = [b, a, d].map(|matrix| pitch(matrix) as CUdeviceptr);
        let mut places = list.iter().chain(&strides);
        let is_aligned = places.all(|place| place.is_multiple_of(ALIGNMENT));
        let buffer = device.allocate(8 * list.len(), "the addresses of a product's operands")?;
        device.upload(&list, &buffer, 0)?;
        let ByColumns {
            m,
            n,
            k,
            transposed,
        } = ByColumns::new(product);
        Ok(Self {
            copies: copies.collect(),
            list: Arc::new(buffer),
            unaligned: (!is_aligned).then_some(list),
            count,
            sizes: [m, n, k].map(|size| size as i32),
            transposed,
            strides: [b.stride, a.stride, d.stride].map(|stride| stride.max(1) as i32),
            elements: [b.dtype, a.dtype, d.dtype],
            factors: [product.alpha, f32::from(u8::from(product.accumulate))],
            compute: match precision {
                Precision::Tf32 if a.dtype != DType::Bf16 => {
                    blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
                }
                _ => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            },
        })
    }

    /// Queues the products.
    ///
    /// # Safety
    /// At the addresses are operands of these layouts, which are not freed until they are done.
    pub unsafe fn run(&self, device: &Device) -> Result<(), CudaError> {
        for copy in &self.copies {
            // SAFETY: by the caller's promise.
            unsafe { device.copy(copy)? };
        }
        use blas::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let operation = |transposed| if transposed { CUBLAS_OP_T } else { CUBLAS_OP_N };
        let kind = |dtype| match dtype {
            DType::Bf16 => blas::cudaDataType_t::CUDA_R_16BF,
            _ => blas::cudaDataType_t::CUDA_R_32F,
        };
        let at = |i: usize| self.list.at(8 * i * self.count);
        let [m, n, k] = self.sizes;
        let [alpha, beta] = &self.factors;
        if let Some(places) = &self.unaligned {
            for i in 0..self.count {
                let [a, b, d] = [0, 1, 2].map(|side| places[side * self.count + i]);
                // SAFETY: by the caller's promise.
                unsafe {
                    blas::cublasGemmEx(
                        device.blas(),
                        operation(self.transposed[0]),
                        operation(self.transposed[1]),
                        m,
                        n,
                        k,
                        std::ptr::from_ref(alpha).cast(),
                        a as *const c_void,
                        kind(self.elements[0]),
                        self.strides[0],
                        b as *const c_void,
                        kind(self.elements[1]),
                        self.strides[1],
                        std::ptr::from_ref(beta).cast(),
                        d as *mut c_void,
                        kind(self.elements[2]),
                        self.strides[2],
                        self.compute,
                        blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
                    )
                    .result()?;
                }
            }
            return Ok(());
        }
        // SAFETY: by the caller's promise; the lists are on the device.
        unsafe {
            blas::cublasGemmBatchedEx(
                device.blas(),
                operation(self.transposed[0]),
                operation(self.transposed[1]),
                m,
                n,
                k,
                std::ptr::from_ref(alpha).cast(),
                at(0) as *const *const c_void,
                kind(self.elements[0]),
                self.strides[0],
                at(1) as *const *const c_void,
                kind(self.elements[1]),
                self.strides[1],
                std::ptr::from_ref(beta).cast(),
                at(2) as *const *mut c_void,
                kind(self.elements[2]),
                self.strides[2],
                self.count as i32,
                self.compute,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
            .result()?;
        }
        Ok(())
    }
}
