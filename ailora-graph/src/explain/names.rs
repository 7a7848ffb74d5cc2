//! The model's names of values that a region numbers.

use std::collections::{HashMap, HashSet};

use crate::{
    fuse::region::{Region, rows_of},
    ir::{Id, Name, Op, Program},
    method::FACTORS,
};

/// Names of a region's leaves and outputs, by the names that they have there.
pub struct Names {
    /// What all parameters' names begin with; it is left out of every name.
    pub prefix: String,
    /// Names of leaves. No two are the same.
    pub leaves: HashMap<Name, Name>,
    /// Names of outputs. No two are the same.
    pub outputs: HashMap<Name, Name>,
}

impl Names {
    /// The names of a region of `program`.
    pub fn of(program: &Program, region: &Region) -> Self {
        let values = Values::of(program);
        let parameters = region
            .leaves
            .values()
            .filter_map(|&id| match &program[id].op {
                Op::Frozen(leaf) | Op::Trained(leaf) => Some(parameter(&leaf.name)),
                _ => None,
            });
        let prefix = common_prefix(parameters);
        let named = |local: &HashMap<Name, Id>, name: &dyn Fn(Id) -> String| {
            let own: HashMap<&Name, (String, Id)> = local
                .iter()
                .map(|(local, &id)| (local, (shorten(&name(id), &prefix), id)))
                .collect();
            let is_unique =
                |name: &str| own.values().filter(|(other, _)| other == name).count() < 2;
            own.iter()
                .map(|(local, (name, id))| {
                    let unique = if is_unique(name) {
                        name.clone()
                    } else {
                        format!("{name} %{id}")
                    };
                    ((*local).clone(), unique.into())
                })
                .collect()
        };
        Self {
            leaves: named(&region.leaves, &|id| values.leaf(id)),
            outputs: named(&region.outputs, &|id| values.name(id)),
            prefix,
        }
    }
}

/// A parameter's name as it is shown: what is [hoisted](crate::hoist) has a star for its hash.
pub fn parameter(name: &str) -> String {
    match name.split_once('~') {
        Some((first, _)) => format!("{first}*"),
        None => name.to_owned(),
    }
}

/// A name without the prefix, wherever that stands in it.
pub fn shorten(name: &str, prefix: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        _ => name.replace(&format!("{prefix}."), ""),
    }
}

/// The path of the module that all of the parameters' modules lie in.
fn common_prefix(names: impl Iterator<Item = String>) -> String {
    let mut common: Option<Vec<String>> = None;
    for name in names {
        let module = module(&name);
        let mut path: Vec<&str> = module.split('.').collect();
        // A projection keeps its own name.
        path.pop();
        let path = path.into_iter().map(str::to_owned);
        common = Some(match common {
            None => path.collect(),
            Some(common) => {
                let both = common.into_iter().zip(path);
                both.take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
            }
        });
    }
    common.unwrap_or_default().join(".")
}

/// Whose value each node of a program is.
struct Values<'a> {
    program: &'a Program,
    /// Nodes from here on are of the backward pass.
    backward: Option<Id>,
}

impl<'a> Values<'a> {
    fn of(program: &'a Program) -> Self {
        let loss = program.outputs().get("loss").copied();
        Self {
            program,
            backward: loss,
        }
    }

    fn is_gradient(&self, id: Id) -> bool {
        self.backward.is_some_and(|loss| id > loss)
    }

    /// The name of a value that a region reads.
    fn leaf(&self, id: Id) -> String {
        if !self.is_gradient(id) {
            return self.name(id);
        }
        // The gradient of what the projection gives by whose weight it is multiplied.
        let product = self.products().find(|&(_, left, _)| left == id);
        match product.map(|(_, _, weight)| module(weight)) {
            Some(projection) => format!("grad({projection})"),
            None => format!("%{id}"),
        }
    }

    /// The name of a value.
    fn name(&self, id: Id) -> String {
        let mut outputs = self.program.outputs().iter();
        if let Some((name, _)) = outputs.find(|(_, output)| rows_of(self.program, **output) == id) {
            return name.to_string();
        }
        let name = if self.is_gradient(id) {
            let weight = self.nearest_parameter(id);
            let input = weight.and_then(|weight| {
                let mut products = self.products();
                products.find(|&(id, _, other)| other == weight && !self.is_gradient(id))
            });
            input.map(|(_, input, _)| format!("grad({})", self.name(input)))
        } else {
            match &self.program[id].op {
                Op::Input(leaf) => Some(leaf.name.to_string()),
                Op::Frozen(leaf) | Op::Trained(leaf) => Some(parameter(&leaf.name)),
                _ => self.nearest_parameter(id).map(module),
            }
        };
        name.unwrap_or_else(|| format!("%{id}"))
    }

