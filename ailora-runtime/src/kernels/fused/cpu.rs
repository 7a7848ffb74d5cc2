//! Fused loops: every instruction of a chain on one row, or a part of it, while it is in cache.

use std::cell::RefCell;

use ailora_graph::ir::{
    Draw,
    ops::elementwise::{Binary, Unary},
    random::{Key, drop_threshold},
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Instruction, Loop, LoopOp, Source};
use crate::kernels::host::{Call, Region, math, rows};

/// Columns that are handled at once where rows may be split: registers of this width stay in the
/// first-level cache.
const BLOCK: usize = 1024;
/// Elements below which a loop is not worth another thread.
const SERIAL: usize = 16 * 1024;

thread_local! {
    static REGISTERS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Executes a loop.
pub(super) fn run(walk: &Loop, call: &Call<'_>) {
    let rows: usize = walk.rows.iter().product();
    let block = if walk.whole_rows {
        walk.width
    } else {
        walk.width.min(BLOCK)
    };
    let task = Task {
        walk,
        block,
        blocks: walk.width.div_ceil(block.max(1)),
        operands: (0..call.reads.len()).map(|i| call.source(i)).collect(),
        results: (0..call.writes.len()).map(|i| call.target(i)).collect(),
        keys: walk
            .instructions
            .iter()
            .map(|i| key(call.draw, &i.op))
            .collect(),
    };
    let units = rows * task.blocks;
    if rows * walk.width < SERIAL {
        task.units(0..units);
    } else {
        // Four tasks a thread. Results do not depend on how many that are, as no value crosses rows.
        let step = units.div_ceil(4 * rayon::current_num_threads());
        (0..units.div_ceil(step))
            .into_par_iter()
            .for_each(|i| task.units(i * step..units.min((i + 1) * step)));
    }
}

struct Task<'a> {
    walk: &'a Loop,
    block: usize,
    blocks: usize,
    operands: Vec<Region>,
    results: Vec<Region>,
    /// What fixes the draws of each instruction.
    keys: Vec<Key>,
}

/// The key of an instruction; any, if it draws nothing.
fn key(draw: Draw, op: &LoopOp) -> Key {
    draw.key(match op {
        LoopOp::Dropout { stream, .. } => stream,
        _ => "",
    })
}

impl Task<'_> {
    /// Executes units, of which each is a block of a row, on this thread.
    fn units(&self, units: std::ops::Range<usize>) {
        REGISTERS.with_borrow_mut(|registers| {
            // Two more for arguments that are numbers where rows are needed.
            let needed = (self.walk.registers + 2) * self.block;
            if registers.len() < needed {
                registers.resize(needed, 0.0);
            }
            Arch::new().dispatch(Run {
                task: self,
                units,
                registers: &mut registers[..needed],
            });
        });
        settle();
    }
}

struct Run<'a> {
    task: &'a Task<'a>,
    units: std::ops::Range<usize>,
    registers: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                for unit in self.units {
                    one(simd, self.task, unit, self.registers);
                }
            },
        );
    }
}

/// An argument of an instruction: a number for each column, or one for all.
#[derive(Clone, Copy)]
enum Arg<'a> {
    Row(&'a [f32]),
    Number(f32),
}

impl<'a> Arg<'a> {
    /// The argument as a row; a number fills `spare`, which is as long.
    #[inline(always)]
    fn row<'b>(self, spare: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::Row(row) => row,
            Self::Number(number) => {
                spare.fill(number);
                spare
            }
        }
    }
}

