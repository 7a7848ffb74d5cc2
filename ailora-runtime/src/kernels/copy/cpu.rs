use ailora_graph::ir::shape::for_each_index;

use super::Copy;
use crate::{kernels::dot, kernels::host::Region};

pub(super) fn copy(moved: &Copy, from: Region, to: Region) {
    if moved.clear {
        // SAFETY: a plan clears dense results only, which this kernel alone uses.
        unsafe { to.write_all() }.fill(0.0);
    }
    let (width, outer) = match moved.shape.split_last() {
        Some((&width, outer)) => (width, outer),
        None => (1, &[][..]),
    };
    let last = outer.len();
    let steps = [&moved.from, &moved.to].map(|strides| strides.get(last).copied().unwrap_or(1));
    for_each_index(outer, |index| {
        let from_start = moved.from_start + dot(index, &moved.from);
        let to_start = moved.to_start + dot(index, &moved.to);
        // SAFETY: source and destination are different elements, and nothing else uses either.
        unsafe {
            if steps == [1, 1] {
                to.write(to_start, width)
                    .copy_from_slice(from.read(from_start, width));
            } else {
                for i in 0..width {
                    to.write(to_start + i * steps[1], 1)[0] =
                        from.read(from_start + i * steps[0], 1)[0];
                }
            }
        }
    });
}
