//! Initialises adapters: from singular triplets of the weights, at random, or by constants.

mod gram;
mod qr;

use std::{borrow::Cow, cell::OnceCell, collections::HashSet};

use ailora_graph::{
    adapter::{Layout, Site},
    ir::Draw,
    method::{AdapterParameter, End, Side, Start},
};
pub use qr::Qr;
use thiserror::Error;

use crate::{
    spectrum::{Matrix, Options, Progress, Request, SpectrumError, Triplets, triplets_of},
    store::{Array, Params},
    torch_random::TorchRandom,
};

/// An adapter that cannot be given its start.
#[derive(Debug, Error)]
pub enum InitError {
    /// The weight is not among the parameters, or has another shape.
    #[error("{site}: its weight `{weight}` should be {expected:?}, found {found}")]
    Weight {
        /// Module path of the projection.
        site: String,
        /// The parameter.
        weight: String,
        /// The shape the model gives it.
        expected: [usize; 2],
        /// What there is.
        found: String,
    },
    /// Triplets of another number or another matrix.
    #[error("{site}: expected {rank} triplets of its weight, found a factor of {found}")]
    Triplets {
        /// Module path of the projection.
        site: String,
        /// How many there should be.
        rank: usize,
        /// The shape of a factor they make, and how many numbers it has.
        found: String,
    },
    /// What a start depends on is declared after it.
    #[error(
        "the factor `{0}`, from which another parameter starts, is not there yet; declare it first"
    )]
    NoFactor(String),
    /// The weight has no singular value decomposition.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
}

