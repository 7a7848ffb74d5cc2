//! Rewrites a pretrained program: each projection as its adapter says.

mod distribute;

pub use crate::adapter::Mode;
pub use distribute::distribute;

use std::collections::{HashMap, HashSet};

use thiserror::Error;

use crate::{
    adapter::{Adapter, Layout, Operands, Projected, Site, Strategy, Trainable, as_rows},
    grad::gradient_name,
    ir::{
        Id, Leaf, Op, Program, ProgramError,
        ops::{elementwise::Binary, matmul::MatMul},
    },
};

/// Adapters that a program cannot take.
#[derive(Debug, Error)]
pub enum AdaptError {
    /// A projection whose weight the program does not read.
    #[error(
        "{site}: its weight `{weight}` is not used by the program; is the projection's output \
         part of the outputs?"
    )]
    Unused {
        /// Module path of the projection.
        site: String,
        /// The parameter.
        weight: String,
    },
    /// An adapter of the output, where the program reads the product without its bias.
    #[error(
        "{site}: `{adapter}` works on the output with its bias `{bias}`, but the program reads the \
         product before that is added; choose another adapter for it"
    )]
    BeforeBias {
        /// Module path of the projection.
        site: String,
        /// The adapter.
        adapter: &'static str,
        /// The bias.
        bias: String,
    },
    /// A weight that is used otherwise too, and an adapter that comes to no weight.
    #[error(
        "{site}: its weight `{weight}` is used by more than the projection, so that it would have to \
         be merged with the adapter, and `{adapter}` has no merged weight; choose another adapter \
         for it"
    )]
    NotMergeable {
        /// Module path of the projection.
        site: String,
        /// The parameter.
        weight: String,
        /// The adapter.
        adapter: &'static str,
    },
    /// An expression whose types do not fit.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// Replaces each projection that `sites` adapts, and lets the parameters train that `trainable` and
/// the sites' strategies name; with [`Trainable::All`] every parameter trains, and nothing is
/// replaced. `mode` says what the adapters' dropout does.
///
/// At the start of training the result computes what `program` does, whatever the scale.
///
/// # Errors
/// An adapted projection that the program does not use, or uses as its adapter does not allow.
pub fn adapt(
    program: &Program,
    sites: &[Site],
    trainable: &Trainable,
    mode: Mode,
) -> Result<Program, AdaptError> {
    let parameters: Vec<&str> = program
        .frozen_parameters()
        .map(|leaf| &*leaf.name)
        .collect();
    for site in sites.iter().filter(|site| site.spec.trains()) {
        if !parameters.contains(&site.weight.as_str()) {
            return Err(AdaptError::Unused {
                site: site.path.clone(),
                weight: site.weight.clone(),
            });
        }
    }
    let mut adapting = Adapting::new(program, sites, trainable, mode);
    program.rewrite(|new, id, node, args| match &node.op {
        Op::MatMul(product) => adapting.product(new, id, *product, args),
        Op::Binary(Binary::Add) => adapting.sum(new, id, args),
        Op::Frozen(leaf) => adapting.weight(new, id, leaf),
        op => Ok(new.add(op.clone(), args)?),
    })
}

/// Gives each gradient among a step's outputs the form in which its adapter wants it
/// ([`Adapter::gradient`]).
///
/// # Errors
/// An expression whose types do not fit.
pub fn shape_gradients(step: &mut Program, sites: &[Site]) -> Result<(), ProgramError> {
    for site in sites {
        let Strategy::Adapted(adapter) = site.spec.strategy else {
            continue;
        };
        for parameter in site.parameters(sites).iter().filter(|own| own.trains) {
            let name = gradient_name(&parameter.name);
            let Some(&gradient) = step.outputs().get(&*name) else {
                continue;
            };
            let mut projected = Projected {
                program: step,
                site,
                sites,
            };
            let shaped = adapter.gradient(&mut projected, parameter, gradient)?;
            step.set_output(name, shaped);
        }
    }
    Ok(())
}

/// A site and its adapter.
type Adapted<'a> = (&'a Site, &'static dyn Adapter);

/// A program on its way to an adapted one.
struct Adapting<'a> {
    program: &'a Program,
    sites: &'a [Site],
    trainable: &'a Trainable,
    mode: Mode,
    /// By weight.
    adapted: HashMap<&'a str, Adapted<'a>>,
    /// Projections that stay as they are, by weight.
    frozen: HashMap<&'a str, &'a Site>,
    /// Parameters of projections that train themselves.
    full: Vec<&'a str>,
    /// Where the bias is added to the product of an adapted projection that nothing else reads: the
    /// product and the bias, by sum.
    sums: HashMap<Id, [Id; 2]>,
    /// Those products.
    summed: HashSet<Id>,
    /// The adapted weights that more than products with them read.
    shared: HashSet<Id>,
    /// What the new products read, by product.
    operands: HashMap<Id, Operands>,
}

impl<'a> Adapting<'a> {
    fn new(program: &'a Program, sites: &'a [Site], trainable: &'a Trainable, mode: Mode) -> Self {
        let mut adapting = Self {
            program,
            sites,
            trainable,
            mode,
            adapted: HashMap::new(),
            frozen: HashMap::new(),
            full: Vec::new(),
            sums: HashMap::new(),
            summed: HashSet::new(),
            shared: HashSet::new(),
            operands: HashMap::new(),
        };
        for site in sites {
            match site.spec.strategy {
                Strategy::Full => adapting
                    .full
                    .extend(std::iter::once(&*site.weight).chain(site.bias.as_deref())),
                _ if *trainable == Trainable::All => {}
                Strategy::Adapted(adapter) => {
                    adapting.adapted.insert(&site.weight, (site, adapter));
                }
                Strategy::Frozen if !trainable.names(&site.weight) => {
                    adapting.frozen.insert(&site.weight, site);
                }
                Strategy::Frozen => {}
            }
        }
        // Beside adapters, frozen weights lie as theirs do, so that they can be fused.
        if adapting.adapted.is_empty() {
            adapting.frozen.clear();
        }
        adapting.find_readers();
        adapting
    }

