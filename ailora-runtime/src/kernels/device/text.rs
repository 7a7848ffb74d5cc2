//! Pieces of CUDA C++ that several generators write.

use super::{Operand, Param, Source};
use crate::view::View;

/// Threads of a block, where nothing asks for another number.
pub(crate) const BLOCK: usize = 256;
/// Blocks that keep a large device busy.
pub(crate) const BUSY: usize = 528;
/// Neighbouring elements that one instruction loads or stores.
pub(crate) const VECTOR: usize = 4;

/// A literal with exactly this value.
pub(crate) fn number(x: f32) -> String {
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
pub(crate) fn index(limit: usize) -> &'static str {
    if u32::try_from(limit).is_ok() {
        "u32"
    } else {
        "u64"
    }
}

/// The number of blocks, at least one, as a grid.
pub(crate) fn grid(blocks: usize) -> [u32; 3] {
    [blocks.clamp(1, i32::MAX as usize) as u32, 1, 1]
}

/// Axes of some size, each walked at one stride per tensor, with as few axes as possible: those of
/// size 1 are dropped, and neighbours that every tensor walks as one are one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Axes {
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
pub(crate) fn aligned(places: impl IntoIterator<Item = usize>) -> bool {
    places.into_iter().all(|place| place % VECTOR == 0)
}

/// Whether the rows of dense operands, of this width, are whole vectors.
pub(crate) fn vector(width: usize, operands: &[Operand]) -> usize {
    let starts = operands.iter().map(|operand| operand.view.start);
    if aligned(starts.chain([width])) {
        VECTOR
    } else {
        1
    }
}

/// From one row of `width` of a view to the next.
pub(crate) fn stride(view: &View, width: usize) -> usize {
    if view.is_dense() { width } else { view.stride }
}

/// A kernel of blocks of this many threads, with these parameters and this indented body.
pub(crate) fn kernel(block: usize, parameters: &[&str], body: &str) -> String {
    format!(
        "extern \"C\" __global__ void __launch_bounds__({block}) KERNEL(\n    {}) {{\n{body}}}\n",
        parameters.join(",\n    ")
    )
}

/// Splits text into lines that are indented by `by` more.
pub(crate) fn indent(text: &str, by: usize) -> String {
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

/// Constants in front of a kernel's text, by which it is specialised: loops over them unroll, and layers
/// of one shape share one kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constants(String);

impl Constants {
    /// A count, of 32 bits where it has no more.
    pub fn count(mut self, name: &str, value: usize) -> Self {
        let (ty, suffix) = match u32::try_from(value) {
            Ok(_) => ("u32", "u"),
            Err(_) => ("u64", "ull"),
        };
        self.0 += &format!("constexpr {ty} {name} = {value}{suffix};\n");
        self
    }

    /// Several counts.
    pub fn counts<const N: usize>(self, all: [(&str, usize); N]) -> Self {
        let add = |constants: Self, (name, value)| constants.count(name, value);
        all.into_iter().fold(self, add)
    }

    pub fn flag(mut self, name: &str, value: bool) -> Self {
        self.0 += &format!("constexpr bool {name} = {value};\n");
        self
    }

    pub fn id(mut self, name: &str, value: i32) -> Self {
        self.0 += &format!("constexpr int {name} = {value};\n");
        self
    }

    pub fn float(mut self, name: &str, value: f32) -> Self {
        self.0 += &format!("constexpr float {name} = {};\n", number(value));
        self
    }

    /// A name for a type.
    pub fn ty(mut self, name: &str, ty: &str) -> Self {
        self.0 += &format!("using {name} = {ty};\n");
        self
    }

    /// A name for the type of an operand's elements.
    pub fn elements(self, name: &str, operand: &Operand) -> Self {
        self.ty(name, operand.dtype.kernel_name())
    }

    /// A function of an `Index`, the place of `axes` in tensor `i`.
    pub fn places(mut self, name: &str, axes: &Axes, i: usize) -> Self {
        let place = axes.offset(i, "at");
        self.0 += &format!("__device__ inline Index {name}(Index at) {{ return {place}; }}\n");
        self
    }

    /// A macro that lists things: `DO` of the numbers of each.
    pub fn list(mut self, name: &str, all: &[String]) -> Self {
        let each: Vec<String> = all.iter().map(|one| format!("DO({one})")).collect();
        self.0 += &format!("#define {name}(DO) {}\n", each.join(" "));
        self
    }

    /// The constants, and the text behind them.
    pub fn before(self, text: &str) -> String {
        format!("{}\n{text}", self.0)
    }

    /// A kernel of blocks of so many threads.
    pub fn kernel(
        self,
        text: &str,
        params: impl IntoIterator<Item = Param>,
        grid: [u32; 3],
        block: usize,
    ) -> Source {
        Source {
            code: self.count("BLOCK", block).before(text),
            params: params.into_iter().collect(),
            grid,
            block: block as u32,
            shared: 0,
        }
    }

    /// A kernel of one thread for each of `UNITS`.
    pub fn flat(self, text: &str, params: impl IntoIterator<Item = Param>, units: usize) -> Source {
        self.ty("Unit", index(units + BLOCK))
            .count("UNITS", units)
            .kernel(text, params, grid(units.div_ceil(BLOCK)), BLOCK)
    }
}

/// Zeros in all of a dense result.
pub(crate) fn zeros(writes: &[Operand]) -> Source {
    let len = writes[0].view.len();
    let n = vector(len, writes);
    Constants::default()
        .elements("Y", &writes[0])
        .count("N", n)
        .flat(include_str!("zeros.cu"), [Param::Write(0)], len / n)
}

/// Bytes of `len` numbers of four bytes, so that what follows is aligned.
pub(crate) fn bytes(len: usize) -> usize {
    (4 * len).next_multiple_of(64)
}
