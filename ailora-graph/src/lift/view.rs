use std::collections::HashMap;
use std::hash::BuildHasher;

use luminal::prelude::{ShapeTracker, symbolic::Expression};

use crate::ir::{Id, Program, ProgramError, ops::view::Pad};

type Vars<S> = HashMap<char, usize, S>;

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
pub(super) fn buffer_shape<S: BuildHasher>(
    tracker: &ShapeTracker,
    vars: &Vars<S>,
) -> Result<Vec<usize>, String> {
    (0..tracker.dims.len())
        .filter(|&i| !tracker.fake[i])
        .map(|i| resolve(&tracker.dims[i], vars))
        .collect()
}

fn resolve<S: BuildHasher>(value: &Expression, vars: &Vars<S>) -> Result<usize, String> {
    let vars = vars.iter().map(|(&name, &size)| (name, size)).collect();
    value
        .exec(&vars)
        .ok_or_else(|| format!("the dimension {value:?} has no value; set it with `set_dyn_dim`"))
}

impl View {
    pub fn new<S: BuildHasher>(
        program: &Program,
        source: Id,
        tracker: &ShapeTracker,
        vars: &Vars<S>,
    ) -> Result<Self, String> {
        let mut axes = Vec::new();
        for i in 0..tracker.dims.len() {
            let size = resolve(&tracker.dims[i], vars)?;
            let (start, end) = tracker.slices[i];
            let (start, end) = (resolve(&start, vars)?, resolve(&end, vars)?.min(size));
            let padding = tracker.padding[i];
            let padding = (resolve(&padding.0, vars)?, resolve(&padding.1, vars)?);
            let slice = (start > 0 || end < size).then_some((start, end));
            if slice.is_some() && padding != (0, 0) {
                return Err(
                    "luminal 0.2 computes an axis that is both padded and sliced wrongly; \
                            call `.contiguous()` between"
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
                "its buffer of {buffer} elements is read as one of {stored}, which luminal 0.2 \
                 computes wrongly; call `.contiguous()` before the reshape or reduction"
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
        self.order.iter().enumerate().any(|(i, &axis)| i != axis)
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

    /// The tensor it shows, with repeated axes of size 1.
    pub fn broadcastable(&self, p: &mut Program) -> Result<Id, ProgramError> {
        if p.ty(self.source).rank() == 0 {
            return Ok(self.source);
        }
        let memory: Vec<usize> = self
            .axes
            .iter()
            .map(|axis| if axis.fake { 1 } else { axis.size })
            .collect();
        let mut x = p.reshape(self.source, &memory)?;
        for (i, axis) in self.axes.iter().enumerate().filter(|(_, axis)| !axis.fake) {
            if let Some((start, end)) = axis.slice {
                x = p.slice(x, i, start, end)?;
            }
            let (before, after) = axis.padding;
            if (before, after) != (0, 0) {
                let axis = i;
                x = p.add(
                    Pad {
                        axis,
                        before,
                        after,
                    },
                    &[x],
                )?;
            }
        }
        p.permute(x, &self.order)
    }

    /// The tensor it shows, with every element in place.
    pub fn whole(&self, p: &mut Program) -> Result<Id, ProgramError> {
        let x = self.broadcastable(p)?;
        p.expand(x, &self.shape)
    }
}
