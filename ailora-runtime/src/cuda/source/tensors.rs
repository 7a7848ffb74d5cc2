//! The kernels that move, gather and reduce. None adds in an order that depends on the machine.

use std::fmt::Write;

use ailora_graph::ir::{
    ops::{loss::IGNORED, merge::Merge, reduce::Combine, take_along::TakeAlong},
    shape::strides,
};

use super::{
    Action, Actions, Operand, Param, Source,
    text::{self, Axes, BLOCK, BUSY, VECTOR, aligned, float, grid, index, number, stride, vector},
};
use crate::plan::Strided;

/// Threads of a block that sums or counts alone.
const ALONE: usize = 1024;
/// Rows and columns of a tile that is transposed.
const TILE: usize = 32;

/// A kernel of one thread for each of `units`, of which `body` handles `unit`.
fn flat(units: usize, arguments: &[(String, Param)], body: &str) -> Source {
    let index = index(units + BLOCK);
    let body = format!(
        "    const {index} unit = {index}(blockIdx.x) * {BLOCK} + threadIdx.x;\n    \
         if (unit >= {units}) return;\n{}",
        text::indent(body, 4)
    );
    kernel(grid(units.div_ceil(BLOCK)), BLOCK, arguments, &body)
}

/// A kernel with these parameters and this body.
fn kernel(grid: [u32; 3], block: usize, arguments: &[(String, Param)], body: &str) -> Source {
    let names: Vec<&str> = arguments.iter().map(|(name, _)| &**name).collect();
    Source {
        code: text::kernel(block, &names, body),
        params: arguments.iter().map(|(_, param)| param.clone()).collect(),
        grid,
        block: block as u32,
        shared: 0,
    }
}

fn read(i: usize, name: &str, reads: &[Operand]) -> (String, Param) {
    let element = float(reads[i].element);
    (format!("const {element}* {name}"), Param::Read(i))
}

fn ids(i: usize, name: &str) -> (String, Param) {
    (format!("const int* {name}"), Param::Read(i))
}

fn write(name: &str, writes: &[Operand]) -> (String, Param) {
    (
        format!("{}* {name}", float(writes[0].element)),
        Param::Write(0),
    )
}

fn scratch(declaration: &str, at: usize) -> (String, Param) {
    (declaration.into(), Param::Scratch(at))
}

/// Bytes of `len` numbers of four bytes, so that what follows is aligned.
fn bytes(len: usize) -> usize {
    (4 * len).next_multiple_of(64)
}

fn actions(kernels: impl IntoIterator<Item = Source>, scratch: usize) -> Actions {
    Actions {
        list: kernels.into_iter().map(Action::Kernel).collect(),
        scratch,
    }
}

/// Zeros in all of a dense result.
fn zeros(writes: &[Operand]) -> Source {
    let len = writes[0].view.len();
    let n = vector(len, writes);
    let body = format!("const float zero[{n}] = {{}};\nstore(y + unit * {n}, zero);\n");
    flat(len / n, &[write("y", writes)], &body)
}

/// Turns the heads of each row of `x`, of twice `half` columns, by the row's angles.
pub(super) fn rotary(width: usize, half: usize, reads: &[Operand], writes: &[Operand]) -> Source {
    let rows = reads[1].view.len() / half.max(1);
    let [from, to] = [&reads[0].view, &writes[0].view].map(|view| stride(view, width));
    let starts = reads.iter().chain(writes).map(|operand| operand.view.start);
    let n = if aligned(starts.chain([half, from, to])) {
        VECTOR
    } else {
        1
    };
    let vectors = (half / n).max(1);
    let heads = width / (2 * half).max(1);
    let arguments = [
        read(0, "x", reads),
        read(1, "cos", reads),
        read(2, "sin", reads),
        write("y", writes),
    ];
    let units = rows * heads * vectors;
    let index = index((rows * from.max(to)).max(units + BLOCK));
    let body = format!(
        "\
const {index} column = unit % {vectors} * {n}, head = unit / {vectors} % {heads};
const {index} row = {index}(unit / {each});
const {index} angle = row * {half} + column;
const {index} at = row * {from} + head * {both} + column;
const {index} into = row * {to} + head * {both} + column;
float c[{n}], s[{n}], first[{n}], second[{n}], turned[2][{n}];
load(cos + angle, c);
load(sin + angle, s);
load(x + at, first);
load(x + at + {half}, second);
#pragma unroll
for (u32 k = 0; k < {n}; ++k) {{
    turned[0][k] = first[k] * c[k] - second[k] * s[k];
    turned[1][k] = second[k] * c[k] + first[k] * s[k];
}}
store(y + into, turned[0]);
store(y + into + {half}, turned[1]);
",
        each = vectors * heads.max(1),
        both = 2 * half,
        heads = heads.max(1),
    );
    flat(units, &arguments, &body)
}

