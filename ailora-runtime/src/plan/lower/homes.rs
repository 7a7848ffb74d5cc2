//! Where nodes are computed: in the concatenations that read them, or in buffers of their own.

use ailora_graph::ir::{Id, Op, Program, Type, ops::concat::Concat, shape::pitch};

use super::{Kind, Lowering};
use crate::plan::{
    View,
    units::{Unit, is_fusible},
};

/// The place in a concatenation that a node is computed into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home {
    concat: Id,
    axis: usize,
    start: usize,
}

/// Where each node is computed that a concatenation reads, so that nothing is left to copy. A node
/// in two of them has its home in the first.
pub(super) fn homes(
    program: &Program,
    schedule: &[Unit],
    readers: &[Vec<Id>],
) -> Vec<Option<Home>> {
    let mut homes = vec![None; program.len()];
    let live = program.live();
    for concat in program.ids().filter(|&id| live[usize::from(id)]) {
        let Op::Concat(op) = &program[concat].op else {
            continue;
        };
        let mut start = 0;
        for &arg in &program[concat].args {
            let mut owner = arg;
            while let Op::Reshape(_) | Op::Cast(_) = program[owner].op {
                owner = program[owner].args[0];
            }
            let home = &mut homes[usize::from(owner)];
            if home.is_none() && writes_rows(&program[owner].op) {
                *home = Some(Home {
                    concat,
                    axis: op.axis,
                    start,
                });
            }
            start += program.shape(arg)[op.axis];
        }
    }
    // A product that is left in the memory of what it is added to has its home there.
    for unit in schedule.iter().rev() {
        if let Unit::Gemm {
            node,
            onto: Some(onto),
            ..
        } = unit
            && is_for_sum(program, readers, *onto)
        {
            let home = homes[usize::from(*node)].take();
            let under = &mut homes[usize::from(*onto)];
            *under = under.or(home.filter(|_| writes_rows(&program[*onto].op)));
        }
    }
    homes
}

/// Whether a value in memory of its own is computed for one sum only, which may be left there.
pub(super) fn is_for_sum(program: &Program, readers: &[Vec<Id>], onto: Id) -> bool {
    let op = &program[onto].op;
    let owns_memory = op.operation().is_some() && !op.is_view() && !matches!(op, Op::Concat(_));
    let is_output = program.outputs().values().any(|&output| output == onto);
    owns_memory && !is_output && readers[usize::from(onto)].len() == 1
}

/// Whether the kernel of an operation leaves gaps between rows as they are.
fn writes_rows(op: &Op) -> bool {
    is_fusible(op)
        || matches!(
            op,
            Op::Input(_)
                | Op::MatMul(_)
                | Op::Attention(_)
                | Op::AttentionGrad(_)
                | Op::Rotary(_)
                | Op::Concat(_)
                | Op::Permute(_)
        )
}

/// Elements of a line of a processor's caches.
const LINE: usize = 16;

impl Lowering<'_> {
    /// Where a node is computed: its home if it has one, or a buffer of its own.
    pub(super) fn place(&mut self, id: Id) -> View {
        if let Some(view) = self.views[usize::from(id)] {
            return view;
        }
        let view = self.at_home(id).unwrap_or_else(|| self.own(id));
        self.keep(id, view);
        view
    }

    /// A buffer for a node. Rows that lie side by side in it begin where products read them fast.
    fn own(&mut self, id: Id) -> View {
        let ty = self.program.ty(id);
        let last = ty.rank().saturating_sub(1);
        let is_joined = match &self.program[id].op {
            Op::Concat(Concat { axis }) => *axis == last,
            // Others may be dense: those whose rows begin at lines.
            Op::MatMul(_) => {
                !ty.shape[last].is_multiple_of(LINE) && self.is_read_in_columns(id, last)
            }
            _ => false,
        };
        if !is_joined {
            return self.buffer(ty, Kind::Value);
        }
        let width = ty.shape[last];
        let (rows, stride) = (ty.len() / width.max(1), pitch(width));
        let whole = Type::new(ty.dtype, [rows * stride]);
        let whole = self.buffer(&whole, Kind::Value);
        View::spaced(whole.buffer, rows, width, stride)
    }

    /// Whether a node is several in one, each of them some columns.
    fn is_read_in_columns(&self, id: Id, last: usize) -> bool {
        let mut readers = self.readers[usize::from(id)].iter();
        let reads_columns = |&reader: &Id| match &self.program[reader].op {
            Op::Slice(slice) => slice.axis == last,
            _ => false,
        };
        !self.is_output(id) && readers.all(reads_columns)
    }

    fn at_home(&mut self, id: Id) -> Option<View> {
        let home = self.homes[usize::from(id)]?;
        let program = self.program;
        let whole = self.place(home.concat);
        let shape = program.shape(home.concat);
        // The node may be another shape of the concatenation's argument.
        let mut part = shape.to_vec();
        let len: usize = part.iter().product::<usize>() / part[home.axis].max(1);
        part[home.axis] = program.ty(id).len() / len.max(1);
        whole
            .part(shape, home.axis, home.start, &part)?
            .reshaped(program.shape(id))
    }
}
