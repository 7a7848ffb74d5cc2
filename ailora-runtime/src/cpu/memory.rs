use ailora_graph::ir::Name;
use faer::{MatMut, MatRef};

use crate::plan::{Buffer, Plan, View};

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

enum Place<'a> {
    Arena(usize),
    Parameter(&'a [f32]),
}

// SAFETY: the pointer is to the arena that `new` borrows exclusively for 'a; threads of one step
// write disjoint parts of it.
unsafe impl Sync for Memory<'_> {}

impl<'a> Memory<'a> {
    /// The buffers of `plan` over `arena`, with parameters looked up by name.
    ///
    /// # Errors
    /// The name of a parameter that `lookup` does not know.
    pub fn new(
        plan: &'a Plan,
        arena: &'a mut [f32],
        lookup: impl Fn(&str) -> Option<&'a [f32]>,
    ) -> Result<Self, Name> {
        let buffers = plan.buffers.iter().map(|buffer| match buffer {
            Buffer::Arena { start, .. } => Ok(Place::Arena(*start)),
            Buffer::Parameter { name, .. } => lookup(name)
                .map(Place::Parameter)
                .ok_or_else(|| name.clone()),
        });
        Ok(Self {
            buffers: buffers.collect::<Result<_, _>>()?,
            len: arena.len(),
            arena: arena.as_mut_ptr(),
        })
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
    use ailora_graph::ir::{Program, Type};

    use super::*;
    use crate::plan::plan;

    #[test]
    #[should_panic(expected = "writes no parameter")]
    fn a_parameter_is_not_written() {
        let mut p = Program::new();
        let w = p.frozen("w", Type::f32([4])).unwrap();
        let twice = p.scale(w, 2.0).unwrap();
        p.set_output("twice", twice);
        let plan = plan(&p);
        let (w, mut arena) = ([1.0; 4], vec![0.0; plan.arena_len]);
        let memory = Memory::new(&plan, &mut arena, |_| Some(&w[..])).unwrap();
        let step = &plan.steps[0];
        // SAFETY: nothing else uses either.
        let (read, written) = unsafe {
            let written = memory.region(step.writes[0]).write(0, 4);
            (memory.region(step.reads[0]).read(0, 4), written)
        };
        assert_eq!(read, w);
        written.fill(3.0);
        // SAFETY: it panics.
        unsafe { memory.region(step.reads[0]).write(0, 4) };
    }
}