    /// The adapter of a product with a projection's weight.
    fn adapter_of(&self, id: Id) -> Option<Adapted<'a>> {
        let node = &self.program[id];
        match (&node.op, &node.args[..]) {
            (Op::MatMul(product), &[_, weight]) => match &self.program[weight].op {
                Op::Frozen(leaf) => {
                    let adapted = self.adapted.get(&*leaf.name).copied();
                    adapted.filter(|(site, _)| is_projection(*product, site))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Finds where the biases of adapted projections are added, and what else reads their weights.
    fn find_readers(&mut self) {
        let program = self.program;
        let mut readers: HashMap<Id, usize> = HashMap::new();
        for id in program.ids() {
            let product = self.adapter_of(id).is_some();
            for (i, &arg) in program[id].args.iter().enumerate() {
                *readers.entry(arg).or_default() += 1;
                if !(product && i == 1) {
                    self.shared.insert(arg);
                }
            }
        }
        for &id in program.outputs().values() {
            *readers.entry(id).or_default() += 1;
            self.shared.insert(id);
        }
        for id in program.ids() {
            let (Op::Binary(Binary::Add), &[a, b]) = (&program[id].op, &program[id].args[..])
            else {
                continue;
            };
            for (product, bias) in [(a, b), (b, a)] {
                let Some((site, _)) = self.adapter_of(product) else {
                    continue;
                };
                let leaf = &program[program.source(bias)].op;
                let own =
                    matches!(leaf, Op::Frozen(leaf) if site.bias.as_deref() == Some(&*leaf.name));
                if own && readers.get(&product) == Some(&1) {
                    self.sums.insert(id, [product, bias]);
                    self.summed.insert(product);
                }
            }
        }
    }

    /// What a parameter becomes.
    fn weight(&self, new: &mut Program, id: Id, leaf: &Leaf) -> Result<Id, AdaptError> {
        if self.full.contains(&&*leaf.name) || self.trainable.names(&leaf.name) {
            return Ok(new.trained(&leaf.name, leaf.ty.clone())?);
        }
        let weight = new.frozen(&leaf.name, leaf.ty.clone())?;
        let Some(&(site, adapter)) = self.adapted.get(&*leaf.name) else {
            return Ok(weight);
        };
        // Any use but the projection's, as in tied embeddings, sees the merged weight.
        let merged = adapter.merged(&mut self.projected(new, site), weight, None)?;
        match merged {
            Some(merged) => Ok(merged.weight),
            None if !self.shared.contains(&id) => Ok(weight),
            None => Err(AdaptError::NotMergeable {
                site: site.path.clone(),
                weight: site.weight.clone(),
                adapter: adapter.name(),
            }),
        }
    }

    fn projected<'p>(&'p self, program: &'p mut Program, site: &'p Site) -> Projected<'p> {
        Projected {
            program,
            site,
            sites: self.sites,
        }
    }

    /// What a product becomes.
    fn product(
        &mut self,
        new: &mut Program,
        id: Id,
        product: MatMul,
        args: &[Id],
    ) -> Result<Id, AdaptError> {
        let Some((site, adapter)) = self.adapter_of(id) else {
            let weight = &self.program[self.program[id].args[1]].op;
            let frozen = match weight {
                Op::Frozen(leaf) => self.frozen.get(&*leaf.name),
                _ => None,
            };
            if frozen.is_some_and(|site| is_projection(product, site)) {
                let weight = as_rows(new, product, args[1])?;
                return Ok(new.matmul(args[0], false, weight, true)?);
            }
            return Ok(new.add(product, args)?);
        };
        let ty = self.program.ty(self.program[id].args[1]).clone();
        let weight = new.frozen(&site.weight, ty)?;
        let operands = Operands {
            input: args[0],
            weight: as_rows(new, product, weight)?,
            bias: None,
            mode: self.mode,
        };
        self.operands.insert(id, operands);
        let mut projected = self.projected(new, site);
        let y = adapter.product(&mut projected, operands)?;
        if self.summed.contains(&id) {
            return Ok(y);
        }
        let output = adapter.output(&mut projected, operands, y)?;
        match &site.bias {
            Some(bias) if output != y => Err(AdaptError::BeforeBias {
                site: site.path.clone(),
                adapter: adapter.name(),
                bias: bias.clone(),
            }),
            _ => Ok(output),
        }
    }

    /// What a sum becomes, such as that of a product and its bias.
    fn sum(&self, new: &mut Program, id: Id, args: &[Id]) -> Result<Id, AdaptError> {
        let sum = new.add(Binary::Add, args)?;
        let Some([product, bias]) = self.sums.get(&id) else {
            return Ok(sum);
        };
        let adapted = self.adapter_of(*product).zip(self.operands.get(product));
        let Some(((site, adapter), &operands)) = adapted else {
            return Ok(sum);
        };
        let bias = self.program[id].args.iter().position(|arg| arg == bias);
        let operands = Operands {
            bias: bias.map(|bias| args[bias]),
            ..operands
        };
        Ok(adapter.output(&mut self.projected(new, site), operands, sum)?)
    }
}

/// Whether a product with the site's weight on its right is `x W^T`, as the papers write `W`.
fn is_projection(product: MatMul, site: &Site) -> bool {
    !product.trans_a && product.trans_b == (site.layout == Layout::OutIn)
}