/// The rows of a table at ids.
pub(super) fn gather(width: usize, reads: &[Operand], writes: &[Operand]) -> Source {
    let count = reads[1].view.len();
    let n = vector(width, &[reads[0], writes[0]]);
    let vectors = (width / n).max(1);
    let index = index(reads[0].view.len().max(count * width));
    let body = format!(
        "\
const {index} id = ids[unit / {vectors}];
float x[{n}];
load(table + id * {width} + unit % {vectors} * {n}, x);
store(y + {index}(unit) * {n}, x);
"
    );
    let arguments = [read(0, "table", reads), ids(1, "ids"), write("y", writes)];
    flat(count * width / n, &arguments, &body)
}

/// A table of the sums of rows by id. The blocks of an id's first position sum all of its rows.
pub(super) fn scatter_add(width: usize, reads: &[Operand], writes: &[Operand]) -> Actions {
    const WARPS: usize = BLOCK / 32;
    let count = reads[0].view.len();
    let table = writes[0].view.len() / width.max(1);
    let counts = bytes(table);
    let [first, uses] = [scratch("int* first", 0), scratch("int* uses", counts)];
    let clear = flat(
        table,
        &[first.clone(), uses.clone()],
        &format!("first[unit] = {count};\nuses[unit] = 0;\n"),
    );
    let mark = flat(
        count,
        &[ids(0, "ids"), first.clone(), uses.clone()],
        "const int id = ids[unit];\natomicMin(first + id, int(unit));\natomicAdd(uses + id, 1);\n",
    );
    let n = vector(width, &[reads[1], writes[0]]);
    let columns = 32 * n;
    let index = index((count.max(table)) * width + columns);
    // Each warp sums every eighth of the id's rows, and the first one the sums of the warps.
    let body = format!(
        "\
    __shared__ int found[{BLOCK} + 1], counts[{WARPS}];
    __shared__ float sums[{WARPS}][32][{n}];
    const int start = blockIdx.x, id = ids[start];
    if (first[id] != start) return;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const {index} column = blockIdx.y * {columns} + lane * {n};
    const bool inside = column < {width};
    int left = uses[id];
    float sum[{n}] = {{}};
    for (int at = start; at < {count} && left > 0; at += {BLOCK}) {{
        // The positions with this id among the next ones, in order.
        const int position = at + threadIdx.x;
        const bool is = position < {count} && ids[position] == id;
        const u32 votes = __ballot_sync(~0u, is);
        if (lane == 0) counts[warp] = __popc(votes);
        __syncthreads();
        int before = 0, all = 0;
        for (u32 i = 0; i < {WARPS}; ++i) {{
            before += i < warp ? counts[i] : 0;
            all += counts[i];
        }}
        if (is) found[before + __popc(votes & ((1u << lane) - 1))] = position;
        __syncthreads();
        if (inside) {{
#pragma unroll 4
            for (int i = warp; i < all; i += {WARPS}) {{
                float x[{n}];
                load(rows + {index}(found[i]) * {width} + column, x);
#pragma unroll
                for (u32 k = 0; k < {n}; ++k) sum[k] += x[k];
            }}
        }}
        left -= all;
        __syncthreads();
    }}
#pragma unroll
    for (u32 k = 0; k < {n}; ++k) sums[warp][lane][k] = sum[k];
    __syncthreads();
    if (warp > 0 || !inside) return;
    for (u32 i = 1; i < {WARPS}; ++i) {{
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) sum[k] += sums[i][lane][k];
    }}
    store(y + {index}(id) * {width} + column, sum);
"
    );
    let arguments = [
        ids(0, "ids"),
        read(1, "rows", reads),
        first,
        uses,
        write("y", writes),
    ];
    let mut blocks = grid(count);
    blocks[1] = width.div_ceil(columns).max(1) as u32;
    let mut kernels = vec![zeros(writes)];
    if count * width > 0 {
        kernels.extend([clear, mark, kernel(blocks, BLOCK, &arguments, &body)]);
    }
    actions(kernels, 2 * counts)
}

