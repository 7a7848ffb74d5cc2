//! What an adapter comes to: weights with it in them, and the form in which it is saved.

use ailora_graph::{
    AdapterSpec, Strategy,
    adapter::{Layout, Site},
    ir::{
        Bindings, Draw, Id, Op, Program, Real, Tensor, Type,
        ops::{elementwise::Binary, matmul::MatMul},
    },
    method::{Adapter, Merged, Projected},
};
use ailora_runtime::store::{Array, Params};

use super::{PeftError, fold::Weight};

/// Puts the adapter of a site into the weight and the bias among `params`, summed in float64. `sites`
/// are all that are adapted, and `tensors` has the adapters' parameters.
///
/// # Errors
/// A parameter is missing, or the adapter comes to no weight.
pub fn merge(
    site: &Site,
    sites: &[Site],
    tensors: &Params,
    params: &mut Params,
) -> Result<(), PeftError> {
    let Strategy::Adapted(adapter) = site.spec.strategy else {
        return Ok(());
    };
    let shape = |name: &str| params.get(name).map(|array| array.shape().to_vec());
    let mut program = Program::new();
    let (weight, bias, merged) = expressed(&mut program, site, sites, adapter, shape)?;
    let merged = merged.ok_or_else(|| not_mergeable(site, adapter))?;
    let (sum, factors) = factors_apart(&program, merged.weight);
    let plain = Merged {
        weight: sum,
        ..merged
    };
    if let Some(update) = Update::of(&program, weight, bias, &plain) {
        let factors = match factors {
            Some(factors) => {
                let mut program = program.clone();
                program.set_output(FACTORS, factors);
                evaluated(&program, &[tensors, params])?.pop()
            }
            None => None,
        };
        let tensor = |name: &str| {
            let tensor = tensors.get(name);
            tensor.ok_or_else(|| PeftError::Missing(name.to_owned()))
        };
        let (a, b) = (tensor(&update.a)?, tensor(&update.b)?);
        if let Some(array) = params.get_mut(&site.weight) {
            let layout = site.layout;
            let mut weight = Weight { array, layout };
            weight.add(update.scale, a, b);
            if let Some((_, factors)) = factors {
                weight.scale(&factors.floats());
            }
        }
        return Ok(());
    }
    program.set_output(site.weight.as_str(), merged.weight);
    if let (Some(name), Some(bias)) = (&site.bias, merged.bias) {
        program.set_output(name.as_str(), bias);
    }
    for (name, array) in evaluated(&program, &[tensors, params])? {
        params.insert(name, array);
    }
    Ok(())
}

/// The adapter of a site, if it comes to `W + scale B A`; nothing if it comes to something else.
///
/// # Errors
/// An expression whose types do not fit.
pub fn update(site: &Site, sites: &[Site]) -> Result<Option<Update>, PeftError> {
    let Strategy::Adapted(adapter) = site.spec.strategy else {
        return Ok(None);
    };
    let weight = match site.layout {
        Layout::OutIn => vec![site.out_features, site.in_features],
        Layout::InOut => vec![site.in_features, site.out_features],
    };
    let shape = |name: &str| match name == site.weight {
        true => Some(weight.clone()),
        false => Some(vec![site.out_features]),
    };
    let mut program = Program::new();
    let (weight, bias, merged) = expressed(&mut program, site, sites, adapter, shape)?;
    Ok(merged.and_then(|merged| Update::of(&program, weight, bias, &merged)))
}

/// Weight and bias of a site in a program, and what they come to with the adapter.
fn expressed(
    program: &mut Program,
    site: &Site,
    sites: &[Site],
    adapter: &dyn Adapter,
    shape: impl Fn(&str) -> Option<Vec<usize>>,
) -> Result<(Id, Option<Id>, Option<Merged>), PeftError> {
    let mut frozen = |name: &String| {
        let shape = shape(name).ok_or_else(|| PeftError::Missing(name.clone()))?;
        Ok::<_, PeftError>(program.frozen(name, Type::f32(shape))?)
    };
    let weight = frozen(&site.weight)?;
    let bias = site.bias.as_ref().map(frozen).transpose()?;
    let mut projected = Projected {
        program,
        site,
        sites,
    };
    let merged = adapter.merged(&mut projected, weight, bias)?;
    Ok((weight, bias, merged))
}

