use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use super::{BenchError, Options, Subject};
use crate::{
    adapt::Mode,
    adapter::{Site, Trainable},
    grad::gradients,
    ir::{
        DType, Draw, Id, Name, Op, Program, ProgramError, Type,
        ops::elementwise::{Binary, Unary},
    },
    run::backend,
    runtime::{
        backend::Precision,
        device::Device,
        engine::Engine,
        passes::{Fusion, Passes},
        run::Value,
        store::{Array, Params},
    },
};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// The outputs.
    Forward,
    /// The outputs, and from given gradients towards them those towards what trains and towards the
    /// inputs from below.
    Both,
}

/// How it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Without adapters, fused: what adapters are compared with.
    Frozen,
    /// Adapted, each product as the model says.
    Unfused,
    /// Adapted and fused.
    Fused,
    /// The adapters added to the weights, fused.
    Merged,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Forward => "forward",
            Self::Both => "both",
        })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Frozen => "frozen",
            Self::Unfused => "unfused",
            Self::Fused => "fused",
            Self::Merged => "merged",
        })
    }
}

/// The programs of the forms, and the values that they have beside the subject's.
pub(super) struct Variants<'a> {
    frozen: Program,
    adapted: Program,
    sites: &'a [Site],
    before: &'a Program,
    params: Params,
    /// Gradients towards the outputs.
    towards: Vec<(String, Vec<f32>)>,
}

impl<'a> Variants<'a> {
    /// `params` are the initialised ones.
    pub(super) fn new(
        subject: &Subject<'a>,
        pass: Pass,
        mut params: Params,
        options: &Options,
    ) -> Result<Self, BenchError> {
        let floats: Vec<&str> = subject
            .program
            .inputs()
            .filter(|leaf| leaf.ty.dtype == DType::F32)
            .map(|leaf| &*leaf.name)
            .collect();
        if let Some(name) = subject.below.iter().find(|name| !floats.contains(name)) {
            return Err(BenchError::Below {
                name: (*name).to_owned(),
                found: floats.join(", "),
            });
        }
        let before = match pass {
            Pass::Forward => Cow::Borrowed(subject.program),
            Pass::Both => Cow::Owned(above(subject.program, subject.below)?),
        };
        let passes = Passes {
            sites: subject.sites,
            trainable: &Trainable::Adapters,
            precision: options.precision,
        };
        // Nothing trains: what is compared with other forms drops nothing.
        let adapted = passes.adapted(&before, Mode::Infer)?;
        let [frozen, adapted] = match pass {
            Pass::Forward => [before.into_owned(), adapted],
            Pass::Both => [differentiated(&before)?, differentiated(&adapted)?],
        };
        let [frozen, adapted] = match options.device {
            Device::Cpu => [frozen, adapted],
            _ => [inside(&frozen)?, inside(&adapted)?],
        };
        for leaf in adapted.trained_parameters() {
            let random = random(&leaf.name, leaf.ty.len());
            match params.get_mut(&*leaf.name) {
                None => {
                    let shape = leaf.ty.shape.clone();
                    let data = random.collect();
                    params.insert(leaf.name.to_string(), Array::new(shape, data));
                }
                Some(known) if subject.sites.iter().any(|site| is_up(site, &leaf.name)) => {
                    for (x, random) in known.floats_mut().iter_mut().zip(random) {
                        *x += 0.1 * random;
                    }
                }
                Some(_) => {}
            }
        }
        let towards = adapted
            .inputs()
            .filter(|leaf| leaf.name.starts_with(TOWARDS))
            .map(|leaf| {
                let data = random(&leaf.name, leaf.ty.len()).collect();
                (leaf.name.to_string(), data)
            })
            .collect();
        Ok(Self {
            frozen,
            adapted,
            sites: subject.sites,
            before: subject.program,
            params,
            towards,
        })
    }

    /// Values of all inputs of all forms.
    pub(super) fn inputs<'b>(&'b self, subject: &Subject<'b>) -> Vec<(&'b str, Value<'b>)> {
        let towards = self.towards.iter();
        let towards = towards.map(|(name, data)| (name.as_str(), Value::F32(data)));
        subject.inputs.iter().copied().chain(towards).collect()
    }

    /// An engine for a form, and its program.
    pub(super) fn form(
        &self,
        form: Form,
        options: &Options,
    ) -> Result<(Engine, &Program), BenchError> {
        let (params, program) = match form {
            Form::Frozen => (self.params.clone(), &self.frozen),
            Form::Unfused | Form::Fused => (self.params.clone(), &self.adapted),
            Form::Merged => (self.merged()?, &self.frozen),
        };
        let fusion = match form {
            Form::Unfused => Fusion::Off,
            _ => Fusion::At(options.costs),
        };
        let backend = backend(options.device, options.precision)?;
        Ok((Engine::on(backend, params, fusion), program))
    }

    /// The parameters with the adapters added to the weights.
    fn merged(&self) -> Result<Params, BenchError> {
        // A weight that is an output is, adapted, the merged weight.
        let mut weights = Program::new();
        for leaf in self.before.frozen_parameters() {
            if self.sites.iter().any(|site| *site.weight == *leaf.name) {
                let id = weights.frozen(&leaf.name, leaf.ty.clone())?;
                weights.set_output(leaf.name.clone(), id);
            }
        }
        let passes = Passes {
            sites: self.sites,
            trainable: &Trainable::Adapters,
            precision: Precision::F32,
        };
        let program = passes.adapted(&weights, Mode::Infer)?;
        let mut params = self.params.clone();
        let mut engine = Engine::with_fusion(self.params.clone(), Fusion::Off);
        let id = engine.compile(&program)?;
        let outputs = engine.run(id, &[], Draw::default())?;
        for name in weights.outputs().keys() {
            let merged = outputs.get(name);
            if let (Some(merged), Some(weight)) = (merged, params.get_mut(&**name)) {
                weight.floats_mut().copy_from_slice(merged);
            }
        }
        Ok(params)
    }
}

