//! Rows of a table by id.

use std::fmt;

use egg::Id;

use super::arity;
use crate::ir::{DType, Draw, Operation, Program, ProgramError, Tensor, Type};

/// The row of a table for each id.
///
/// # Shapes
/// `table`: `[n, d]`; `ids`: `[...]` of i32 below `n`; result: `[..., d]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Embedding;

impl fmt::Display for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("embedding")
    }
}

impl Operation for Embedding {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [table, ids] = arity(args)?;
        if !table.dtype.is_float() || table.rank() != 2 || ids.dtype != DType::I32 {
            return Err("expected a table of floats [n, d] and ids of i32".into());
        }
        let shape = [&ids.shape[..], &table.shape[1..]].concat();
        Ok(Type::new(table.dtype, shape))
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = args[0].shape[1];
        let row = |&id: &f64| &args[0].data[id as usize * width..][..width];
        let data: Vec<f64> = args[1].data.iter().flat_map(row).copied().collect();
        Tensor::new(ty.shape.clone(), data)
    }

    fn vjp(
        &self,
        p: &mut Program,
        _: Id,
        args: &[Id],
        dy: Id,
        wants: &[bool],
    ) -> Result<Vec<Option<Id>>, ProgramError> {
        let grad = EmbeddingGrad {
            rows: p.shape(args[0])[0],
        };
        let towards_table = wants[0].then(|| p.add(grad, &[args[1], dy])).transpose()?;
        Ok(vec![towards_table, None])
    }
}

/// The gradient of [`Embedding`] towards the table: each row of `dy` added at its id.
///
/// # Shapes
/// `ids`: `[...]`; `dy`: `[..., d]`; result: `[rows, d]`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmbeddingGrad {
    /// Rows of the table.
    pub rows: usize,
}

impl fmt::Display for EmbeddingGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "embedding_grad({})", self.rows)
    }
}

impl Operation for EmbeddingGrad {
    fn infer(&self, args: &[&Type]) -> Result<Type, String> {
        let [ids, dy] = arity(args)?;
        match dy.shape.split_last() {
            Some((&width, lead)) if ids.dtype == DType::I32 && ids.shape == lead => {
                Ok(Type::f32([self.rows, width]))
            }
            _ => Err("expected ids of i32[...] and a gradient of f32[..., d]".into()),
        }
    }

    fn eval(&self, args: &[&Tensor], ty: &Type, _: Draw) -> Tensor {
        let width = ty.shape[1];
        let mut out = vec![0.0; ty.len()];
        for (&id, dy) in args[0].data.iter().zip(args[1].data.chunks(width.max(1))) {
            for (sum, dy) in out[id as usize * width..].iter_mut().zip(dy) {
                *sum += dy;
            }
        }
        Tensor::new(ty.shape.clone(), out)
    }
}
