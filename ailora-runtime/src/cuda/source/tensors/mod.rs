//! The kernels that move, gather and reduce. None adds in an order that depends on the machine.

mod losses;
mod reduce;

pub(super) use losses::{cross_entropy, cross_entropy_grad};
pub(super) use reduce::reduce;

use ailora_graph::ir::ops::{merge::Merge, take_along::TakeAlong};

use super::{
    Action, Actions, Operand, Param, Source,
    text::{self, Axes, BLOCK, VECTOR, aligned, float, grid, index, number, stride, vector},
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
