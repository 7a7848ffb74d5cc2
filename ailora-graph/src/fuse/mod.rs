//! Fusion: the matrix products of adapted projections become few and wide.
//!
//! [`fuse()`] cuts a program into linear [regions](region), writes each as an [e-graph](equal),
//! adds by [rules] what its expressions equal, and [takes](extract) what is cheapest on a
//! device. Equal regions of different layers are solved once. Parameters whose concatenations the
//! result reads lie together in [packs](layout).

mod align;
pub mod cost;
pub mod equal;
pub mod extract;
pub mod layout;
pub mod region;
pub mod rules;
mod splice;

use std::collections::HashMap;

use crate::ir::{Id, Name, Node, Op, Program, ProgramError};
use cost::Costs;
use equal::Equal;
use extract::Method;
use layout::{Block, Layout, Pack};
use region::{Region, regions};
use rules::RULES;
use splice::{Interrupt, Splice};

/// Rounds of all rules, and nodes, after which no more is looked for.
const ROUNDS: usize = 8;
const NODES: usize = 4000;

/// Why the rules were not applied again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nothing new follows from them.
    Saturated,
    /// The most rounds were made.
    Rounds,
    /// The most nodes were reached.
    Nodes,
}

/// What was done with a region.
#[derive(Clone, Debug)]
pub struct Report {
    /// The region.
    pub before: Program,
    /// What it became, over the packs of [`layout`](Self::layout).
    pub after: Program,
    /// Where its parameters lie.
    pub layout: Layout,
    /// Why the search ended.
    pub stop: Stop,
    /// Classes and nodes of the e-graph.
    pub size: [usize; 2],
    /// How often each rule found something new.
    pub found: Vec<(&'static str, usize)>,
    /// How the cheapest form was chosen.
    pub method: Method,
    /// Predicted seconds before and after.
    pub seconds: [f64; 2],
    /// How many regions of the program are like it.
    pub count: usize,
}

/// A fused program.
#[derive(Clone, Debug)]
pub struct Fused {
    /// The program, in which packs are parameters.
    pub program: Program,
    /// What is packed: the packs that were given, and those that this program adds.
    pub packs: Vec<Pack>,
    /// Each distinct region.
    pub reports: Vec<Report>,
    /// Each region, and which of the reports is of it.
    pub regions: Vec<(Region, usize)>,
}

/// Fuses a program's matrix products. `packs` are those in which parameters lie already, and
/// `is_free` says which of the other parameters may be packed.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn fuse(
    program: &Program,
    costs: &Costs,
    packs: &[Pack],
    is_free: impl Fn(&str) -> bool,
) -> Result<Fused, ProgramError> {
    let regions = regions(program)?;
    let mut fusion = Fusion {
        outer: program,
        solved: Vec::new(),
        packs: packs.to_vec(),
    };
    let mut replacements: Vec<(Region, usize)> = Vec::new();
    for region in regions {
        let solved = fusion.solve(&region, costs, &is_free)?;
        fusion.pack(&region, solved);
        replacements.push((region, solved));
    }
    let program = fusion.splice(&replacements)?;
    Ok(Fused {
        program,
        packs: fusion.packs,
        reports: fusion
            .solved
            .into_iter()
            .map(|(_, report)| report)
            .collect(),
        regions: replacements,
    })
}

/// A program that reads parameters in the packs in which they lie.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn placed(program: &Program, packs: &[Pack]) -> Result<Program, ProgramError> {
    program.rewrite(|new, _, node, args| match &node.op {
        Op::Frozen(leaf) | Op::Trained(leaf) => parameter(new, packs, &leaf.name, node),
        op => new.add(op.clone(), args),
    })
}

/// A parameter, wherever it lies.
fn parameter(
    program: &mut Program,
    packs: &[Pack],
    name: &str,
    node: &Node,
) -> Result<Id, ProgramError> {
    let packed = packs.iter().find_map(|pack| {
        let part = pack.parts.iter().find(|part| *part.parameter == *name)?;
        Some((pack, part))
    });
    match packed {
        Some((pack, part)) => {
            let whole = program.frozen(&pack.name, pack.ty())?;
            part_of(program, whole, part.at, part.shape)
        }
        None => program.add(node.op.clone(), &[]),
    }
}

