//! Random programs: any bytes describe a shape-correct one.
//!
//! One long file: one table of every operation, which random bytes choose from.
#![allow(dead_code, reason = "each test file uses its part")]

use ailora_graph::{
    AdapterSpec, Scaling,
    adapter::{Layout, Site},
    ir::{
        Id, Op, Program, Real, Type,
        ops::{
            attention::Attention,
            concat::Concat,
            dropout::Dropout,
            elementwise::{Binary, Unary},
            embedding::Embedding,
            normalize::Normalize,
            reduce::{Combine, Reduce},
            rotary::Rotary,
            softmax::Softmax,
            take_along::TakeAlong,
            view::{Expand, Pad, Permute, Reshape, Slice},
        },
        shape::broadcast,
    },
    method::constructors::{frozen, full, minor, principal, random},
};
use proptest::{collection::vec, prelude::*};

/// One operation a row.
pub type Recipe = Vec<[u8; 8]>;

/// Recipes of a few operations.
pub fn recipes() -> impl Strategy<Value = Recipe> {
    vec(any::<[u8; 8]>(), 4..16)
}

/// The program of a recipe, with outputs `y0`, `y1`... It has inputs, frozen parameters `w0`,
/// `w1`..., all matrices, and trained parameters.
pub fn program(recipe: &[[u8; 8]]) -> Program {
    let mut builder = Builder::default();
    let first = recipe.first().copied().unwrap_or_default();
    let shape: Vec<usize> = (0..1 + first[0] % 4)
        .map(|i| builder.size(first[1 + usize::from(i)]))
        .collect();
    let start = builder.leaf(first[6], &shape);
    builder.push(start, LEAF_BOUND);
    for (i, step) in recipe.iter().enumerate() {
        builder.step(step, &format!("stream{i}"));
    }
    let Builder {
        mut program,
        values,
        ..
    } = builder;
    let named = recipe
        .iter()
        .zip(values.iter().rev())
        .filter(|(step, _)| step[7] % 2 == 0);
    let outputs: Vec<Id> = values
        .last()
        .into_iter()
        .chain(named.map(|(_, value)| value))
        .map(|v| v.id)
        .collect();
    for (i, id) in outputs.into_iter().enumerate() {
        program.set_output(format!("y{i}"), id);
    }
    program
}

/// The program with an output `loss`, a random linear function of its outputs.
pub fn with_loss(mut program: Program) -> Program {
    let outputs: Vec<Id> = program.outputs().values().copied().collect();
    let mut loss = program.constant(0.5);
    for (i, y) in outputs.into_iter().enumerate() {
        let shape = program.shape(y).to_vec();
        let weights = program
            .input(&format!("weights{i}"), Type::f32(shape.clone()))
            .unwrap();
        let product = program.product(y, weights).unwrap();
        let sum = program.sum_to(product, &[]).unwrap();
        loss = program.sum(loss, sum).unwrap();
    }
    program.set_output("loss", loss);
    program
}

/// Whether the program is differentiable everywhere.
pub fn is_smooth(program: &Program) -> bool {
    program.ids().all(|id| match &program[id].op {
        Op::Unary(Unary::Relu) => false,
        Op::Reduce(reduce) => reduce.combine == Combine::Sum,
        _ => true,
    })
}

/// What [`sites`] takes.
pub fn site_bytes() -> impl Strategy<Value = Vec<[u8; 5]>> {
    vec(any::<[u8; 5]>(), 8)
}

