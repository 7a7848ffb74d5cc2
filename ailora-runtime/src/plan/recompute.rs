//! Results of loops that later loops compute again from what is kept anyway.
//!
//! A loop that leaves a value for another to read writes it once, and it stays in memory until then.
//! Where the other can compute it again, element by element, from as few values as it would read, it
//! is neither written nor kept: of a gated unit's forward pass only the gate and what it gates are
//! kept, and of GELU's only its argument.

use std::collections::HashMap;

use ailora_graph::ir::{Id, Op, Program};

use super::units::{Unit, is_fusible};

/// Adds to the loops of a schedule the nodes that they compute again.
pub(super) fn recompute(program: &Program, schedule: &mut [Unit]) {
    let mut owner: HashMap<Id, usize> = HashMap::new();
    let mut readers: HashMap<Id, Vec<usize>> = HashMap::new();
    for (time, unit) in schedule.iter().enumerate() {
        for id in unit.members() {
            owner.insert(id, time);
            for &arg in &program[id].args {
                readers.entry(arg).or_default().push(time);
            }
        }
    }
    for time in 0..schedule.len() {
        let Unit::Loop(members) = &schedule[time] else {
            continue;
        };
        let shape = program.shape(members[0]);
        let again: Vec<Id> = members
            .iter()
            .copied()
            .filter(|&id| {
                let mut later = readers.get(&id).into_iter().flatten();
                let mut later = later.by_ref().filter(|&&reader| reader != time).peekable();
                later.peek().is_some()
                    && !program.outputs().values().any(|&output| output == id)
                    && later.all(|&reader| {
                        matches!(&schedule[reader], Unit::Loop(others)
                            if program.shape(others[0]) == shape)
                    })
            })
            .collect();
        // What is computed for each, and what is read for all.
        let mut closures: Vec<(Id, Vec<Id>)> = Vec::new();
        let mut read: Vec<Id> = Vec::new();
        for id in again {
            let Some((closure, operands)) = closure(program, members, id) else {
                continue;
            };
            read.extend(
                operands
                    .into_iter()
                    .filter(|&arg| program.shape(arg) == shape),
            );
            closures.push((id, closure));
        }
        read.sort_unstable();
        read.dedup();
        if closures.is_empty() || read.len() > closures.len() {
            continue;
        }
        for (id, closure) in closures {
            let later: Vec<usize> = readers[&id]
                .iter()
                .copied()
                .filter(|&r| r != time)
                .collect();
            for reader in later {
                if let Unit::Loop(members) = &mut schedule[reader] {
                    members.extend(&closure);
                    members.sort_unstable();
                    members.dedup();
                }
            }
        }
    }
}

/// The nodes of a loop that compute `id` from its operands, and those operands; none if one of the
/// nodes needs whole rows.
fn closure(program: &Program, members: &[Id], id: Id) -> Option<(Vec<Id>, Vec<Id>)> {
    let (mut nodes, mut operands) = (Vec::new(), Vec::new());
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        if !members.contains(&id) {
            operands.push(id);
            continue;
        }
        let elementwise = matches!(
            program[id].op,
            Op::Unary(_) | Op::Binary(_) | Op::Dropout(_) | Op::Expand(_)
        );
        if !elementwise || !is_fusible(&program[id].op) {
            return None;
        }
        nodes.push(id);
        stack.extend(&program[id].args);
    }
    nodes.sort_unstable();
    nodes.dedup();
    Some((nodes, operands))
}
