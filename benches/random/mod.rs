//! Uniform numbers, whose sizes do not matter to speed.

use ailora::{ir::Draw, runtime::store::Array};
use rayon::prelude::*;

/// An array of a parameter's name and shape.
pub fn array(name: &str, shape: &[usize]) -> Array {
    let key = Draw::default().key(name);
    let mut array = Array::zeros(shape);
    let numbers = array.floats_mut().par_iter_mut().enumerate();
    numbers.for_each(|(i, x)| *x = 0.07 * (key.bits(i as u32) as f32 / u32::MAX as f32 - 0.5));
    array
}
