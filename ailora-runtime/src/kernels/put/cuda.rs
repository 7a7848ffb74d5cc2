use ailora_graph::ir::ops::loss::IGNORED;

use crate::kernels::device::{
    Operand, Param, Source,
    text::{BLOCK, Constants, VECTOR, aligned, index},
};

pub(super) fn put(width: usize, reads: &[Operand], writes: &[Operand]) -> Source {
    let (rows, ids, to) = (&reads[1], &reads[2], &writes[0]);
    let from = rows.row_stride(width);
    let n = match aligned([width, from, rows.view.start, to.view.start]) {
        true => VECTOR,
        false => 1,
    };
    let units = ids.view.len() * width / n;
    let span = ids.view.len() * from;
    Constants::default()
        .elements("X", rows)
        .elements("Y", to)
        .ty("Index", index(span.max(to.view.len()).max(units + BLOCK)))
        .id("IGNORED", IGNORED)
        .counts([
            ("WIDTH", width),
            ("VECTORS", (width / n).max(1)),
            ("FROM", from),
            ("N", n),
        ])
        .flat(
            include_str!("put.cu"),
            [Param::Read(1), Param::Read(2), Param::Write(0)],
            units,
        )
}