/// The elements of each matrix of `x`, whose rows have `width` elements, at ids in rows of `columns`.
pub(super) fn take_along(
    op: TakeAlong,
    [width, columns]: [usize; 2],
    reads: &[Operand],
    writes: &[Operand],
) -> Source {
    let places = reads[1].view.len().max(1);
    let matrix = matrix(op, [width, columns], places);
    let units = writes[0].view.len();
    let index = index(reads[0].view.len().max(units + BLOCK));
    let row = if op.transposed {
        format!("at % {columns}")
    } else {
        format!("at / {columns}")
    };
    let body = format!(
        "\
const {index} at = unit % {places}, row = {row};
const {index} id = ids[at];
st(y + unit, ld(x + unit / {places} * {matrix} + row * {width} + id));
"
    );
    let arguments = [read(0, "x", reads), ids(1, "ids"), write("y", writes)];
    flat(units, &arguments, &body)
}

/// How many elements a matrix has that ids choose from.
fn matrix(op: TakeAlong, [width, columns]: [usize; 2], ids: usize) -> usize {
    width
        * if op.transposed {
            columns
        } else {
            ids / columns.max(1)
        }
}

/// Matrices of the sums of elements by their places. The places that add to each element are listed
/// once, since they are the same for all matrices.
pub(super) fn take_along_grad(
    op: TakeAlong,
    [width, columns]: [usize; 2],
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let places = reads[0].view.len();
    let matrix = matrix(op, [width, columns], places);
    // A row of a matrix is added to by a row or, transposed, a column of ids.
    let (rows, each, from_row, from_each) = if op.transposed {
        (columns, places / columns.max(1), 1, columns)
    } else {
        (places / columns.max(1), columns, columns, 1)
    };
    let offsets = bytes(matrix);
    let lists = [scratch("int* ends", 0), scratch("int* order", offsets)];
    let list = format!(
        "\
const u32 row = unit / {width};
const int id = unit % {width};
const int* own = ids + row * {from_row};
int at = row * {each};
for (u32 j = 0; j < {each}; ++j) at += own[j * {from_each}] < id;
for (u32 j = 0; j < {each}; ++j) {{
    if (own[j * {from_each}] == id) order[at++] = row * {from_row} + j * {from_each};
}}
ends[unit] = at;
"
    );
    let len = writes[0].view.len();
    let index = index((len / matrix.max(1) * places).max(len + BLOCK));
    let add = format!(
        "\
const u32 place = unit % {matrix};
const u32 start = place % {width} == 0 ? place / {width} * {each} : ends[place - 1];
const {towards}* own = dy + {index}(unit / {matrix}) * {places};
float sum = 0.0f;
for (u32 i = start; i < ends[place]; ++i) sum += ld(own + order[i]);
st(y + unit, sum);
",
        towards = float(reads[1].element),
        matrix = matrix.max(1),
        width = width.max(1),
    );
    let [ends, order] = lists;
    let mut kernels = Vec::new();
    if rows * width * each > 0 {
        let arguments = [ids(0, "ids"), ends.clone(), order.clone()];
        kernels.push(flat(rows * width, &arguments, &list));
        let ends = ("const u32* ends".to_owned(), ends.1);
        let order = ("const int* order".to_owned(), order.1);
        let arguments = [read(1, "dy", reads), ends, order, write("y", writes)];
        kernels.push(flat(len, &arguments, &add));
    } else {
        kernels.push(zeros(writes));
    }
    actions(kernels, offsets + bytes(places))
}

/// A pack `[W | B; A | _]` as `[W | s B; s A | 0]`, to which `s B A` is left to be added.
pub(super) fn merge(
    op: &Merge,
    [rows, columns]: [usize; 2],
    reads: &[Operand],
    writes: &[Operand],
) -> Source {
    let [m, n] = op.corner;
    let scale = number(op.scale.0 as f32);
    let each = if n % VECTOR == 0 {
        vector(columns, &[reads[0], writes[0]])
    } else {
        1
    };
    let vectors = (columns / each).max(1);
    let body = format!(
        "\
const bool above = unit / {vectors} < {m}, left = unit % {vectors} * {each} < {n};
float x[{each}];
load(pack + unit * {each}, x);
#pragma unroll
for (u32 k = 0; k < {each}; ++k) x[k] = above && left ? x[k] : above || left ? {scale} * x[k] : 0.0f;
store(y + unit * {each}, x);
"
    );
    let arguments = [read(0, "pack", reads), write("y", writes)];
    flat(rows * columns / each, &arguments, &body)
}

