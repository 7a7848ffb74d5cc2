//! Values for some parameters, kept beside an engine and put in their places at once, such as one of several
//! adapters.

use std::sync::atomic::{AtomicU64, Ordering};

use indexmap::IndexMap;

use crate::{store::Array, weights::Weights};

/// Values for some parameters. A value may be smaller than its parameter: it is the corner where rows and
/// columns begin, and zeros are everywhere else.
#[derive(Debug)]
pub struct Kept {
    /// What a device knows it by.
    id: u64,
    values: IndexMap<String, Value>,
}

/// A value of a parameter.
#[derive(Debug)]
pub(crate) struct Value {
    /// Rows and columns of the parameter.
    pub slot: [usize; 2],
    /// Rows and columns of the value, at most those.
    pub shape: [usize; 2],
    pub data: Vec<f32>,
}

/// An array as rows and columns: what has other than two axes is one row.
fn rows_and_columns(shape: &[usize]) -> [usize; 2] {
    match *shape {
        [rows, columns] => [rows, columns],
        _ => [1, shape.iter().product()],
    }
}

impl Value {
    /// The element of the parameter at a place, counted row by row.
    fn at(&self, i: usize) -> f32 {
        let [rows, width] = self.shape;
        let columns = self.slot[1].max(1);
        let (row, column) = (i / columns, i % columns);
        match row < rows && column < width {
            true => self.data.get(row * width + column).copied(),
            false => None,
        }
        .unwrap_or_default()
    }
}

impl Kept {
    /// Keeps values, each with its parameter's name and shape.
    pub fn new(values: impl IntoIterator<Item = (String, Vec<usize>, Array)>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let value = |(name, slot, array): (String, Vec<usize>, Array)| {
            let slot = rows_and_columns(&slot);
            let shape = rows_and_columns(array.shape());
            let data = array.into_floats();
            (name, Value { slot, shape, data })
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            values: values.into_iter().map(value).collect(),
        }
    }

    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "devices ask for it"))]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "devices ask for it"))]
    pub(crate) fn values(&self) -> &IndexMap<String, Value> {
        &self.values
    }

    /// Bytes of the values.
    pub fn bytes(&self) -> usize {
        let values = self.values.values();
        values.map(|value| size_of_val(&*value.data)).sum()
    }

    /// Writes the values to where the parameters lie.
    pub(crate) fn write(&self, weights: &mut Weights) {
        for name in self.values.keys() {
            self.write_one(weights, name);
        }
    }

    /// Writes the value of a parameter to where it lies, if it is there in that size.
    pub(crate) fn write_one(&self, weights: &mut Weights, name: &str) {
        let Some(value) = self.values.get(name) else {
            return;
        };
        if weights.len(name) != Some(value.slot.iter().product()) {
            return;
        }
        let mut i = 0;
        for row in weights.rows_mut(name).into_iter().flatten() {
            for x in row {
                *x = value.at(i);
                i += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Params;

    #[test]
    fn a_value_is_a_corner_and_zeros_are_around_it() {
        let params: Params = [("a", vec![3, 2]), ("v", vec![3]), ("other", vec![2])]
            .map(|(name, shape)| {
                (
                    name.to_owned(),
                    Array::new(shape.clone(), vec![9.0; shape.iter().product()]),
                )
            })
            .into();
        let mut weights = Weights::new(params);
        let array = |shape: &[usize], data: &[f32]| Array::new(shape, data.to_vec());
        let kept = Kept::new([
            ("a".to_owned(), vec![3, 2], array(&[2, 1], &[1.0, 2.0])),
            ("v".to_owned(), vec![3], array(&[3], &[4.0, 5.0, 6.0])),
            ("gone".to_owned(), vec![1], array(&[1], &[7.0])),
        ]);
        kept.write(&mut weights);
        let floats = |name: &str| weights.get(name).unwrap().into_floats();
        assert_eq!(floats("a"), [1.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
        assert_eq!(floats("v"), [4.0, 5.0, 6.0]);
        assert_eq!(floats("other"), [9.0, 9.0]);
        assert_eq!(kept.bytes(), 4 * 6);
    }
}
