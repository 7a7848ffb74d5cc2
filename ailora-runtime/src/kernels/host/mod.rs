//! What operations compute with on the processor: memory, whole rows, functions of one float.

pub(crate) mod math;
mod memory;
pub(crate) mod rows;

pub(crate) use memory::{Line, Memory, Place, Region};

use ailora_graph::ir::Draw;

use crate::view::View;

/// A step that is executed, with its operands in memory.
pub(crate) struct Call<'a> {
    pub memory: &'a Memory<'a>,
    pub reads: &'a [View],
    pub writes: &'a [View],
    /// What fixes its random numbers.
    pub draw: Draw,
}

impl Call<'_> {
    /// The elements of a read without gaps.
    pub fn read(&self, i: usize) -> &[f32] {
        self.memory.read(self.reads[i])
    }

    /// The ids of a read without gaps.
    pub fn ids(&self, i: usize) -> &[i32] {
        bytemuck::cast_slice(self.read(i))
    }

    /// A read, for threads that share it.
    pub fn source(&self, i: usize) -> Region {
        self.memory.region(self.reads[i])
    }

    /// A write, for threads that share it.
    pub fn target(&self, i: usize) -> Region {
        self.memory.region(self.writes[i])
    }
}
