//! Where the numbers of tensors lie in the file.

use safetensors::Dtype;

use super::PickleError;

/// A stretch of numbers in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub dtype: Dtype,
    pub key: String,
    pub len: usize,
}

impl Storage {
    pub fn bytes(&self) -> Result<usize, PickleError> {
        let bytes = self.len.checked_mul(self.dtype.bitsize() / 8);
        bytes.ok_or_else(|| PickleError::Format(format!("storage {} is too long", self.key)))
    }
}