    /// Products with a parameter: the product, its left side, the parameter's name.
    fn products(&self) -> impl Iterator<Item = (Id, Id, &'a str)> + '_ {
        let program = self.program;
        program.ids().filter_map(move |id| match &program[id].op {
            Op::MatMul(_) => {
                let [left, right] = [0, 1].map(|i| rows_of(program, program[id].args[i]));
                match &program[right].op {
                    Op::Frozen(leaf) | Op::Trained(leaf) => Some((id, left, &*leaf.name)),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// The parameter that the fewest operations lie between, through what works row by row.
    fn nearest_parameter(&self, id: Id) -> Option<&'a str> {
        let mut level = vec![id];
        let mut seen = HashSet::new();
        while !level.is_empty() {
            let mut next = Vec::new();
            for id in level.into_iter().filter(|&id| seen.insert(id)) {
                let node = &self.program[id];
                match &node.op {
                    Op::Frozen(leaf) | Op::Trained(leaf) => return Some(&leaf.name),
                    Op::Reshape(_)
                    | Op::Cast(_)
                    | Op::Expand(_)
                    | Op::Slice(_)
                    | Op::Unary(_)
                    | Op::Binary(_)
                    | Op::MatMul(_)
                    | Op::Dropout(_)
                    | Op::Normalize(_) => next.extend(&node.args),
                    _ => {}
                }
            }
            level = next;
        }
        None
    }
}

/// The module of a parameter; of an adapter's, the projection.
fn module(parameter: &str) -> String {
    let parts: Vec<&str> = parameter.split('.').collect();
    let end = match parts[..] {
        [.., factor, _] if FACTORS.contains(&factor) => parts.len() - 2,
        _ => parts.len() - 1,
    };
    parts[..end.max(1)].join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fuse::region::regions,
        grad::gradients,
        ir::{Type, ops::reduce::Reduce},
    };

    /// A normalised input through two projections, one with an adapter, and their sum's total as
    /// the loss.
    fn program() -> Program {
        let mut p = Program::new();
        let ids = p.input("ids", Type::f32([6, 8])).unwrap();
        let norm = p.trained("model.norm.weight", Type::f32([8])).unwrap();
        let x = p.product(ids, norm).unwrap();
        let matrix = |p: &mut Program, name: &str, shape: [usize; 2], trained: bool| {
            let name = format!("model.layer.0.{name}");
            match trained {
                true => p.trained(&name, Type::f32(shape)).unwrap(),
                false => p.frozen(&name, Type::f32(shape)).unwrap(),
            }
        };
        let weight = matrix(&mut p, "query.weight~0123", [8, 8], false);
        let down = matrix(&mut p, "query.lora_A.weight", [2, 8], true);
        let up = matrix(&mut p, "query.lora_B.weight", [8, 2], true);
        let key = matrix(&mut p, "key.weight", [8, 8], false);
        let base = p.matmul(x, false, weight, true).unwrap();
        let hidden = p.matmul(x, false, down, true).unwrap();
        let added = p.matmul(hidden, false, up, true).unwrap();
        let query = p.sum(base, added).unwrap();
        let key = p.matmul(x, false, key, true).unwrap();
        let scores = p.product(query, key).unwrap();
        let total = p.add(Reduce::sum(vec![0, 1]), &[scores]).unwrap();
        let loss = p.reshape(total, &[]).unwrap();
        p.set_output("loss", loss);
        gradients(&p, "loss").unwrap()
    }

    #[test]
    fn leaves_and_outputs_have_the_models_names() {
        let program = program();
        let regions = regions(&program).unwrap();
        let names = Names::of(&program, &regions[0]);
        assert_eq!(names.prefix, "model.layer.0");
        let sorted = |names: &HashMap<Name, Name>| {
            let mut names: Vec<String> = names.values().map(ToString::to_string).collect();
            names.sort();
            names
        };
        let leaves = [
            "grad(key)",
            "grad(query)",
            "key.weight",
            "model.norm",
            "query.lora_A.weight",
            "query.lora_B.weight",
            "query.weight*",
        ];
        assert_eq!(sorted(&names.leaves), leaves);
        let outputs = [
            "grad(model.norm)",
            "grad.query.lora_A.weight",
            "grad.query.lora_B.weight",
            "key",
            "query",
        ];
        assert_eq!(sorted(&names.outputs), outputs);
    }

    #[test]
    fn what_names_share_is_left_out() {
        let prefix = |names: &[&str]| common_prefix(names.iter().map(ToString::to_string));
        assert_eq!(prefix(&["a.b.c.weight", "a.b.d.weight"]), "a.b");
        assert_eq!(prefix(&["a.b.weight", "a.b.lora_A.weight"]), "a");
        assert_eq!(prefix(&["weight", "a.b.weight"]), "");
        assert_eq!(prefix(&[]), "");
        assert_eq!(shorten("grad.a.b.c.weight", "a.b"), "grad.c.weight");
        assert_eq!(shorten("x", ""), "x");
        assert_eq!(module("a.query.lora_B.weight"), "a.query");
        assert_eq!(module("weight"), "weight");
    }
}