/// What the factors of rows are called while they are computed.
const FACTORS: &str = "factors";

/// A merged weight as a matrix and factors of its rows, if it is their product.
fn factors_apart(p: &Program, merged: Id) -> (Id, Option<Id>) {
    match (&p[merged].op, &p[merged].args[..]) {
        (Op::Binary(Binary::Mul), &[sum, factors]) if p.ty(factors).len() > 1 => {
            (sum, Some(factors))
        }
        _ => (merged, None),
    }
}

fn not_mergeable(site: &Site, adapter: &dyn Adapter) -> PeftError {
    PeftError::NotMergeable {
        site: site.path.clone(),
        adapter: adapter.name(),
    }
}

/// The adapter of a site in the form in which it is saved: what is said of it, and its tensors.
///
/// # Errors
/// A parameter is missing.
pub fn published(
    site: &Site,
    sites: &[Site],
    adapter: &dyn Adapter,
    params: &Params,
) -> Result<(AdapterSpec, Vec<(String, Array)>), PeftError> {
    let mut program = Program::new();
    let mut projected = Projected {
        program: &mut program,
        site,
        sites,
    };
    let published = adapter.published(&mut projected)?;
    for (name, id) in published.tensors {
        program.set_output(name, id);
    }
    Ok((published.spec, evaluated(&program, &[params])?))
}

/// The results of a program in float64, rounded once.
fn evaluated(program: &Program, params: &[&Params]) -> Result<Vec<(String, Array)>, PeftError> {
    let mut bindings = Bindings::new();
    for leaf in program
        .frozen_parameters()
        .chain(program.trained_parameters())
    {
        let array = params.iter().find_map(|params| params.get(&*leaf.name));
        let array = array.ok_or_else(|| PeftError::Missing(leaf.name.to_string()))?;
        let data: Vec<f64> = array.floats().iter().copied().map(f64::from).collect();
        bindings.insert(
            leaf.name.to_string(),
            Tensor::new(array.shape().to_vec(), data),
        );
    }
    let results = program.eval(&bindings, Draw::default())?;
    let rounded = results.into_iter().map(|(name, Tensor { shape, data })| {
        let data = data.into_iter().map(|x| x as f32).collect();
        (name.to_string(), Array::new(shape, data))
    });
    Ok(rounded.collect())
}

/// `W + scale B A`, which is added in place and in parallel.
pub struct Update {
    /// What the product is multiplied by.
    pub scale: f64,
    /// The name of `A`, `[r, in]`.
    pub a: String,
    /// The name of `B`, `[out, r]`.
    pub b: String,
}

impl Update {
    /// Reads what a weight and a bias come to as such a sum, if it is one.
    fn of(p: &Program, weight: Id, bias: Option<Id>, merged: &Merged) -> Option<Self> {
        if merged.bias != bias {
            return None;
        }
        let merged = merged.weight;
        let (Op::Binary(Binary::Add), &[first, part]) = (&p[merged].op, &p[merged].args[..]) else {
            return None;
        };
        let (scale, product) = match (&p[part].op, &p[part].args[..]) {
            (Op::Binary(Binary::Mul), &[product, factor]) => match p[factor].op {
                Op::Const(Real(scale)) => (scale, product),
                _ => return None,
            },
            _ => (1.0, part),
        };
        let (a, b) = match (&p[product].op, &p[product].args[..]) {
            (
                Op::MatMul(MatMul {
                    trans_a: false,
                    trans_b: false,
                }),
                &[b, a],
            )
            | (
                Op::MatMul(MatMul {
                    trans_a: true,
                    trans_b: true,
                }),
                &[a, b],
            ) => (a, b),
            _ => return None,
        };
        let name = |id: Id| match &p[id].op {
            Op::Trained(leaf) | Op::Frozen(leaf) => Some(leaf.name.to_string()),
            _ => None,
        };
        let update = Self {
            scale,
            a: name(a)?,
            b: name(b)?,
        };
        (first == weight).then_some(update)
    }
}
