//! What fusion does with a projection, for people: as text, as a graph in DOT, and drawn.

mod dot;
mod form;
mod layers;
mod names;
mod svg;
mod text;

use std::collections::HashMap;

use crate::{
    adapter::Site,
    fuse::{Fused, Report, layout::Pack, region::Region},
    ir::{Name, Op, Program, ProgramError},
};
use form::Form;
use names::Names;

pub use form::Work;

/// What fusion did with the linear region of a projection, under the model's names.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What all parameters' names begin with; names are given without it.
    pub prefix: String,
    /// The report, whose two programs have the model's names.
    pub report: Report,
    /// Where the parameters lie that are packed.
    pub packs: Vec<Pack>,
}

/// What [fusion](crate::fuse) did with the region in which a program computes a projection's output:
/// `program` is what was fused, and `fused` what it became.
///
/// Nothing if the program does not read the projection's adapter.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn explain(
    program: &Program,
    fused: &Fused,
    site: &Site,
) -> Result<Option<Explained>, ProgramError> {
    let Some(up) = site.trained().pop() else {
        return Ok(None);
    };
    let reads = |region: &Region| {
        let mut leaves = region.leaves.values();
        leaves.any(|&id| matches!(&program[id].op, Op::Trained(leaf) if *leaf.name == *up))
    };
    // The forward pass comes first.
    let Some((region, report)) = fused.regions.iter().find(|(region, _)| reads(region)) else {
        return Ok(None);
    };
    let names = Names::of(program, region);
    let mut report = fused.reports[*report].clone();
    let mut leaves = names.leaves;
    let mut packs: Vec<Pack> = Vec::new();
    for (i, local) in report.layout.packs.iter().enumerate() {
        // Any leaf of a pack tells which pack of the program it is.
        let lies_here = |leaf: &&Name| {
            let block = report.layout.block(leaf, [0, 0]);
            block.is_some_and(|block| block.of.pack == i)
        };
        let pack = region.leaves.keys().find(lies_here).and_then(|leaf| {
            let id = region.leaves[leaf];
            let (Op::Frozen(leaf) | Op::Trained(leaf)) = &program[id].op else {
                return None;
            };
            let holds = |pack: &&Pack| pack.parts.iter().any(|part| part.parameter == leaf.name);
            fused.packs.iter().find(holds)
        });
        if let Some(pack) = pack {
            let mut own = pack.clone();
            own.name = format!("pack{}", packs.len() + 1).into();
            for part in &mut own.parts {
                let name = names::parameter(&part.parameter);
                part.parameter = names::shorten(&name, &names.prefix).into();
            }
            leaves.insert(local.name.clone(), own.name.clone());
            packs.push(own);
        }
    }
    if let [only] = &mut packs[..] {
        only.name = "pack".into();
        leaves
            .values_mut()
            .filter(|name| ***name == *"pack1")
            .for_each(|name| *name = "pack".into());
    }
    report.before = renamed(&report.before, &leaves, &names.outputs)?;
    report.after = renamed(&report.after, &leaves, &names.outputs)?;
    Ok(Some(Explained {
        prefix: names.prefix,
        report,
        packs,
    }))
}

/// A program with other names for its leaves and outputs.
fn renamed(
    program: &Program,
    leaves: &HashMap<Name, Name>,
    outputs: &HashMap<Name, Name>,
) -> Result<Program, ProgramError> {
    let own = |names: &HashMap<Name, Name>, name: &Name| names.get(name).unwrap_or(name).clone();
    let mut new = program.rewrite(|new, _, node, args| match &node.op {
        Op::Input(leaf) => new.input(&own(leaves, &leaf.name), leaf.ty.clone()),
        Op::Frozen(leaf) => new.frozen(&own(leaves, &leaf.name), leaf.ty.clone()),
        Op::Trained(leaf) => new.trained(&own(leaves, &leaf.name), leaf.ty.clone()),
        op => new.add(op.clone(), args),
    })?;
    let named: Vec<_> = new
        .outputs()
        .iter()
        .map(|(name, &id)| (own(outputs, name), id))
        .collect();
    new.clear_outputs();
    for (name, id) in named {
        new.set_output(name, id);
    }
    Ok(new)
}

impl Explained {
    /// The region as the program says it, and as it is computed.
    fn forms(&self) -> [Form; 2] {
        let [before, after] = [&self.report.before, &self.report.after];
        [
            Form::of("unfused", before, self.report.seconds[0], self),
            Form::of("fused", after, self.report.seconds[1], self),
        ]
    }
}