/// Adapters on the matrices of a program, as bytes say.
pub fn sites(program: &Program, bytes: &[[u8; 5]]) -> Vec<Site> {
    let matrices = program
        .frozen_parameters()
        .filter(|leaf| leaf.ty.rank() == 2);
    matrices
        .zip(bytes)
        .map(|(leaf, &[strategy, layout, rank, alpha, scaling])| {
            let layout = if layout % 2 == 0 {
                Layout::InOut
            } else {
                Layout::OutIn
            };
            let [rows, columns] = [leaf.ty.shape[0], leaf.ty.shape[1]];
            let (in_features, out_features) = match layout {
                Layout::InOut => (rows, columns),
                Layout::OutIn => (columns, rows),
            };
            let rank = 1 + usize::from(rank) % rows.min(columns);
            let spec = AdapterSpec {
                alpha: (alpha % 4 > 0).then_some(f64::from(alpha % 4) * 0.8),
                scaling: if scaling % 2 == 0 {
                    Scaling::Classic
                } else {
                    Scaling::RankStabilized
                },
                ..match strategy % 6 {
                    0 => frozen(),
                    1 => full(),
                    2 => random(rank),
                    3 => minor(rank),
                    _ => principal(rank),
                }
            };
            Site {
                path: format!("site.{}", leaf.name),
                weight: leaf.name.to_string(),
                bias: None,
                in_features,
                out_features,
                layout,
                spec,
            }
        })
        .collect()
}

/// How large an element of a leaf is: the tests draw normal numbers of a fifth of that deviation.
const LEAF_BOUND: f64 = 2.5;
/// Elements of values stay below this, so that float32 resolves them.
const BOUND: f64 = 60.0;
/// Values stay smaller than this, so that tests are fast.
const ELEMENTS: usize = 300;

#[derive(Clone, Copy)]
struct Value {
    id: Id,
    bound: f64,
}

#[derive(Default)]
struct Builder {
    program: Program,
    values: Vec<Value>,
    weights: Vec<Value>,
    leaves: usize,
}

impl Builder {
    fn size(&self, byte: u8) -> usize {
        [3, 4, 2, 3, 4, 1, 5][usize::from(byte) % 7]
    }

    fn push(&mut self, id: Id, bound: f64) {
        if bound > BOUND {
            let id = self.program.unary(Unary::Tanh, id).unwrap();
            self.values.push(Value { id, bound: 1.0 });
        } else {
            self.values.push(Value { id, bound });
        }
    }

    fn add(&mut self, op: impl Into<Op>, args: &[Id], bound: f64) {
        let op = op.into();
        let id = self.program.add(op, args).unwrap();
        if self.program.ty(id).len() <= ELEMENTS {
            self.push(id, bound);
        }
    }

    /// An earlier value, more often a late one.
    fn pick(&self, byte: u8) -> Value {
        let recent = if byte < 160 { 3 } else { self.values.len() };
        self.values[self.values.len() - 1 - usize::from(byte) % recent.min(self.values.len())]
    }

    fn leaf(&mut self, byte: u8, shape: &[usize]) -> Id {
        let n = self.leaves;
        self.leaves += 1;
        let ty = Type::f32(shape);
        if byte.is_multiple_of(2) {
            self.program.input(&format!("x{n}"), ty).unwrap()
        } else {
            self.program.trained(&format!("t{n}"), ty).unwrap()
        }
    }

    fn weight(&mut self, shape: [usize; 2]) -> Value {
        let name = format!("w{}", self.weights.len());
        let id = self.program.frozen(&name, Type::f32(shape)).unwrap();
        let weight = Value {
            id,
            bound: LEAF_BOUND,
        };
        self.weights.push(weight);
        weight
    }

    /// A matrix with `k` rows, or columns if `transposed`: an earlier one if `byte` says so.
    fn matrix(&mut self, byte: u8, k: usize, n: usize, transposed: bool) -> Value {
        let at = usize::from(transposed);
        let fits = |w: &&Value| self.program.shape(w.id)[at] == k;
        let earlier = self.weights.iter().rev().find(fits).copied();
        match earlier {
            Some(weight) if !byte.is_multiple_of(4) => weight,
            _ => self.weight(if transposed { [n, k] } else { [k, n] }),
        }
    }