/// Moves elements between strided places.
pub(super) fn copy(moved: &Strided, reads: &[Operand], writes: &[Operand]) -> Actions {
    let mut kernels = Vec::new();
    if moved.clear {
        kernels.push(zeros(writes));
    }
    let axes = Axes::new(&moved.shape, &[&moved.from, &moved.to]);
    if axes.len() > 0 {
        let arguments = [read(0, "x", reads), write("y", writes)];
        kernels.push(match transposed(&axes) {
            Some(axis) => transpose(moved, axes, axis, &arguments),
            None => straight(moved, axes, &arguments, reads, writes),
        });
    }
    actions(kernels, 0)
}

/// The axis along which what is moved lies side by side at its source, if it is not the last one,
/// along which it lies side by side at its destination.
fn transposed(axes: &Axes) -> Option<usize> {
    let last = axes.sizes.len().checked_sub(1)?;
    let axis = axes.strides[0].iter().position(|&stride| stride == 1)?;
    let worth = axes.sizes[axis] > 4 && axes.sizes[last] > 4;
    (axis != last && axes.strides[1][last] == 1 && worth).then_some(axis)
}

fn straight(
    moved: &Strided,
    mut axes: Axes,
    arguments: &[(String, Param)],
    reads: &[Operand],
    writes: &[Operand],
) -> Source {
    let outer = axes.sizes.len().saturating_sub(1);
    let beside = axes.strides.iter().all(|own| own.last() == Some(&1));
    let rows = axes.strides.iter().flat_map(|own| &own[..outer]).copied();
    let starts = [
        moved.from_start,
        moved.to_start,
        reads[0].view.start,
        writes[0].view.start,
        axes.sizes.last().copied().unwrap_or(1),
    ];
    let n = if beside && aligned(rows.chain(starts)) {
        VECTOR
    } else {
        1
    };
    let spans = [0, 1].map(|i| axes.span(i));
    let index = index((spans[0] + moved.from_start).max(spans[1] + moved.to_start) + BLOCK);
    if n > 1 {
        // An index counts vectors along the last axis.
        axes.sizes[outer] /= n;
        axes.strides.iter_mut().for_each(|own| own[outer] = n);
    }
    let body = format!(
        "\
const {index} at = unit;
float x[{n}];
load(a + ({}), x);
store(b + ({}), x);
",
        axes.offset(0, "at"),
        axes.offset(1, "at")
    );
    let body = format!(
        "const auto* a = x + {};\nauto* b = y + {};\n{}",
        moved.from_start,
        moved.to_start,
        body.replace("float x[", "float moved[")
            .replace(", x);", ", moved);")
    );
    flat(axes.len(), arguments, &body)
}

