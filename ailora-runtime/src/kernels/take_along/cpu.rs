use ailora_graph::ir::ops::take_along::TakeAlong;
use rayon::prelude::*;

/// What the ids choose from.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    op: TakeAlong,
    /// Elements in a row of a matrix.
    width: usize,
    ids: &'a [i32],
    /// Ids in a row.
    columns: usize,
}

impl<'a> Places<'a> {
    pub fn new(op: TakeAlong, [width, columns]: [usize; 2], ids: &'a [i32]) -> Self {
        Self {
            op,
            width,
            ids,
            columns,
        }
    }

    /// How many elements a matrix has.
    fn matrix(self) -> usize {
        super::matrix(self.op, [self.width, self.columns], self.ids.len())
    }

    /// Calls `f` for each id in order with where its element is in a matrix.
    fn for_each(self, mut f: impl FnMut(usize, usize)) {
        for (i, ids) in self.ids.chunks_exact(self.columns).enumerate() {
            for (j, &id) in ids.iter().enumerate() {
                let row = if self.op.transposed { j } else { i };
                f(i * self.columns + j, row * self.width + id as usize);
            }
        }
    }

    /// The elements of each matrix of `x`.
    pub fn take(self, x: &[f32], to: &mut [f32]) {
        let matrices = x.par_chunks_exact(self.matrix());
        let parts = to.par_chunks_exact_mut(self.ids.len());
        matrices
            .zip(parts)
            .for_each(|(x, to)| self.for_each(|at, place| to[at] = x[place]));
    }

    /// Matrices of the sums of elements by their places.
    pub fn add(self, from: &[f32], to: &mut [f32]) {
        let matrices = to.par_chunks_exact_mut(self.matrix());
        let parts = from.par_chunks_exact(self.ids.len());
        matrices.zip(parts).for_each(|(to, from)| {
            to.fill(0.0);
            self.for_each(|at, place| to[place] += from[at]);
        });
    }
}
