//! A tensor of a storage: some of its elements, in steps.

use std::ops::Range;

use ailora_runtime::store::{Array, Map, float};

use super::{PickleError, storage::Storage};

/// Dimensions of a tensor at most, as in PyTorch.
pub(super) const RANK: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct View {
    pub name: String,
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl View {
    fn wrong(&self) -> PickleError {
        PickleError::Format(format!("tensor `{}` is not within its storage", self.name))
    }

    /// How many elements it has, no more than its storage.
    pub fn count(&self) -> Result<usize, PickleError> {
        let mut dims = self.shape.iter();
        let count = dims.try_fold(1, |n: usize, &dim| n.checked_mul(dim));
        count
            .filter(|&n| n <= self.storage.len)
            .ok_or_else(|| self.wrong())
    }

    /// The elements, row-major, of the storage that is there in the file: where they lie, unless they are
    /// in other steps. Nothing if they are no floats.
    pub fn read(&self, file: &Map, span: Range<usize>) -> Result<Option<Array>, PickleError> {
        let count = self.count()?;
        if self.strides.len() != self.shape.len() {
            return Err(self.wrong());
        }
        let shape = self.shape.clone();
        let size = self.storage.dtype.bitsize() / 8;
        let dtype = float(self.storage.dtype);
        if count == 0 {
            return Ok(dtype.map(|dtype| Array::from_bytes(dtype, shape, &[])));
        }
        // The last element is the farthest.
        let mut steps = shape.iter().zip(&self.strides);
        let last = steps.try_fold(self.offset, |at: usize, (&dim, &stride)| {
            at.checked_add((dim - 1).checked_mul(stride)?)
        });
        if last.is_none_or(|last| last >= self.storage.len) || span.len() < self.storage.len * size
        {
            return Err(self.wrong());
        }
        let Some(dtype) = dtype else {
            return Ok(None);
        };
        let mut inner = 1;
        let contiguous = shape
            .iter()
            .zip(&self.strides)
            .rev()
            .all(|(&dim, &stride)| {
                let fits = dim == 1 || stride == inner;
                inner *= dim;
                fits
            });
        if contiguous {
            let start = span.start + self.offset * size;
            let range = start..start + count * size;
            return Ok(Some(Array::mapped(dtype, shape, file, range)));
        }
        let bytes = &file[span];
        let mut index = vec![0; shape.len()];
        let mut element = self.offset;
        let mut gathered = Vec::with_capacity(count * size);
        for _ in 0..count {
            gathered.extend_from_slice(&bytes[element * size..(element + 1) * size]);
            // The next in row-major order.
            for ((i, &dim), &stride) in index.iter_mut().zip(&shape).zip(&self.strides).rev() {
                *i += 1;
                element += stride;
                if *i < dim {
                    break;
                }
                element -= dim * stride;
                *i = 0;
            }
        }
        Ok(Some(Array::from_bytes(dtype, shape, gathered)))
    }
}
