//! The operations, one file a family: type, float64 value and derivative of each.

pub mod attention;
pub mod cache;
pub mod cast;
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
pub mod row_lengths;
pub mod softmax;
pub mod take_along;
pub mod top;
pub mod view;

use super::{DType, ProgramError, Type};

fn arity<const N: usize>(args: &[&Type]) -> Result<[Type; N], String> {
    let args: Vec<Type> = args.iter().map(|&ty| ty.clone()).collect();
    let found = args.len();
    args.try_into()
        .map_err(|_| format!("expected {N} arguments, found {found}"))
}

/// The type in which a result of floats is kept: as narrow as the narrowest of them.
///
/// It depends on what is read only, not on the way in which it is computed, so that equal expressions are of
/// one type. Arithmetic is float32 whatever it is.
fn floats(args: &[&Type]) -> Result<DType, String> {
    if let Some(i) = args.iter().position(|ty| !ty.dtype.is_float()) {
        return Err(format!("argument {i} must be floats"));
    }
    let dtypes = args.iter().map(|ty| ty.dtype);
    Ok(dtypes
        .min_by_key(|dtype| dtype.bytes())
        .unwrap_or(DType::F32))
}

fn no_derivative<T>(op: &impl std::fmt::Display) -> Result<T, ProgramError> {
    Err(ProgramError::NotDifferentiable { op: op.to_string() })
}
