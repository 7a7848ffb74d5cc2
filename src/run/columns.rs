//! Data of your own: named inputs of a model, with a value of each for every row.

use ailora_graph::ir::Type;
use ailora_runtime::run::Value;
use indexmap::IndexMap;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Columns that do not belong together.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ColumnsError {
    /// The values are no whole number of rows.
    #[error(
        "column `{name}` has {found} values, which is no whole number of rows of {shape:?}, \
         {elements} values each"
    )]
    Length {
        /// The column.
        name: String,
        /// Dimensions of one row.
        shape: Vec<usize>,
        /// Values of one row.
        elements: usize,
        /// Values in all.
        found: usize,
    },
    /// Columns of different lengths.
    #[error("column `{name}` has {found} rows, and `{first}` has {expected}")]
    Rows {
        /// The column.
        name: String,
        /// Its rows.
        found: usize,
        /// The first column.
        first: String,
        /// The rows of the first column.
        expected: usize,
    },
    /// A name twice.
    #[error("column `{0}` is there twice")]
    Repeated(String),
}

/// The values of a column, row by row.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I32(values) => values.len(),
        }
    }

    /// Those of some rows of `width` values.
    fn rows(&self, width: usize, rows: &[usize]) -> Self {
        fn gather<T: Copy>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
            let row = |&row: &usize| values[row * width..][..width].iter().copied();
            rows.iter().flat_map(row).collect()
        }
        match self {
            Self::F32(values) => Self::F32(gather(values, width, rows)),
            Self::I32(values) => Self::I32(gather(values, width, rows)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Column {
    /// Dimensions of one row.
    shape: Vec<usize>,
    values: Values,
}

impl Column {
    fn width(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Rows of named inputs, such as `pixels` of `[3, 32, 32]` and `label` of `[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    columns: IndexMap<String, Column>,
    rows: usize,
}

impl Columns {
    /// No columns yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These columns and one of floats; `shape` is one row's.
    ///
    /// # Errors
    /// The values are no whole number of rows, or not as many as other columns have.
    pub fn with_f32(
        self,
        name: &str,
        shape: impl Into<Vec<usize>>,
        values: Vec<f32>,
    ) -> Result<Self, ColumnsError> {
        self.with(name, shape.into(), Values::F32(values))
    }

    /// These columns and one of integers, such as ids or labels; `shape` is one row's.
    ///
    /// # Errors
    /// As [`with_f32`](Self::with_f32).
    pub fn with_i32(
        self,
        name: &str,
        shape: impl Into<Vec<usize>>,
        values: Vec<i32>,
    ) -> Result<Self, ColumnsError> {
        self.with(name, shape.into(), Values::I32(values))
    }

    fn with(mut self, name: &str, shape: Vec<usize>, values: Values) -> Result<Self, ColumnsError> {
        let column = Column { shape, values };
        let (elements, found) = (column.width(), column.values.len());
        if elements == 0 || !found.is_multiple_of(elements) {
            return Err(ColumnsError::Length {
                name: name.to_owned(),
                shape: column.shape,
                elements,
                found,
            });
        }
        let rows = found / elements;
        if let Some((first, _)) = self.columns.first()
            && rows != self.rows
        {
            return Err(ColumnsError::Rows {
                name: name.to_owned(),
                found: rows,
                first: first.clone(),
                expected: self.rows,
            });
        }
        self.rows = rows;
        match self.columns.insert(name.to_owned(), column) {
            None => Ok(self),
            Some(_) => Err(ColumnsError::Repeated(name.to_owned())),
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The floats of a column, row by row.
    pub fn f32(&self, name: &str) -> Option<&[f32]> {
        match &self.columns.get(name)?.values {
            Values::F32(values) => Some(values),
            Values::I32(_) => None,
        }
    }

    /// The integers of a column, row by row.
    pub fn i32(&self, name: &str) -> Option<&[i32]> {
        match &self.columns.get(name)?.values {
            Values::I32(values) => Some(values),
            Values::F32(_) => None,
        }
    }

    /// Some of the rows, in this order; each has to be there.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        let select = |(name, column): (&String, &Column)| {
            let column = Column {
                values: column.values.rows(column.width(), rows),
                shape: column.shape.clone(),
            };
            (name.clone(), column)
        };
        Self {
            columns: self.columns.iter().map(select).collect(),
            rows: rows.len(),
        }
    }

    /// The type of each column as an input of a model: the rows in front of one row's dimensions.
    pub(super) fn types(&self, rows: usize) -> impl Iterator<Item = (&str, Type)> {
        self.columns.iter().map(move |(name, column)| {
            let shape: Vec<usize> = [rows].iter().chain(&column.shape).copied().collect();
            let ty = match column.values {
                Values::F32(_) => Type::f32(shape),
                Values::I32(_) => Type::i32(shape),
            };
            (name.as_str(), ty)
        })
    }

    /// The columns as a compiled program takes them.
    pub(super) fn values(&self) -> Vec<(&str, Value<'_>)> {
        let columns = self.columns.iter();
        let value = columns.map(|(name, column)| {
            let value = match &column.values {
                Values::F32(values) => Value::F32(values),
                Values::I32(values) => Value::I32(values),
            };
            (name.as_str(), value)
        });
        value.collect()
    }

    /// One hash of names, shapes and values.
    pub(super) fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for (name, Column { shape, values }) in &self.columns {
            hash.update(format!("{name}\0{shape:?}\0"));
            match values {
                Values::F32(values) => {
                    values
                        .iter()
                        .for_each(|value| hash.update(value.to_le_bytes()));
                }
                Values::I32(values) => {
                    values
                        .iter()
                        .for_each(|value| hash.update(value.to_le_bytes()));
                }
            }
        }
        super::hash::hex(&hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_have_equally_many_rows() {
        let columns = || Columns::new().with_f32("x", [2], vec![1.0, 2.0, 3.0, 4.0]);
        let two = columns()
            .unwrap()
            .with_i32("label", [], vec![7, 9])
            .unwrap();
        assert_eq!(two.rows(), 2);
        let picked = two.select(&[1, 1, 0]);
        assert_eq!(picked.f32("x").unwrap(), [3.0, 4.0, 3.0, 4.0, 1.0, 2.0]);
        assert_eq!(picked.i32("label").unwrap(), [9, 9, 7]);
        let types: Vec<_> = two.types(5).collect();
        assert_eq!(types[0], ("x", Type::f32([5, 2])));
        assert_eq!(types[1], ("label", Type::i32([5])));

        let short = columns().unwrap().with_i32("label", [], vec![7]);
        assert!(matches!(
            short,
            Err(ColumnsError::Rows {
                found: 1,
                expected: 2,
                ..
            })
        ));
        let odd = columns().unwrap().with_f32("y", [3], vec![0.0; 4]);
        assert!(matches!(
            odd,
            Err(ColumnsError::Length {
                found: 4,
                elements: 3,
                ..
            })
        ));
        let twice = columns().unwrap().with_i32("x", [], vec![1, 2]);
        assert_eq!(twice, Err(ColumnsError::Repeated("x".into())));
    }

    #[test]
    fn a_hash_sees_names_shapes_and_values() {
        let of = |name: &str, shape: &[usize], values: [f32; 4]| {
            let columns = Columns::new().with_f32(name, shape, values.to_vec());
            columns.unwrap().sha256()
        };
        let first = of("x", &[2], [1.0, 2.0, 3.0, 4.0]);
        assert_ne!(first, of("y", &[2], [1.0, 2.0, 3.0, 4.0]));
        assert_ne!(first, of("x", &[1], [1.0, 2.0, 3.0, 4.0]));
        assert_ne!(first, of("x", &[2], [1.0, 2.0, 3.0, 5.0]));
    }
}
