//! The start of every adapter: what makes AILoRA AILoRA.

use ailora_graph::{
    adapter::{Init, Layout, Site, Strategy},
    ir::Draw,
};
use thiserror::Error;

use crate::{
    spectrum::{End, Matrix, Options, Progress, Request, SpectrumError, Triplets, triplets_of},
    store::{Array, Params},
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
    /// The weight has no singular value decomposition.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
}

/// Adds the factors of every low-rank site to `params`, beside the weights.
///
/// With the weight `W = U S V^T` (`out x in`), rank `r` and scale `s`:
///
/// - principal and minor: `B = U_r S_r^(1/2) / sqrt(s)` and `A = S_r^(1/2) V_r^T / sqrt(s)` over the
///   `r` largest or smallest triplets, so that `s B A` is that part of `W` whatever the scale; the
///   same values as the frozen `B0` and `A0`;
/// - random: `A` uniform in `±1/sqrt(in)` (Kaiming with slope `sqrt(5)`, as LoRA starts), `B` zero.
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
    let mut spectral: Vec<(&Site, End, usize)> = Vec::new();
    for site in sites {
        match site.spec.strategy {
            Strategy::LowRank {
                init: Init::Random,
                rank,
            } => {
                let bound = 1.0 / (site.in_features as f64).sqrt();
                let key = Draw { seed, step: 0 }.key(&site.lora_a());
                let a = (0..(rank * site.in_features) as u64)
                    .map(|i| (bound * (2.0 * key.uniform(i) - 1.0)) as f32)
                    .collect();
                let shape = vec![rank, site.in_features];
                params.insert(site.lora_a(), Array { shape, data: a });
                params.insert(site.lora_b(), Array::zeros([site.out_features, rank]));
            }
            Strategy::LowRank { init, rank } => {
                let end = if init == Init::Minor {
                    End::Minor
                } else {
                    End::Principal
                };
                spectral.push((site, end, rank));
            }
            Strategy::Frozen | Strategy::Full => {}
        }
    }
    let requests = spectral
        .iter()
        .map(|&(site, end, k)| {
            let matrix = matrix(site, params)?;
            Ok(Request { matrix, end, k })
        })
        .collect::<Result<Vec<_>, InitError>>()?;
    let triplets = triplets_of(&requests, options, progress)?;
    for ((site, ..), triplets) in spectral.into_iter().zip(triplets) {
        start(site, &triplets, params)?;
    }
    Ok(())
}

/// Starts the adapter of a `principal` or `minor` site from triplets of its weight as it lies in
/// memory: as many as its rank, whichever they are. [`initialise`] does this with the largest or
/// the smallest ones.
///
/// # Errors
/// Triplets that do not fit the site.
pub fn start(site: &Site, triplets: &Triplets, params: &mut Params) -> Result<(), InitError> {
    let k = triplets.k();
    let misfit = |rank, found| InitError::Triplets {
        site: site.path.clone(),
        rank,
        found,
    };
    let (Some(rank), Some(scale)) = (site.spec.rank(), site.spec.scale()) else {
        return Err(misfit(0, format!("{:?}", [k, site.in_features])));
    };
    let (b, a) = factors(site, scale, triplets)?;
    for (factor, shape, data) in [
        ([site.lora_a0(), site.lora_a()], [k, site.in_features], a),
        ([site.lora_b0(), site.lora_b()], [site.out_features, k], b),
    ] {
        let found = (shape, data.len());
        if k != rank || data.len() != shape.iter().product::<usize>() {
            return Err(misfit(rank, format!("{found:?}")));
        }
        let shape = shape.to_vec();
        let array = Array { shape, data };
        for name in factor {
            params.insert(name, array.clone());
        }
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
        Some(weight) if weight.shape == expected => Ok(Matrix::new(
            &site.path,
            &weight.data,
            expected[0],
            expected[1],
        )?),
        other => Err(InitError::Weight {
            site: site.path.clone(),
            weight: site.weight.clone(),
            expected,
            found: other.map_or("none".into(), |weight| format!("{:?}", weight.shape)),
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

/// The transpose of a row-major matrix of `rows`.
fn transpose(data: &[f32], rows: usize) -> Vec<f32> {
    let columns = data.len() / rows.max(1);
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| data[row * columns + column]))
        .collect()
}

#[cfg(test)]
mod tests {
    use ailora_graph::AdapterSpec;

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
        let params = start_of(AdapterSpec::principal(1).with_alpha(4.0)).unwrap();
        assert_eq!(params["project.lora_A.weight"].data, [0.0, 1.0, 0.0]);
        assert_eq!(params["project.lora_B0.weight"].data, [1.0, 0.0]);
        for spec in [
            AdapterSpec::frozen(),
            AdapterSpec::full(),
            AdapterSpec::minor(2),
        ] {
            let error = start_of(spec).unwrap_err();
            assert!(matches!(error, InitError::Triplets { .. }), "{error}");
        }
    }
}
