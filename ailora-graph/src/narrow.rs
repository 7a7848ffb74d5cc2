//! What is computed for rows that nothing reads is not computed.
//!
//! A classifier reads the first token of the last layer. Everything of that layer but its keys and
//! values is row by row, so its slice can be taken before instead of after.

use crate::ir::{
    Id, Op, Program, ProgramError,
    ops::{matmul::MatMul, view::Slice},
};

/// Moves slices towards the inputs, through operations that treat the slices apart and that nothing
/// else reads.
///
/// A dropout then draws for the rows that are left: the distribution is the same, the draws are not.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn narrow(program: &Program) -> Result<Program, ProgramError> {
    let mut pass = Narrow {
        program,
        uses: uses(program),
        new: Program::new(),
        images: Vec::with_capacity(program.len()),
    };
    for id in program.ids() {
        let node = &program[id];
        let image = match &node.op {
            Op::Slice(slice) => pass.slice(node.args[0], slice)?,
            op => {
                let args: Vec<Id> = node.args.iter().map(|&arg| pass.image(arg)).collect();
                pass.new.add(op.clone(), &args)?
            }
        };
        pass.images.push(image);
    }
    for (name, &id) in program.outputs() {
        let image = pass.image(id);
        pass.new.set_output(name.clone(), image);
    }
    // The whole values are left behind, unread.
    pass.new
        .rewrite(|new, _, node, args| new.add(node.op.clone(), args))
}

fn uses(program: &Program) -> Vec<usize> {
    let live = program.live();
    let mut uses = vec![0; program.len()];
    let nodes = program.ids().filter(|&id| live[usize::from(id)]);
    for arg in nodes.flat_map(|id| &program[id].args) {
        uses[usize::from(*arg)] += 1;
    }
    for id in program.outputs().values() {
        uses[usize::from(*id)] += 1;
    }
    uses
}

struct Narrow<'a> {
    program: &'a Program,
    uses: Vec<usize>,
    new: Program,
    images: Vec<Id>,
}

impl Narrow<'_> {
    fn image(&self, id: Id) -> Id {
        self.images[usize::from(id)]
    }

    /// The slice of what `id` computes.
    fn slice(&mut self, id: Id, slice: &Slice) -> Result<Id, ProgramError> {
        let node = &self.program[id];
        let rank = self.program.ty(id).rank();
        let is_row_axis = slice.axis + 1 < rank;
        // Which arguments are cut alike; the others serve every slice.
        let cut: Option<fn(usize) -> bool> = match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Dropout(_) => Some(|_| true),
            Op::Softmax(_) | Op::SoftmaxGrad(_) | Op::Normalize(_) | Op::NormalizeGrad(_)
                if is_row_axis =>
            {
                Some(|_| true)
            }
            Op::MatMul(MatMul { trans_a: false, .. })
                if is_row_axis && self.program.ty(node.args[1]).rank() == 2 =>
            {
                Some(|i| i == 0)
            }
            Op::Attention(_) if slice.axis == 1 => Some(|i| i == 0),
            _ => None,
        };
        let Some(cut) = cut.filter(|_| self.uses[usize::from(id)] == 1) else {
            let Slice { axis, start, end } = *slice;
            let image = self.image(id);
            return self.new.slice(image, axis, start, end);
        };
        let mut args = Vec::with_capacity(node.args.len());
        for (i, &arg) in node.args.iter().enumerate() {
            // Broadcasting aligns last axes; along an axis of 1 there is nothing to cut.
            let own = self.program.shape(arg);
            let axis = (slice.axis + own.len()).checked_sub(rank);
            args.push(match axis {
                Some(axis) if cut(i) && own[axis] != 1 => {
                    self.slice(arg, &Slice { axis, ..*slice })?
                }
                _ => self.image(arg),
            });
        }
        self.new.add(node.op.clone(), &args)
    }
}
