//! Attention as products and a kernel between them. The backward pass computes the probabilities
//! again. Scores are float32; probabilities have the type of what they are multiplied by. Sequences
//! are taken so many at a time that the scores stay within a budget.

use ailora_graph::ir::DType;

use ailora_graph::ir::ops::{
    attention::{Attention, Dims},
    matmul::MatMul,
};

use super::{Task, softmax};
use crate::kernels::device::{Action, Actions, Matrix, Operand, Param, Product};

/// Bytes of scores, probabilities and their gradients that are in memory at a time; more where one
/// sequence needs more.
const BUDGET: usize = 256 << 20;

/// An operand's matrix of one head of one sequence.
#[derive(Clone)]
struct Heads {
    at: Param,
    dtype: DType,
    /// Rows of a sequence.
    rows: usize,
    /// From row to row.
    stride: usize,
    /// Width of a head.
    depth: usize,
    /// Whether each head of keys has one, or each head of queries.
    shared: bool,
}

/// Scratch arrays `[sequences, heads, queries, keys]` of a chunk.
struct Scores {
    at: Param,
    dtype: DType,
}

struct Lowering<'a> {
    op: &'a Attention,
    d: Dims,
    /// Sequences of this chunk, and the first of them.
    sequences: usize,
    first: usize,
    list: &'a mut Vec<Action>,
}

pub(super) fn forward(task: Task<'_>, to: Operand) -> Actions {
    let Task { op, dims: d, .. } = task;
    let (before, [q, k, v]) = operands(task, [0, 1, 2], 4, &[to]);
    let out = Heads::queries(d, Param::Write(0), to);
    let dropout = op.dropout.0 > 0.0;
    let kinds = [Some(DType::F32), Some(v.dtype), dropout.then_some(v.dtype)];
    in_chunks(
        op,
        d,
        before,
        kinds,
        |chunk, [scores, probabilities, kept]| {
            chunk.probabilities(&q, &k, scores, probabilities, kept);
            let kept = if dropout { kept } else { probabilities };
            chunk.of_queries(kept, &v, &out);
        },
    )
}

pub(super) fn backward(task: Task<'_>, wants: [bool; 3], writes: &[Operand]) -> Actions {
    let Task { op, dims: d, .. } = task;
    let (before, [q, k, v, dy]) = operands(task, [0, 1, 2, 4], 5, writes);
    let mut places = writes.iter().enumerate();
    let mut place = |wanted: bool, of: fn(Dims, Param, Operand) -> Heads| {
        let (i, &to) = wanted.then(|| places.next()).flatten()?;
        Some(of(d, Param::Write(i), to))
    };
    let dq = place(wants[0], Heads::queries);
    let dk = place(wants[1], Heads::keys);
    let dv = place(wants[2], Heads::keys);
    let dropout = op.dropout.0 > 0.0;
    let towards = dq.is_some() || dk.is_some();
    let kinds = [
        Some(DType::F32),
        Some(v.dtype),
        (dropout && dv.is_some() || towards).then_some(v.dtype),
    ];
    in_chunks(
        op,
        d,
        before,
        kinds,
        |chunk, [scores, probabilities, other]| {
            // What is kept after dropout is wanted for the values' gradient only.
            let kept = if dropout && dv.is_some() {
                other
            } else {
                probabilities
            };
            chunk.probabilities(&q, &k, scores, probabilities, kept);
            if let Some(dv) = &dv {
                chunk.of_keys(kept, &dy, dv);
            }
            if towards {
                chunk.scores(&dy, &v, 1.0, scores);
                chunk.gradient(probabilities, scores, other);
            }
            if let Some(dq) = &dq {
                chunk.of_queries(other, &k, dq);
            }
            if let Some(dk) = &dk {
                chunk.of_keys(other, &q, dk);
            }
        },
    )
}

