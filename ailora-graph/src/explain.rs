//! Programs for people: as text, and as a graph in DOT.

use std::fmt::Write;

use crate::{
    adapter::Site,
    ir::{Id, Op, Program},
};

/// The program in Graphviz's DOT language: one box a node, trained parameters marked.
pub fn dot(program: &Program) -> String {
    let mut out = String::from("digraph {\n  rankdir=BT; node [shape=box, fontname=monospace];\n");
    let live = program.live();
    for id in program.ids().filter(|&id| live[usize::from(id)]) {
        let node = &program[id];
        let style = match node.op {
            Op::Trained(_) => ", style=filled, fillcolor=\"#ffd9b3\"",
            Op::Frozen(_) => ", style=filled, fillcolor=\"#d9e8ff\"",
            Op::Input(_) => ", shape=ellipse",
            _ => "",
        };
        let label = format!("{}\\n{}", node.op, program.ty(id)).replace('"', "\\\"");
        let _ = writeln!(out, "  n{id} [label=\"{label}\"{style}];");
        for arg in &node.args {
            let _ = writeln!(out, "  n{arg} -> n{id};");
        }
    }
    for (name, id) in program.outputs() {
        let _ = writeln!(out, "  \"{name}\" [shape=plaintext]; n{id} -> \"{name}\";");
    }
    out.push_str("}\n");
    out
}

/// The part of a program that computes one projection: from its input, as a leaf, to its output
/// before the bias. Works on the program before adaptation and after it.
///
/// Nothing if the program does not read the projection's weight.
pub fn site(program: &Program, site: &Site) -> Option<Program> {
    let reads = |names: &[String]| {
        program.depends_on(|op| match op {
            Op::Frozen(leaf) | Op::Trained(leaf) => names.iter().any(|name| *name == *leaf.name),
            _ => false,
        })
    };
    let weight = reads(std::slice::from_ref(&site.weight));
    let adapter = reads(&[site.lora_b()]);
    let adapted = adapter.contains(&true);
    // The first product with the weight of something that varies, or, adapted, the first node that
    // joins it with the trained part.
    let varies = program.depends_on(|op| matches!(op, Op::Input(_) | Op::Trained(_)));
    let end = program.ids().find(|&id| {
        let i = usize::from(id);
        let joins = if adapted { adapter[i] } else { true };
        weight[i] && varies[i] && joins
    })?;
    let mut cut = Program::new();
    let image = copy(program, end, &varies, &mut cut, 0)?;
    cut.set_output(site.path.as_str(), image);
    Some(cut)
}

/// Copies what computes `id`, with activations other than those of a low-rank path as inputs.
fn copy(program: &Program, id: Id, varies: &[bool], cut: &mut Program, depth: usize) -> Option<Id> {
    // Sum, up, scale, down: nothing of a projection lies deeper than its input.
    const DEEPEST: usize = 4;
    let node = &program[id];
    let reads_trained = node.args.iter().any(|&arg| {
        let leaf = matches!(
            program[arg].op,
            Op::Trained(_) | Op::Frozen(_) | Op::Const(_)
        );
        leaf || !varies[usize::from(arg)]
    });
    let part = depth == 0 || !varies[usize::from(id)] || (reads_trained && depth < DEEPEST);
    if !node.args.is_empty() && !part {
        return cut.input(&format!("%{id}"), program.ty(id).clone()).ok();
    }
    let args: Option<Vec<Id>> = node
        .args
        .iter()
        .map(|&arg| copy(program, arg, varies, cut, depth + 1))
        .collect();
    cut.add(node.op.clone(), &args?).ok()
}
