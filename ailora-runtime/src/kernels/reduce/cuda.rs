use ailora_graph::ir::{DType, ops::reduce::Combine, shape::strides};

use super::Reduce;
use crate::kernels::device::{
    Actions, Operand, Param, Source,
    text::{Axes, BLOCK, BUSY, Constants, VECTOR, aligned, bytes, grid, index},
};

/// What is reduced: kept axes, whose places are the result's, and axes that are combined.
struct Reduction {
    combine: Combine,
    kept: Axes,
    gone: Axes,
    /// Whether the elements that lie side by side are combined.
    along: bool,
    /// Whether vectors of neighbours are aligned and all combined, or all kept.
    vector: usize,
}

/// Combines elements along the axes where the result's strides are 0.
pub(super) fn reduce(reduce: &Reduce, reads: &[Operand], writes: &[Operand]) -> Actions {
    let (shape, result) = (&reduce.shape[..], &reduce.strides[..]);
    let mut from = strides(shape);
    let width = shape.last().copied().unwrap_or(1);
    let view = &reads[0].view;
    if !view.is_dense() {
        let last = from.len() - 1;
        for own in &mut from[..last] {
            *own = *own / width.max(1) * view.stride;
        }
    }
    // An axis of size 1 may be walked at any stride.
    let is_kept = |axis: usize| result[axis] != 0;
    let pick = |own: &[usize], kept: bool| -> Vec<usize> {
        let axes = (0..shape.len()).filter(|&axis| is_kept(axis) == kept);
        axes.map(|axis| own[axis]).collect()
    };
    let axes = |kept| Axes::new(&pick(shape, kept), &[&pick(&from, kept)]);
    let (kept, gone) = (axes(true), axes(false));
    let beside = |axes: &Axes| axes.strides[0].last() == Some(&1);
    let along = !beside(&kept);
    let inner = if along { &gone } else { &kept };
    let walked = kept.strides[0].iter().chain(&gone.strides[0]).copied();
    let whole = beside(inner)
        && aligned(walked.filter(|&stride| stride != 1))
        && aligned(inner.sizes.last().copied())
        && aligned([view.start, writes[0].view.start]);
    let one = Reduction {
        combine: reduce.combine,
        along,
        vector: if whole { VECTOR } else { 1 },
        kept,
        gone,
    };
    let (outputs, depth) = (one.kept.len(), one.gone.len());
    let (read, write) = (
        (Param::Read(0), reads[0].dtype),
        (Param::Write(0), writes[0].dtype),
    );
    let sums = (Param::Scratch(0), DType::F32);
    let parts = one.parts(outputs, depth);
    if parts == 1 {
        return one.kernel(1, read, write).into();
    }
    let dense = |size: usize, stride: usize| Axes::new(&[size], &[&[stride]]);
    let rest = Reduction {
        combine: reduce.combine,
        along: outputs == 1,
        vector: if outputs % VECTOR == 0 && aligned([writes[0].view.start]) {
            VECTOR
        } else {
            1
        },
        kept: dense(outputs, 1),
        gone: dense(parts, outputs),
    };
    let mut actions = Actions::from(one.kernel(parts, read, sums.clone()));
    actions.extend([rest.kernel(1, sums, write)]);
    actions.scratch = bytes(parts * outputs);
    actions
}

impl Reduction {
    /// Blocks that work on one part of the depth.
    fn tiles(&self, outputs: usize) -> usize {
        if self.along {
            outputs.div_ceil(BLOCK / self.threads())
        } else {
            outputs.div_ceil(32 * self.vector)
        }
    }

    /// Threads that combine neighbours of one result.
    fn threads(&self) -> usize {
        let vectors = self.gone.len() / self.vector;
        if vectors <= 64 * 8 { 32 } else { BLOCK }
    }

    /// Parts of the depth that keep a device busy and each give every thread some elements.
    fn parts(&self, outputs: usize, depth: usize) -> usize {
        let each = if self.along {
            BLOCK * self.vector * 8
        } else {
            BLOCK / 32 * 8
        };
        let wanted = BUSY.div_ceil(self.tiles(outputs).max(1));
        wanted.min(depth / each).max(1)
    }

    fn index(&self, parts: usize) -> &'static str {
        let most = self.kept.span(0) + self.gone.span(0);
        let depth = self.gone.len() + 8 * BLOCK * VECTOR;
        index(most.max(self.kept.len() * parts).max(depth) + BLOCK * VECTOR)
    }

    /// The combined axes, in vectors where these are combined.
    fn deep(&self) -> Axes {
        let mut axes = self.gone.clone();
        if self.along && self.vector > 1 {
            let last = axes.sizes.len() - 1;
            axes.sizes[last] /= self.vector;
            axes.strides[0][last] = self.vector;
        }
        axes
    }

    /// The kernel of all `parts`, which leaves the result of each.
    fn kernel(&self, parts: usize, from: (Param, DType), to: (Param, DType)) -> Source {
        let (outputs, depth) = (self.kept.len(), self.gone.len());
        let combine = match self.combine {
            Combine::Sum => "Sum",
            Combine::Max => "Max",
        };
        let tiles = self.tiles(outputs).max(1);
        let constants = Constants::default()
            .ty("X", from.1.kernel_name())
            .ty("Y", to.1.kernel_name())
            .ty("Index", self.index(parts))
            .ty("Combine", combine)
            .counts([("OUTPUTS", outputs), ("TILES", tiles), ("N", self.vector)])
            .places("kept", &self.kept, 0)
            .places("deep", &self.deep(), 0);
        let (constants, text) = if self.along {
            let vectors = depth / self.vector;
            let counts = [
                ("THREADS", self.threads()),
                ("VECTORS", vectors),
                ("SHARE", vectors.div_ceil(parts)),
            ];
            (constants.counts(counts), include_str!("along.cu"))
        } else {
            let counts = [("DEPTH", depth), ("SHARE", depth.div_ceil(parts))];
            (constants.counts(counts), include_str!("across.cu"))
        };
        constants.kernel(text, [from.0, to.0], grid(tiles * parts), BLOCK)
    }
}