/// Moves tiles through shared memory, so that what is loaded at once lies side by side, and so does
/// what is stored.
fn transpose(moved: &Strided, axes: Axes, axis: usize, arguments: &[(String, Param)]) -> Source {
    const HEIGHT: usize = BLOCK / TILE;
    let last = axes.sizes.len() - 1;
    let [height, width] = [axes.sizes[axis], axes.sizes[last]];
    let others: Vec<usize> = (0..last).filter(|&other| other != axis).collect();
    let pick = |own: &[usize]| -> Vec<usize> { others.iter().map(|&i| own[i]).collect() };
    let [from, to] = [pick(&axes.strides[0]), pick(&axes.strides[1])];
    let rest = Axes::new(&pick(&axes.sizes), &[&from, &to]);
    let spans = [0, 1].map(|i| axes.span(i));
    let index = index((spans[0] + moved.from_start).max(spans[1] + moved.to_start) + BLOCK);
    let [down, across] = [height.div_ceil(TILE), width.div_ceil(TILE)];
    let body = format!(
        "\
    __shared__ float tile[{TILE}][{TILE} + 1];
    const {index} other = blockIdx.x / {tiles};
    const u32 top = blockIdx.x % {tiles} / {across} * {TILE};
    const u32 left = blockIdx.x % {across} * {TILE};
    const u32 lane = threadIdx.x % {TILE}, line = threadIdx.x / {TILE};
    const auto* a = x + {from_start} + ({from});
    auto* b = y + {to_start} + ({to});
#pragma unroll
    for (u32 i = line; i < {TILE}; i += {HEIGHT}) {{
        if (top + lane < {height} && left + i < {width}) {{
            tile[i][lane] = ld(a + {index}(left + i) * {from_stride} + top + lane);
        }}
    }}
    __syncthreads();
#pragma unroll
    for (u32 i = line; i < {TILE}; i += {HEIGHT}) {{
        if (top + i < {height} && left + lane < {width}) {{
            st(b + {index}(top + i) * {to_stride} + left + lane, tile[lane][i]);
        }}
    }}
",
        tiles = down * across,
        from_start = moved.from_start,
        to_start = moved.to_start,
        from = rest.offset(0, "other"),
        to = rest.offset(1, "other"),
        from_stride = axes.strides[0][last],
        to_stride = axes.strides[1][axis],
    );
    kernel(grid(rest.len() * down * across), BLOCK, arguments, &body)
}

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
pub(super) fn reduce(
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

/// How the threads of the loss share a row.
struct Rows {
    classes: usize,
    rows: usize,
    /// Threads of a row.
    threads: usize,
    vector: usize,
}

impl Rows {
    fn new(classes: usize, operands: &[Operand], labels: &Operand) -> Self {
        let n = vector(classes, operands);
        let vectors = classes / n;
        Self {
            classes,
            rows: labels.view.len(),
            threads: match vectors {
                0..=128 => 32,
                129..=2048 => BLOCK,
                _ => ALONE,
            },
            vector: n,
        }
    }

    fn block(&self) -> usize {
        self.threads.max(BLOCK)
    }

    fn grid(&self) -> [u32; 3] {
        grid(self.rows.div_ceil(self.block() / self.threads))
    }

    /// Definitions of the row, its label and its threads' first elements. Threads of one row leave
    /// together if `leave` is true.
    fn place(&self, index: &str, leave: &str) -> String {
        let Self {
            rows,
            threads,
            classes,
            vector: n,
            ..
        } = self;
        format!(
            "    \
    __shared__ float partials[3][64];
    const {index} row = {index}(blockIdx.x) * {each} + threadIdx.x / {threads};
    if (row >= {rows}) return;
    const u32 first = threadIdx.x % {threads} * {n};
    const auto* x = logits + row * {classes};
    const int label = labels[row];
    {leave}
",
            each = self.block() / self.threads,
        )
    }

    /// The largest logit `most[0]`, the sum `sums[0]` of the exponentials of the differences to it,
    /// and that of the logits, `sums[1]`.
    ///
    /// The largest so far starts at the lowest finite number, so that no difference of infinities
    /// arises before there is one in the row.
    fn exponentials(&self) -> String {
        let Self {
            classes,
            threads,
            vector: n,
            ..
        } = self;
        let step = threads * n;
        let partials = |i: usize| match threads {
            32 => "nullptr".to_owned(),
            _ => format!("partials[{i}]"),
        };
        format!(
            "    \
    float most[1] = {{-3.4028235e38f}}, sums[2] = {{}};
#pragma unroll 2
    for (u32 column = first; column < {classes}; column += {step}) {{
        float next[{n}];
        load(x + column, next);
        float top = most[0];
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) top = larger(top, next[k]);
        sums[0] *= expf(most[0] - top);
        most[0] = top;
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) {{
            sums[0] += expf(next[k] - top);
            sums[1] += next[k];
        }}
    }}
    const float own = most[0];
    reduce<{threads}, Max>(most, {});
    sums[0] *= expf(own - most[0]);
    reduce<{threads}, Sum>(sums, {});
",
            partials(0),
            partials(1),
        )
    }
}

