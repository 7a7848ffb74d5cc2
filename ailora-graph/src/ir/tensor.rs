use super::shape::{broadcast_strides, for_each_index, strides};

/// A float64 tensor of the reference interpreter, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its elements, last axis fastest.
    pub data: Vec<f64>,
}

impl Tensor {
    /// A tensor of the given shape and elements.
    ///
    /// # Panics
    /// If their counts differ.
    pub fn new(shape: impl Into<Vec<usize>>, data: impl Into<Vec<f64>>) -> Self {
        let (shape, data) = (shape.into(), data.into());
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "elements of {shape:?}"
        );
        Self { shape, data }
    }

    /// A tensor without dimensions.
    pub fn scalar(value: f64) -> Self {
        Self::new([], [value])
    }

    /// A tensor whose element at each multi-index is `f` of it.
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let mut data = Vec::with_capacity(shape.iter().product());
        for_each_index(shape, |index| data.push(f(index)));
        Self::new(shape, data)
    }

    /// The element at a multi-index.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[offset(index, &strides(&self.shape))]
    }

    /// This tensor repeated along the axes that broadcast to `shape`.
    pub fn broadcast_to(&self, shape: &[usize]) -> Self {
        let strides = broadcast_strides(&self.shape, shape);
        Self::from_fn(shape, |index| self.data[offset(index, &strides)])
    }

    /// `f` of each element.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(
            self.shape.clone(),
            self.data.iter().map(|&x| f(x)).collect::<Vec<_>>(),
        )
    }

    /// `f` of each row along the last axis.
    pub fn map_rows(&self, mut f: impl FnMut(&[f64]) -> Vec<f64>) -> Self {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let data: Vec<f64> = self.data.chunks(width).flat_map(&mut f).collect();
        Self::new(self.shape.clone(), data)
    }
}

fn offset(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(i, s)| i * s).sum()
}
