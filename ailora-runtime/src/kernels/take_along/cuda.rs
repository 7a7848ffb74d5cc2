use super::{TakeAlong, TakeAlongGrad, matrix};
use crate::kernels::device::{
    Actions, Operand, Param, Source,
    text::{BLOCK, Constants, bytes, index, zeros},
};

pub(super) fn take_along(
    TakeAlong { op, widths }: TakeAlong,
    reads: &[Operand],
    writes: &[Operand],
) -> Source {
    let [width, columns] = widths;
    let places = reads[1].view.len().max(1);
    let units = writes[0].view.len();
    Constants::default()
        .elements("X", &reads[0])
        .elements("Y", &writes[0])
        .ty("Index", index(reads[0].view.len().max(units + BLOCK)))
        .counts([
            ("PLACES", places),
            ("MATRIX", matrix(op, widths, places)),
            ("WIDTH", width),
            ("COLUMNS", columns.max(1)),
        ])
        .flag("TRANSPOSED", op.transposed)
        .flat(
            include_str!("take.cu"),
            [Param::Read(0), Param::Read(1), Param::Write(0)],
            units,
        )
}

/// The places that add to each element are listed once, since they are the same for all matrices.
pub(super) fn take_along_grad(
    TakeAlongGrad { op, widths }: TakeAlongGrad,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let [width, columns] = widths;
    let places = reads[0].view.len();
    let matrix = matrix(op, widths, places);
    // A row of a matrix is added to by a row or, transposed, a column of ids.
    let (rows, each, from_row, from_each) = if op.transposed {
        (columns, places / columns.max(1), 1, columns)
    } else {
        (places / columns.max(1), columns, columns, 1)
    };
    if rows * width * each == 0 {
        return zeros(writes).into();
    }
    let offsets = bytes(matrix);
    let (ends, order) = (Param::Scratch(0), Param::Scratch(offsets));
    let list = Constants::default()
        .counts([
            ("WIDTH", width),
            ("EACH", each),
            ("FROM_ROW", from_row),
            ("FROM_EACH", from_each),
        ])
        .flat(
            include_str!("list.cu"),
            [Param::Read(0), ends.clone(), order.clone()],
            rows * width,
        );
    let len = writes[0].view.len();
    let add = Constants::default()
        .elements("Dy", &reads[1])
        .elements("Y", &writes[0])
        .ty("Index", index((len / matrix * places).max(len + BLOCK)))
        .counts([
            ("MATRIX", matrix),
            ("WIDTH", width),
            ("EACH", each),
            ("PLACES", places),
        ])
        .flat(
            include_str!("add.cu"),
            [Param::Read(1), ends, order, Param::Write(0)],
            len,
        );
    let mut actions = Actions::from(list);
    actions.extend([add]);
    actions.scratch = offsets + bytes(places);
    actions
}