/// The mean over the rows that count of `-sum(t log softmax(logits))`, `t` the smoothed one-hot
/// label.
pub(super) fn cross_entropy(
    classes: usize,
    smoothing: f32,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let shared = Rows::new(classes, &reads[..1], &reads[1]);
    let rows = shared.rows;
    let index = index(rows * classes + ALONE * VECTOR);
    let target = if smoothing == 0.0 {
        "ld(x + label)".to_owned()
    } else {
        format!(
            "{} * ld(x + label) + {} * (sums[1] / {})",
            number(1.0 - smoothing),
            number(smoothing),
            number(classes as f32)
        )
    };
    let threads = shared.threads;
    let lead = format!("threadIdx.x % {threads} == 0");
    let skip = format!(
        "if (label == {IGNORED}) {{\n        if ({lead}) losses[row] = 0.0f;\n        return;\n    }}"
    );
    let body = format!(
        "{}{}    if ({lead}) losses[row] = logf(sums[0]) + most[0] - ({target});\n",
        shared.place(index, &skip),
        shared.exponentials()
    );
    let arguments = [
        read(0, "logits", reads),
        ids(1, "labels"),
        scratch("float* losses", 0),
    ];
    let each = kernel(shared.grid(), shared.block(), &arguments, &body);
    let body = format!(
        "    \
    __shared__ double sums[{ALONE}];
    __shared__ int counts[{ALONE}];
    double sum = 0.0;
    int count = 0;
    for (u32 i = threadIdx.x; i < {rows}; i += {ALONE}) {{
        sum += losses[i];
        count += labels[i] != {IGNORED};
    }}
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = count;
    for (u32 half = {ALONE} / 2; half > 0; half /= 2) {{
        __syncthreads();
        if (threadIdx.x < half) {{
            sums[threadIdx.x] += sums[threadIdx.x + half];
            counts[threadIdx.x] += counts[threadIdx.x + half];
        }}
    }}
    if (threadIdx.x == 0) st(y, float(sums[0] / (counts[0] > 1 ? counts[0] : 1)));
"
    );
    let arguments = [
        ids(1, "labels"),
        scratch("const float* losses", 0),
        write("y", writes),
    ];
    let total = kernel(grid(1), ALONE, &arguments, &body);
    actions([each, total], bytes(rows))
}

/// `(softmax(logits) - t) / n` in the `n` rows that count, 0 in the others.
pub(super) fn cross_entropy_grad(
    classes: usize,
    smoothing: f32,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let shared = Rows::new(classes, &[reads[0], writes[0]], &reads[1]);
    let rows = shared.rows;
    let count = format!(
        "    \
    __shared__ int counts[{ALONE}];
    int count = 0;
    for (u32 i = threadIdx.x; i < {rows}; i += {ALONE}) count += labels[i] != {IGNORED};
    counts[threadIdx.x] = count;
    for (u32 half = {ALONE} / 2; half > 0; half /= 2) {{
        __syncthreads();
        if (threadIdx.x < half) counts[threadIdx.x] += counts[threadIdx.x + half];
    }}
    if (threadIdx.x == 0) *factor = 1.0f / float(counts[0] > 1 ? counts[0] : 1);
"
    );
    let arguments = [ids(1, "labels"), scratch("float* factor", 0)];
    let count = kernel(grid(1), ALONE, &arguments, &count);
    let index = index(rows * classes + ALONE * VECTOR);
    let (n, step) = (shared.vector, shared.threads * shared.vector);
    let zero = format!(
        "\
    if (label == {IGNORED}) {{
        const float zero[{n}] = {{}};
        for (u32 column = first; column < {classes}; column += {step}) store(own_y + column, zero);
        return;
    }}"
    );
    let place = shared.place(
        index,
        &format!("auto* own_y = y + row * {classes};\n{zero}"),
    );
    let body = format!(
        "{place}{}    \
    const float inverse = 1.0f / sums[0], share = *factor;
#pragma unroll 2
    for (u32 column = first; column < {classes}; column += {step}) {{
        float next[{n}];
        load(x + column, next);
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) {{
            float p = expf(next[k] - most[0]) * inverse;
            if (column + k == u32(label)) p -= {hot};
            next[k] = (p - {spread}) * share;
        }}
        store(own_y + column, next);
    }}
",
        shared.exponentials(),
        hot = number(1.0 - smoothing),
        spread = number(smoothing / classes as f32),
    );
    let arguments = [
        read(0, "logits", reads),
        ids(1, "labels"),
        scratch("const float* factor", 0),
        write("y", writes),
    ];
    let gradient = kernel(shared.grid(), shared.block(), &arguments, &body);
    actions([count, gradient], 64)
}
