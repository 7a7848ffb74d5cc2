use ailora_graph::ir::ops::{matmul::MatMul, merge::Merge as Op};

use crate::kernels::device::{
    Action, Actions, Matrix, Operand, Param, Product, Source,
    text::{Constants, VECTOR, vector},
};

/// A pack with its adapters in its weights: what lies around them is copied, and their products are
/// added.
pub(super) fn merge(op: &Op, shape: [usize; 2], reads: &[Operand], writes: &[Operand]) -> Actions {
    let mut actions = Actions::from(moved(op, shape, reads, writes));
    let [m, n] = op.corner;
    let block = |at: Param, [row, column]: [usize; 2], operand: Operand| {
        let stride = operand.row_stride(shape[1]);
        Matrix {
            at,
            offset: row * stride + column,
            stride,
            dtype: operand.dtype,
        }
    };
    for update in &op.updates {
        let ([row, column], inner) = (update.at, update.inner);
        let up = block(Param::Read(0), [row, n + inner], reads[0]);
        let down = block(Param::Read(0), [m + inner, column], reads[0]);
        let weights = block(Param::Write(0), [row, column], writes[0]);
        actions.list.push(Action::product(Product {
            op: MatMul {
                trans_a: false,
                trans_b: false,
            },
            sizes: update.sizes(),
            alpha: op.scale.0 as f32,
            accumulate: true,
            operands: [up, down, weights.clone(), weights],
            batches: [(1, [0; 4]), (1, [0; 4])],
        }));
    }
    actions
}

/// A pack `[W | B; A | _]` as `[W | s B; s A | 0]`, to which `s B A` is left to be added.
fn moved(op: &Op, [rows, columns]: [usize; 2], reads: &[Operand], writes: &[Operand]) -> Source {
    let [m, n] = op.corner;
    let each = if n % VECTOR == 0 {
        vector(columns, &[reads[0], writes[0]])
    } else {
        1
    };
    Constants::default()
        .elements("Pack", &reads[0])
        .elements("Y", &writes[0])
        .counts([
            ("CORNER_ROWS", m),
            ("CORNER_COLUMNS", n),
            ("VECTORS", (columns / each).max(1)),
            ("N", each),
        ])
        .float("SCALE", op.scale.0 as f32)
        .flat(
            include_str!("merge.cu"),
            [Param::Read(0), Param::Write(0)],
            rows * columns / each,
        )
}