/// Solves one region.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn solve(region: &Program, layout: Layout, costs: &Costs) -> Result<Report, ProgramError> {
    let mut equal = Equal::new(region, layout.clone());
    equal.merges = costs.merges;
    let before = extract::extract(&equal, costs);
    let stop = saturate(&mut equal);
    let chosen = extract::extract(&equal, costs);
    let size = [
        equal.graph.number_of_classes(),
        equal.graph.total_number_of_nodes(),
    ];
    let (after, method, seconds) = match &chosen {
        Some(choice) => {
            let mut program = rebuild(region, &equal, choice, &layout)?;
            if costs.vector > 1 {
                program = align::align(&program, &layout, costs.vector)?;
            }
            (program, choice.method, choice.seconds)
        }
        None => (region.clone(), Method::Climb, f64::NAN),
    };
    Ok(Report {
        before: region.clone(),
        after,
        layout,
        stop,
        size,
        found: equal.found,
        method,
        seconds: [before.map_or(f64::NAN, |choice| choice.seconds), seconds],
        count: 0,
    })
}

/// Applies the rules until nothing new follows.
pub fn saturate(equal: &mut Equal) -> Stop {
    equal.found = RULES.iter().map(|rule| (rule.name, 0)).collect();
    for _ in 0..ROUNDS {
        let mut new = 0;
        for (i, rule) in RULES.iter().enumerate() {
            let found = (rule.apply)(equal);
            equal.graph.rebuild();
            equal.found[i].1 += found;
            new += found;
        }
        if new == 0 {
            return Stop::Saturated;
        }
        if equal.graph.total_number_of_nodes() > NODES {
            return Stop::Nodes;
        }
    }
    Stop::Rounds
}

/// The chosen expressions as a program in which every right side is a block of a pack.
fn rebuild(
    region: &Program,
    equal: &Equal,
    choice: &extract::Choice,
    layout: &Layout,
) -> Result<Program, ProgramError> {
    struct Rebuild<'a> {
        equal: &'a Equal,
        choice: &'a extract::Choice,
        layout: &'a Layout,
        program: Program,
        images: HashMap<Id, Id>,
    }
    impl Rebuild<'_> {
        fn image(&mut self, id: Id) -> Result<Id, ProgramError> {
            let id = self.equal.graph.find(id);
            if let Some(&image) = self.images.get(&id) {
                return Ok(image);
            }
            let image = match (self.equal.block(id), self.choice.nodes.get(&id)) {
                (Some(block), _) if block.of.merged => {
                    let whole = self.merged(id)?;
                    part_of(&mut self.program, whole, block.at, block.shape)?
                }
                (Some(block), _) => block_of(&mut self.program, self.layout, &block)?,
                (None, Some(node)) => {
                    let args: Result<Vec<Id>, _> =
                        node.args.iter().map(|&arg| self.image(arg)).collect();
                    self.program.add(node.op.clone(), &args?)?
                }
                (None, None) => unreachable!("a choice holds all that it needs"),
            };
            self.images.insert(id, image);
            Ok(image)
        }

        /// The merged pack that a class is a part of.
        fn merged(&mut self, part: Id) -> Result<Id, ProgramError> {
            let chosen = self
                .equal
                .needs(part)
                .and_then(|id| self.choice.nodes.get(&id));
            let Some(node) = chosen else {
                unreachable!("a choice holds all that it needs")
            };
            let pack = self.image(node.args[0])?;
            self.program.add(node.op.clone(), &[pack])
        }
    }
    let mut rebuild = Rebuild {
        equal,
        choice,
        layout,
        program: Program::new(),
        images: HashMap::new(),
    };
    for (name, &id) in region.outputs().keys().zip(&equal.outputs) {
        let image = rebuild.image(id)?;
        rebuild.program.set_output(name.clone(), image);
    }
    Ok(rebuild.program)
}

/// A block of a pack as it lies in memory.
fn block_of(program: &mut Program, layout: &Layout, block: &Block) -> Result<Id, ProgramError> {
    let pack = layout.pack_of(block);
    let whole = program.frozen(&pack.name, pack.ty())?;
    part_of(program, whole, block.at, block.shape)
}

/// The rectangle of `shape` at `at` of a matrix.
fn part_of(
    program: &mut Program,
    mut id: Id,
    at: [usize; 2],
    shape: [usize; 2],
) -> Result<Id, ProgramError> {
    for axis in 0..2 {
        id = program.slice(id, axis, at[axis], at[axis] + shape[axis])?;
    }
    Ok(id)
}

struct Fusion<'a> {
    outer: &'a Program,
    solved: Vec<(String, Report)>,
    packs: Vec<Pack>,
}

