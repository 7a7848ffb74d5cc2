//! Attention in bfloat16 that never writes its scores to memory (Dao et al., 2022): one kernel
//! forward; backward one for short rows, else one for the queries and one for the keys. For long rows
//! on a Hopper these are kernels whose warpgroups copy or multiply (Shah et al., 2024).

use ailora_graph::ir::{DType, random::drop_threshold};

use super::Task;
use crate::kernels::device::{
    Action, Actions, Operand, Param, Source, TENSOR_CORES, Target, text::Constants,
};

const COMMON: &str = include_str!("flash/common.cuh");
const SIGHT: &str = include_str!("flash/sight.cuh");
const FORWARD: &str = include_str!("flash/forward.cu");
const QUERIES: &str = include_str!("flash/backward_queries.cu");
const KEYS: &str = include_str!("flash/backward_keys.cu");
const SHORT: &str = include_str!("flash/backward_short.cu");
const WIDE: &str = include_str!("flash/wide.cuh");
const WIDE_FORWARD: &str = include_str!("flash/forward_wide.cu");
const WIDE_QUERIES: &str = include_str!("flash/backward_wide_queries.cu");
const WIDE_KEYS: &str = include_str!("flash/backward_wide_keys.cu");

/// The deepest heads whose rows fit into registers.
const DEEPEST: usize = 128;
/// Rows that tensor cores multiply at a time, and columns.
const STEP: usize = 16;
/// Elements that are copied at a time, to and from places aligned to them.
const CHUNK: usize = 8;
/// Warps of a block that has work for more.
const WARPS: usize = 4;
/// The longest rows of scores that a block keeps whole.
const SHORTEST: usize = 128;
/// Queries and keys from which on warpgroups are faster, and the rows of one.
const WARPGROUP_ROWS: usize = 256;
const GROUP: usize = 64;

/// Rows in memory.
struct Rows {
    at: Param,
    stride: usize,
    /// The read that is added to each row.
    bias: Option<usize>,
}

/// A kernel's parameters, its sizes and what it reads.
struct Kernels<'a> {
    task: Task<'a>,
    rows: [Rows; 3],
    actions: Actions,
    target: Target,
}

/// What kernels write, and its gradient.
#[derive(Clone, Copy)]
struct Results {
    /// From one row to the next of the output, of its gradient, and of those of queries, keys and
    /// values; 0 for what a kernel does not know.
    strides: [usize; 5],
    wants: [bool; 3],
}

/// The forward pass, if the kernel takes it.
pub(super) fn forward(task: Task<'_>, to: Operand, target: Target) -> Option<Actions> {
    let o = written(&to, task, 0)?;
    let mut kernels = Kernels::new(task, 4, target)?;
    let results = Results {
        strides: [o, 0, 0, 0, 0],
        wants: [false; 3],
    };
    let (text, block) = match kernels.wide_forward_block() {
        Some(block) => (WIDE_FORWARD, block),
        None => (FORWARD, kernels.forward_block()),
    };
    kernels.launch(text, block, results, [Param::Write(0)])?;
    Some(kernels.actions)
}

/// The backward pass, if the kernels take it.
pub(super) fn backward(
    task: Task<'_>,
    wants: [bool; 3],
    writes: &[Operand],
    target: Target,
) -> Option<Actions> {
    let mut kernels = Kernels::new(task, 5, target)?;
    let dy = kernels.rows_of(4, None);
    let mut next = writes.iter().enumerate();
    let mut gradients = [
        (Param::Read(0), 0),
        (Param::Read(0), 0),
        (Param::Read(0), 0),
    ];
    for (i, wanted) in wants.into_iter().enumerate() {
        if wanted {
            let (at, to) = next.next()?;
            gradients[i] = (Param::Write(at), written(to, task, i)?);
        }
    }
    let [(dq, dq_stride), (dk, dk_stride), (dv, dv_stride)] = gradients;
    let results = Results {
        strides: [0, dy.stride, dq_stride, dk_stride, dv_stride],
        wants,
    };
    if let Some(block) = kernels.short_block() {
        kernels.launch(SHORT, block, results, [dy.at, dq, dk, dv])?;
        return Some(kernels.actions);
    }
    let d = task.dims;
    let statistics = Param::Scratch(kernels.actions.scratch);
    // The logarithm of a row's sum of exponentials, and sum(P dP).
    let bytes = 2 * size_of::<f32>() * d.batch * d.heads * d.queries;
    kernels.actions.scratch += bytes.next_multiple_of(64);
    let (text, block) = match kernels.wide_queries_block() {
        Some(block) => (WIDE_QUERIES, block),
        None => (QUERIES, kernels.queries_block()),
    };
    let more = [dy.at.clone(), statistics.clone(), dq];
    kernels.launch(text, block, results, more)?;
    if wants[1] || wants[2] {
        let (text, block) = match kernels.wide_keys_block() {
            Some(block) => (WIDE_KEYS, block),
            None => (KEYS, kernels.keys_block()),
        };
        kernels.launch(text, block, results, [dy.at, statistics, dk, dv])?;
    }
    Some(kernels.actions)
}