    fn step(&mut self, step: &[u8; 8], stream: &str) {
        let &[kind, arg, a, b, c, ..] = step;
        let x = self.pick(arg);
        let shape = self.program.shape(x.id).to_vec();
        let rank = shape.len();
        match (kind % 16, &shape[..]) {
            (0..=2, [.., _]) if rank >= 2 => self.product(x, &shape, [a, b, c]),
            (3..=4, _) => self.function(x, a),
            (5..=7, _) => self.binary(x, &shape, [a, b, c]),
            (8, [_, ..]) => self.add(Softmax, &[x.id], 1.0),
            (9, [.., width]) => {
                let bound = (*width as f64).sqrt();
                let (centered, eps) = (a % 3 > 0, Real(0.1));
                self.add(Normalize { centered, eps }, &[x.id], bound);
            }
            (10, [_, ..]) => {
                let axes: Vec<usize> = (0..rank).filter(|i| (a >> i) & 1 == 1).collect();
                let count: usize = axes.iter().map(|&i| shape[i]).product();
                if b % 3 == 0 {
                    self.add(Reduce::max(axes), &[x.id], x.bound);
                } else {
                    self.add(Reduce::sum(axes), &[x.id], x.bound * count as f64);
                }
            }
            (11, [_, ..]) => {
                let mut axes: Vec<usize> = (0..rank).collect();
                axes.rotate_left(usize::from(a) % rank);
                axes.swap(usize::from(b) % rank, usize::from(c) % rank);
                self.add(Permute { axes }, &[x.id], x.bound);
            }
            (12, [_, ..]) => self.slice_or_pad(x, &shape, kind < 128, [a, b, c]),
            (13, _) => self.reshape(x, shape, [a, b, c]),
            (14, &[batch, length, width]) => {
                self.attention(x, [batch, length, width], [a, b, c], stream)
            }
            (15, &[batch, length, width]) if width % 2 == 0 && a % 8 == 3 => {
                let heads = if width % 4 == 0 && b % 2 == 0 { 2 } else { 1 };
                let half = [batch, length, width / heads / 2];
                let [cos, sin] = ["cos", "sin"].map(|name| {
                    let name = format!("{stream}.{name}");
                    self.program.input(&name, Type::f32(half)).unwrap()
                });
                self.add(Rotary, &[x.id, cos, sin], 2.0 * LEAF_BOUND * x.bound);
            }
            (14, &[rows, width]) => {
                let table = self.weight([2 + usize::from(a % 4), width]);
                let ids = self
                    .program
                    .input(&format!("{stream}.ids"), Type::i32([rows]))
                    .unwrap();
                self.add(Embedding, &[table.id, ids], LEAF_BOUND);
            }
            (15, _) if a % 2 == 0 => {
                let dropout = Dropout {
                    rate: Real(0.3),
                    stream: stream.into(),
                };
                self.add(dropout, &[x.id], x.bound / 0.7);
            }
            (15, [.., rows, width]) if a % 8 == 3 => {
                self.take_along(x, [*rows, *width], [b, c], stream)
            }
            (15, [_, ..]) if a % 4 == 1 => self.concat(x, &shape, usize::from(b) % rank),
            _ => {
                let weight = self.weight([self.size(a), self.size(b)]);
                self.push(weight.id, LEAF_BOUND);
            }
        }
    }

    fn slice_or_pad(&mut self, x: Value, shape: &[usize], slice: bool, [a, b, c]: [u8; 3]) {
        let axis = usize::from(a) % shape.len();
        let start = usize::from(b) % shape[axis];
        let end = start + 1 + usize::from(c) % (shape[axis] - start);
        let [before, after] = [b, c].map(|byte| usize::from(byte % 3));
        if slice {
            self.add(Slice { axis, start, end }, &[x.id], x.bound);
        } else {
            self.add(
                Pad {
                    axis,
                    before,
                    after,
                },
                &[x.id],
                x.bound,
            );
        }
    }

