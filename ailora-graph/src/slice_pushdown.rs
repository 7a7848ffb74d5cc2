//! Slice pushdown: what is computed for rows that nothing reads is not computed.
//!
//! A classifier reads the first token of the last layer. Everything of that layer but its keys and
//! values is row by row, so its slice can be taken before instead of after.

use crate::ir::{
    Id, Op, Program, ProgramError,
    ops::{matmul::MatMul, view::Slice},
};

/// Moves slices towards the inputs, through operations that treat the slices apart and of which
/// nothing but the slice is read.
///
/// A dropout then draws for the rows that are left: the distribution is the same, the draws are not.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn push_down_slices(program: &Program) -> Result<Program, ProgramError> {
    let demands = demands(program);
    let mut new = Program::new();
    let mut images: Vec<Id> = Vec::with_capacity(program.len());
    for id in program.ids() {
        let node = &program[id];
        let cuts = match (&node.op, &demands[usize::from(id)]) {
            // Nothing live reads it: any image will do.
            (_, Demand::Nothing) => {
                images.push(Id::from(0));
                continue;
            }
            (Op::Slice(slice), _) => vec![Some(slice.clone())],
            (_, Demand::Part(slice)) => cuts(program, id, slice).unwrap_or_default(),
            (_, Demand::Whole) => Vec::new(),
        };
        let mut args = Vec::with_capacity(node.args.len());
        for (i, &arg) in node.args.iter().enumerate() {
            let image = images[usize::from(arg)];
            args.push(match cuts.get(i).cloned().flatten() {
                Some(slice) if !is_cut(program, &demands, arg) => {
                    new.slice(image, slice.axis, slice.start, slice.end)?
                }
                _ => image,
            });
        }
        images.push(match &node.op {
            Op::Slice(_) => args[0],
            op => new.add(op.clone(), &args)?,
        });
    }
    for (name, &id) in program.outputs() {
        new.set_output(name.clone(), images[usize::from(id)]);
    }
    Ok(new)
}

/// What is read of a node.
#[derive(Clone, Debug, PartialEq)]
enum Demand {
    Nothing,
    Part(Slice),
    Whole,
}

impl Demand {
    fn add(&mut self, other: Self) {
        if *self == Self::Nothing {
            *self = other;
        } else if *self != other {
            *self = Self::Whole;
        }
    }
}

/// What is read of each node, by results and by nodes that results need.
fn demands(program: &Program) -> Vec<Demand> {
    let mut demands = vec![Demand::Nothing; program.len()];
    for &id in program.outputs().values() {
        demands[usize::from(id)].add(Demand::Whole);
    }
    for id in program.ids().rev() {
        let node = &program[id];
        let cuts = match (&node.op, &demands[usize::from(id)]) {
            (_, Demand::Nothing) => continue,
            (Op::Slice(slice), _) => vec![Some(slice.clone())],
            (_, Demand::Part(slice)) => cuts(program, id, slice).unwrap_or_default(),
            (_, Demand::Whole) => Vec::new(),
        };
        for (i, &arg) in node.args.iter().enumerate() {
            let part = cuts.get(i).cloned().flatten().map(Demand::Part);
            demands[usize::from(arg)].add(part.unwrap_or(Demand::Whole));
        }
    }
    demands
}

/// Whether the new program computes only a part of `id`.
fn is_cut(program: &Program, demands: &[Demand], id: Id) -> bool {
    match &demands[usize::from(id)] {
        Demand::Part(slice) => cuts(program, id, slice).is_some(),
        _ => false,
    }
}

/// The slice of each argument from which `id` computes its own, where it can; an argument without
/// one serves every slice.
fn cuts(program: &Program, id: Id, slice: &Slice) -> Option<Vec<Option<Slice>>> {
    let node = &program[id];
    let rank = program.ty(id).rank();
    let is_row_axis = slice.axis + 1 < rank;
    let first_only = match &node.op {
        Op::Unary(_) | Op::Binary(_) | Op::Dropout(_) => false,
        Op::Softmax(_) | Op::SoftmaxGrad(_) | Op::Normalize(_) | Op::NormalizeGrad(_)
            if is_row_axis =>
        {
            false
        }
        Op::MatMul(MatMul { trans_a: false, .. })
            if is_row_axis && program.ty(node.args[1]).rank() == 2 =>
        {
            true
        }
        Op::Rotary(_) if slice.axis == 1 => false,
        // Later queries see more keys, counted from the last one.
        Op::Attention(op) if slice.axis == 1 => {
            if op.causal && slice.end != program.shape(id)[1] {
                return None;
            }
            true
        }
        _ => return None,
    };
    let cut = |(i, &arg): (usize, &Id)| {
        // Broadcasting aligns last axes; along an axis of 1 there is nothing to cut.
        let own = program.shape(arg);
        let axis = (slice.axis + own.len()).checked_sub(rank)?;
        let cut = own[axis] != 1 && (i == 0 || !first_only);
        cut.then_some(Slice { axis, ..*slice })
    };
    Some(node.args.iter().enumerate().map(cut).collect())
}
