//! Splits off what depends on frozen parameters only, to be computed once and not at every step.

use crate::ir::{Id, Node, Op, Program, ProgramError, ops::view};

/// A program split in two.
#[derive(Clone, Debug)]
pub struct Hoisted {
    /// Run once: its outputs are the frozen parameters that `step` reads in place of expressions.
    pub once: Program,
    /// Run at every step.
    pub step: Program,
}

/// Splits off the expressions over frozen parameters, such as `W - s B0 A0`.
///
/// In float32 this materialises residual weights, which loses nothing; it is not for lower
/// precisions, where a residual would round away what the adapter starts from. An expression's name
/// is its first parameter's and a hash of its structure, so that programs for different shapes of
/// input share the values.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn hoist(program: &Program) -> Result<Hoisted, ProgramError> {
    let varies =
        program.depends_on(|op| matches!(op, Op::Input(_) | Op::Trained(_) | Op::State(_)));
    let frozen = program.depends_on(|op| matches!(op, Op::Frozen(_)));
    let constant = |id: Id| frozen[usize::from(id)] && !varies[usize::from(id)];
    let names = structural_names(program);

    let mut once = program.clone();
    once.clear_outputs();
    let step = program.rewrite(|new, id, node, args| -> Result<Id, ProgramError> {
        // An expression of expressions is hoisted whole: what it was made of is then dead.
        if constant(id) && is_worth_keeping(node) {
            let name = &names[usize::from(id)];
            once.set_output(name.as_str(), id);
            return new.frozen(name, program.ty(id).clone());
        }
        new.add(node.op.clone(), args)
    })?;
    let used: Vec<String> = step
        .frozen_parameters()
        .map(|leaf| leaf.name.to_string())
        .collect();
    once.retain_outputs(|name| used.iter().any(|used| used == name));
    Ok(Hoisted { once, step })
}

/// Views cost nothing, and repetitions cost less to redo than to keep.
fn is_worth_keeping(node: &Node) -> bool {
    !node.args.is_empty()
        && !matches!(
            node.op,
            Op::Reshape(view::Reshape { .. }) | Op::Expand(_) | Op::Slice(_)
        )
}

/// For each node, the name of the first parameter it reads and a hash of its expression.
fn structural_names(program: &Program) -> Vec<String> {
    let mut hashes: Vec<u64> = Vec::with_capacity(program.len());
    let mut first: Vec<Option<&str>> = Vec::with_capacity(program.len());
    for id in program.ids() {
        let node = &program[id];
        let mut hash = fnv(0xcbf2_9ce4_8422_2325, node.op.to_string().as_bytes());
        for &arg in &node.args {
            hash = fnv(hash, &hashes[usize::from(arg)].to_le_bytes());
        }
        hashes.push(hash);
        first.push(match &node.op {
            Op::Frozen(leaf) => Some(&leaf.name),
            _ => node.args.iter().find_map(|&arg| first[usize::from(arg)]),
        });
    }
    first
        .into_iter()
        .zip(hashes)
        .map(|(name, hash)| format!("{}~{hash:016x}", name.unwrap_or_default()))
        .collect()
}

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