    fn take_along(&mut self, x: Value, [rows, width]: [usize; 2], [b, c]: [u8; 2], stream: &str) {
        let (transposed, other) = (b % 2 == 0, self.size(c));
        let [s, t] = if transposed {
            [other, rows]
        } else {
            [rows, other]
        };
        let name = format!("{stream}.along");
        let ids = self.program.input(&name, Type::i32([s, t])).unwrap();
        // Ids are 0 and 1, wherever rows allow for 1.
        if width > 1 {
            self.add(TakeAlong { transposed }, &[x.id, ids], x.bound);
        }
    }

    fn product(&mut self, x: Value, shape: &[usize], [a, b, c]: [u8; 3]) {
        let [m, k] = [shape[shape.len() - 2], shape[shape.len() - 1]];
        let transposed = b & 1 == 1;
        let n = self.size(c);
        let bound = |y: Value, k: usize| x.bound * y.bound * k as f64;
        match a % 8 {
            // With itself: the scores of attention, and their transpose.
            0 => {
                let id = self.program.matmul(x.id, false, x.id, true).unwrap();
                self.push(id, bound(x, k));
            }
            1 => {
                let id = self.program.matmul(x.id, true, x.id, false).unwrap();
                self.push(id, bound(x, m));
            }
            2 => {
                let w = self.matrix(b, m, n, transposed);
                let id = self.program.matmul(x.id, true, w.id, transposed).unwrap();
                self.push(id, bound(w, m));
            }
            // A weight on the left.
            3 if shape.len() == 2 => {
                let w = self.matrix(b, m, n, !transposed);
                let id = self.program.matmul(w.id, transposed, x.id, false).unwrap();
                self.push(id, bound(w, m));
            }
            // A weight made of two.
            4 => {
                let w = self.matrix(b, k, n, false);
                let width = self.program.shape(w.id)[1];
                let v = self.matrix(c, width, n, true);
                let product = self.program.matmul(w.id, false, v.id, true).unwrap();
                let id = self.program.matmul(x.id, false, product, false).unwrap();
                self.push(id, bound(w, k) * v.bound * width as f64);
            }
            _ => {
                let w = self.matrix(b, k, n, transposed);
                let id = self.program.matmul(x.id, false, w.id, transposed).unwrap();
                self.push(id, bound(w, k));
            }
        }
    }

    /// `x` with what fits beside it along an axis, in either order; itself, if nothing does.
    fn concat(&mut self, x: Value, shape: &[usize], axis: usize) {
        let fits = |y: &&Value| {
            let mut other = self.program.shape(y.id).to_vec();
            let same_rank = other.len() == shape.len();
            if same_rank {
                other[axis] = shape[axis];
            }
            same_rank && other == shape
        };
        let beside = self.values.iter().rev().filter(fits).take(3).copied();
        let mut parts: Vec<Value> = beside.chain([x]).collect();
        if shape[axis].is_multiple_of(2) {
            parts.reverse();
        }
        let bound = parts.iter().map(|part| part.bound).fold(0.0, f64::max);
        let ids: Vec<Id> = parts.iter().map(|part| part.id).collect();
        self.add(Concat { axis }, &ids, bound);
    }

    fn function(&mut self, x: Value, a: u8) {
        use Unary::{Cos, Exp, Exp2, Gelu, Log, Log2, Recip, Relu, Sigmoid, Sin, Sqrt, Tanh};
        let inner = [Gelu, Tanh, Sigmoid, Relu, Sin, Cos];
        let outer = [Exp, Exp2, Log, Log2, Sqrt, Recip];
        let i = usize::from(a) % 12;
        if let Some(&function) = inner.get(i) {
            let bound = if matches!(function, Gelu | Relu) {
                x.bound
            } else {
                1.0
            };
            self.add(function, &[x.id], bound);
        } else {
            // Of positive numbers.
            let p = &mut self.program;
            let sigmoid = p.unary(Sigmoid, x.id).unwrap();
            let half = p.constant(0.5);
            let positive = p.sum(sigmoid, half).unwrap();
            self.add(outer[i - 6], &[positive], 5.0);
        }
    }

