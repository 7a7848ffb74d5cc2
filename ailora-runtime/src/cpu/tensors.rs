//! The kernels that move, gather and reduce.

use ailora_graph::ir::{ops::reduce::Combine, shape::for_each_index};

use pulp::Scalar512b;
use rayon::prelude::*;

use super::{memory::Region, rows};
use crate::plan::Strided;

/// Sums here are few and run in lanes that every machine has.
const LANES: Scalar512b = Scalar512b;

fn dot(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(i, s)| i * s).sum()
}

/// Moves elements between strided places.
pub(super) fn copy(moved: &Strided, from: Region, to: Region) {
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

/// Turns the heads of each row of `x`, of twice `half` columns, by the row's angles.
pub(super) fn rotary(width: usize, half: usize, x: Region, [cos, sin]: [&[f32]; 2], to: Region) {
    let angles = cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half));
    angles.enumerate().for_each(|(row, (cos, sin))| {
        let (at, into) = (row * x.stride(width), row * to.stride(width));
        let in_place = x.at(at, width) == to.at(into, width);
        // SAFETY: each row is handled once, and the plan keeps the result apart from what is read,
        // if it is not in its place.
        let y = unsafe { to.write(into, width) };
        if !in_place {
            // SAFETY: as above.
            y.copy_from_slice(unsafe { x.read(at, width) });
        }
        for head in y.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for j in 0..half {
                let (a, b) = (first[j], second[j]);
                first[j] = a * cos[j] - b * sin[j];
                second[j] = b * cos[j] + a * sin[j];
            }
        }
    });
}

/// Combines elements along the axes where `strides`, those of the result, are 0.
pub(super) fn reduce(
    combine: Combine,
    shape: &[usize],
    strides: &[usize],
    from: Region,
    to: &mut [f32],
) {
    to.fill(match combine {
        Combine::Sum => 0.0,
        Combine::Max => f32::NEG_INFINITY,
    });
    let (width, outer) = match shape.split_last() {
        Some((&width, outer)) => (width, outer),
        None => (1, shape),
    };
    let along = strides.last().is_none_or(|&stride| stride == 0);
    let mut start = 0;
    for_each_index(outer, |index| {
        // SAFETY: the plan keeps the result apart from the rows that are read.
        let row = unsafe { from.read(start, width) };
        start += from.stride(width);
        let at = dot(index, strides);
        match (combine, along) {
            (Combine::Sum, true) => to[at] += rows::total(LANES, row),
            (Combine::Max, true) => to[at] = rows::larger(to[at], rows::max(row)),
            (Combine::Sum, false) => {
                for (to, x) in to[at..].iter_mut().zip(row) {
                    *to += x;
                }
            }
            (Combine::Max, false) => {
                for (to, &x) in to[at..].iter_mut().zip(row) {
                    *to = rows::larger(*to, x);
                }
            }
        }
    });
}

/// The rows of a table at ids.
pub(super) fn gather(width: usize, table: &[f32], ids: &[i32], to: &mut [f32]) {
    for (&id, to) in ids.iter().zip(to.chunks_exact_mut(width)) {
        to.copy_from_slice(&table[id as usize * width..][..width]);
    }
}

/// A table of the sums of rows by id.
pub(super) fn scatter_add(width: usize, ids: &[i32], rows: &[f32], to: &mut [f32]) {
    to.fill(0.0);
    for (&id, row) in ids.iter().zip(rows.chunks_exact(width)) {
        for (to, x) in to[id as usize * width..][..width].iter_mut().zip(row) {
            *to += x;
        }
    }
}
