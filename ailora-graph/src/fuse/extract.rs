//! Chooses the cheapest expressions of an e-graph, in which a shared one is paid once.
//!
//! Sharing decides: a wide product pays only when all that it replaces is dropped, so that choosing
//! per class is not enough. Up to a size the choice is an integer program, solved exactly; beyond it,
//! whole groups of classes are switched as long as that makes the whole cheaper.

use std::collections::HashMap;

use egg::Id;
use good_lp::{
    Expression, ProblemVariables, Solution, SolverModel, Variable, constraint, microlp, variable,
};

use super::{cost::Costs, equal::Equal};
use crate::ir::{Node, Op, ops::concat::Concat};

/// Nodes up to which the choice is solved exactly.
const EXACT: usize = 400;

/// How a choice was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As an integer program, solved to the optimum.
    Exact,
    /// By switching groups of classes.
    Climb,
}

/// The chosen node of each class that is needed.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The nodes.
    pub nodes: HashMap<Id, Node>,
    /// The predicted seconds of all of them.
    pub seconds: f64,
    /// How it was made.
    pub method: Method,
}

/// A class and what can compute it.
struct Candidates {
    id: Id,
    nodes: Vec<Node>,
    seconds: Vec<f64>,
    /// For each node, the classes it reads that must be computed too.
    reads: Vec<Vec<usize>>,
}

struct Problem {
    classes: Vec<Candidates>,
    outputs: Vec<usize>,
    /// Pairs of nodes that both want one value computed into their own memory, and what moving it
    /// takes.
    clashes: Vec<([(usize, usize); 2], f64)>,
}

/// The cheapest choice, or nothing if the graph has none without a cycle.
pub fn extract(equal: &Equal, costs: &Costs) -> Option<Choice> {
    let problem = Problem::of(equal, costs);
    let nodes: usize = problem.classes.iter().map(|class| class.nodes.len()).sum();
    let exact = (nodes <= EXACT).then(|| problem.exact()).flatten();
    let (chosen, method) = match exact {
        Some(chosen) => (chosen, Method::Exact),
        None => (problem.climb()?, Method::Climb),
    };
    let used = problem.used(&chosen)?;
    let nodes = used
        .iter()
        .map(|&class| {
            let candidates = &problem.classes[class];
            (candidates.id, candidates.nodes[chosen[class]].clone())
        })
        .collect();
    Some(Choice {
        nodes,
        seconds: problem.seconds(&chosen, &used),
        method,
    })
}

/// The choice by climbing alone.
pub fn climb(equal: &Equal, costs: &Costs) -> Option<f64> {
    let problem = Problem::of(equal, costs);
    let chosen = problem.climb()?;
    let used = problem.used(&chosen)?;
    Some(problem.seconds(&chosen, &used))
}

impl Problem {
    fn of(equal: &Equal, costs: &Costs) -> Self {
        let mut index: HashMap<Id, usize> = HashMap::new();
        let mut classes: Vec<Candidates> = Vec::new();
        let mut order: Vec<Id> = Vec::new();
        let mut intern = |id: Id, order: &mut Vec<Id>| {
            *index.entry(id).or_insert_with(|| {
                order.push(id);
                order.len() - 1
            })
        };
        let outputs = equal
            .outputs
            .iter()
            .map(|&id| intern(equal.graph.find(id), &mut order))
            .collect();
        while classes.len() < order.len() {
            let id = order[classes.len()];
            let mut own = Candidates {
                id,
                nodes: Vec::new(),
                seconds: Vec::new(),
                reads: Vec::new(),
            };
            for node in equal.graph[id].iter() {
                let args: Vec<Id> = node.args.iter().map(|&arg| equal.graph.find(arg)).collect();
                let types: Vec<_> = args.iter().map(|&arg| &equal.graph[arg].data.ty).collect();
                let ty = &equal.graph[id].data.ty;
                own.seconds.push(costs.seconds(&node.op, &types, ty));
                let reads = args
                    .into_iter()
                    .filter_map(|arg| equal.needs(arg))
                    .map(|arg| intern(arg, &mut order));
                own.reads.push(reads.collect());
                own.nodes.push(node.clone());
            }
            classes.push(own);
        }
        let clashes = clashes(&classes, equal, costs);
        Self {
            classes,
            outputs,
            clashes,
        }
    }

