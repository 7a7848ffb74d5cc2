use ailora_graph::ir::{ops::reduce::Combine, shape::for_each_index};
use pulp::Scalar512b;

use super::Reduce;
use crate::kernels::{
    dot,
    host::{Region, rows},
};

/// Sums here are few and run in lanes that every machine has.
const LANES: Scalar512b = Scalar512b;

pub(super) fn reduce(reduce: &Reduce, from: Region, to: &mut [f32]) {
    let Reduce {
        combine,
        shape,
        strides,
    } = reduce;
    to.fill(match combine {
        Combine::Sum => 0.0,
        Combine::Max => f32::NEG_INFINITY,
    });
    let (width, outer) = match shape.split_last() {
        Some((&width, outer)) => (width, outer),
        None => (1, &shape[..]),
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
