//! Widens products to whole vectors, for devices that are slow at others.

use std::collections::HashMap;

use super::{
    block_of,
    layout::{Block, Layout},
    rules::inner_axis,
};
use crate::ir::{
    Id, Op, Program, ProgramError,
    ops::{concat::Concat, elementwise::Binary, view::Slice},
};

/// Fills up left sides `[x | h]` to a multiple of so many columns, where `h` is a product with
/// adapters and nothing but zeros lies behind these: `x [A; 0]ᵀ` in the place of `h = x Aᵀ`, and as
/// many zeros more in what it is multiplied by.
///
/// # Errors
/// None for a program that passed its own type checks.
pub(super) fn align(
    program: &Program,
    layout: &Layout,
    multiple: usize,
) -> Result<Program, ProgramError> {
    let filled = Filled::of(program, layout, multiple);
    // What lies in the place of a product, or of its multiple.
    let mut wide: HashMap<Id, Id> = HashMap::new();
    program.rewrite(|new, id, node, args| {
        if let Some(&zeros) = filled.hidden.get(&id) {
            let own = match &node.op {
                Op::MatMul(op) => {
                    let right = filled.right(node.args[1], 1 - inner_axis(*op), zeros);
                    let right = block_of(new, layout, &right)?;
                    new.add(*op, &[args[0], right])?
                }
                op => {
                    let own = node.args.iter().zip(args);
                    let own = own.map(|(of, arg)| *wide.get(of).unwrap_or(arg));
                    new.add(op.clone(), &own.collect::<Vec<_>>())?
                }
            };
            wide.insert(id, own);
            return new.slice(own, 1, 0, program.shape(id)[1]);
        }
        match (&node.op, &node.args[..]) {
            (Op::Concat(op), [.., last]) if filled.lefts.contains_key(&id) => {
                let mut parts = args.to_vec();
                parts.pop();
                parts.push(wide[last]);
                new.add(*op, &parts)
            }
            (Op::MatMul(op), &[left, right]) => match filled.lefts.get(&left) {
                Some(&zeros) => {
                    let right = filled.right(right, inner_axis(*op), zeros);
                    let right = block_of(new, layout, &right)?;
                    new.add(*op, &[args[0], right])
                }
                None => new.add(*op, args),
            },
            (op, _) => new.add(op.clone(), args),
        }
    })
}

/// How many columns more some nodes have.
struct Filled {
    /// Where parameters lie.
    blocks: HashMap<Id, Block>,
    /// Left sides.
    lefts: HashMap<Id, usize>,
    /// Products that are their last parts, and multiples of such.
    hidden: HashMap<Id, usize>,
}

impl Filled {
    fn of(program: &Program, layout: &Layout, multiple: usize) -> Self {
        let mut filled = Self {
            blocks: blocks(program, layout),
            lefts: HashMap::new(),
            hidden: HashMap::new(),
        };
        let live = program.live();
        let nodes = || program.ids().filter(|&id| live[usize::from(id)]);
        let outputs: Vec<Id> = program.outputs().values().copied().collect();
        for id in nodes() {
            let (Op::Concat(Concat { axis: 1 }), [.., last]) =
                (&program[id].op, &program[id].args[..])
            else {
                continue;
            };
            let width = program.shape(id)[1];
            let zeros = width.next_multiple_of(multiple) - width;
            let is_read_filled = |reader: Id| match (&program[reader].op, &program[reader].args[..])
            {
                (Op::MatMul(op), &[left, right]) if left == id && right != id && !op.trans_a => {
                    filled.has_zeros(layout, right, inner_axis(*op), zeros)
                }
                _ => false,
            };
            let mut readers = nodes().filter(|&reader| program[reader].args.contains(&id));
            let fits = zeros > 0 && !outputs.contains(&id) && readers.all(is_read_filled);
            let Some(chain) = filled.chain(program, layout, *last, zeros).filter(|_| fits) else {
                continue;
            };
            let is_new = |own: &Id| filled.hidden.get(own).is_none_or(|known| *known == zeros);
            if chain.iter().all(is_new) {
                filled.lefts.insert(id, zeros);
                filled
                    .hidden
                    .extend(chain.into_iter().map(|own| (own, zeros)));
            }
        }
        filled
    }

    /// A node and what it is a multiple of, down to a product with parameters that zeros follow.
    fn chain(&self, program: &Program, layout: &Layout, id: Id, zeros: usize) -> Option<Vec<Id>> {
        match (&program[id].op, &program[id].args[..]) {
            (Op::MatMul(op), &[_, right]) if !op.trans_a => self
                .has_zeros(layout, right, 1 - inner_axis(*op), zeros)
                .then(|| vec![id]),
            (Op::Binary(Binary::Mul), &[a, b]) => {
                let is_number = |id: Id| matches!(program[id].op, Op::Const(_));
                let of = match (is_number(a), is_number(b)) {
                    (false, true) => a,
                    (true, false) => b,
                    _ => return None,
                };
                let mut chain = self.chain(program, layout, of, zeros)?;
                chain.push(id);
                Some(chain)
            }
            _ => None,
        }
    }

    fn has_zeros(&self, layout: &Layout, id: Id, axis: usize, zeros: usize) -> bool {
        let block = self.blocks.get(&id);
        block.is_some_and(|block| layout.padded(block, axis, [0, zeros]).is_some())
    }

    /// A parameter's block with the zeros behind it.
    fn right(&self, id: Id, axis: usize, zeros: usize) -> Block {
        let mut block = self.blocks[&id];
        block.shape[axis] += zeros;
        block
    }
}

/// What of packs the nodes of a region's solution are.
fn blocks(program: &Program, layout: &Layout) -> HashMap<Id, Block> {
    let mut blocks: HashMap<Id, Block> = HashMap::new();
    for id in program.ids() {
        let node = &program[id];
        let block = match &node.op {
            Op::Frozen(leaf) | Op::Trained(leaf) if leaf.ty.rank() == 2 => {
                let pack = layout.packs.iter().find(|pack| pack.name == leaf.name);
                pack.and_then(|pack| layout.block(&pack.name, pack.shape))
            }
            Op::Slice(Slice { axis, start, end }) => blocks.get(&node.args[0]).map(|of| {
                let mut block = *of;
                block.at[*axis] += start;
                block.shape[*axis] = end - start;
                block
            }),
            _ => None,
        };
        blocks.extend(block.map(|block| (id, block)));
    }
    blocks
}
