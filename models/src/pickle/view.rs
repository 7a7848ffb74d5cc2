//! A tensor of a storage: some of its elements, in steps.

use ailora_runtime::store::{Array, decode};

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

    /// The elements in float32, row-major, of the storage's bytes; nothing if they are no floats.
    pub fn read(&self, bytes: &[u8]) -> Result<Option<Array>, PickleError> {
        let count = self.count()?;
        if self.strides.len() != self.shape.len() {
            return Err(self.wrong());
        }
        let shape = self.shape.clone();
        let size = self.storage.dtype.bitsize() / 8;
        if count == 0 {
            let data = decode(self.storage.dtype, &[]);
            return Ok(data.map(|data| Array::new(shape, data)));
        }
        // The last element is the farthest.
        let mut steps = shape.iter().zip(&self.strides);
        let last = steps.try_fold(self.offset, |at: usize, (&dim, &stride)| {
            at.checked_add((dim - 1).checked_mul(stride)?)
        });
        if last.is_none_or(|last| last >= self.storage.len) {
            return Err(self.wrong());
        }
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
        let at = |element: usize| bytes.get(element * size..(element + 1) * size);
        let data = if contiguous {
            let span = bytes.get(self.offset * size..(self.offset + count) * size);
            decode(self.storage.dtype, span.ok_or_else(|| self.wrong())?)
        } else {
            let mut index = vec![0; shape.len()];
            let mut element = self.offset;
            let mut gathered = Vec::with_capacity(count * size);
            for _ in 0..count {
                gathered.extend_from_slice(at(element).ok_or_else(|| self.wrong())?);
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
            decode(self.storage.dtype, &gathered)
        };
        Ok(data.map(|data| Array::new(shape, data)))
    }
}