    fn binary(&mut self, x: Value, shape: &[usize], [a, b, c]: [u8; 3]) {
        let other = self.pick(b);
        let fits = broadcast(shape, self.program.shape(other.id)).is_some();
        let y = if fits && c % 4 != 0 {
            other
        } else if c % 16 == 0 {
            let number = f64::from(b) / 100.0 - 1.0;
            Value {
                id: self.program.constant(number),
                bound: number.abs(),
            }
        } else {
            // A row, a column, or any axes repeated.
            let lead = usize::from(b) % (shape.len() + 1);
            let axis = |i: usize| if (c >> (i % 8)) & 1 == 1 { 1 } else { shape[i] };
            let shape: Vec<usize> = (lead..shape.len()).map(axis).collect();
            Value {
                id: self.leaf(c / 2, &shape),
                bound: LEAF_BOUND,
            }
        };
        let [x, y] = if a >= 128 { [y, x] } else { [x, y] };
        match a % 5 {
            0 => self.add(Binary::Add, &[x.id, y.id], x.bound + y.bound),
            1 => self.add(Binary::Sub, &[x.id, y.id], x.bound + y.bound),
            2 => self.add(Binary::Mul, &[x.id, y.id], x.bound * y.bound),
            3 => self.add(Binary::Mul, &[x.id, x.id], x.bound * x.bound),
            _ => {
                let p = &mut self.program;
                let exp = p.unary(Unary::Cos, y.id).unwrap();
                let two = p.constant(2.0);
                let positive = p.sum(exp, two).unwrap();
                self.add(Binary::Div, &[x.id, positive], x.bound);
            }
        }
    }

    fn reshape(&mut self, x: Value, mut shape: Vec<usize>, [a, b, c]: [u8; 3]) {
        let rank = shape.len();
        match a % 4 {
            0 if rank >= 2 => {
                let i = usize::from(b) % (rank - 1);
                let next = shape.remove(i + 1);
                shape[i] *= next;
                self.add(Reshape { shape }, &[x.id], x.bound);
            }
            1 if rank < 5 => {
                shape.insert(usize::from(b) % (rank + 1), 1);
                self.add(Reshape { shape }, &[x.id], x.bound);
            }
            2 if rank < 5 => {
                shape.insert(0, self.size(c));
                self.add(Expand { shape }, &[x.id], x.bound);
            }
            _ => {
                if let Some(dim) = shape.iter_mut().find(|dim| **dim % 2 == 0) {
                    *dim /= 2;
                    shape.push(2);
                    self.add(Reshape { shape }, &[x.id], x.bound);
                } else {
                    let shape = vec![shape.iter().product()];
                    self.add(Reshape { shape }, &[x.id], x.bound);
                }
            }
        }
    }

    fn attention(
        &mut self,
        x: Value,
        [batch, length, width]: [usize; 3],
        [a, b, c]: [u8; 3],
        stream: &str,
    ) {
        let p = &mut self.program;
        let scores = p
            .input(&format!("{stream}.mask"), Type::f32([batch, length]))
            .unwrap();
        let limit = p.constant(0.4);
        let mask = p.add(Binary::Less, &[scores, limit]).unwrap();
        let heads = if width % 2 == 0 && b % 2 == 0 { 2 } else { 1 };
        let kv_heads = if b % 4 == 0 { 1 } else { heads };
        let keys = self.weight([width / heads * kv_heads, width]);
        let keys = self.program.matmul(x.id, false, keys.id, true).unwrap();
        let values = if a % 2 == 0 && kv_heads == heads {
            x.id
        } else {
            keys
        };
        let attention = Attention {
            heads,
            kv_heads,
            causal: c % 3 == 0,
            scale: Real(0.3),
            dropout: Real(if c % 2 == 0 { 0.0 } else { 0.3 }),
            stream: stream.into(),
        };
        let bound = x.bound * LEAF_BOUND * width as f64;
        self.add(attention, &[x.id, keys, values, mask], bound);
    }
}
