//! Rewrites a pretrained program: each projection as its adapter says.

mod distribute;
mod hook;

pub use crate::adapter::Mode;
pub use distribute::distribute;

use std::collections::{HashMap, HashSet};

use thiserror::Error;

use crate::{
    adapter::{Adapter, Layout, Operands, Projected, Site, Strategy, Trainable, as_rows},
    grad::gradient_name,
    ir::{Id, Leaf, Op, Program, ProgramError, ops::matmul::MatMul},
};
use hook::{Hook, Readers};

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
    /// An adapter of a block's output, where no residual is added to the projection's.
    #[error(
        "{site}: `{adapter}` goes between a block's output and its residual, but nothing is added to the \
         output of this projection alone; choose the last projection of a block, or another adapter"
    )]
    NoResidual {
        /// Module path of the projection.
        site: String,
        /// The adapter.
        adapter: &'static str,
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
/// At the start of training the result computes what `program` does, whatever the scale, or nearly: see
/// [`Adapter`].
///
/// # Errors
/// An adapted projection that the program does not use, or uses as its adapter does not allow.
pub fn adapt(
    program: &Program,
    sites: &[Site],
    trainable: &Trainable,
    mode: Mode,
) -> Result<Program, AdaptError> {
    adapt_part(program, sites, sites, trainable, mode)
}

/// As [`adapt`], of a part of a model, in which `sites` are: what they share is as large as it is in `all`
/// of the model.
///
/// # Errors
/// As [`adapt`].
pub fn adapt_part(
    program: &Program,
    sites: &[Site],
    all: &[Site],
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
    let mut adapting = Adapting::new(program, sites, all, trainable, mode)?;
    program.rewrite(|new, id, node, args| {
        let value = match &node.op {
            Op::MatMul(product) => adapting.product(new, id, *product, args)?,
            Op::Frozen(leaf) => adapting.weight(new, id, leaf)?,
            op => new.add(op.clone(), args)?,
        };
        match adapting.hooks.get(&id) {
            Some(&hook) => adapting.output(new, hook, value, args),
            None => Ok(value),
        }
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
    all: &'a [Site],
    trainable: &'a Trainable,
    mode: Mode,
    /// By weight.
    adapted: HashMap<&'a str, Adapted<'a>>,
    /// Projections that stay as they are, by weight.
    frozen: HashMap<&'a str, &'a Site>,
    /// Parameters of projections that train themselves.
    full: Vec<&'a str>,
    /// Where adapters change outputs.
    hooks: HashMap<Id, Hook>,
    /// The adapted weights that more than products with them read.
    shared: HashSet<Id>,
    /// What the new products read, by product.
    operands: HashMap<Id, Operands>,
}

impl<'a> Adapting<'a> {
    fn new(
        program: &'a Program,
        sites: &'a [Site],
        all: &'a [Site],
        trainable: &'a Trainable,
        mode: Mode,
    ) -> Result<Self, AdaptError> {
        let mut adapting = Self {
            program,
            all,
            trainable,
            mode,
            adapted: HashMap::new(),
            frozen: HashMap::new(),
            full: Vec::new(),
            hooks: HashMap::new(),
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
        adapting.find_shared();
        adapting.find_hooks()?;
        Ok(adapting)
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

    /// Finds what reads adapted weights beside their products.
    fn find_shared(&mut self) {
        let program = self.program;
        for id in program.ids() {
            let product = self.adapter_of(id).is_some();
            let args = program[id].args.iter().enumerate();
            let others = args.filter(|(i, _)| !(product && *i == 1));
            self.shared.extend(others.map(|(_, &arg)| arg));
        }
        self.shared.extend(program.outputs().values());
    }

    /// Finds where adapters change outputs.
    fn find_hooks(&mut self) -> Result<(), AdaptError> {
        let readers = Readers::new(self.program);
        let live = self.program.live();
        for product in self.program.ids().filter(|&id| live[usize::from(id)]) {
            let Some((site, adapter)) = self.adapter_of(product) else {
                continue;
            };
            let hook = readers.hook(product, site.bias.as_deref(), adapter.place());
            // A sum of two such outputs is no residual's.
            let free = hook.filter(|(at, _)| !self.hooks.contains_key(at));
            let (at, hook) = free.ok_or_else(|| AdaptError::NoResidual {
                site: site.path.clone(),
                adapter: adapter.name(),
            })?;
            self.hooks.insert(at, hook);
        }
        Ok(())
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
            sites: self.all,
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
            block: None,
            mode: self.mode,
        };
        self.operands.insert(id, operands);
        Ok(adapter.product(&mut self.projected(new, site), operands)?)
    }

    /// What becomes of `value` where the output of a product is changed; `args` are its arguments.
    fn output(
        &self,
        new: &mut Program,
        hook: Hook,
        value: Id,
        args: &[Id],
    ) -> Result<Id, AdaptError> {
        let adapted = self.adapter_of(hook.product);
        let Some(((site, adapter), &operands)) = adapted.zip(self.operands.get(&hook.product))
        else {
            return Ok(value);
        };
        let bias = hook.bias.map(|bias| self.copied(new, bias, None));
        let mut operands = Operands {
            bias: bias.transpose()?,
            ..operands
        };
        let Some(residual) = hook.residual else {
            let output = adapter.output(&mut self.projected(new, site), operands, value)?;
            return match &site.bias {
                Some(bias) if hook.bias.is_none() && output != value => {
                    Err(AdaptError::BeforeBias {
                        site: site.path.clone(),
                        adapter: adapter.name(),
                        bias: bias.clone(),
                    })
                }
                _ => Ok(output),
            };
        };
        operands.block = Some(match residual.norm {
            Some(norm) => self.copied(new, norm, Some(value))?,
            None => value,
        });
        let output = args[residual.output];
        let output = adapter.output(&mut self.projected(new, site), operands, output)?;
        Ok(new.sum(output, args[1 - residual.output])?)
    }

    /// A copy of a value that is computed of parameters alone, and of `input` in the place of what is
    /// normalised, if anything is.
    fn copied(&self, new: &mut Program, id: Id, input: Option<Id>) -> Result<Id, AdaptError> {
        let node = &self.program[id];
        let args = match (&node.op, input) {
            (Op::Frozen(leaf), _) => return self.weight(new, id, leaf),
            (Op::Normalize(_), Some(input)) => vec![input],
            _ => {
                let args = node.args.iter();
                let args = args.map(|&arg| self.copied(new, arg, input));
                args.collect::<Result<_, _>>()?
            }
        };
        Ok(new.add(node.op.clone(), &args)?)
    }
}

/// Whether a product with the site's weight on its right is `x W^T`, as the papers write `W`.
fn is_projection(product: MatMul, site: &Site) -> bool {
    !product.trans_a && product.trans_b == (site.layout == Layout::OutIn)
}