/// The row stride of a result that a kernel can write: that of the queries, or of the keys.
fn written(to: &Operand, task: Task<'_>, i: usize) -> Option<usize> {
    let stride = stride(to, task, i);
    is_aligned(to, stride).then_some(stride)
}

fn is_aligned(operand: &Operand, stride: usize) -> bool {
    operand.dtype == DType::Bf16
        && operand.view.start.is_multiple_of(CHUNK)
        && stride.is_multiple_of(CHUNK)
}

/// From one row to the next of what is shaped as operand `i`.
fn stride(operand: &Operand, task: Task<'_>, i: usize) -> usize {
    let heads = match i {
        1 | 2 => task.dims.kv_heads,
        _ => task.dims.heads,
    };
    operand.row_stride(heads * task.dims.depth)
}

/// How the threads share the work.
#[derive(Default)]
struct Block {
    warps: usize,
    /// Rows that are gone over at a time.
    tile: usize,
    /// Groups of 16 rows that a warp owns, or warpgroups that own rows.
    groups: usize,
    /// Tiles that warpgroups keep in shared memory; 0 of kernels without them.
    slots: usize,
    grid: usize,
    /// Bytes of shared memory.
    shared: usize,
}

impl<'a> Kernels<'a> {
    /// Nothing, if the kernels do not take these sizes. Biases are read from `behind` on.
    fn new(task: Task<'a>, behind: usize, target: Target) -> Option<Self> {
        let d = task.dims;
        let is_narrow = task.reads[..3].iter().any(|read| read.dtype == DType::Bf16);
        let fits = d.depth.is_multiple_of(STEP)
            && (STEP..=DEEPEST).contains(&d.depth)
            && task.op.scale.0 > 0.0
            && [d.batch, d.queries, d.keys].iter().all(|n| *n > 0);
        if !is_narrow || !fits {
            return None;
        }
        let mut kernels = Self {
            task,
            rows: [0, 1, 2].map(|i| Rows {
                at: Param::Read(i),
                stride: 0,
                bias: None,
            }),
            actions: Actions::default(),
            target,
        };
        kernels.rows = [0, 1, 2].map(|i| kernels.rows_of(i, task.bias(i, behind)));
        Some(kernels)
    }

    /// Read number `i` where it is or, if it is of another type or unaligned, copied.
    fn rows_of(&mut self, i: usize, bias: Option<usize>) -> Rows {
        let read = self.task.reads[i];
        let stride = stride(&read, self.task, i);
        let is_float = |bias: usize| self.task.reads[bias].dtype == DType::F32;
        if is_aligned(&read, stride) && bias.is_none_or(is_float) {
            let at = Param::Read(i);
            return Rows { at, stride, bias };
        }
        let (at, copy) = match bias {
            Some(bias) => {
                let bias = (bias, self.task.reads[bias]);
                self.actions.biased(i, read, bias, DType::Bf16)
            }
            None => self.actions.moved(i, read, None, DType::Bf16),
        };
        let stride = self::stride(&copy, self.task, i);
        let bias = None;
        Rows { at, stride, bias }
    }

