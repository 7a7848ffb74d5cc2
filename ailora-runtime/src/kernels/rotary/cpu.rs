use rayon::prelude::*;

use super::Rotary;
use crate::kernels::host::Region;

/// Turns the heads of each row of `x`, of twice `half` columns, by the row's angles.
pub(super) fn rotary(
    Rotary { width, half }: Rotary,
    x: Region,
    [cos, sin]: [&[f32]; 2],
    to: Region,
) {
    let angles = cos.par_chunks_exact(half).zip(sin.par_chunks_exact(half));
    angles.enumerate().for_each(|(row, (cos, sin))| {
        let (at, into) = (row * x.stride(width), row * to.stride(width));
        let in_place = x.at(at, width) == to.at(into, width);
        // SAFETY: each row is handled once, and the plan keeps the result apart from what is read,
        // if it is not in its place.
        let y = unsafe { to.write(into, width) };
        if !in_place {
            // SAFETY: as above.
            y.copy_from_slice(unsafe { x.read(at, width) });
        }
        for head in y.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for j in 0..half {
                let (a, b) = (first[j], second[j]);
                first[j] = a * cos[j] - b * sin[j];
                second[j] = b * cos[j] + a * sin[j];
            }
        }
    });
}
