//! Tensors as they are kept.

use std::{borrow::Cow, fmt};

use ailora_graph::ir::DType;

/// A tensor, row-major, with elements of one type.
#[derive(Clone)]
pub struct Array {
    shape: Vec<usize>,
    elements: Vec<f32>,
}

impl Array {
    /// A tensor of float32 elements, last axis fastest.
    ///
    /// # Panics
    /// If they are not as many as the shape has.
    pub fn new(shape: impl Into<Vec<usize>>, elements: Vec<f32>) -> Self {
        let shape = shape.into();
        let len: usize = shape.iter().product();
        assert_eq!(elements.len(), len, "elements of a tensor {shape:?}");
        Self { shape, elements }
    }

    /// A tensor of float32 zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let elements = vec![0.0; shape.iter().product()];
        Self { shape, elements }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        DType::F32
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements where they lie, if they are float32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        Some(&self.elements)
    }

    /// Its elements in float32: where they lie if they are that, else decoded.
    pub fn floats(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.elements)
    }

    /// Its elements in float32, to be changed.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        &mut self.elements
    }

    /// Its elements in float32.
    pub fn into_floats(self) -> Vec<f32> {
        self.elements
    }
}

impl Default for Array {
    /// No elements.
    fn default() -> Self {
        Self::zeros([0])
    }
}

/// The same type, shape and bytes.
impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.elements == other.elements
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("dtype", &self.dtype())
            .field("shape", &self.shape)
            .field("floats", &self.floats())
            .finish()
    }
}
