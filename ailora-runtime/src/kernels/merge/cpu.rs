use ailora_graph::ir::ops::merge::Merge;
use gemm::Parallelism;
use rayon::prelude::*;

use crate::{kernels::gemm::cpu::product, kernels::host::Region};

/// Rows of a pack that are merged by one thread.
const MERGED: usize = 64;

/// A pack with its adapters in its weights.
pub(super) fn merge(op: &Merge, [rows, columns]: [usize; 2], pack: Region, to: Region) {
    let [m, n] = op.corner;
    let scale = op.scale.0 as f32;
    // The updates are added to rows that have just been copied, and so are in a cache.
    (0..rows.div_ceil(MERGED)).into_par_iter().for_each(|part| {
        let part = part * MERGED..rows.min((part + 1) * MERGED);
        for i in part.clone() {
            // SAFETY: each row is written by one thread, and nothing writes the pack.
            let (from, to) = unsafe {
                (
                    pack.read(i * columns, columns),
                    to.write(i * columns, columns),
                )
            };
            let (from, to) = (from.split_at(n), to.split_at_mut(n));
            let scaled = |from: &[f32], to: &mut [f32]| {
                from.iter().zip(to).for_each(|(x, y)| *y = scale * x);
            };
            if i < m {
                to.0.copy_from_slice(from.0);
                scaled(from.1, to.1);
            } else {
                scaled(from.0, to.0);
                to.1.fill(0.0);
            }
        }
        for update in &op.updates {
            let ([top, left], [height, width, rank]) = (update.at, update.sizes());
            let (start, end) = (part.start.max(top), part.end.min(top + height));
            if start >= end {
                continue;
            }
            // SAFETY: these rows are this thread's, and the plan keeps the pack apart from them.
            let (up, down, weights) = unsafe {
                let up = start * columns + n + update.inner;
                let down = (m + update.inner) * columns + left;
                (
                    pack.matrix(up, end - start, rank, columns),
                    pack.matrix(down, rank, width, columns),
                    to.matrix_mut(start * columns + left, end - start, width, columns),
                )
            };
            product(weights, true, scale, up, down, Parallelism::None);
        }
    });
}