    fn forward_block(&self) -> Block {
        let d = self.task.dims;
        let is_deep = d.depth > 64;
        // With two groups, a warp reads keys and values half as often.
        let groups = 1 + usize::from(d.queries >= if is_deep { 512 } else { 128 });
        let tile = if d.keys <= 32 || (is_deep && groups == 1) {
            32
        } else {
            64
        };
        let warps = warps(d.queries);
        let rows = STEP * groups * warps;
        let stage = 2 * tile * self.pitch() + 2 * tile;
        Block {
            warps,
            tile,
            groups,
            grid: d.queries.div_ceil(rows) * d.batch * d.heads,
            shared: 2 * (rows * self.pitch() + 2 * stage),
            ..Block::default()
        }
    }

    fn queries_block(&self) -> Block {
        let d = self.task.dims;
        let tile = if d.keys <= 32 { 32 } else { 64 };
        let warps = warps(d.queries);
        let rows = STEP * warps;
        let stage = 2 * tile * self.pitch() + 2 * tile;
        Block {
            warps,
            tile,
            groups: 1,
            grid: d.queries.div_ceil(rows) * d.batch * d.heads,
            // Queries and gradients lie in the second stage until it is copied to.
            shared: 2 * (stage + stage.max(2 * rows * self.pitch())),
            ..Block::default()
        }
    }

    fn keys_block(&self) -> Block {
        let d = self.task.dims;
        let tile = if d.queries <= 32 || d.depth <= 64 {
            32
        } else {
            64
        };
        let warps = warps(d.keys);
        let rows = STEP * warps;
        let stage = 2 * tile * self.pitch() + 4 * tile;
        Block {
            warps,
            tile,
            groups: 1,
            grid: d.keys.div_ceil(rows) * d.batch * d.kv_heads,
            shared: 2 * (2 * rows * self.pitch() + 2 * stage),
            ..Block::default()
        }
    }

    /// Nothing, if rows are too long for one block.
    fn short_block(&self) -> Option<Block> {
        let d = self.task.dims;
        let side = d.queries.max(d.keys).next_multiple_of(32);
        let (wide, pitch) = (side + CHUNK, self.pitch());
        let block = Block {
            warps: side / STEP,
            tile: side,
            groups: 1,
            grid: d.batch * d.heads,
            shared: 2 * side * (2 * pitch + wide.max(2 * pitch) + wide),
            ..Block::default()
        };
        let fits = d.heads == d.kv_heads && side <= SHORTEST && block.shared <= self.target.shared;
        fits.then_some(block)
    }

    /// Warpgroups that own queries.
    fn wide_forward_block(&self) -> Option<Block> {
        let d = self.task.dims;
        let is_deep = d.depth > 64;
        let groups = if !is_deep && d.queries >= 1024 { 3 } else { 2 };
        let (tile, slots) = match (is_deep, d.keys) {
            (false, _) => (128, 4),
            (true, ..=256) => (64, 3),
            (true, _) => (128, 2),
        };
        let own = (d.queries, d.heads);
        self.wide_block(own, (groups, tile, slots), 2 * slots, tile * slots)
    }

    fn wide_queries_block(&self) -> Option<Block> {
        let d = self.task.dims;
        let (tile, slots) = if d.depth > 64 { (64, 4) } else { (128, 4) };
        // Keys stay longer than values.
        let tiles = 2 * slots + 1;
        self.wide_block(
            (d.queries, d.heads),
            (2, tile, slots),
            tiles,
            tile * (slots + 1),
        )
    }

    fn wide_keys_block(&self) -> Option<Block> {
        let d = self.task.dims;
        let (tile, slots) = (64, if d.depth > 64 { 3 } else { 4 });
        let own = (d.keys, d.kv_heads);
        self.wide_block(own, (2, tile, slots), 2 * slots, 2 * tile * slots)
    }

