//! The operations, one file a family: type, float64 value and derivative of each.

pub mod attention;
pub mod concat;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod loss;
pub mod matmul;
pub mod merge;
pub mod normalize;
pub mod reduce;
pub mod rotary;
pub mod softmax;
pub mod view;

use super::{DType, ProgramError, Type};

fn arity<const N: usize>(args: &[&Type]) -> Result<[Type; N], String> {
    let args: Vec<Type> = args.iter().map(|&ty| ty.clone()).collect();
    let found = args.len();
    args.try_into()
        .map_err(|_| format!("expected {N} arguments, found {found}"))
}

fn floats(args: &[&Type]) -> Result<(), String> {
    match args.iter().position(|ty| ty.dtype != DType::F32) {
        Some(i) => Err(format!("argument {i} must be f32")),
        None => Ok(()),
    }
}

fn no_derivative<T>(op: &impl std::fmt::Display) -> Result<T, ProgramError> {
    Err(ProgramError::NotDifferentiable { op: op.to_string() })
}
