//! Parameters by name, and the files they come from and go to.

mod header;
mod safetensors;
mod write;

pub use header::{Info, Safetensors};
pub use safetensors::{StoreError, decode, load, save, save_half};
pub use write::{is_partial, is_stream, remove_partial, write_atomically, write_new};

use indexmap::IndexMap;

/// A float32 tensor, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Array {
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, last axis fastest.
    pub data: Vec<f32>,
}

impl Array {
    /// A tensor of zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let data = vec![0.0; shape.iter().product()];
        Self { shape, data }
    }
}

/// Parameters by name, in a fixed order.
pub type Params = IndexMap<String, Array>;