/// Adds the parameters of every adapter to `params`, beside the weights, each at the
/// [`Start`] that it declares. With the weight `W = U S V^T` (`out x in`), rank `k` and scale `s`, a
/// pair of factors from triplets is `B = U_k S_k^(1/2) / sqrt(s)` and `A = S_k^(1/2) V_k^T / sqrt(s)`, so
/// that `s B A` is that part of `W` whatever the scale.
///
/// What is drawn depends on the seed and the parameter's name alone.
///
/// # Errors
/// A weight that is missing, of another shape, or not finite.
pub fn initialise(
    sites: &[Site],
    params: &mut Params,
    seed: u64,
    options: &Options,
    progress: impl Fn(Progress<'_>) + Sync,
) -> Result<(), InitError> {
    add(sites, params, HashSet::new(), seed, options, progress)
}

/// As [`initialise`], but what is among `params` stays as it is: trained values, beside which what follows from
/// them is added.
///
/// # Errors
/// As [`initialise`].
pub fn complete(
    sites: &[Site],
    params: &mut Params,
    seed: u64,
    options: &Options,
    progress: impl Fn(Progress<'_>) + Sync,
) -> Result<(), InitError> {
    let started = params.keys().cloned().collect();
    add(sites, params, started, seed, options, progress)
}

/// Adds the parameters of adapters that are not `started` yet.
fn add(
    sites: &[Site],
    params: &mut Params,
    mut started: HashSet<String>,
    seed: u64,
    options: &Options,
    progress: impl Fn(Progress<'_>) + Sync,
) -> Result<(), InitError> {
    let mut spectral: Vec<(&Site, Vec<Factor>)> = Vec::new();
    for site in sites {
        let mut factors = Vec::new();
        let qr = OnceCell::new();
        for parameter in site.parameters(sites) {
            // What several sites share is one parameter.
            if !started.insert(parameter.name.clone()) {
                continue;
            }
            match alone(site, &parameter, params, seed, &qr)? {
                Some(array) => _ = params.insert(parameter.name, array),
                None => factors.extend(Factor::of(&parameter)),
            }
        }
        if !factors.is_empty() {
            spectral.push((site, factors));
        }
    }
    let requests = spectral
        .iter()
        .map(|(site, factors)| {
            let matrix = matrix(site, params)?;
            let Factor { end, k, .. } = factors[0];
            Ok(Request { matrix, end, k })
        })
        .collect::<Result<Vec<_>, InitError>>()?;
    let triplets = triplets_of(&requests, options, progress)?;
    for ((site, factors), triplets) in spectral.into_iter().zip(triplets) {
        place(site, factors, &triplets, params)?;
    }
    Ok(())
}

/// The start of a parameter, unless that is a factor of triplets.
fn alone(
    site: &Site,
    parameter: &AdapterParameter,
    params: &Params,
    seed: u64,
    qr: &OnceCell<Qr>,
) -> Result<Option<Array>, InitError> {
    let key = Draw { seed, step: 0 }.key(&parameter.name);
    let numbers = 0..parameter.count() as u64;
    let data = match parameter.start {
        Start::Constant(value) => vec![value; parameter.count()],
        Start::Uniform { bound } => numbers
            .map(|i| (bound * (2.0 * key.uniform(i) - 1.0)) as f32)
            .collect(),
        Start::AsPytorch { seed, skip, bound } => {
            drawn_as_pytorch(seed, skip, bound, parameter.count())
        }
        Start::Normal { deviation } => numbers
            .map(|i| (deviation * key.normal(i)) as f32)
            .collect(),
        Start::RowLengths => row_lengths(site, params)?,
        Start::Qr { side } => {
            let found = match qr.get() {
                Some(found) => found,
                None => {
                    let found = decomposed(site, params)?;
                    qr.get_or_init(|| found)
                }
            };
            match side {
                Side::Left => found.q.clone(),
                Side::Right => found.r.clone(),
            }
        }
        Start::InverseGram => match params.get(&site.lora_a()) {
            Some(a) => gram::inverse(&a.floats(), parameter.shape[0], scale(site)),
            None => return Err(InitError::NoFactor(site.lora_a())),
        },
        Start::Triplets { .. } | Start::LeftVectors { .. } => return Ok(None),
    };
    let shape = parameter.shape.clone();
    Ok(Some(Array::new(shape, data)))
}

/// The scale of a site's adapter.
fn scale(site: &Site) -> f64 {
    site.spec.scale().unwrap_or(1.0)
}

/// The QR decomposition of a site's weight as the papers write it.
fn decomposed(site: &Site, params: &Params) -> Result<Qr, InitError> {
    let matrix = matrix(site, params)?;
    let weight = match site.layout {
        Layout::OutIn => matrix.data(),
        Layout::InOut => Cow::Owned(transpose(&matrix.data(), site.in_features)),
    };
    let rank = site.spec.rank().unwrap_or_default().min(site.max_rank());
    Ok(Qr::of(&weight, site.in_features, rank))
}

/// What [`Start::AsPytorch`] says: `count` numbers of a generator after `skip` of them.
pub fn drawn_as_pytorch(seed: u64, skip: usize, bound: f64, count: usize) -> Vec<f32> {
    let mut random = TorchRandom::new(seed);
    (0..skip).for_each(|_| _ = random.unit());
    (0..count).map(|_| random.uniform(-bound, bound)).collect()
}

/// The length of each row of a site's weight as the papers write it, `[out]`.
fn row_lengths(site: &Site, params: &Params) -> Result<Vec<f32>, InitError> {
    let matrix = matrix(site, params)?;
    let mut squares = vec![0.0_f64; site.out_features];
    for (i, &x) in matrix.data().iter().enumerate() {
        let row = match site.layout {
            Layout::OutIn => i / site.in_features,
            Layout::InOut => i % site.out_features,
        };
        squares[row] += f64::from(x) * f64::from(x);
    }
    Ok(squares.into_iter().map(|sum| sum.sqrt() as f32).collect())
}

/// A parameter that starts as a part of triplets.
struct Factor {
    name: String,
    shape: Vec<usize>,
    end: End,
    part: Part,
    k: usize,
}

/// What of the triplets.
enum Part {
    /// With the square roots of the values.
    Factor(Side),
    /// The vectors alone, `[out, k]`.
    LeftVectors,
}

impl Factor {
    fn of(parameter: &AdapterParameter) -> Option<Self> {
        let (end, part) = match parameter.start {
            Start::Triplets { end, side } => (end, Part::Factor(side)),
            Start::LeftVectors { end } => (end, Part::LeftVectors),
            _ => return None,
        };
        let k = match part {
            Part::Factor(Side::Left) | Part::LeftVectors => parameter.shape.last(),
            Part::Factor(Side::Right) => parameter.shape.first(),
        };
        Some(Self {
            name: parameter.name.clone(),
            shape: parameter.shape.clone(),
            end,
            part,
            k: k.copied().unwrap_or_default(),
        })
    }
}

/// Starts the adapter of a site whose factors start from triplets from these of its weight as it lies
/// in memory: as many as its rank, whichever they are. [`initialise`] does this with those that the
/// adapter declares.
///
/// # Errors
/// Triplets that do not fit the site.
pub fn start(site: &Site, triplets: &Triplets, params: &mut Params) -> Result<(), InitError> {
    let parameters = site.parameters(std::slice::from_ref(site));
    let factors = parameters.iter().filter_map(Factor::of).collect();
    place(site, factors, triplets, params)
}

fn place(
    site: &Site,
    wanted: Vec<Factor>,
    triplets: &Triplets,
    params: &mut Params,
) -> Result<(), InitError> {
    let k = triplets.k();
    let misfit = |rank, found| InitError::Triplets {
        site: site.path.clone(),
        rank,
        found,
    };
    if wanted.is_empty() {
        return Err(misfit(0, format!("{:?}", [k, site.in_features])));
    }
    let (b, a) = factors(site, scale(site), triplets)?;
    for factor in wanted {
        let (shape, data) = match factor.part {
            Part::Factor(Side::Left) => ([site.out_features, k], Cow::Borrowed(&b)),
            Part::Factor(Side::Right) => ([k, site.in_features], Cow::Borrowed(&a)),
            Part::LeftVectors => (
                [site.out_features, k],
                Cow::Owned(left_vectors(site, triplets)),
            ),
        };
        if factor.shape != shape || data.len() != shape.iter().product::<usize>() {
            return Err(misfit(factor.k, format!("{:?}", (shape, data.len()))));
        }
        let array = Array::new(factor.shape, data.into_owned());
        params.insert(factor.name, array);
    }
    Ok(())
}

/// The weight of a site as it lies in memory.
///
/// # Errors
/// It is missing, of another shape, or not finite.
pub fn matrix<'a>(site: &'a Site, params: &'a Params) -> Result<Matrix<'a>, InitError> {
    let expected = match site.layout {
        Layout::OutIn => [site.out_features, site.in_features],
        Layout::InOut => [site.in_features, site.out_features],
    };
    match params.get(&site.weight) {
        Some(weight) if weight.shape() == expected => {
            Ok(Matrix::of(&site.path, weight, expected[0], expected[1])?)
        }
        other => Err(InitError::Weight {
            site: site.path.clone(),
            weight: site.weight.clone(),
            expected,
            found: other.map_or("none".into(), |weight| format!("{:?}", weight.shape())),
        }),
    }
}

/// `B0` and `A0` of a site from the triplets of its weight as it lies in memory.
fn factors(
    site: &Site,
    scale: f64,
    triplets: &Triplets,
) -> Result<(Vec<f32>, Vec<f32>), InitError> {
    let (left, right) = triplets.factors(scale)?;
    Ok(match site.layout {
        Layout::OutIn => (left, right),
        // The transpose of `left · right`.
        Layout::InOut => {
            let k = triplets.k();
            (transpose(&right, k), transpose(&left, site.in_features))
        }
    })
}

/// The left singular vectors of a site's weight as the papers write it, `[out, k]`.
fn left_vectors(site: &Site, triplets: &Triplets) -> Vec<f32> {
    let vectors = match site.layout {
        Layout::OutIn => &triplets.u,
        Layout::InOut => &triplets.v,
    };
    vectors.iter().map(|&x| x as f32).collect()
}

/// The transpose of a row-major matrix of `rows`.
fn transpose(data: &[f32], rows: usize) -> Vec<f32> {
    let columns = data.len() / rows.max(1);
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| data[row * columns + column]))
        .collect()
}

#[cfg(test)]
mod tests {
    use ailora_graph::{
        AdapterSpec,
        method::constructors::{frozen, full, minor, principal},
    };

    use super::*;
    use crate::spectrum::Method;

    fn triplets() -> Triplets {
        Triplets {
            u: vec![1.0, 0.0],
            s: vec![4.0],
            v: vec![0.0, 1.0, 0.0],
            residual: 0.0,
            method: Method::Exact,
        }
    }

    fn start_of(spec: AdapterSpec) -> Result<Params, InitError> {
        let site = Site {
            path: "project".into(),
            weight: "project.weight".into(),
            bias: None,
            in_features: 3,
            out_features: 2,
            layout: Layout::OutIn,
            spec,
        };
        let mut params = Params::new();
        start(&site, &triplets(), &mut params)?;
        Ok(params)
    }

    /// Half of the scale goes to each factor, and what has no scale has no factors.
    #[test]
    fn only_low_rank_sites_start_from_triplets() {
        let params = start_of(principal(1).with_alpha(4.0)).unwrap();
        assert_eq!(*params["project.lora_A.weight"].floats(), [0.0, 1.0, 0.0]);
        assert_eq!(*params["project.lora_B0.weight"].floats(), [1.0, 0.0]);
        for spec in [frozen(), full(), minor(2)] {
            let error = start_of(spec).unwrap_err();
            assert!(matches!(error, InitError::Triplets { .. }), "{error}");
        }
    }
}
