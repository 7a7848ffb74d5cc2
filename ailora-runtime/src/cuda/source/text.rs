//! Pieces of CUDA C++ that several generators write.

use super::{Element, Operand};
use crate::plan::View;

/// Threads of a block, where nothing asks for another number.
pub(super) const BLOCK: usize = 256;
/// Blocks that keep a large device busy.
pub(super) const BUSY: usize = 528;
/// Neighbouring elements that one instruction loads or stores.
pub(super) const VECTOR: usize = 4;

/// The type of elements that are computed with, or moved as they are.
pub(super) fn float(element: Element) -> &'static str {
    match element {
        // Moving ids as floats keeps their bits.
        Element::F32 | Element::I32 => "float",
        Element::Bf16 => "bf16",
    }
}

/// A literal with exactly this value.
pub(super) fn number(x: f32) -> String {
    if x.is_nan() {
        "__int_as_float(0x7fc00000)".into()
    } else if x.is_infinite() {
        if x > 0.0 { "INF" } else { "(-INF)" }.into()
    } else if x.is_sign_negative() {
        format!("({x:?}f)")
    } else {
        format!("{x:?}f")
    }
}

/// The type of an index below `limit`.
pub(super) fn index(limit: usize) -> &'static str {
    if u32::try_from(limit).is_ok() {
        "u32"
    } else {
        "u64"
    }
}

/// The number of blocks, at least one, as a grid.
pub(super) fn grid(blocks: usize) -> [u32; 3] {
    [blocks.clamp(1, i32::MAX as usize) as u32, 1, 1]
}

/// Axes of some size, each walked at one stride per tensor, with as few axes as possible: those of
/// size 1 are dropped, and neighbours that every tensor walks as one are one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axes {
    pub sizes: Vec<usize>,
    /// For each tensor.
    pub strides: Vec<Vec<usize>>,
}

impl Axes {
    pub fn new(sizes: &[usize], strides: &[&[usize]]) -> Self {
        let mut axes = Self {
            sizes: Vec::new(),
            strides: vec![Vec::new(); strides.len()],
        };
        for (axis, &size) in sizes.iter().enumerate().filter(|(_, size)| **size != 1) {
            let continues = !axes.sizes.is_empty()
                && axes
                    .strides
                    .iter()
                    .zip(strides)
                    .all(|(own, all)| own.last() == Some(&(all[axis] * size)));
            if continues {
                if let Some(last) = axes.sizes.last_mut() {
                    *last *= size;
                }
                axes.strides.iter_mut().for_each(|own| {
                    own.pop();
                });
            } else {
                axes.sizes.push(size);
            }
            for (own, all) in axes.strides.iter_mut().zip(strides) {
                own.push(all[axis]);
            }
        }
        axes
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.sizes.iter().product()
    }

    /// An expression for where place `index` of the axes lies in tensor `i`.
    pub fn offset(&self, i: usize, index: &str) -> String {
        let mut terms = Vec::new();
        let mut inner = 1;
        for (axis, (&size, &stride)) in self.sizes.iter().zip(&self.strides[i]).enumerate().rev() {
            let mut term = index.to_owned();
            if inner > 1 {
                term += &format!(" / {inner}");
            }
            if axis > 0 {
                term += &format!(" % {size}");
            }
            match stride {
                0 => {}
                1 => terms.push(term),
                _ => terms.push(format!("{term} * {stride}")),
            }
            inner *= size;
        }
        terms.reverse();
        if terms.is_empty() {
            "0".into()
        } else {
            terms.join(" + ")
        }
    }

    /// From the first place to behind the last in tensor `i`.
    pub fn span(&self, i: usize) -> usize {
        let axes = self.sizes.iter().zip(&self.strides[i]);
        axes.map(|(size, stride)| size.saturating_sub(1) * stride)
            .sum::<usize>()
            + 1
    }
}

/// Whether places this far apart from the first element of a buffer, which is aligned, are all
/// aligned to vectors.
pub(super) fn aligned(places: impl IntoIterator<Item = usize>) -> bool {
    places.into_iter().all(|place| place % VECTOR == 0)
}

/// Whether the rows of dense operands, of this width, are whole vectors.
pub(super) fn vector(width: usize, operands: &[Operand]) -> usize {
    let starts = operands.iter().map(|operand| operand.view.start);
    if aligned(starts.chain([width])) {
        VECTOR
    } else {
        1
    }
}

/// From one row of `width` of a view to the next.
pub(super) fn stride(view: &View, width: usize) -> usize {
    if view.is_dense() { width } else { view.stride }
}

/// A kernel of blocks of this many threads, with these parameters and this indented body.
pub(super) fn kernel(block: usize, parameters: &[&str], body: &str) -> String {
    format!(
        "extern \"C\" __global__ void __launch_bounds__({block}) KERNEL(\n    {}) {{\n{body}}}\n",
        parameters.join(",\n    ")
    )
}

/// Splits text into lines that are indented by `by` more.
pub(super) fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines()
        .map(|line| match line {
            "" => "\n".to_owned(),
            // Directives stand at the start.
            _ if line.starts_with('#') => format!("{line}\n"),
            _ => format!("{pad}{line}\n"),
        })
        .collect()
}
