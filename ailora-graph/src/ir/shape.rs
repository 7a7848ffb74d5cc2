//! Shapes, broadcasting and row-major strides.

use std::fmt;

use super::DType;

/// Element type and dimensions of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Type {
    /// What its elements are.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl Type {
    /// A tensor of elements of a type.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            dtype,
            shape: shape.into(),
        }
    }

    /// A float32 tensor.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(DType::F32, shape)
    }

    /// A tensor of ids.
    pub fn i32(shape: impl Into<Vec<usize>>) -> Self {
        Self::new(DType::I32, shape)
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes its elements take.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.bytes()
    }

    /// How many dimensions it has.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

/// Row-major strides of `shape`, in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Elements from one row to the next of rows of `width` side by side, where that can be chosen.
///
/// Rows begin at lines of a processor's caches, and wide ones at the 128 bytes that a device reads fastest,
/// of two bytes an element. They are no multiple of 2 KiB apart: of the rows that a processor reads at a
/// time, few sets of its caches hold the first elements.
pub fn pitch(width: usize) -> usize {
    const SAME_SETS: usize = 512;
    let line = match width {
        // Gaps would be a large part of them.
        ..64 => return width,
        64..SAME_SETS => 16,
        _ => 64,
    };
    let pitch = width.next_multiple_of(line);
    match pitch % SAME_SETS {
        0 => pitch + line,
        _ => pitch,
    }
}

/// Strides with which a tensor of shape `from` is read as one of shape `to`: 0 along broadcast axes.
/// `from` must broadcast to `to`.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let lead = to.len() - from.len();
    let own = strides(from);
    (0..to.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(i) if from[i] != 1 => own[i],
            _ => 0,
        })
        .collect()
}

/// The shape that both broadcast to: aligned at the last axis, equal or 1 along each.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| {
        (axis + shape.len())
            .checked_sub(rank)
            .map_or(1, |i| shape[i])
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Calls `f` with every multi-index of `shape`, in row-major order.
pub fn for_each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let Some(axis) = (0..shape.len()).rev().find(|&axis| {
            index[axis] += 1;
            let wrapped = index[axis] == shape[axis];
            if wrapped {
                index[axis] = 0;
            }
            !wrapped
        }) else {
            return;
        };
        debug_assert!(index[axis] > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_aligns_last_axes() {
        assert_eq!(broadcast(&[4, 1, 3], &[2, 1]), Some(vec![4, 2, 3]));
        assert_eq!(broadcast(&[], &[2]), Some(vec![2]));
        assert_eq!(broadcast(&[2], &[3]), None);
        assert_eq!(broadcast_strides(&[2, 1], &[4, 2, 3]), [0, 1, 0]);
    }

    #[test]
    fn rows_begin_at_lines_but_not_2_kib_apart() {
        for width in 64..5000 {
            let (pitch, line) = (pitch(width), if width < 512 { 16 } else { 64 });
            assert!(pitch.is_multiple_of(line) && !pitch.is_multiple_of(512));
            assert!((width..width + 2 * line).contains(&pitch), "{width}");
        }
        assert_eq!(
            [4160, 1040, 512, 511, 400, 386, 63].map(pitch),
            [4160, 1088, 576, 528, 400, 400, 63]
        );
    }

    #[test]
    fn indices_come_in_row_major_order() {
        let mut seen = Vec::new();
        for_each_index(&[2, 3], |i| seen.push(i[0] * 3 + i[1]));
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
        let mut scalars = 0;
        for_each_index(&[], |_| scalars += 1);
        assert_eq!(scalars, 1);
    }
}