impl Fusion<'_> {
    /// The index of the solution of a region, found once for all that are like it.
    fn solve(
        &mut self,
        region: &Region,
        costs: &Costs,
        is_free: &impl Fn(&str) -> bool,
    ) -> Result<usize, ProgramError> {
        let name = |leaf: &Name| self.parameter(region, leaf);
        let given: HashMap<Name, (Pack, [usize; 2])> = region
            .leaves
            .keys()
            .filter_map(|leaf| {
                let own = name(leaf)?;
                let (pack, part) = self.packs.iter().find_map(|pack| {
                    let part = pack.parts.iter().find(|part| part.parameter == own)?;
                    Some((pack, part))
                })?;
                Some((leaf.clone(), (pack.clone(), part.at)))
            })
            .collect();
        let free: Vec<Name> = region
            .leaves
            .keys()
            .filter(|leaf| name(leaf).is_some_and(|name| is_free(&name)))
            .cloned()
            .collect();
        let layout = if given.is_empty() {
            Layout::of(&region.program, |leaf| {
                free.iter().any(|free| **free == *leaf)
            })
        } else {
            Layout::given(&region.program, &localise(&region.program, &given))
        };
        let key = format!("{}\n{:?}", region.program, layout.packs);
        if let Some(i) = self.solved.iter().position(|(known, _)| *known == key) {
            self.solved[i].1.count += 1;
            return Ok(i);
        }
        let mut report = solve(&region.program, layout, costs)?;
        report.count = 1;
        self.solved.push((key, report));
        Ok(self.solved.len() - 1)
    }

    /// The parameter that a leaf of a region stands for.
    fn parameter(&self, region: &Region, leaf: &Name) -> Option<Name> {
        match &self.outer[*region.leaves.get(leaf)?].op {
            Op::Frozen(leaf) | Op::Trained(leaf) if leaf.ty.rank() == 2 => Some(leaf.name.clone()),
            _ => None,
        }
    }

    /// Notes the packs of a region's solution that hold several parameters.
    fn pack(&mut self, region: &Region, solved: usize) {
        let used = &self.solved[solved].1.after;
        let packs: Vec<Pack> = self.solved[solved]
            .1
            .layout
            .packs
            .iter()
            .filter(|pack| pack.parts.len() > 1)
            .filter(|pack| used.frozen_parameters().any(|leaf| leaf.name == pack.name))
            .filter_map(|pack| self.globalise(region, pack))
            .collect();
        for pack in packs {
            if !self.packs.iter().any(|known| known.name == pack.name) {
                self.packs.push(pack);
            }
        }
    }

    /// A region's pack with the program's names.
    fn globalise(&self, region: &Region, pack: &Pack) -> Option<Pack> {
        let mut own = pack.clone();
        for part in &mut own.parts {
            part.parameter = self.parameter(region, &part.parameter)?;
        }
        let first = own.parts.first()?;
        own.name = format!("pack:{}", first.parameter).into();
        Some(own)
    }

    /// The program with each region replaced by its solution, where that waits for nothing that
    /// waits for it.
    fn splice(&self, replacements: &[(Region, usize)]) -> Result<Program, ProgramError> {
        let mut skipped = vec![false; replacements.len()];
        loop {
            let mut splice = Splice::new(self, replacements, &skipped);
            match splice.run() {
                Ok(()) => return Ok(splice.program),
                Err(Interrupt::Error(error)) => return Err(error),
                Err(Interrupt::Cycle(region)) => skipped[region] = true,
            }
        }
    }
}

/// Local names for packs whose parameters have names of the program.
fn localise(
    region: &Program,
    given: &HashMap<Name, (Pack, [usize; 2])>,
) -> HashMap<Name, (Pack, [usize; 2])> {
    // Regions that lie alike are alike: packs are named by their first leaf here.
    let mut names: HashMap<Name, Name> = HashMap::new();
    for leaf in region
        .frozen_parameters()
        .chain(region.trained_parameters())
    {
        if let Some((pack, _)) = given.get(&leaf.name) {
            let local: Name = format!("pack:{}", leaf.name).into();
            names.entry(pack.name.clone()).or_insert(local);
        }
    }
    let mut local = given.clone();
    for (pack, _) in local.values_mut() {
        if let Some(name) = names.get(&pack.name) {
            pack.name = name.clone();
        }
        for (i, part) in pack.parts.iter_mut().enumerate() {
            part.parameter = format!("part{i}").into();
        }
    }
    local
}
