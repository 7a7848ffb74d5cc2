//! dfdx: matrices of run-time sizes. It differentiates towards every matrix that a product reads,
//! frozen or not.

use ailora::bench::Pass;
use dfdx::prelude::{
    Backward, Cpu, Merge, NoneTape, Rank0, SumTo, Tape, Tensor, TensorFromVec, Trace, TryMatMul,
    WithEmptyTape,
};

use super::{Error, Layer, Runner, SCALE, Shape};

type Matrix<T = NoneTape> = Tensor<(usize, usize), f32, Cpu, T>;

struct Projection {
    weight: Matrix,
    /// Down and up.
    adapter: Option<[Matrix; 2]>,
    towards: Matrix,
}

impl Projection {
    fn forward<T>(&self, x: Matrix<T>) -> Matrix<T>
    where
        T: Tape<f32, Cpu> + Merge<NoneTape> + Merge<T>,
    {
        match &self.adapter {
            Some([a, b]) => {
                let low = x.with_empty_tape().matmul(a.clone()).matmul(b.clone());
                x.matmul(self.weight.clone()) + low * SCALE as f32
            }
            None => x.matmul(self.weight.clone()),
        }
    }
}

pub fn runner(layer: &Layer, pass: Pass) -> Result<Runner, Error> {
    let Shape { width, rows, rank } = layer.shape;
    let device = Cpu::default();
    let matrix = |data: &[f32], shape: (usize, usize)| -> Matrix {
        device.tensor_from_vec(data.to_vec(), shape)
    };
    let projections: Vec<Projection> = layer
        .projections
        .iter()
        .map(|own| Projection {
            weight: matrix(&own.weight, (width, width)),
            adapter: own
                .adapter
                .as_ref()
                .map(|[a, b]| [matrix(a, (width, rank)), matrix(b, (rank, width))]),
            towards: matrix(&own.towards, (rows, width)),
        })
        .collect();
    let x = matrix(&layer.x, (rows, width));
    let below = matrix(&layer.below, (rows, width));
    Ok(Box::new(move || {
        match pass {
            Pass::Forward => {
                for own in &projections {
                    std::hint::black_box(own.forward(x.clone()));
                }
            }
            Pass::Both => {
                let x = x.leaky_trace() + below.clone();
                let others = [x.with_empty_tape(), x.with_empty_tape()];
                // The first takes the tape on to what is below.
                let inputs = std::iter::once(x).chain(others);
                let losses = inputs
                    .zip(&projections)
                    .map(|(x, own)| (own.forward(x) * own.towards.clone()).sum::<Rank0, _>());
                let loss = losses.reduce(|a, b| a + b);
                std::hint::black_box(loss.map(|loss| loss.backward()));
            }
        }
        Ok(())
    }))
}