#[inline(always)]
fn one<S: Simd>(simd: S, task: &Task, unit: usize, registers: &mut [f32]) {
    let walk = task.walk;
    let row = unit / task.blocks;
    let start = unit % task.blocks * task.block;
    let n = task.block.min(walk.width - start);
    let (registers, spare) = registers.split_at_mut(walk.registers * task.block);
    let mut instructions = walk.instructions.iter().zip(&task.keys).peekable();
    while let Some((instruction, &key)) = instructions.next() {
        let next = instructions.peek().map(|(next, _)| *next);
        if let Some([x, y, slope]) = gelu_pair(instruction, next) {
            let row = |register: usize| register * task.block..register * task.block + n;
            let rows = registers.get_disjoint_mut([row(x), row(y), row(slope)]);
            if let Ok([x, y, slope]) = rows {
                for ((&mut x, y), slope) in x.iter_mut().zip(y).zip(slope) {
                    (*y, *slope) = math::gelu_and_prime(x);
                }
                instructions.next();
                continue;
            }
        }
        // The register of the result is none of the arguments': it is split off from the others.
        let (before, rest) = registers.split_at_mut(instruction.to * task.block);
        let (to, after) = rest.split_at_mut(task.block);
        let to = &mut to[..n];
        let arg = |i: usize| -> Arg {
            match instruction.args[i] {
                Source::Number(number) => Arg::Number(number),
                Source::Register(register) if register < instruction.to => {
                    Arg::Row(&before[register * task.block..][..n])
                }
                Source::Register(register) => {
                    Arg::Row(&after[(register - instruction.to - 1) * task.block..][..n])
                }
                Source::Operand(operand) => {
                    let walked = &walk.operands[operand];
                    let at = offset(row, &walk.rows, &walked.rows);
                    let data = task.operands[operand];
                    // SAFETY: a result that shares an operand's memory shares it element for
                    // element, and is stored after the last instruction, when these are dead.
                    unsafe {
                        if walked.column == 0 {
                            Arg::Number(data.read(at, 1)[0])
                        } else {
                            Arg::Row(data.read(at + start, n))
                        }
                    }
                }
            }
        };
        let position = row * walk.width + start;
        compute(simd, &instruction.op, arg, spare, key, position, to);
    }
    for (result, stored) in task.results.iter().zip(&walk.results) {
        let at = offset(row, &walk.rows, &stored.rows) + start;
        // SAFETY: each unit is executed once and has its own elements of every result.
        let to = unsafe { result.write(at, n) };
        let from = &registers[stored.register * task.block..][..n];
        if stored.is_non_temporal {
            stream(from, to);
        } else {
            to.copy_from_slice(from);
        }
    }
}

/// Copies past the caches: what lies there is not read before it is replaced, and what is in them stays.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn stream(from: &[f32], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
    const LANES: usize = 4;
    let is_aligned = to.as_ptr().addr().is_multiple_of(LANES * size_of::<f32>());
    if !is_aligned || !to.len().is_multiple_of(LANES) {
        return to.copy_from_slice(from);
    }
    for (to, from) in to.chunks_exact_mut(LANES).zip(from.chunks_exact(LANES)) {
        // SAFETY: both are as long, and what is written is aligned. `settle` comes before others read it.
        unsafe { _mm_stream_ps(to.as_mut_ptr(), _mm_loadu_ps(from.as_ptr())) };
    }
}

/// Makes what was streamed visible to threads that wait for this one.
#[cfg(target_arch = "x86_64")]
fn settle() {
    // SAFETY: all processors of this architecture have it.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn stream(from: &[f32], to: &mut [f32]) {
    to.copy_from_slice(from);
}

#[cfg(not(target_arch = "x86_64"))]
fn settle() {}

/// The registers of the argument, the result and the result of the next instruction, if this is
/// GELU and the next its derivative: they share most of their work.
#[inline(always)]
fn gelu_pair(this: &Instruction, next: Option<&Instruction>) -> Option<[usize; 3]> {
    let next = next?;
    match (&this.op, &next.op, &this.args[..]) {
        (LoopOp::Unary(Unary::Gelu), LoopOp::Unary(Unary::GeluPrime), &[Source::Register(x)])
            if this.args == next.args =>
        {
            Some([x, this.to, next.to])
        }
        _ => None,
    }
}

/// Where row `row` of a domain begins in an operand.
#[inline(always)]
fn offset(row: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut rest = row;
    let mut at = 0;
    // The first dimension needs no division, and most domains have no other.
    for (size, stride) in shape.iter().zip(strides).skip(1).rev() {
        at += rest % size * stride;
        rest /= size;
    }
    at + strides.first().map_or(0, |stride| rest * stride)
}