/// The operands among reads, of which the first and those from the fourth on are shaped as the
/// queries; and what brings them to one type and adds the biases, which are read from `behind` on.
fn operands<const N: usize>(
    task: Task<'_>,
    which: [usize; N],
    behind: usize,
    writes: &[Operand],
) -> (Actions, [Heads; N]) {
    let Task { dims: d, reads, .. } = task;
    let mut before = Actions::default();
    // The library makes narrow results of narrow sides only.
    let mut all = which.iter().map(|&i| &reads[i]).chain(writes);
    let narrow = all.any(|operand| operand.dtype == DType::Bf16);
    let common = if narrow { DType::Bf16 } else { DType::F32 };
    let heads = which.map(|i| {
        let (at, operand) = match task.bias(i, behind) {
            Some(bias) => before.biased(i, reads[i], (bias, reads[bias]), common),
            None => before.of_type(i, reads[i], common),
        };
        match i {
            1 | 2 => Heads::keys(d, at, operand),
            _ => Heads::queries(d, at, operand),
        }
    });
    (before, heads)
}

/// The actions of all chunks, after those `before`. Each works in three arrays of these types, those that are there.
fn in_chunks(
    op: &Attention,
    d: Dims,
    before: Actions,
    kinds: [Option<DType>; 3],
    run: impl Fn(&mut Lowering, [&Scores; 3]),
) -> Actions {
    const ALIGNMENT: usize = 64;
    let sequence = d.heads * d.queries * d.keys;
    let bytes: usize = kinds
        .iter()
        .flatten()
        .map(|kind| kind.bytes() * sequence)
        .sum();
    let most = (BUDGET / bytes.max(1)).clamp(1, d.batch.max(1));
    // Chunks of about one size.
    let sequences = d.batch.div_ceil(d.batch.div_ceil(most).max(1));
    let Actions {
        mut list,
        mut scratch,
    } = before;
    let arrays = kinds.map(|kind| {
        let at = Param::Scratch(scratch);
        let dtype = kind.unwrap_or(DType::F32);
        if let Some(kind) = kind {
            scratch += (kind.bytes() * sequences * sequence).next_multiple_of(ALIGNMENT);
        }
        Scores { at, dtype }
    });
    for first in (0..d.batch).step_by(sequences.max(1)) {
        let mut chunk = Lowering {
            op,
            d,
            sequences: sequences.min(d.batch - first),
            first,
            list: &mut list,
        };
        run(&mut chunk, [&arrays[0], &arrays[1], &arrays[2]]);
    }
    Actions { list, scratch }
}

impl Heads {
    fn queries(d: Dims, at: Param, operand: Operand) -> Self {
        Self::new(at, operand, [d.queries, d.depth, d.heads], false)
    }

    fn keys(d: Dims, at: Param, operand: Operand) -> Self {
        Self::new(at, operand, [d.keys, d.depth, d.kv_heads], true)
    }

    fn new(at: Param, operand: Operand, [rows, depth, heads]: [usize; 3], shared: bool) -> Self {
        Self {
            at,
            dtype: operand.dtype,
            rows,
            stride: operand.row_stride(depth * heads),
            depth,
            shared,
        }
    }

    /// The matrix of the first head that is handled in turn `turn` of a group, and how far it is
    /// from there to the next sequence's and to the next such head's.
    fn matrix(&self, chunk: &Lowering, turn: usize) -> (Matrix, [usize; 2]) {
        let (own, step) = match self.shared {
            true => (0, self.depth),
            false => (turn * self.depth, chunk.d.group() * self.depth),
        };
        let sequence = self.rows * self.stride;
        let matrix = Matrix {
            at: self.at.clone(),
            offset: chunk.first * sequence + own,
            stride: self.stride,
            dtype: self.dtype,
        };
        (matrix, [sequence, step])
    }
}