    /// What a choice needs, operands first; nothing if it needs itself.
    fn used(&self, chosen: &[usize]) -> Option<Vec<usize>> {
        enum Visit {
            Enter(usize),
            Leave(usize),
        }
        let mut state = vec![0_u8; self.classes.len()];
        let mut used = Vec::new();
        let mut stack: Vec<Visit> = self
            .outputs
            .iter()
            .map(|&class| Visit::Enter(class))
            .collect();
        while let Some(visit) = stack.pop() {
            match visit {
                Visit::Leave(class) => {
                    state[class] = 2;
                    used.push(class);
                }
                Visit::Enter(class) if state[class] == 2 => {}
                Visit::Enter(class) => {
                    if state[class] == 1 {
                        return None;
                    }
                    state[class] = 1;
                    stack.push(Visit::Leave(class));
                    let reads = &self.classes[class].reads[chosen[class]];
                    for &read in reads {
                        match state[read] {
                            0 => stack.push(Visit::Enter(read)),
                            1 => return None,
                            _ => {}
                        }
                    }
                }
            }
        }
        Some(used)
    }

    fn seconds(&self, chosen: &[usize], used: &[usize]) -> f64 {
        let nodes: f64 = used
            .iter()
            .map(|&class| self.classes[class].seconds[chosen[class]])
            .sum();
        let is_chosen =
            |&(class, node): &(usize, usize)| chosen[class] == node && used.contains(&class);
        let moved: f64 = self
            .clashes
            .iter()
            .filter(|(pair, _)| pair.iter().all(is_chosen))
            .map(|(_, seconds)| seconds)
            .sum();
        nodes + moved
    }

    /// The optimum, as an integer program: one variable a node, and each class that is needed has a
    /// node.
    fn exact(&self) -> Option<Vec<usize>> {
        let mut variables = ProblemVariables::new();
        let nodes: Vec<Vec<Variable>> = self
            .classes
            .iter()
            .map(|class| {
                let binary = class
                    .nodes
                    .iter()
                    .map(|_| variables.add(variable().binary()));
                binary.collect()
            })
            .collect();
        // In microseconds, so that the solver's tolerances fit.
        let mut total = Expression::from(0.0);
        for (class, own) in self.classes.iter().zip(&nodes) {
            for (&seconds, &node) in class.seconds.iter().zip(own) {
                total += 1e6 * seconds * node;
            }
        }
        let mut both = Vec::new();
        for (pair, seconds) in &self.clashes {
            let clash = variables.add(variable().min(0.0).max(1.0));
            total += 1e6 * *seconds * clash;
            both.push((pair, clash));
        }
        let mut model = variables.minimise(total).using(microlp);
        let any = |class: usize| nodes[class].iter().sum::<Expression>();
        for &output in &self.outputs {
            model = model.with(constraint!(any(output) >= 1.0));
        }
        for (class, own) in self.classes.iter().zip(&nodes) {
            for (reads, &node) in class.reads.iter().zip(own) {
                for &read in reads {
                    model = model.with(constraint!(any(read) >= node));
                }
            }
        }
        for (pair, clash) in both {
            let [a, b] = pair.map(|(class, node)| nodes[class][node]);
            model = model.with(constraint!(clash >= a + b - 1.0));
        }
        let solution = model.solve().ok()?;
        let largest = |own: &Vec<Variable>| {
            let values = own.iter().map(|&node| solution.value(node));
            let best = values.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            best.map_or(0, |(node, _)| node)
        };
        let chosen: Vec<usize> = nodes.iter().map(largest).collect();
        self.used(&chosen).map(|_| chosen)
    }

