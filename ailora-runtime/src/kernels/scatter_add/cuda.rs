use crate::kernels::device::{
    Actions, Operand, Param,
    text::{BLOCK, Constants, bytes, grid, index, vector, zeros},
};

/// The blocks of an id's first position sum all of its rows.
pub(super) fn scatter_add(width: usize, reads: &[Operand], writes: &[Operand]) -> Actions {
    let count = reads[0].view.len();
    let table = writes[0].view.len() / width.max(1);
    let counts = bytes(table);
    let (ids, first, uses) = (Param::Read(0), Param::Scratch(0), Param::Scratch(counts));
    let mut actions = Actions::from(zeros(writes));
    if count * width == 0 {
        return actions;
    }
    let clear = Constants::default().count("COUNT", count).flat(
        include_str!("clear.cu"),
        [first.clone(), uses.clone()],
        table,
    );
    let mark = Constants::default().flat(
        include_str!("mark.cu"),
        [ids.clone(), first.clone(), uses.clone()],
        count,
    );
    let n = vector(width, &[reads[1], writes[0]]);
    let columns = 32 * n;
    let mut blocks = grid(count);
    blocks[1] = width.div_ceil(columns).max(1) as u32;
    let add = Constants::default()
        .elements("Rows", &reads[1])
        .elements("Y", &writes[0])
        .ty("Index", index(count.max(table) * width + columns))
        .counts([("COUNT", count), ("WIDTH", width), ("N", n)])
        .kernel(
            include_str!("add.cu"),
            [ids, Param::Read(1), first, uses, Param::Write(0)],
            blocks,
            BLOCK,
        );
    actions.extend([clear, mark, add]);
    actions.scratch = 2 * counts;
    actions
}
