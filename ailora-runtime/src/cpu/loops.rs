//! Fused loops: every instruction of a chain on one row, or a part of it, while it is in cache.

use std::cell::RefCell;

use ailora_graph::ir::{
    Draw,
    ops::elementwise::{Binary, Unary},
    random::drop_threshold,
};
use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::{
    math,
    memory::{Memory, Region},
    rows,
};
use crate::plan::{Instruction, Loop, LoopOp, Source, View};

/// Columns that are handled at once where rows may be split: registers of this width stay in the
/// first-level cache.
const BLOCK: usize = 1024;
/// Elements below which a loop is not worth another thread.
const SERIAL: usize = 16 * 1024;

thread_local! {
    static REGISTERS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Executes a loop.
pub(super) fn run(walk: &Loop, memory: &Memory, reads: &[View], writes: &[View], draw: Draw) {
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
        operands: reads.iter().map(|&view| memory.region(view)).collect(),
        results: writes.iter().map(|&view| memory.region(view)).collect(),
        draw,
    };
    let units = rows * task.blocks;
    if rows * walk.width < SERIAL {
        task.units(0..units);
    } else {
        // A fixed number of tasks, whatever the threads: results do not depend on it, as no value
        // crosses rows.
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
    draw: Draw,
}

impl Task<'_> {
    /// Executes units, of which each is a block of a row, on this thread.
    fn units(&self, units: std::ops::Range<usize>) {
        REGISTERS.with_borrow_mut(|registers| {
            let needed = (self.walk.registers + 2) * self.block;
            if registers.len() < needed {
                registers.resize(needed, 0.0);
            }
            Arch::new().dispatch(Run {
                task: self,
                units,
                registers,
            });
        });
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
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        simd.vectorize(
            #[inline(always)]
            || {
                for unit in self.units {
                    one(self.task, unit, self.registers);
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

#[inline(always)]
fn one(task: &Task, unit: usize, registers: &mut [f32]) {
    let walk = task.walk;
    let row = unit / task.blocks;
    let start = unit % task.blocks * task.block;
    let n = task.block.min(walk.width - start);
    for instruction in &walk.instructions {
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
        compute(task, instruction, arg, row * walk.width + start, to);
    }
    for (result, stored) in task.results.iter().zip(&walk.results) {
        let at = offset(row, &walk.rows, &stored.rows) + start;
        // SAFETY: each unit is executed once and has its own elements of every result.
        let to = unsafe { result.write(at, n) };
        to.copy_from_slice(&registers[stored.register * task.block..][..n]);
    }
}

/// Where row `row` of a domain begins in an operand.
#[inline(always)]
fn offset(row: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut rest = row;
    let mut at = 0;
    for (size, stride) in shape.iter().zip(strides).rev() {
        at += rest % size * stride;
        rest /= size;
    }
    at
}

#[inline(always)]
fn compute<'a>(
    task: &Task,
    instruction: &Instruction,
    arg: impl Fn(usize) -> Arg<'a>,
    position: usize,
    to: &mut [f32],
) {
    match &instruction.op {
        LoopOp::Copy => map(arg(0), to, |x| x),
        LoopOp::Unary(op) => unary(*op, arg(0), to),
        LoopOp::Binary(op) => binary(*op, arg(0), arg(1), to),
        LoopOp::Dropout { rate, stream } => {
            map(arg(0), to, |x| x);
            let key = task.draw.key(stream);
            let threshold = drop_threshold(*rate);
            let keep = (1.0 / (1.0 - rate)) as f32;
            for (i, x) in to.iter_mut().enumerate() {
                let dropped = key.bits((position + i) as u32) < threshold;
                *x *= if dropped { 0.0 } else { keep };
            }
        }
        LoopOp::Softmax => {
            map(arg(0), to, |x| x);
            rows::softmax(to);
        }
        LoopOp::SoftmaxGrad => {
            map(arg(1), to, |x| x);
            with_row(arg(0), to, rows::softmax_grad);
        }
        LoopOp::Normalize { eps } => {
            map(arg(0), to, |x| x);
            rows::normalize(to, *eps);
        }
        LoopOp::NormalizeGrad { eps } => {
            map(arg(1), to, |x| x);
            with_row(arg(0), to, |x, dy| rows::normalize_grad(x, dy, *eps));
        }
    }
}

/// Calls `f` with a row argument and the result; one number for all columns is a constant row,
/// through which nothing flows back.
#[inline(always)]
fn with_row(arg: Arg, to: &mut [f32], f: impl FnOnce(&[f32], &mut [f32])) {
    match arg {
        Arg::Row(row) => f(row, to),
        Arg::Number(_) => to.fill(0.0),
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
        Unary::Relu => map(a, to, |x| if x < 0.0 { 0.0 } else { x }),
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
