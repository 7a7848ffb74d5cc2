//! What PEFT takes from the base's weights when it loads an adapter that began from them.
//!
//! Such an adapter trains beside `W - s B0 A0`. Beside the published `W` it is the adapter of twice
//! the rank with `A' = [A; A0]` and `B' = [B, -B0]`.

use ailora_graph::adapter::Site;
use ailora_runtime::{
    init::Qr,
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

/// `Q_r` and `R_r` of `W = Q R`. Both change sign together, so that their product does not depend on how
/// they are found.
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
    let qr = Qr::of(&weight.floats(), columns, rank);
    if qr.independence.is_nan() || qr.independence <= 1e-6 {
        return Err(impossible("the first columns depend on each other"));
    }
    let a = array([rank, columns], qr.r);
    Ok((a, array([rows, rank], qr.q)))
}

fn array(shape: [usize; 2], data: Vec<f32>) -> Array {
    let shape = shape.to_vec();
    Array::new(shape, data)
}
