//! Adapters' gradients: one kernel for several sums of outer products of bfloat16 rows, each a wide
//! factor and a thin one. Alone they have too little work to keep a device busy.

use ailora_graph::ir::DType;

use super::{OP, Product};
use crate::kernels::{
    device::{
        Action, Actions, Operand, Param, Target,
        text::{BLOCK, Constants, VECTOR, grid, number},
    },
    gemm::cuda::product,
};

const SUM: &str = concat!(
    include_str!("../device/tensor_cores.cuh"),
    include_str!("outer.cu")
);

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
pub(super) fn outer(
    depth: usize,
    products: &[Product],
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
    fn new(number: usize, outer: Product, factors: &[Operand], to: Operand) -> Option<Self> {
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
        let is_taken = |factor: &Operand| factor.dtype == DType::Bf16;
        let lengths = [wide.width, wide.stride, thin.stride];
        let fits = factors.iter().all(is_taken)
            && lengths.iter().all(|n| *n > 0 && n.is_multiple_of(CHUNK))
            && wide.skipped == 0
            && thin.width > 0
            && thin.copied() <= WIDEST
            && to.dtype == DType::F32
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
        outer: Product,
        factors: &[Operand],
        to: Operand,
    ) {
        let mut own = product(OP, outer.dims(depth), outer.alpha, false, factors, to);
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

        let mut params = Vec::new();
        let (mut products, mut results) = (Vec::new(), Vec::new());
        let (mut tile, mut first) = (0, 0);
        for (i, task) in tasks.iter().enumerate() {
            let (wide, thin) = (task.wide, task.thin);
            params.extend([wide.read, thin.read].map(Param::Read));
            let (last_tile, last) = (tile + task.tiles(), first + task.len());
            products.push(format!(
                "{i}, {tile}, {last_tile}, {first}, {}, {}, {}, {}, {}, {}, {}",
                thin.skipped,
                wide.width,
                wide.stride,
                thin.width,
                thin.stride,
                thin.copied(),
                wide.read < thin.read,
            ));
            results.push(format!("{i}, {first}, {last}, {}", number(task.alpha)));
            (tile, first) = (last_tile, last);
        }
        params.push(sums.clone());
        let mut sum = Constants::default()
            .counts([
                ("ROWS", rows),
                ("SHARE", share),
                ("COLUMNS", COLUMNS),
                ("TILE", TILE),
                ("STAGES", STAGES),
                ("TILES", tiles),
                ("LEN", len),
            ])
            .list("TASKS", &products)
            .kernel(SUM, params, grid(tiles * shares), COLUMNS);
        sum.shared = tasks.iter().map(Task::shared).max().unwrap_or_default();

        let writes = tasks.iter().map(|task| Param::Write(task.number));
        let total = Constants::default()
            .counts([("SHARES", shares), ("LEN", len), ("N", VECTOR)])
            .list("TASKS", &results)
            .kernel(
                include_str!("total.cu"),
                std::iter::once(sums).chain(writes),
                grid(len.div_ceil(VECTOR * BLOCK)),
                BLOCK,
            );
        self.extend([sum, total]);
    }
}
