//! Adapters' gradients: one kernel for several sums of outer products of bfloat16 rows, each a wide
//! factor and a thin one. Alone they have too little work to keep a device busy.

use std::fmt::Write;

use ailora_graph::ir::ops::matmul::{Dims, MatMul};

use super::{
    Action, Actions, Element, Operand, Param, Source, TENSOR_CORES, Target, product,
    text::{BLOCK, VECTOR, grid, kernel, number},
};
use crate::plan::Outer;

const SUMS: &str = include_str!("outer.cuh");

/// The widest thin factor whose sums fit into registers.
const WIDEST: usize = 64;
/// Elements that are copied at a time, to and from places aligned to them.
const CHUNK: usize = 8;
/// Columns of the wide factor that a block sums, the rows of a tile, and tiles in shared memory.
const COLUMNS: usize = 128;
const TILE: usize = 32;
const STAGES: usize = 4;
/// Blocks that share a multiprocessor.
const RESIDENT: usize = 3;

/// One of the products, as the kernel takes it.
struct Task {
    number: usize,
    alpha: f32,
    wide: Factor,
    thin: Factor,
}

/// Columns of rows that lie apart.
#[derive(Clone, Copy)]
struct Factor {
    width: usize,
    stride: usize,
    /// Columns before its first one, from where on it is copied.
    skipped: usize,
    /// Its number among the step's reads.
    read: usize,
}

impl Factor {
    /// Columns that are copied, some of them perhaps its neighbours'.
    fn copied(&self) -> usize {
        (self.skipped + self.width).next_multiple_of(CHUNK)
    }
}

/// What the kernel takes, by it; the others by the device's library.
pub(super) fn actions(
    depth: usize,
    products: &[Outer],
    reads: &[Operand],
    writes: &[Operand],
    target: Target,
) -> Actions {
    let mut tasks = Vec::new();
    let mut actions = Actions::default();
    for (number, &outer) in products.iter().enumerate() {
        let factors = &reads[2 * number..][..2];
        match Task::new(number, outer, factors, writes[number]) {
            Some(task) => tasks.push(task),
            None => actions.library_product(depth, number, outer, factors, writes[number]),
        }
    }
    if !tasks.is_empty() {
        actions.sum(depth, &tasks, target);
    }
    actions
}

impl Task {
    /// Nothing, if the kernel does not take these factors or this result.
    fn new(number: usize, outer: Outer, factors: &[Operand], to: Operand) -> Option<Self> {
        let mut sides = [0, 1].map(|i| Factor {
            width: outer.shape[i],
            stride: factors[i].row_stride(outer.shape[i]),
            skipped: factors[i].view.start % CHUNK,
            read: 2 * number + i,
        });
        if outer.shape[0] < outer.shape[1] {
            sides.swap(0, 1);
        }
        let [wide, thin] = sides;
        let is_taken = |factor: &Operand| factor.element == Element::Bf16;
        let lengths = [wide.width, wide.stride, thin.stride];
        let fits = factors.iter().all(is_taken)
            && lengths.iter().all(|n| *n > 0 && n.is_multiple_of(CHUNK))
            && wide.skipped == 0
            && thin.width > 0
            && thin.copied() <= WIDEST
            && to.element == Element::F32
            && to.view.is_dense()
            && to.view.start.is_multiple_of(VECTOR);
        fits.then_some(Self {
            number,
            alpha: outer.alpha,
            wide,
            thin,
        })
    }

    fn tiles(&self) -> usize {
        self.wide.width.div_ceil(COLUMNS)
    }

    /// Numbers of the result.
    fn len(&self) -> usize {
        self.wide.width * self.thin.width
    }

    /// Bytes of the tiles in shared memory.
    fn shared(&self) -> usize {
        let pitch = |width: usize| width + CHUNK * (1 + width / CHUNK % 2);
        size_of::<u16>() * STAGES * TILE * (pitch(COLUMNS) + pitch(self.thin.copied()))
    }
}

impl Actions {
    /// A product by the library.
    fn library_product(
        &mut self,
        depth: usize,
        number: usize,
        outer: Outer,
        factors: &[Operand],
        to: Operand,
    ) {
        let op = MatMul {
            trans_a: true,
            trans_b: false,
        };
        let dims = Dims {
            batch: 1,
            m: outer.shape[0],
            n: outer.shape[1],
            k: depth,
            batched_b: false,
        };
        let mut own = product(op, dims, outer.alpha, false, factors, to);
        let moved = |param: &mut Param| match param {
            Param::Read(i) => *i += 2 * number,
            Param::Write(i) => *i += number,
            Param::Scratch(byte) => *byte += self.scratch,
            Param::Key(_) => {}
        };
        for action in &mut own.list {
            match action {
                Action::Kernel(kernel) => kernel.params.iter_mut().for_each(moved),
                Action::Product(product) => {
                    let operands = product.operands.iter_mut();
                    operands.map(|matrix| &mut matrix.at).for_each(moved);
                }
            }
        }
        self.list.extend(own.list);
        self.scratch += own.scratch;
    }

