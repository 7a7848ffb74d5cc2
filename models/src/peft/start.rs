//! What PEFT takes from the base's weights when it loads an adapter that began from them.
//!
//! Such an adapter trains beside `W - s B0 A0`. Beside the published `W` it is the adapter of twice
//! the rank with `A' = [A; A0]` and `B' = [B, -B0]`.

use ailora_graph::adapter::Site;
use ailora_runtime::{
    spectrum::{End, Matrix, Options, Request, triplets_of},
    store::Array,
};

use super::{PeftError, config::LoraConfig, config::Start};

/// A projection with its weight `[out, in]`, the rank and the scale of its factors.
pub struct Begun<'a> {
    /// The projection.
    pub site: &'a Site,
    /// Its weight in the base.
    pub weight: &'a Array,
    /// The factors' rank.
    pub rank: usize,
    /// Their scale.
    pub scale: f64,
}

/// `A0` and `B0` of each.
///
/// # Errors
/// A weight that has no such start.
pub fn starts(config: &LoraConfig, begun: &[Begun<'_>]) -> Result<Vec<(Array, Array)>, PeftError> {
    match config.start {
        Start::Nothing => Ok(Vec::new()),
        Start::Pissa => pissa(begun),
        Start::Olora => begun.iter().map(|begun| olora(config, begun)).collect(),
    }
}

/// The largest singular triplets of each weight, half of each value in each factor.
fn pissa(begun: &[Begun<'_>]) -> Result<Vec<(Array, Array)>, PeftError> {
    let requests = begun.iter().map(
        |Begun {
             site, weight, rank, ..
         }| {
            let (rows, columns) = (site.out_features, site.in_features);
            let matrix = Matrix::of(&site.path, weight, rows, columns)?;
            Ok(Request {
                matrix,
                end: End::Principal,
                k: *rank,
            })
        },
    );
    let requests = requests.collect::<Result<Vec<_>, PeftError>>()?;
    let triplets = triplets_of(&requests, &Options::default(), |_| {})?;
    let factors = begun.iter().zip(triplets).map(|(begun, triplets)| {
        let (b, a) = triplets.factors(begun.scale)?;
        let site = begun.site;
        let a = array([begun.rank, site.in_features], a);
        Ok((a, array([site.out_features, begun.rank], b)))
    });
    factors.collect()
}

/// `Q_r` and `R_r` of `W = Q R`: an orthonormal basis of the first columns, and `Q_r^T W`. Both
/// change sign together, so that their product does not depend on how they are found.
fn olora(config: &LoraConfig, begun: &Begun<'_>) -> Result<(Array, Array), PeftError> {
    let &Begun {
        site, weight, rank, ..
    } = begun;
    let (rows, columns) = (site.out_features, site.in_features);
    let impossible = |why: &str| {
        config.wrong(format!(
            "`init_lora_weights` is olora, but {why} of `{}`",
            site.weight
        ))
    };
    if rank > rows.min(columns) {
        return Err(impossible("the rank is larger than a side"));
    }
    let weight = weight.floats();
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(rank);
    for k in 0..rank {
        let column = weight.iter().skip(k).step_by(columns);
        let mut column: Vec<f64> = column.copied().map(f64::from).collect();
        let length = norm(&column);
        // Twice, so that rounding leaves nothing.
        for vector in basis.iter().chain(&basis) {
            let part = dot(&column, vector);
            let pairs = column.iter_mut().zip(vector);
            pairs.for_each(|(x, v)| *x -= part * v);
        }
        let left = norm(&column);
        if left.is_nan() || left <= 1e-6 * length {
            return Err(impossible("the first columns depend on each other"));
        }
        column.iter_mut().for_each(|x| *x /= left);
        basis.push(column);
    }
    let mut a = Vec::with_capacity(rank * columns);
    for vector in &basis {
        let mut row = vec![0.0_f64; columns];
        for (&v, w) in vector.iter().zip(weight.chunks_exact(columns)) {
            let pairs = row.iter_mut().zip(w);
            pairs.for_each(|(sum, &w)| *sum += v * f64::from(w));
        }
        a.extend(row.into_iter().map(|x| x as f32));
    }
    let b = (0..rows).flat_map(|row| basis.iter().map(move |vector| vector[row] as f32));
    let b = array([rows, rank], b.collect());
    Ok((array([rank, columns], a), b))
}

fn array(shape: [usize; 2], data: Vec<f32>) -> Array {
    let shape = shape.to_vec();
    Array::new(shape, data)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}
