use faer::{MatMut, MatRef};

use crate::view::View;

/// A cache line: the arena's alignment.
#[derive(Clone, Copy, Debug, Default, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

/// The buffers of a plan at run time.
///
/// The plan gives buffers that are alive together disjoint places, and each step writes views that
/// it does not read other than element for element. That is what makes handing out shared and
/// exclusive slices of the one arena sound.
pub(crate) struct Memory<'a> {
    arena: *mut f32,
    buffers: Vec<Place<'a>>,
    len: usize,
}

/// Where a buffer lies at run time.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In the arena, from this element on.
    Arena(usize),
    /// A parameter's elements.
    Parameter(&'a [f32]),
    /// A state's elements, behind a pointer that is exclusive for 'a, and how many they are.
    State(*mut f32, usize),
}

// SAFETY: the pointers are to the arena that `new` borrows exclusively for 'a, and to states that are
// borrowed so; threads of one step write disjoint parts of them.
unsafe impl Sync for Memory<'_> {}

impl<'a> Memory<'a> {
    /// Buffers at these places over `arena`.
    pub fn new(buffers: Vec<Place<'a>>, arena: &'a mut [f32]) -> Self {
        Self {
            buffers,
            len: arena.len(),
            arena: arena.as_mut_ptr(),
        }
    }

    /// The elements of a view without gaps.
    pub fn read(&self, view: View) -> &[f32] {
        assert!(view.is_dense(), "the plan gives this kernel dense operands");
        let len = view.len();
        // SAFETY: kernels that read whole views write none that overlaps them.
        unsafe { self.region(view).read(0, len) }
    }

    /// A view's elements behind a pointer, for a kernel whose threads share them.
    pub fn region(&self, view: View) -> Region {
        let len = view.span();
        let (start, writable) = match self.buffers[view.buffer] {
            Place::Parameter(data) => {
                let data = &data[view.start..view.start + len];
                (data.as_ptr().cast_mut(), 0)
            }
            Place::State(start, all) => {
                assert!(view.start + len <= all, "the plan fits its states");
                // SAFETY: in bounds.
                (unsafe { start.add(view.start) }, len)
            }
            Place::Arena(start) => {
                let start = start + view.start;
                assert!(start + len <= self.len, "the plan fits its arena");
                // SAFETY: in bounds.
                (unsafe { self.arena.add(start) }, len)
            }
        };
        Region {
            start,
            len,
            writable,
            stride: (!view.is_dense()).then_some(view.stride),
        }
    }
}

/// Elements that the threads of one step read and, unless they are a parameter's, write in parts.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    start: *mut f32,
    /// From the first element to behind the last.
    len: usize,
    /// As many, or 0 where they are a parameter's, behind a shared reference.
    writable: usize,
    /// Between rows, if there are gaps.
    stride: Option<usize>,
}

// SAFETY: every access is through the methods below, whose callers promise that it is disjoint from
// other threads' writes.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Elements of a test.
    #[cfg(test)]
    pub fn new(elements: &mut [f32], stride: Option<usize>) -> Self {
        Self {
            start: elements.as_mut_ptr(),
            len: elements.len(),
            writable: elements.len(),
            stride,
        }
    }

    /// Elements between the starts of rows of `width`.
    pub fn stride(self, width: usize) -> usize {
        self.stride.unwrap_or(width)
    }

    /// Elements from `start` on, of which `len` are within the region.
    pub fn at(self, start: usize, len: usize) -> *const f32 {
        assert!(start + len <= self.len, "a kernel stays within its view");
        // SAFETY: in bounds.
        unsafe { self.start.add(start) }
    }

    /// As [`at`](Self::at), to be written.
    fn at_mut(self, start: usize, len: usize) -> *mut f32 {
        assert!(
            start + len <= self.writable,
            "a kernel stays within its view, and writes no parameter"
        );
        // SAFETY: in bounds.
        unsafe { self.start.add(start) }
    }

    /// Some elements.
    ///
    /// # Safety
    /// Nothing writes them while the slice is used.
    pub unsafe fn read<'a>(self, start: usize, len: usize) -> &'a [f32] {
        // SAFETY: in bounds, and not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(start, len), len) }
    }

    /// Some elements, to be written.
    ///
    /// # Safety
    /// Nothing else uses them while the slice is used.
    pub unsafe fn write<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at_mut(start, len), len) }
    }

    /// All elements, to be written.
    ///
    /// # Safety
    /// Nothing else uses them while the slice is used.
    pub unsafe fn write_all<'a>(self) -> &'a mut [f32] {
        // SAFETY: by the caller's promise.
        unsafe { self.write(0, self.len) }
    }

    /// A matrix of elements with gaps between its rows.
    ///
    /// # Safety
    /// Nothing writes the matrix's elements while it is used; the gaps are not touched.
    pub unsafe fn matrix<'a>(
        self,
        start: usize,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> MatRef<'a, f32> {
        let span = rows
            .checked_sub(1)
            .map_or(0, |gaps| gaps * stride + columns);
        // SAFETY: in bounds, and not written by the caller's promise.
        unsafe { MatRef::from_raw_parts(self.at(start, span), rows, columns, stride as isize, 1) }
    }

    /// A matrix of elements with gaps between its rows, to be written.
    ///
    /// # Safety
    /// Nothing else uses the matrix's elements while it is used; the gaps are not touched.
    pub unsafe fn matrix_mut<'a>(
        self,
        start: usize,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> MatMut<'a, f32> {
        let span = rows
            .checked_sub(1)
            .map_or(0, |gaps| gaps * stride + columns);
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe {
            let start = self.at_mut(start, span);
            MatMut::from_raw_parts_mut(start, rows, columns, stride as isize, 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "writes no parameter")]
    fn a_parameter_is_not_written() {
        let (w, mut arena) = ([1.0; 4], vec![0.0; 4]);
        let buffers = vec![Place::Parameter(&w), Place::Arena(0)];
        let memory = Memory::new(buffers, &mut arena);
        let [parameter, result] = [0, 1].map(|buffer| View::dense(buffer, 0, 4));
        // SAFETY: nothing else uses either.
        let (read, written) = unsafe {
            let written = memory.region(result).write(0, 4);
            (memory.region(parameter).read(0, 4), written)
        };
        assert_eq!(read, w);
        written.fill(3.0);
        // SAFETY: it panics.
        unsafe { memory.region(parameter).write(0, 4) };
    }
}
