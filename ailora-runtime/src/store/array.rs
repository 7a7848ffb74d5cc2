//! Tensors as they are kept.

use std::{borrow::Cow, fmt, ops::Range};

use ailora_graph::ir::DType;
use rayon::prelude::*;

use super::Map;

/// Elements that a thread decodes at a time.
const SHARE: usize = 1 << 16;

/// A tensor, row-major, with elements of one type: its own, or those of a file that is mapped. What is
/// written to a tensor stays with it: the file is never changed.
#[derive(Clone)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    elements: Elements,
}

#[derive(Clone)]
enum Elements {
    F32(Vec<f32>),
    /// Of another type, little-endian.
    Bytes(Vec<u8>),
    /// Little-endian. Float32 elements can be read where they lie.
    Mapped(Map, Range<usize>),
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
        Self {
            dtype: DType::F32,
            shape,
            elements: Elements::F32(elements),
        }
    }

    /// A tensor of float32 zeros.
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        let len = shape.iter().product();
        Self::new(shape, vec![0.0; len])
    }

    /// A tensor of little-endian elements of any type, last axis fastest.
    ///
    /// # Panics
    /// If they are not as many as the shape has.
    pub fn from_bytes<'a>(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let (shape, bytes) = (shape.into(), bytes.into());
        check(dtype, &shape, bytes.len());
        let elements = match dtype {
            DType::F32 => Elements::F32(decoded(dtype, &bytes)),
            _ => Elements::Bytes(bytes.into_owned()),
        };
        Self {
            dtype,
            shape,
            elements,
        }
    }

    /// A tensor of little-endian elements of a file, last axis fastest. They are not copied, unless they
    /// are float32 and do not lie as the processor reads them.
    ///
    /// # Panics
    /// If the file has no such range, or the shape has another number of elements.
    pub fn mapped(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        map: &Map,
        range: Range<usize>,
    ) -> Self {
        let shape = shape.into();
        let bytes = &map[range.clone()];
        check(dtype, &shape, bytes.len());
        let is_readable =
            cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, f32>(bytes).is_ok();
        let elements = match dtype {
            DType::F32 if !is_readable => Elements::F32(decoded(dtype, bytes)),
            _ => Elements::Mapped(map.clone(), range),
        };
        Self {
            dtype,
            shape,
            elements,
        }
    }

    /// The type of its elements.
    pub fn dtype(&self) -> DType {
        self.dtype
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

    /// Its elements as files have them, little-endian.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.elements {
            Elements::F32(floats) if cfg!(target_endian = "little") => {
                Cow::Borrowed(bytemuck::cast_slice(floats))
            }
            Elements::F32(floats) => floats.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Elements::Bytes(bytes) => Cow::Borrowed(bytes),
            Elements::Mapped(map, range) => Cow::Borrowed(&map[range.clone()]),
        }
    }

    /// Its elements where they lie, if they are float32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.elements {
            Elements::F32(floats) => Some(floats),
            Elements::Mapped(map, range) if self.dtype == DType::F32 => {
                Some(bytemuck::cast_slice(&map[range.clone()]))
            }
            _ => None,
        }
    }

    /// Its elements in float32: where they lie if they are that, else decoded.
    pub fn floats(&self) -> Cow<'_, [f32]> {
        match self.as_f32() {
            Some(floats) => Cow::Borrowed(floats),
            None => Cow::Owned(decoded(self.dtype, &self.bytes())),
        }
    }

    /// Its elements in float32, to be changed: from now on it has its own, of this type.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        if !matches!(self.elements, Elements::F32(_)) {
            self.elements = Elements::F32(self.floats().into_owned());
            self.dtype = DType::F32;
        }
        match &mut self.elements {
            Elements::F32(floats) => floats,
            _ => unreachable!("they are float32 now"),
        }
    }

    /// Its elements in float32.
    pub fn into_floats(self) -> Vec<f32> {
        match self.elements {
            Elements::F32(floats) => floats,
            _ => self.floats().into_owned(),
        }
    }

    /// Whether another tensor has the same shape and, in float32, the same values.
    pub fn same_values(&self, other: &Self) -> bool {
        self.shape == other.shape && self.floats() == other.floats()
    }
}

fn check(dtype: DType, shape: &[usize], bytes: usize) {
    let len: usize = shape.iter().product();
    assert_eq!(
        bytes,
        len * dtype.bytes(),
        "bytes of a tensor {dtype} {shape:?}"
    );
}

/// Little-endian elements in float32, by all threads.
fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut floats = vec![0.0; bytes.len() / dtype.bytes()];
    let shares = floats.par_chunks_mut(SHARE);
    shares
        .zip(bytes.par_chunks(SHARE * dtype.bytes()))
        .for_each(|(to, from)| dtype.decode(from, to));
    floats
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
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .field("floats", &self.floats())
            .finish()
    }
}
