use luminal::{
    graph::Graph,
    prelude::{ShapeTracker, symbolic::Expression},
};

use crate::ir::{Id, Program, ProgramError, ops::view::Pad};

/// What a node sees of a buffer through luminal's shape tracker, in resolved numbers.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub source: Id,
    /// The axes as they lie in memory, broadcast ones included.
    axes: Vec<Axis>,
    /// For each logical axis, its place in `axes`.
    order: Vec<usize>,
    shape: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Axis {
    /// Size in memory; the number of repetitions if `fake`.
    size: usize,
    /// Repeated rather than stored.
    fake: bool,
    slice: Option<(usize, usize)>,
    padding: (usize, usize),
}

impl Axis {
    fn len(&self) -> usize {
        let (start, end) = self.slice.unwrap_or((0, self.size));
        end - start + self.padding.0 + self.padding.1
    }
}

/// The dimensions of the buffer that a tracker views.
pub(super) fn buffer_shape(tracker: &ShapeTracker, graph: &Graph) -> Result<Vec<usize>, String> {
    (0..tracker.dims.len())
        .filter(|&i| !tracker.fake[i])
        .map(|i| resolve(&tracker.dims[i], graph))
        .collect()
}

fn resolve(value: &Expression, graph: &Graph) -> Result<usize, String> {
    value
        .exec(&graph.dyn_map)
        .ok_or_else(|| format!("the dimension {value:?} has no value; set it with `set_dyn_dim`"))
}

impl View {
    pub fn new(
        program: &Program,
        source: Id,
        tracker: &ShapeTracker,
        graph: &Graph,
    ) -> Result<Self, String> {
        let mut axes = Vec::new();
        for i in 0..tracker.dims.len() {
            let size = resolve(&tracker.dims[i], graph)?;
            let (start, end) = tracker.slices[i];
            let (start, end) = (resolve(&start, graph)?, resolve(&end, graph)?.min(size));
            let padding = tracker.padding[i];
            let padding = (resolve(&padding.0, graph)?, resolve(&padding.1, graph)?);
            let slice = (start > 0 || end < size).then_some((start, end));
            if padding != (0, 0) && (slice.is_some() || tracker.fake[i]) {
                return Err(
                    "luminal 0.2 computes wrongly what is padded and either sliced or repeated \
                     along one axis; call `.contiguous()` before the padding"
                        .into(),
                );
            }
            if start >= end {
                return Err(format!(
                    "the slice {start}..{end} of an axis of {size} is empty"
                ));
            }
            axes.push(Axis {
                size,
                fake: tracker.fake[i],
                slice,
                padding,
            });
        }
        let stored: usize = axes.iter().filter(|a| !a.fake).map(|a| a.size).product();
        let buffer = program.ty(source).len();
        if stored != buffer {
            return Err(format!(
                "its buffer of {buffer} elements is read as one of {stored}; call `.contiguous()` \
                 before a reshape or reduction of a slice, which luminal 0.2 computes wrongly, and \
                 give the values of `arange`, `tril` or `gather` as inputs"
            ));
        }
        let order: Vec<usize> = tracker.indexes.iter().copied().collect();
        let shape = order.iter().map(|&i| axes[i].len()).collect();
        Ok(Self {
            source,
            axes,
            order,
            shape,
        })
    }

    /// The dimensions it shows.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn is_permuted(&self) -> bool {
        !self.order.is_sorted()
    }

    pub fn is_padded(&self) -> bool {
        self.axes.iter().any(|axis| axis.padding != (0, 0))
    }

    /// Whether luminal 0.2 reduces it rightly along logical axis `i`: its handle of the result
    /// keeps the order of the other axes, and it miscounts an axis that is cut at both ends.
    pub fn reduces_along(&self, i: usize) -> bool {
        let mut others = self.order.clone();
        others.remove(i);
        let cut_twice = |axis: &Axis| {
            axis.slice
                .is_some_and(|(start, end)| start > 0 && end < axis.size)
        };
        others.is_sorted() && !self.axes.iter().any(cut_twice)
    }

    /// Whether logical axis `i` is repeated rather than stored.
    pub fn is_fake(&self, i: usize) -> bool {
        self.axes[self.order[i]].fake
    }

    /// Whether it shows all of the buffer and nothing else.
    pub fn is_exact(&self) -> bool {
        self.axes
            .iter()
            .all(|axis| axis.slice.is_none() && axis.padding == (0, 0))
    }

    /// The logical axes that are stored, in memory order, and their sizes.
    pub fn stored(&self) -> Vec<(usize, usize)> {
        let logical = |axis: usize| self.order.iter().position(|&i| i == axis);
        (0..self.axes.len())
            .filter(|&i| !self.axes[i].fake)
            .filter_map(|i| Some((logical(i)?, self.axes[i].size)))
            .collect()
    }

    /// The tensor it shows, with repeated axes of size 1, and without those that lead.
    pub fn broadcastable(&self, p: &mut Program) -> Result<Id, ProgramError> {
        let stored = || self.axes.iter().filter(|axis| !axis.fake);
        let memory: Vec<usize> = stored().map(|axis| axis.size).collect();
        let mut x = p.reshape(self.source, &memory)?;
        for (axis, stored) in stored().enumerate() {
            if let Some((start, end)) = stored.slice {
                x = p.slice(x, axis, start, end)?;
            }
            let (before, after) = stored.padding;
            if (before, after) != (0, 0) {
                let pad = Pad {
                    axis,
                    before,
                    after,
                };
                x = p.add(pad, &[x])?;
            }
        }
        let place = |axis: usize| self.axes[..axis].iter().filter(|a| !a.fake).count();
        let logical = || self.order.iter().map(|&i| (i, &self.axes[i]));
        let order: Vec<usize> = logical()
            .filter(|(_, axis)| !axis.fake)
            .map(|(i, _)| place(i))
            .collect();
        x = p.permute(x, &order)?;
        let shape: Vec<usize> = logical()
            .skip_while(|(_, axis)| axis.fake)
            .map(|(_, axis)| if axis.fake { 1 } else { axis.len() })
            .collect();
        p.reshape(x, &shape)
    }

    /// The tensor it shows, with every element in place.
    pub fn whole(&self, p: &mut Program) -> Result<Id, ProgramError> {
        let x = self.broadcastable(p)?;
        p.expand(x, &self.shape)
    }
}
