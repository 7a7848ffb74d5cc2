//! Functions of one or two arguments, element by element.

use std::fmt;

use egg::Id;

use super::{arity, floats, no_derivative};
use crate::ir::{
    Draw, Operation, Program, ProgramError, Tensor, Type,
    shape::{broadcast, broadcast_strides, for_each_index},
};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unary {
    /// `e^x`
    Exp,
    /// `2^x`
    Exp2,
    /// Natural logarithm.
    Log,
    /// Binary logarithm.
    Log2,
    /// Square root.
    Sqrt,
    /// `1 / x`
    Recip,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `ln(1 + e^x)`
    Softplus,
    /// `max(x, 0)`
    Relu,
    /// `x Phi(x)`, with the normal distribution function `Phi` (Hendrycks & Gimpel, 2016).
    Gelu,
    /// The derivative of [`Gelu`](Self::Gelu), `Phi(x) + x phi(x)`.
    GeluPrime,
}

impl Unary {
    /// The function in float64.
    pub fn apply(self, x: f64) -> f64 {
        let normal_cdf = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        match self {
            Self::Exp => x.exp(),
            Self::Exp2 => x.exp2(),
            Self::Log => x.ln(),
            Self::Log2 => x.log2(),
            Self::Sqrt => x.sqrt(),
            Self::Recip => x.recip(),
            Self::Sin => x.sin(),
            Self::Cos => x.cos(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Softplus => Self::Relu.apply(x) + (-x.abs()).exp().ln_1p(),
            // Not `max`, which would turn NaN into 0.
            Self::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Self::Gelu => x * normal_cdf(x),
            Self::GeluPrime => {
                let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
                normal_cdf(x) + x * density
            }
        }
    }
}

impl fmt::Display for Unary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

impl Operation for Unary {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        floats(args)?;
        let [x] = arity(args)?;
        Ok(x)
    }

    fn eval(&self, args: &[&Tensor], _: &Type, _: Draw) -> Tensor {
        args[0].map(|x| self.apply(x))
    }

    fn vjp(
        &self,
        p: &mut Program,
        y: Id,
        args: &[Id],
        dy: Id,
        _: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let x = args[0];
        let derivative = match self {
            Self::Exp => y,
            Self::Exp2 => p.scale(y, std::f64::consts::LN_2)?,
            Self::Log => p.unary(Self::Recip, x)?,
            Self::Log2 => {
                let recip = p.unary(Self::Recip, x)?;
                p.scale(recip, std::f64::consts::LOG2_E)?
            }
            Self::Sqrt => {
                let recip = p.unary(Self::Recip, y)?;
                p.scale(recip, 0.5)?
            }
            Self::Recip => {
                let square = p.product(y, y)?;
                p.scale(square, -1.0)?
            }
            Self::Sin => p.unary(Self::Cos, x)?,
            Self::Cos => {
                let sin = p.unary(Self::Sin, x)?;
                p.scale(sin, -1.0)?
            }
            Self::Tanh => {
                let square = p.product(y, y)?;
                let one = p.constant(1.0);
                p.difference(one, square)?
            }
            Self::Sigmoid => {
                let square = p.product(y, y)?;
                p.difference(y, square)?
            }
            Self::Softplus => p.unary(Self::Sigmoid, x)?,
            Self::Relu => {
                let zero = p.constant(0.0);
                p.add(Binary::Less, &[zero, x])?
            }
            Self::Gelu => p.unary(Self::GeluPrime, x)?,
            Self::GeluPrime => return no_derivative(self),
        };
        Ok(vec![Some(p.product(dy, derivative)?)])
    }
}

/// A function of two numbers; shapes broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// The remainder with the sign of `a`.
    Mod,
    /// 1 where `a < b`, else 0.
    Less,
}

impl Binary {
    /// The function in float64.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Mod => a % b,
            Self::Less => f64::from(u8::from(a < b)),
        }
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

impl Operation for Binary {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let dtype = floats(args)?;
        let [a, b] = arity(args)?;
        broadcast(&a.shape, &b.shape)
            .map(|shape| Type::new(dtype, shape))
            .ok_or_else(|| "expected shapes that broadcast".into())
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let [a, b] = [args[0], args[1]];
        let (sa, sb) = (
            broadcast_strides(&a.shape, &ty.shape),
            broadcast_strides(&b.shape, &ty.shape),
        );
        let at = |index: &[usize], strides: &[usize]| -> usize {
            index.iter().zip(strides).map(|(i, s)| i * s).sum()
        };
        let mut data = Vec::with_capacity(ty.len());
        for_each_index(&ty.shape, |i| {
            data.push(self.apply(a.data[at(i, &sa)], b.data[at(i, &sb)]));
        });
        Tensor::new(ty.shape.clone(), data)
    }

    fn vjp(
        &self,
        p: &mut Program,
        y: Id,
        args: &[Id],
        dy: Id,
        wants: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let [a, b] = [args[0], args[1]];
        let mut towards = [None, None];
        for (i, slot) in towards.iter_mut().enumerate().filter(|(i, _)| wants[*i]) {
            let whole = match (self, i) {
                (Self::Add, _) | (Self::Sub, 0) => dy,
                (Self::Sub, _) => p.scale(dy, -1.0)?,
                (Self::Mul, 0) => p.product(dy, b)?,
                (Self::Mul, _) => p.product(dy, a)?,
                (Self::Div, 0) => p.add(Self::Div, &[dy, b])?,
                (Self::Div, _) => {
                    let slope = p.add(Self::Div, &[y, b])?;
                    let whole = p.product(dy, slope)?;
                    p.scale(whole, -1.0)?
                }
                // Piecewise constant: nothing flows.
                (Self::Less, _) => continue,
                (Self::Mod, 0) => dy,
                (Self::Mod, _) => return no_derivative(self),
            };
            let shape = p.shape(args[i]).to_vec();
            *slot = Some(p.sum_to(whole, &shape)?);
        }
        Ok(towards.into())
    }
}