    /// From the region's own expressions, switches a class together with every class whose own
    /// expression reads one and the same value, as long as the whole becomes cheaper.
    fn climb(&self) -> Option<Vec<usize>> {
        // The first node of a class may be any of its equals; the one without a cycle and of the
        // least cost alone is where the climb begins.
        let mut chosen: Vec<usize> = self.start()?;
        let mut best = self.seconds(&chosen, &self.used(&chosen)?);
        loop {
            let mut better: Option<(f64, Vec<usize>)> = None;
            let mut try_out = |candidate: Vec<usize>| {
                let Some(used) = self.used(&candidate) else {
                    return;
                };
                let seconds = self.seconds(&candidate, &used);
                let so_far = better.as_ref().map_or(best, |(seconds, _)| *seconds);
                if seconds < so_far * (1.0 - 1e-9) {
                    better = Some((seconds, candidate));
                }
            };
            for (class, own) in self.classes.iter().enumerate() {
                for (node, reads) in own.reads.iter().enumerate() {
                    let mut single = chosen.clone();
                    single[class] = node;
                    try_out(single);
                    // All that can read what this reads does so.
                    for &read in reads {
                        let mut group = chosen.clone();
                        for (other, candidates) in self.classes.iter().enumerate() {
                            let reader = candidates.reads.iter().position(|r| r.contains(&read));
                            if let Some(reader) = reader {
                                group[other] = reader;
                            }
                        }
                        group[class] = node;
                        try_out(group);
                    }
                }
            }
            match better {
                Some((seconds, candidate)) => (best, chosen) = (seconds, candidate),
                None => return Some(chosen),
            }
        }
    }

    /// For each class the node of the cheapest tree.
    fn start(&self) -> Option<Vec<usize>> {
        let mut tree: Vec<Option<(f64, usize)>> = vec![None; self.classes.len()];
        loop {
            let mut changed = false;
            for (class, own) in self.classes.iter().enumerate() {
                for (node, reads) in own.reads.iter().enumerate() {
                    let parts: Option<f64> =
                        reads.iter().map(|&read| tree[read].map(|t| t.0)).sum();
                    let Some(parts) = parts else { continue };
                    // Something for each step, so that no tree costs as much as a part of it.
                    let total = parts + own.seconds[node] + 1e-12;
                    if tree[class].is_none_or(|(known, _)| total < known) {
                        tree[class] = Some((total, node));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        tree.into_iter()
            .map(|best| best.map(|(_, node)| node))
            .collect()
    }
}

/// Concatenations of one value, of which only one can have it in its own memory: neither's operands
/// are a run of the other's.
fn clashes(
    classes: &[Candidates],
    equal: &Equal,
    costs: &Costs,
) -> Vec<([(usize, usize); 2], f64)> {
    let concats: Vec<((usize, usize), Vec<Id>)> = classes
        .iter()
        .enumerate()
        .flat_map(|(class, own)| {
            own.nodes
                .iter()
                .enumerate()
                .filter_map(move |(node, value)| {
                    let is_concat = matches!(value.op, Op::Concat(Concat { axis: 1 }));
                    let args = value.args.iter().map(|&arg| equal.graph.find(arg));
                    is_concat.then(|| ((class, node), args.collect()))
                })
        })
        .collect();
    let mut clashes = Vec::new();
    for (i, (a, a_args)) in concats.iter().enumerate() {
        for (b, b_args) in &concats[..i] {
            let shared = a_args.iter().filter(|arg| b_args.contains(arg));
            let elements: usize = shared.map(|&arg| equal.graph[arg].data.ty.len()).sum();
            let is_run = |long: &[Id], short: &[Id]| long.windows(short.len()).any(|w| w == short);
            if elements > 0 && !is_run(a_args, b_args) && !is_run(b_args, a_args) {
                clashes.push(([*a, *b], 2.0 * costs.element * elements as f64));
            }
        }
    }
    clashes
}
