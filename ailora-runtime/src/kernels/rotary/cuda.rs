use super::Rotary;
use crate::kernels::device::{
    Operand, Param, Source,
    text::{BLOCK, Constants, VECTOR, aligned, index, stride},
};

pub(super) fn rotary(
    Rotary { width, half }: Rotary,
    reads: &[Operand],
    writes: &[Operand],
) -> Source {
    let rows = reads[1].view.len() / half.max(1);
    let [from, to] = [&reads[0].view, &writes[0].view].map(|view| stride(view, width));
    let starts = reads.iter().chain(writes).map(|operand| operand.view.start);
    let n = if aligned(starts.chain([half, from, to])) {
        VECTOR
    } else {
        1
    };
    let vectors = (half / n).max(1);
    let heads = width / (2 * half).max(1);
    let units = rows * heads * vectors;
    Constants::default()
        .elements("X", &reads[0])
        .elements("Cos", &reads[1])
        .elements("Sin", &reads[2])
        .elements("Y", &writes[0])
        .ty("Index", index((rows * from.max(to)).max(units + BLOCK)))
        .counts([
            ("HALF", half),
            ("HEADS", heads.max(1)),
            ("VECTORS", vectors),
            ("N", n),
            ("FROM", from),
            ("TO", to),
        ])
        .flat(
            include_str!("rotary.cu"),
            [0, 1, 2]
                .map(Param::Read)
                .into_iter()
                .chain([Param::Write(0)]),
            units,
        )
}