#[inline(always)]
fn compute<'a, S: Simd>(
    simd: S,
    op: &LoopOp,
    arg: impl Fn(usize) -> Arg<'a>,
    spare: &mut [f32],
    key: Key,
    position: usize,
    to: &mut [f32],
) {
    let (first, second) = spare.split_at_mut(spare.len() / 2);
    match op {
        LoopOp::Copy => map(arg(0), to, |x| x),
        LoopOp::Unary(op) => unary(*op, arg(0), to),
        LoopOp::Binary(op) => binary(*op, arg(0), arg(1), to),
        LoopOp::Dropout { rate, .. } => {
            let x = arg(0).row(&mut first[..to.len()]);
            let threshold = drop_threshold(*rate);
            let keep = (1.0 / (1.0 - rate)) as f32;
            let position = position as u32;
            for (i, (to, &x)) in to.iter_mut().zip(x).enumerate() {
                let dropped = key.bits(position.wrapping_add(i as u32)) < threshold;
                *to = x * if dropped { 0.0 } else { keep };
            }
        }
        LoopOp::Softmax => rows::softmax(simd, arg(0).row(first), to),
        LoopOp::SoftmaxGrad => {
            rows::softmax_grad(simd, arg(0).row(first), arg(1).row(second), to);
        }
        LoopOp::Normalize { centered, eps } => {
            rows::normalize(simd, arg(0).row(first), to, *centered, *eps);
        }
        LoopOp::NormalizeGrad { centered, eps } => {
            let [x, dy] = [arg(0).row(first), arg(1).row(second)];
            rows::normalize_grad(simd, x, dy, to, *centered, *eps);
        }
    }
}

#[inline(always)]
fn map(a: Arg, to: &mut [f32], f: impl Fn(f32) -> f32) {
    match a {
        Arg::Row(a) => {
            for (to, &a) in to.iter_mut().zip(a) {
                *to = f(a);
            }
        }
        Arg::Number(a) => to.fill(f(a)),
    }
}

#[inline(always)]
fn zip(a: Arg, b: Arg, to: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Arg::Row(a), Arg::Row(b)) => {
            for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
                *to = f(a, b);
            }
        }
        (a, Arg::Number(b)) => map(a, to, |a| f(a, b)),
        (Arg::Number(a), b) => map(b, to, |b| f(a, b)),
    }
}

#[inline(always)]
fn unary(op: Unary, a: Arg, to: &mut [f32]) {
    match op {
        Unary::Exp => map(a, to, math::exp),
        Unary::Exp2 => map(a, to, math::exp2),
        Unary::Log => map(a, to, f32::ln),
        Unary::Log2 => map(a, to, f32::log2),
        Unary::Sqrt => map(a, to, f32::sqrt),
        Unary::Recip => map(a, to, f32::recip),
        Unary::Sin => map(a, to, f32::sin),
        Unary::Cos => map(a, to, f32::cos),
        Unary::Tanh => map(a, to, math::tanh),
        Unary::Sigmoid => map(a, to, math::sigmoid),
        Unary::Softplus => map(a, to, math::softplus),
        Unary::Relu => map(a, to, math::relu),
        Unary::Gelu => map(a, to, math::gelu),
        Unary::GeluPrime => map(a, to, math::gelu_prime),
    }
}

#[inline(always)]
fn binary(op: Binary, a: Arg, b: Arg, to: &mut [f32]) {
    match op {
        Binary::Add => zip(a, b, to, |a, b| a + b),
        Binary::Sub => zip(a, b, to, |a, b| a - b),
        Binary::Mul => zip(a, b, to, |a, b| a * b),
        Binary::Div => zip(a, b, to, |a, b| a / b),
        Binary::Mod => zip(a, b, to, |a, b| a % b),
        Binary::Less => zip(a, b, to, |a, b| f32::from(u8::from(a < b))),
    }
}
