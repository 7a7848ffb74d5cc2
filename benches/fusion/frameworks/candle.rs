//! candle: weights are tensors, what trains is a `Var`.

use ailora::bench::Pass;
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{Linear, Module};

use super::{Error, Layer, Runner, SCALE, Shape};

struct Projection {
    frozen: Linear,
    /// Down and up.
    adapter: Option<[Linear; 2]>,
    towards: Tensor,
}

impl Projection {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.frozen.forward(x)?;
        match &self.adapter {
            Some([down, up]) => y + (up.forward(&down.forward(x)?)? * SCALE)?,
            None => Ok(y),
        }
    }
}

pub fn runner(layer: &Layer, pass: Pass) -> std::result::Result<Runner, Error> {
    let Shape { width, rows, rank } = layer.shape;
    let tensor = |data: &[f32], shape: [usize; 2]| {
        Tensor::from_slice(data, (shape[0], shape[1]), &Device::Cpu)
    };
    let trained = |data: &[f32], shape: [usize; 2]| -> Result<Linear> {
        let var = Var::from_tensor(&tensor(data, shape)?)?;
        Ok(Linear::new(var.as_tensor().clone(), None))
    };
    let mut projections = Vec::new();
    for own in &layer.projections {
        projections.push(Projection {
            frozen: Linear::new(tensor(&own.weight, [width, width])?, None),
            adapter: match &own.adapter {
                Some([a, b]) => Some([trained(a, [rank, width])?, trained(b, [width, rank])?]),
                None => None,
            },
            towards: tensor(&own.towards, [rows, width])?,
        });
    }
    let x = tensor(&layer.x, [rows, width])?;
    let below = Var::from_tensor(&tensor(&layer.below, [rows, width])?)?;
    Ok(Box::new(move || {
        match pass {
            Pass::Forward => {
                for own in &projections {
                    std::hint::black_box(own.forward(&x)?);
                }
            }
            Pass::Both => {
                let x = (&x + below.as_tensor())?;
                let mut loss = Tensor::zeros((), x.dtype(), x.device())?;
                for own in &projections {
                    loss = (loss + (own.forward(&x)? * &own.towards)?.sum_all()?)?;
                }
                std::hint::black_box(loss.backward()?);
            }
        }
        Ok(())
    }))
}
