//! Elements combined along axes.

use std::fmt::Write;

use ailora_graph::ir::{ops::reduce::Combine, shape::strides};

use super::{actions, bytes, kernel, read, scratch, write};
use crate::cuda::source::{
    Actions, Operand, Param, Source,
    text::{Axes, BLOCK, BUSY, VECTOR, aligned, grid, index},
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

/// Combines elements along the axes where `strides`, those of the result, are 0.
pub(in crate::cuda::source) fn reduce(
    combine: Combine,
    shape: &[usize],
    result: &[usize],
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
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
        combine,
        along,
        vector: if whole { VECTOR } else { 1 },
        kept,
        gone,
    };
    let (outputs, depth) = (one.kept.len(), one.gone.len());
    let parts = one.parts(outputs, depth);
    if parts == 1 {
        return actions([one.kernel(1, read(0, "x", reads), write("y", writes))], 0);
    }
    let first = one.kernel(parts, read(0, "x", reads), scratch("float* y", 0));
    let dense = |size: usize, stride: usize| Axes::new(&[size], &[&[stride]]);
    let rest = Reduction {
        combine,
        along: outputs == 1,
        vector: if outputs % VECTOR == 0 && aligned([writes[0].view.start]) {
            VECTOR
        } else {
            1
        },
        kept: dense(outputs, 1),
        gone: dense(parts, outputs),
    };
    let last = rest.kernel(1, scratch("const float* x", 0), write("y", writes));
    actions([first, last], bytes(parts * outputs))
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

    /// The kernel of all `parts`, which leaves the result of each.
    fn kernel(&self, parts: usize, from: (String, Param), to: (String, Param)) -> Source {
        let arguments = [from, to];
        if self.along {
            self.along(parts, &arguments)
        } else {
            self.across(parts, &arguments)
        }
    }

    fn op(&self) -> &'static str {
        match self.combine {
            Combine::Sum => "Sum",
            Combine::Max => "Max",
        }
    }

    fn index(&self, parts: usize) -> &'static str {
        let most = self.kept.span(0) + self.gone.span(0);
        let depth = self.gone.len() + 8 * BLOCK * VECTOR;
        index(most.max(self.kept.len() * parts).max(depth) + BLOCK * VECTOR)
    }

    /// Where place `index` of the combined axes lies, in vectors.
    fn deep(&self, index: &str) -> String {
        let mut axes = self.gone.clone();
        if self.along && self.vector > 1 {
            let last = axes.sizes.len() - 1;
            axes.sizes[last] /= self.vector;
            axes.strides[0][last] = self.vector;
        }
        axes.offset(0, index)
    }

    /// A group of threads combines what lies side by side.
    fn along(&self, parts: usize, arguments: &[(String, Param)]) -> Source {
        let (op, n, threads) = (self.op(), self.vector, self.threads());
        let (outputs, vectors) = (self.kept.len(), self.gone.len() / n);
        let index = self.index(parts);
        let each = BLOCK / threads;
        let tiles = outputs.div_ceil(each).max(1);
        let share = vectors.div_ceil(parts);
        let mut body = String::new();
        if threads > 32 {
            body += "    __shared__ float partials[32];\n";
        }
        _ = write!(
            body,
            "    \
    const {index} part = blockIdx.x / {tiles};
    const {index} output = blockIdx.x % {tiles} * {each} + threadIdx.x / {threads};
    if (output >= {outputs}) return;
    const {index} end = part * {share} + {share} < {vectors} ? part * {share} + {share} : {vectors};
    const auto* own = x + ({kept});
    float all[{n}];
#pragma unroll
    for (u32 k = 0; k < {n}; ++k) all[k] = {op}::neutral();
#pragma unroll 4
    for ({index} at = part * {share} + threadIdx.x % {threads}; at < end; at += {threads}) {{
        float next[{n}];
        load(own + ({deep}), next);
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) all[k] = {op}::of(all[k], next[k]);
    }}
    float one[1] = {{all[0]}};
#pragma unroll
    for (u32 k = 1; k < {n}; ++k) one[0] = {op}::of(one[0], all[k]);
    reduce<{threads}, {op}>(one, {partials});
    if (threadIdx.x % {threads} == 0) st(y + part * {outputs} + output, one[0]);
",
            kept = self.kept.offset(0, "output"),
            deep = self.deep("at"),
            partials = if threads > 32 { "partials" } else { "nullptr" },
        );
        kernel(grid(tiles * parts), BLOCK, arguments, &body)
    }

    /// Each thread combines a few neighbouring columns, and the warps of a block every eighth row.
    fn across(&self, parts: usize, arguments: &[(String, Param)]) -> Source {
        const WARPS: usize = BLOCK / 32;
        let (op, n) = (self.op(), self.vector);
        let (outputs, depth) = (self.kept.len(), self.gone.len());
        let index = self.index(parts);
        let tiles = self.tiles(outputs).max(1);
        let share = depth.div_ceil(parts);
        let body = format!(
            "    \
    __shared__ float sums[{WARPS}][32][{n}];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const {index} part = blockIdx.x / {tiles};
    const {index} output = {index}(blockIdx.x % {tiles}) * {columns} + lane * {n};
    const {index} end = part * {share} + {share} < {depth} ? part * {share} + {share} : {depth};
    float all[{n}];
#pragma unroll
    for (u32 k = 0; k < {n}; ++k) all[k] = {op}::neutral();
    if (output < {outputs}) {{
        const auto* own = x + ({kept});
#pragma unroll 4
        for ({index} at = part * {share} + warp; at < end; at += {WARPS}) {{
            float next[{n}];
            load(own + ({deep}), next);
#pragma unroll
            for (u32 k = 0; k < {n}; ++k) all[k] = {op}::of(all[k], next[k]);
        }}
    }}
#pragma unroll
    for (u32 k = 0; k < {n}; ++k) sums[warp][lane][k] = all[k];
    __syncthreads();
    if (warp > 0 || output >= {outputs}) return;
    for (u32 i = 1; i < {WARPS}; ++i) {{
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) all[k] = {op}::of(all[k], sums[i][lane][k]);
    }}
    store(y + part * {outputs} + output, all);
",
            columns = 32 * n,
            kept = self.kept.offset(0, "output"),
            deep = self.deep("at"),
        );
        kernel(grid(tiles * parts), BLOCK, arguments, &body)
    }
}
