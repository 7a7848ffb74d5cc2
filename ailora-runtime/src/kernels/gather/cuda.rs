use crate::kernels::device::{
    Operand, Param, Source,
    text::{Constants, index, vector},
};

pub(super) fn gather(width: usize, reads: &[Operand], writes: &[Operand]) -> Source {
    let count = reads[1].view.len();
    let n = vector(width, &[reads[0], writes[0]]);
    Constants::default()
        .elements("Table", &reads[0])
        .elements("Y", &writes[0])
        .ty("Index", index(reads[0].view.len().max(count * width)))
        .counts([("WIDTH", width), ("VECTORS", (width / n).max(1)), ("N", n)])
        .flat(
            include_str!("gather.cu"),
            [Param::Read(0), Param::Read(1), Param::Write(0)],
            count * width / n,
        )
}