/// Prefix of the inputs that are gradients towards outputs.
const TOWARDS: &str = "towards.";

fn is_up(site: &Site, name: &str) -> bool {
    site.trained().last().is_some_and(|up| up == name) && site.is_adapted()
}

/// Numbers in `[-0.5, 0.5)` that depend on the name.
fn random(name: &str, len: usize) -> impl Iterator<Item = f32> + use<> {
    let key = Draw::default().key(name);
    (0..len as u64).map(move |i| key.uniform(i) as f32 - 0.5)
}

/// The program on top of something that trains: to each input in `below` a trained parameter of its
/// shape is added, so that the gradient towards the input is wanted.
fn above(program: &Program, below: &[&str]) -> Result<Program, ProgramError> {
    program.rewrite(|new, _, node, args| {
        let id = new.add(node.op.clone(), args)?;
        match &node.op {
            Op::Input(leaf) if below.contains(&&*leaf.name) => {
                let shift = new.trained(&format!("below.{}", leaf.name), leaf.ty.clone())?;
                new.sum(id, shift)
            }
            _ => Ok(id),
        }
    })
}

/// The program as it would be inside a model on a device, which keeps there, as narrow as it computes,
/// what it is given and what it puts out: inputs are what an operation makes of them, and of
/// activations one row is put out.
fn inside(program: &Program) -> Result<Program, ProgramError> {
    let mut new = program.rewrite(|new, _, node, args| {
        let id = new.add(node.op.clone(), args)?;
        match &node.op {
            Op::Input(leaf) if leaf.ty.dtype == DType::F32 => new.unary(Unary::Tanh, id),
            _ => Ok(id),
        }
    })?;
    let outputs: Vec<(Name, Id)> = new.outputs().clone().into_iter().collect();
    for (name, id) in outputs {
        let is_activation = !name.starts_with("grad.") || name.starts_with("grad.below.");
        if is_activation && new.ty(id).rank() == 2 {
            let row = new.slice(id, 0, 0, 1)?;
            let column = new.transpose(row)?;
            new.set_output(name, column);
        }
    }
    Ok(new)
}

/// The program with the gradients for given ones towards its outputs; the loss that they come from
/// is not computed.
fn differentiated(program: &Program) -> Result<Program, BenchError> {
    const LOSS: &str = "bench.loss";
    let mut program = program.clone();
    let outputs: Vec<(String, Id)> = program
        .outputs()
        .iter()
        .filter(|&(_, &y)| program.ty(y).dtype == DType::F32)
        .map(|(name, &y)| (name.to_string(), y))
        .collect();
    let mut loss = program.constant(0.0);
    for (name, y) in outputs {
        let ty = Type::f32(program.shape(y));
        let towards = program.input(&format!("{TOWARDS}{name}"), ty)?;
        let product = program.product(y, towards)?;
        let sum = program.sum_to(product, &[])?;
        loss = program.sum(loss, sum)?;
    }
    program.set_output(LOSS, loss);
    let mut program = gradients(&program, LOSS)?;
    program.retain_outputs(|name| name != LOSS);
    Ok(without_ones(&program)?)
}

/// The program without products with ones: the gradient of a sum is that.
fn without_ones(program: &Program) -> Result<Program, ProgramError> {
    let mut ones = vec![false; program.len()];
    for id in program.ids() {
        let node = &program[id];
        ones[usize::from(id)] = match &node.op {
            Op::Const(value) => value.0 == 1.0,
            Op::Expand(_) | Op::Reshape(_) => ones[usize::from(node.args[0])],
            _ => false,
        };
    }
    program.rewrite(|new, id, node, args| {
        if let Op::Binary(Binary::Mul) = node.op {
            for (one, other) in [(0, 1), (1, 0)] {
                let same = program.ty(node.args[other]) == program.ty(id);
                if same && ones[usize::from(node.args[one])] {
                    return Ok(args[other]);
                }
            }
        }
        new.add(node.op.clone(), args)
    })
}
