//! Where a tensor lies in a buffer.

use ailora_graph::ir::shape::strides;

/// A tensor in a buffer, counted in elements of whatever type: rows of its last axis, equally far apart.
///
/// Elements that follow each other without gaps are one row, whatever the tensor's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The buffer's index in [`Plan::buffers`](crate::plan::Plan::buffers).
    pub buffer: usize,
    /// The first element.
    pub start: usize,
    /// How many rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// From one row's first element to the next's.
    pub stride: usize,
}

impl View {
    /// Elements without gaps.
    pub fn dense(buffer: usize, start: usize, len: usize) -> Self {
        Self {
            buffer,
            start,
            rows: 1,
            width: len,
            stride: len,
        }
    }

    /// Rows of `width` from the start of a buffer on, `stride` apart.
    pub(crate) fn spaced(buffer: usize, rows: usize, width: usize, stride: usize) -> Self {
        if rows <= 1 || stride == width {
            return Self::dense(buffer, 0, rows * width);
        }
        Self {
            buffer,
            start: 0,
            rows,
            width,
            stride,
        }
    }

    /// A tensor of `shape` whose elements lie at `strides`, if it is rows equally far apart.
    pub(crate) fn strided(
        buffer: usize,
        start: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Option<Self> {
        let (&width, lead) = shape.split_last().unwrap_or((&1, &[]));
        if width != 1 && strides.last() != Some(&1) {
            return None;
        }
        let mut view = Self::dense(buffer, start, width);
        let axes = lead.iter().zip(strides).rev();
        for (&size, &stride) in axes.filter(|(size, _)| **size != 1) {
            if view.rows == 1 {
                view.stride = stride;
            } else if stride != view.rows * view.stride {
                return None;
            }
            view.rows *= size;
        }
        Some(if view.stride == width {
            Self::dense(buffer, start, view.rows * width)
        } else {
            view
        })
    }

    /// How many elements.
    pub fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are no gaps.
    pub fn is_dense(&self) -> bool {
        self.rows == 1
    }

    /// From the first element to behind the last.
    pub fn span(&self) -> usize {
        self.rows.saturating_sub(1) * self.stride + self.width
    }

    /// Where the elements of a tensor of `shape` lie, which is this one's up to leading axes.
    pub(crate) fn strides(&self, shape: &[usize]) -> Vec<usize> {
        let mut own = strides(shape);
        if !self.is_dense() {
            let lead = own.len() - 1;
            for stride in &mut own[..lead] {
                *stride = *stride / self.width * self.stride;
            }
        }
        own
    }

    /// The same elements as a tensor of `shape`, where rows stay rows.
    pub(crate) fn reshaped(self, shape: &[usize]) -> Option<Self> {
        (self.is_dense() || shape.last() == Some(&self.width)).then_some(self)
    }

    /// The part from `start` along `axis` of this tensor of shape `whole`, of shape `part`.
    pub(crate) fn part(
        &self,
        whole: &[usize],
        axis: usize,
        start: usize,
        part: &[usize],
    ) -> Option<Self> {
        let strides = self.strides(whole);
        Self::strided(
            self.buffer,
            self.start + start * strides[axis],
            part,
            &strides,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rows_or_nothing() {
        let whole = View::dense(0, 0, 2 * 3 * 8);
        let shape = [2, 3, 8];
        let columns = whole.part(&shape, 2, 5, &[2, 3, 3]);
        let columns = columns.unwrap_or_else(|| panic!("columns are rows with gaps"));
        assert_eq!(
            (columns.start, columns.rows, columns.width, columns.stride),
            (5, 6, 3, 8)
        );
        assert_eq!(columns.strides(&[2, 3, 3]), [24, 8, 1]);
        assert_eq!(columns.reshaped(&[6, 3]), Some(columns));
        assert_eq!(columns.reshaped(&[18]), None);
        // One row of each sequence, and rows of one sequence.
        let first = whole.part(&shape, 1, 1, &[2, 1, 8]);
        assert_eq!(first.map(|v| (v.start, v.rows, v.stride)), Some((8, 2, 24)));
        assert_eq!(
            whole.part(&shape, 0, 1, &[1, 3, 8]),
            Some(View::dense(0, 24, 24))
        );
        // Two rows of each of two sequences are neither.
        assert_eq!(whole.part(&shape, 1, 1, &[2, 2, 8]), None);
    }
}