    /// A warpgroup that copies and `groups` that own rows, of `own` in all and for so many heads, with
    /// `tiles` tiles and `floats` beside them in shared memory; nothing if the device has no warpgroups,
    /// or they are not faster.
    fn wide_block(
        &self,
        own: (usize, usize),
        (groups, tile, slots): (usize, usize, usize),
        tiles: usize,
        floats: usize,
    ) -> Option<Block> {
        let d = self.task.dims;
        let rows = GROUP * groups;
        let tasks = own.0.div_ceil(rows) * d.batch * own.1;
        // Two tiles of its own rows, and two barriers for each tile; where tiles begin is aligned.
        let shared = 1024 + 2 * d.depth * (2 * rows + tiles * tile) + 4 * floats + 16 * (2 + tiles);
        let fits = self.target.warpgroups
            && [64, 128].contains(&d.depth)
            && d.queries.min(d.keys) >= WARPGROUP_ROWS
            && tasks >= self.target.processors
            && shared <= self.target.shared;
        fits.then_some(Block {
            warps: 4 * (groups + 1),
            tile,
            groups,
            slots,
            grid: tasks.min(self.target.processors),
            shared,
        })
    }

    /// From one row of a tile to the next, padded so that they begin in different banks.
    fn pitch(&self) -> usize {
        self.task.dims.depth + CHUNK
    }

    /// A kernel's text behind the constants that it knows.
    fn text(&self, kernel: &str, block: &Block, results: Results) -> String {
        let Task { op, dims: d, .. } = self.task;
        let rate = op.dropout.0;
        let [q, k, v] = &self.rows;
        let [o, dy, dq, dk, dv] = results.strides;
        let [want_dq, want_dk, want_dv] = results.wants;
        let constants = Constants::default()
            .counts([
                ("BATCH", d.batch),
                ("QUERIES", d.queries),
                ("KEYS", d.keys),
                ("HEADS", d.heads),
                ("KV_HEADS", d.kv_heads),
                ("DEPTH", d.depth),
                ("Q_STRIDE", q.stride),
                ("K_STRIDE", k.stride),
                ("V_STRIDE", v.stride),
                ("O_STRIDE", o),
                ("DO_STRIDE", dy),
                ("DQ_STRIDE", dq),
                ("DK_STRIDE", dk),
                ("DV_STRIDE", dv),
                ("THRESHOLD", drop_threshold(rate) as usize),
                ("WARPS", block.warps),
                ("TILE", block.tile),
                ("GROUPS", block.groups),
                ("SLOTS", block.slots),
            ])
            .flag("CAUSAL", op.causal)
            .flag("BIAS_Q", q.bias.is_some())
            .flag("BIAS_K", k.bias.is_some())
            .flag("BIAS_V", v.bias.is_some())
            .flag("WANT_DQ", want_dq)
            .flag("WANT_DK", want_dk)
            .flag("WANT_DV", want_dv)
            .float("SCALE", op.scale.0 as f32)
            .float("KEEP", (1.0 / (1.0 - rate)) as f32);
        let wide = if block.slots > 0 { WIDE } else { "" };
        constants.before(&[TENSOR_CORES, COMMON, SIGHT, wide, kernel].concat())
    }

    /// Launches a kernel on the operands, the biases, the key, and `more`; nothing if a block has too
    /// little memory for it.
    fn launch<const N: usize>(
        &mut self,
        kernel: &str,
        block: Block,
        results: Results,
        more: [Param; N],
    ) -> Option<()> {
        if block.shared > self.target.shared {
            return None;
        }
        let code = self.text(kernel, &block, results);
        // What a kernel does not read may be anything.
        let bias = |rows: &Rows| Param::Read(rows.bias.unwrap_or(0));
        let [q, k, v] = &self.rows;
        let key = match self.task.op.dropout.0 > 0.0 {
            true => Param::Key(self.task.op.stream.clone()),
            false => Param::Read(0),
        };
        let operands = [q, k, v].map(|rows| rows.at.clone());
        let params = operands
            .into_iter()
            .chain([Param::Read(3)])
            .chain([bias(q), bias(k), bias(v), key])
            .chain(more)
            .collect();
        self.actions.list.push(Action::Kernel(Source {
            code,
            params,
            grid: [u32::try_from(block.grid).ok()?, 1, 1],
            block: (32 * block.warps) as u32,
            shared: block.shared,
        }));
        Some(())
    }
}

/// Warps of a block that owns some of these rows.
fn warps(rows: usize) -> usize {
    rows.div_ceil(STEP).min(WARPS)
}