impl Scores {
    fn matrix(&self, chunk: &Lowering, turn: usize) -> (Matrix, [usize; 2]) {
        let d = chunk.d;
        let head = d.queries * d.keys;
        let matrix = Matrix {
            at: self.at.clone(),
            offset: turn * head,
            stride: d.keys,
            dtype: self.dtype,
        };
        (matrix, [d.heads * head, d.group() * head])
    }
}

impl Lowering<'_> {
    /// One product for each head of queries: a turn handles one head of each group.
    fn product(
        &mut self,
        op: MatMul,
        sizes: [usize; 3],
        alpha: f32,
        operands: impl Fn(&Self, usize) -> [(Matrix, [usize; 2]); 3],
        sums: bool,
    ) {
        for turn in 0..self.d.group() {
            let [a, b, c] = operands(self, turn);
            let steps = |level: usize| [a.1[level], b.1[level], c.1[level], c.1[level]];
            let batches = [(self.sequences, steps(0)), (self.d.kv_heads, steps(1))];
            self.list.push(Action::product(Product {
                op,
                sizes,
                alpha,
                accumulate: sums && turn > 0,
                batches,
                operands: [a.0, b.0, c.0.clone(), c.0],
            }));
        }
    }

    /// `to = alpha x y^T`, for each query and key.
    fn scores(&mut self, x: &Heads, y: &Heads, alpha: f32, to: &Scores) {
        let op = MatMul {
            trans_a: false,
            trans_b: true,
        };
        let sizes = [self.d.queries, self.d.keys, self.d.depth];
        let operands = |chunk: &Self, turn| {
            [
                x.matrix(chunk, turn),
                y.matrix(chunk, turn),
                to.matrix(chunk, turn),
            ]
        };
        self.product(op, sizes, alpha, operands, false);
    }

    /// `to = p y`, for each query.
    fn of_queries(&mut self, p: &Scores, y: &Heads, to: &Heads) {
        let op = MatMul {
            trans_a: false,
            trans_b: false,
        };
        let sizes = [self.d.queries, self.d.depth, self.d.keys];
        let operands = |chunk: &Self, turn| {
            [
                p.matrix(chunk, turn),
                y.matrix(chunk, turn),
                to.matrix(chunk, turn),
            ]
        };
        self.product(op, sizes, 1.0, operands, false);
    }

    /// `to = p^T x`, for each key, summed over the heads of queries that share it.
    fn of_keys(&mut self, p: &Scores, x: &Heads, to: &Heads) {
        let op = MatMul {
            trans_a: true,
            trans_b: false,
        };
        let sizes = [self.d.keys, self.d.depth, self.d.queries];
        let operands = |chunk: &Self, turn| {
            [
                p.matrix(chunk, turn),
                x.matrix(chunk, turn),
                to.matrix(chunk, turn),
            ]
        };
        self.product(op, sizes, 1.0, operands, true);
    }

    fn probabilities(&mut self, q: &Heads, k: &Heads, scores: &Scores, to: &Scores, kept: &Scores) {
        self.scores(q, k, self.op.scale.0 as f32, scores);
        let kept = (self.op.dropout.0 > 0.0 && kept.at != to.at).then(|| kept.at.clone());
        let places = softmax::Places {
            scores: scores.at.clone(),
            mask: Param::Read(3),
            probabilities: to.at.clone(),
            kept,
        };
        let kernel = softmax::probabilities(
            self.op,
            self.d,
            self.sequences,
            self.first,
            to.dtype,
            places,
        );
        self.list.push(Action::Kernel(kernel));
    }

    /// The gradient towards the scores from that towards what is kept of the probabilities.
    fn gradient(&mut self, probabilities: &Scores, towards: &Scores, to: &Scores) {
        let kernel = softmax::gradient(
            self.op,
            self.d,
            self.sequences,
            self.first,
            to.dtype,
            [probabilities.at.clone(), towards.at.clone(), to.at.clone()],
        );
        self.list.push(Action::Kernel(kernel));
    }
}
