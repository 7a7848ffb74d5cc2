//! Operands of other kernels brought into the type that these take, by loops.

use ailora_graph::ir::DType;

use ailora_graph::ir::ops::elementwise::Binary;

use super::{Access, Instruction, Loop, LoopOp, Source as From, Stored, cuda};
use crate::{
    kernels::device::{Action, Actions, Operand, Param},
    view::View,
};

impl Actions {
    /// Read number `i` as elements of a type: where it is, or converted, without gaps.
    pub fn of_type(&mut self, i: usize, read: Operand, dtype: DType) -> (Param, Operand) {
        if read.dtype == dtype {
            return (Param::Read(i), read);
        }
        self.moved(i, read, None, dtype)
    }

    /// Read number `i` in rows as wide as another read, a bias that is added to each; as elements of
    /// a type, without gaps.
    pub fn biased(
        &mut self,
        i: usize,
        mut read: Operand,
        bias: (usize, Operand),
        dtype: DType,
    ) -> (Param, Operand) {
        let width = bias.1.view.len();
        if read.view.is_dense() {
            read.view.rows = read.view.len() / width.max(1);
            (read.view.width, read.view.stride) = (width, width);
        }
        self.moved(i, read, Some(bias), dtype)
    }

    pub fn moved(
        &mut self,
        i: usize,
        read: Operand,
        bias: Option<(usize, Operand)>,
        dtype: DType,
    ) -> (Param, Operand) {
        let at = Param::Scratch(self.scratch);
        let View { rows, width, .. } = read.view;
        let to = Operand {
            dtype,
            view: View::dense(0, 0, rows * width),
        };
        self.scratch += (dtype.bytes() * rows * width).next_multiple_of(64);
        let walk = Loop {
            rows: vec![rows],
            width,
            whole_rows: false,
            operands: std::iter::once(read.view.stride)
                .chain(bias.map(|_| 0))
                .map(|stride| Access {
                    rows: vec![stride],
                    column: 1,
                })
                .collect(),
            instructions: vec![Instruction {
                op: match bias {
                    Some(_) => LoopOp::Binary(Binary::Add),
                    None => LoopOp::Copy,
                },
                args: (0..=usize::from(bias.is_some()))
                    .map(From::Operand)
                    .collect(),
                to: 0,
            }],
            registers: 1,
            results: vec![Stored {
                register: 0,
                rows: vec![width],
                is_non_temporal: false,
            }],
        };
        let reads: Vec<Operand> = [read]
            .into_iter()
            .chain(bias.map(|(_, bias)| bias))
            .collect();
        let mut kernel = cuda::source(&walk, &reads, &[to]);
        for param in &mut kernel.params {
            *param = match (&param, bias) {
                (Param::Read(1), Some((bias, _))) => Param::Read(bias),
                (Param::Read(_), _) => Param::Read(i),
                _ => at.clone(),
            };
        }
        self.list.push(Action::Kernel(kernel));
        (at, to)
    }
}
