use super::Copy;
use crate::kernels::device::{
    Actions, Operand, Param, Source,
    text::{Axes, BLOCK, Constants, VECTOR, aligned, grid, index, zeros},
};

/// Rows and columns of a tile that is transposed.
const TILE: usize = 32;

pub(super) fn copy(moved: &Copy, reads: &[Operand], writes: &[Operand]) -> Actions {
    let mut actions = Actions::default();
    if moved.clear {
        actions.extend([zeros(writes)]);
    }
    let axes = Axes::new(&moved.shape, &[&moved.from, &moved.to]);
    if axes.len() > 0 {
        let constants = Constants::default()
            .elements("X", &reads[0])
            .elements("Y", &writes[0])
            .counts([
                ("FROM_START", moved.from_start),
                ("TO_START", moved.to_start),
            ]);
        let spans = [0, 1].map(|i| axes.span(i));
        let farthest = (spans[0] + moved.from_start).max(spans[1] + moved.to_start);
        let constants = constants.ty("Index", index(farthest + BLOCK));
        actions.extend([match transposed(&axes) {
            Some(axis) => transpose(axes, axis, constants),
            None => straight(moved, axes, [reads[0], writes[0]], constants),
        }]);
    }
    actions
}

/// The axis along which what is moved lies side by side at its source, if it is not the last one,
/// along which it lies side by side at its destination.
fn transposed(axes: &Axes) -> Option<usize> {
    let last = axes.sizes.len().checked_sub(1)?;
    let axis = axes.strides[0].iter().position(|&stride| stride == 1)?;
    let worth = axes.sizes[axis] > 4 && axes.sizes[last] > 4;
    (axis != last && axes.strides[1][last] == 1 && worth).then_some(axis)
}

const PARAMS: [Param; 2] = [Param::Read(0), Param::Write(0)];

fn straight(moved: &Copy, mut axes: Axes, places: [Operand; 2], constants: Constants) -> Source {
    let outer = axes.sizes.len().saturating_sub(1);
    let beside = axes.strides.iter().all(|own| own.last() == Some(&1));
    let rows = axes.strides.iter().flat_map(|own| &own[..outer]).copied();
    let starts = [
        moved.from_start,
        moved.to_start,
        places[0].view.start,
        places[1].view.start,
        axes.sizes.last().copied().unwrap_or(1),
    ];
    let n = if beside && aligned(rows.chain(starts)) {
        VECTOR
    } else {
        1
    };
    if n > 1 {
        // An index counts vectors along the last axis.
        axes.sizes[outer] /= n;
        axes.strides.iter_mut().for_each(|own| own[outer] = n);
    }
    constants
        .count("N", n)
        .places("from", &axes, 0)
        .places("to", &axes, 1)
        .flat(include_str!("straight.cu"), PARAMS, axes.len())
}

fn transpose(axes: Axes, axis: usize, constants: Constants) -> Source {
    let last = axes.sizes.len() - 1;
    let [height, width] = [axes.sizes[axis], axes.sizes[last]];
    let others: Vec<usize> = (0..last).filter(|&other| other != axis).collect();
    let pick = |own: &[usize]| -> Vec<usize> { others.iter().map(|&i| own[i]).collect() };
    let [from, to] = [pick(&axes.strides[0]), pick(&axes.strides[1])];
    let rest = Axes::new(&pick(&axes.sizes), &[&from, &to]);
    let blocks = rest.len() * height.div_ceil(TILE) * width.div_ceil(TILE);
    constants
        .counts([
            ("HEIGHT", height),
            ("WIDTH", width),
            ("TILE", TILE),
            ("FROM_STRIDE", axes.strides[0][last]),
            ("TO_STRIDE", axes.strides[1][axis]),
        ])
        .places("from", &rest, 0)
        .places("to", &rest, 1)
        .kernel(include_str!("transpose.cu"), PARAMS, grid(blocks), BLOCK)
}
