use super::Top;
use crate::kernels::device::{
    Actions, Operand, Param,
    text::{BLOCK, Constants, index},
};

/// Columns of a row that a block looks through.
const PART: usize = BLOCK * 16;

const PARTS: &str = concat!(include_str!("keys.cuh"), "\n", include_str!("parts.cu"));
const WHOLE: &str = concat!(include_str!("keys.cuh"), "\n", include_str!("whole.cu"));

/// The largest of each part of a row, then the largest of those.
pub(super) fn top(Top { width, count }: Top, reads: &[Operand], writes: &[Operand]) -> Actions {
    let rows = reads[0].view.len() / width.max(1);
    let parts = width.div_ceil(PART);
    let constants = || {
        Constants::default()
            .ty("Index", index(rows * parts * PART))
            .counts([
                ("WIDTH", width),
                ("COUNT", count),
                ("OWN", PART / BLOCK),
                ("PARTS", parts),
            ])
    };
    let scratch = Param::Scratch(0);
    let each = constants().elements("X", &reads[0]).kernel(
        PARTS,
        [Param::Read(0), scratch.clone()],
        [parts as u32, rows as u32, 1],
        BLOCK,
    );
    let all = constants().elements("Y", &writes[0]).kernel(
        WHOLE,
        [scratch, Param::Write(0)],
        [rows as u32, 1, 1],
        BLOCK,
    );
    let mut actions = Actions::from(each);
    actions.extend([all]);
    actions.scratch = size_of::<u64>() * rows * parts * count;
    actions
}
