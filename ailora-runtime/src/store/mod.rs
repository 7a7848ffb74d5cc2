//! Parameters by name, and the files they come from and go to.

mod array;
mod header;
mod map;
mod safetensors;
mod write;

pub use array::Array;
pub use header::{Info, Safetensors, float};
pub use map::Map;
pub use safetensors::{StoreError, load, save, save_half};
pub use write::{is_partial, is_stream, remove_partial, write_atomically, write_new};

use indexmap::IndexMap;

/// Parameters by name, in a fixed order.
pub type Params = IndexMap<String, Array>;