    /// The kernel, and one that adds up what its blocks found.
    fn sum(&mut self, rows: usize, tasks: &[Task], target: Target) {
        let tiles: usize = tasks.iter().map(Task::tiles).sum();
        let len: usize = tasks.iter().map(Task::len).sum();
        // As many shares of the rows as keep all multiprocessors busy at once.
        let shares = (RESIDENT * target.processors / tiles).max(1);
        let share = rows.div_ceil(shares).next_multiple_of(TILE);
        let shares = rows.div_ceil(share);
        let sums = Param::Scratch(self.scratch);
        self.scratch += (size_of::<f32>() * shares * len).next_multiple_of(64);

        let mut code = String::new();
        for (name, value) in [
            ("ROWS", rows),
            ("SHARE", share),
            ("COLUMNS", COLUMNS),
            ("TILE", TILE),
            ("STAGES", STAGES),
        ] {
            code += &format!("constexpr u32 {name} = {value}u;\n");
        }
        code = code + TENSOR_CORES + SUMS;
        let mut params = Vec::new();
        let mut declared = Vec::new();
        let (mut body, mut total) = (String::new(), String::new());
        let (mut tile, mut first) = (0, 0);
        for (i, task) in tasks.iter().enumerate() {
            let (wide, thin) = (task.wide, task.thin);
            params.extend([wide.read, thin.read].map(Param::Read));
            let otherwise = if i > 0 { "else " } else { "" };
            declared.extend([
                format!("const bf16* wide{i}"),
                format!("const bf16* thin{i}"),
            ]);
            // Writing to a string cannot fail.
            _ = writeln!(
                body,
                "    {otherwise}if (tile < {}) {{\n        outer<{}, {}, {}, {}, {}, {}, {}>(\n            \
                 wide{i}, thin{i} - {}, to + {first}, tile - {tile}, share);\n    }}",
                tile + task.tiles(),
                wide.width,
                wide.stride,
                thin.width,
                thin.stride,
                thin.copied(),
                thin.skipped,
                wide.read < thin.read,
                thin.skipped,
            );
            _ = writeln!(
                total,
                "    {otherwise}if (i < {}) {{\n        for (u32 j = 0; j < {VECTOR}; ++j) sum[j] \
                 *= {};\n        store(c{i} + i - {first}, sum);\n    }}",
                first + task.len(),
                number(task.alpha)
            );
            tile += task.tiles();
            first += task.len();
        }
        declared.push("float* sums".to_owned());
        let declared: Vec<&str> = declared.iter().map(String::as_str).collect();
        let body = format!(
            "    const u32 tile = blockIdx.x % {tiles}, share = blockIdx.x / {tiles};\n    \
             float* to = sums + u64(share) * {len};\n{body}"
        );
        code += &kernel(COLUMNS, &declared, &body);
        params.push(sums.clone());
        self.list.push(Action::Kernel(Source {
            code,
            params,
            grid: grid(tiles * shares),
            block: COLUMNS as u32,
            shared: tasks.iter().map(Task::shared).max().unwrap_or_default(),
        }));

        let mut results = vec!["const float* sums".to_owned()];
        results.extend((0..tasks.len()).map(|i| format!("float* c{i}")));
        let results: Vec<&str> = results.iter().map(String::as_str).collect();
        let body = format!(
            "    const u32 i = (blockIdx.x * {BLOCK} + threadIdx.x) * {VECTOR};\n    \
             if (i >= {len}) return;\n    float sum[{VECTOR}] = {{}}, x[{VECTOR}];\n\
             #pragma unroll\n    for (u32 share = 0; share < {shares}; ++share) {{\n        \
             load(sums + u64(share) * {len} + i, x);\n        \
             for (u32 j = 0; j < {VECTOR}; ++j) sum[j] += x[j];\n    }}\n{total}"
        );
        let writes = tasks.iter().map(|task| Param::Write(task.number));
        self.list.push(Action::Kernel(Source {
            code: kernel(BLOCK, &results, &body),
            params: std::iter::once(sums).chain(writes).collect(),
            grid: grid(len.div_ceil(VECTOR * BLOCK)),
            block: BLOCK as u32,
            shared: 0,
        }));
    }
}
