//! Activation checkpointing (Chen et al., 2016): of the forward pass only what lies between blocks
//! is kept, and the backward pass computes the rest of a block again when it comes to it.

use std::collections::HashMap;

use crate::ir::{Id, Program, ProgramError, ops::view::Reshape};

/// The program with the parts of its forward pass, which is what the result `loss` depends on, that
/// its backward pass computes again. Results and their bits are the same.
///
/// A block ends where one value alone is all that the rest of the forward pass reads, beside what
/// is read throughout, such as the states of an encoder. What comes after the last one is kept.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn checkpoint(program: &Program, loss: &str) -> Result<Program, ProgramError> {
    let forward = Forward::of(program, loss);
    let kept = forward.kept();
    let mut again = Again {
        program,
        kept: &kept,
        images: HashMap::new(),
    };
    let mut images: HashMap<Id, Id> = HashMap::new();
    program.rewrite(|new, id, node, args| {
        let args: Result<Vec<Id>, _> = node
            .args
            .iter()
            .zip(args)
            .map(|(&arg, &image)| match forward.contains(id) {
                true => Ok(image),
                false => again.image(new, arg, &images),
            })
            .collect();
        let image = new.add(node.op.clone(), &args?)?;
        images.insert(id, image);
        Ok(image)
    })
}

/// The forward pass of a program.
struct Forward<'a> {
    program: &'a Program,
    /// Whether each node is part of it.
    members: Vec<bool>,
}

impl<'a> Forward<'a> {
    fn of(program: &'a Program, loss: &str) -> Self {
        let mut members = vec![false; program.len()];
        if let Some(&loss) = program.outputs().get(loss) {
            members[usize::from(loss)] = true;
        }
        for id in program.ids().rev() {
            if members[usize::from(id)] {
                let args = program[id].args.iter();
                args.for_each(|&arg| members[usize::from(arg)] = true);
            }
        }
        Self { program, members }
    }

    fn contains(&self, id: Id) -> bool {
        self.members[usize::from(id)]
    }

    /// For each node, whether it is there when the backward pass reads it.
    fn kept(&self) -> Vec<bool> {
        let program = self.program;
        let computed = |id: Id| !is_leaf(program, id) && !program[id].op.is_view();
        let members: Vec<Id> = program.ids().filter(|&id| self.contains(id)).collect();
        // The last member that reads each value.
        let mut last: HashMap<Id, Id> = HashMap::new();
        for &id in members.iter().filter(|&&id| computed(id)) {
            for &arg in &program[id].args {
                last.insert(program.source(arg), id);
            }
        }
        let computed: Vec<Id> = members.into_iter().filter(|&id| computed(id)).collect();
        let position: HashMap<Id, usize> = computed.iter().copied().zip(0..).collect();
        let end = |id: Id| last.get(&id).map_or(0, |reader| position[reader]);
        let throughout = |id: Id| 2 * (end(id).saturating_sub(position[&id])) > computed.len();

        let mut kept: Vec<bool> = program.ids().map(|id| !self.contains(id)).collect();
        let mut live: Vec<Id> = Vec::new();
        let (mut behind, mut was_alone) = (0, false);
        for (time, &id) in computed.iter().enumerate() {
            live.retain(|&value| end(value) > time);
            if throughout(id) {
                kept[usize::from(id)] = true;
            } else {
                live.push(id);
            }
            let is_alone = matches!(live[..], [only] if end(only) > time);
            // From one such value to the next is no block.
            if is_alone && !was_alone {
                kept[usize::from(live[0])] = true;
                behind = time + 1;
            }
            was_alone = is_alone;
        }
        computed[behind..]
            .iter()
            .for_each(|&id| kept[usize::from(id)] = true);
        for id in program.ids().filter(|&id| self.contains(id)) {
            if is_leaf(program, id) || program[id].op.is_view() {
                let owner = program.source(id);
                kept[usize::from(id)] = is_leaf(program, owner) || kept[usize::from(owner)];
            }
        }
        kept
    }
}

/// The nodes that are computed again.
struct Again<'a> {
    program: &'a Program,
    kept: &'a [bool],
    images: HashMap<Id, Id>,
}

impl Again<'_> {
    /// What the backward pass reads instead of `id`.
    fn image(
        &mut self,
        new: &mut Program,
        id: Id,
        images: &HashMap<Id, Id>,
    ) -> Result<Id, ProgramError> {
        if self.kept[usize::from(id)] {
            return Ok(images[&id]);
        }
        if let Some(&image) = self.images.get(&id) {
            return Ok(image);
        }
        let node = &self.program[id];
        let mut args = Vec::with_capacity(node.args.len());
        for &arg in &node.args {
            let image = self.image(new, arg, images)?;
            let is_computed = !is_leaf(self.program, self.program.source(arg));
            args.push(if self.kept[usize::from(arg)] && is_computed {
                // Under its own shape it is another node, and so is all that is computed from it.
                let shape = new.shape(image).to_vec();
                new.add(Reshape { shape }, &[image])?
            } else {
                image
            });
        }
        let image = new.add(node.op.clone(), &args)?;
        self.images.insert(id, image);
        Ok(image)
    }
}

fn is_leaf(program: &Program, id: Id) -> bool {
    program[id].op.operation().is_none()
}
