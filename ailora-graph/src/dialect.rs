//! The tensor program's operations as nodes of a luminal graph: [`nn`](crate::nn) adds them,
//! [`lift`](crate::lift) reads them.

use luminal::{
    op::{InputTensor, Operator},
    prelude::{Graph, NodeIndex, ShapeTracker, Tensor as Data},
};

use crate::ir::{Draw, Op, Tensor, Type};

/// An operation of the tensor program as a node of a luminal graph, on contiguous inputs.
///
/// luminal can run it: it computes in float64 by the reference definition, as an oracle.
#[derive(Debug, PartialEq)]
pub struct Dialect {
    /// The operation.
    pub op: Op,
    /// The types of its inputs.
    pub args: Vec<Type>,
    /// The type of its output.
    pub ty: Type,
}

impl Operator for Dialect {
    fn process(&mut self, inputs: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        let args: Vec<Tensor> = inputs
            .iter()
            .zip(&self.args)
            .map(|((input, _), ty)| {
                let data = input.borrowed().data.as_any().downcast_ref::<Vec<f32>>();
                let data = data.map(Vec::as_slice).unwrap_or_default();
                Tensor::new(
                    ty.shape.clone(),
                    data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
                )
            })
            .collect();
        let args: Vec<&Tensor> = args.iter().collect();
        let value = match (&self.op, self.op.operation()) {
            (_, Some(operation)) => operation.eval(&args, &self.ty, Draw::default()),
            (Op::Const(value), None) => Tensor::scalar(value.0),
            (_, None) => unreachable!("only constants and operations are added to a graph"),
        };
        vec![Data::new(
            value.data.iter().map(|&x| x as f32).collect::<Vec<f32>>(),
        )]
    }
}

/// Adds `op` to the graph on contiguous inputs of these types.
pub(crate) fn add(
    graph: &mut Graph,
    op: Op,
    args: &[NodeIndex],
    types: &[&Type],
    ty: &Type,
) -> NodeIndex {
    let operator = Dialect {
        op,
        args: types.iter().map(|&ty| ty.clone()).collect(),
        ty: ty.clone(),
    };
    let mut node = graph.add_op(operator);
    for (&arg, ty) in args.iter().zip(types) {
        node = node.input(arg, 0, tracker(&ty.shape));
    }
    node.finish()
}

/// luminal's tracker of a contiguous tensor.
///
/// A tracker holds at most six axes. The dialect knows its shapes itself and reads whole buffers, so
/// a tensor of more axes is tracked flat.
pub(crate) fn tracker(shape: &[usize]) -> ShapeTracker {
    let flat = [shape.iter().product()];
    let shape = if shape.len() > 6 { &flat[..] } else { shape };
    let dims: Vec<_> = shape.iter().map(|&dim| dim.into()).collect();
    ShapeTracker::new(&dims)
}
