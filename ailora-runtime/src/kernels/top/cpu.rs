use std::cmp::Reverse;

use rayon::prelude::*;

use super::Top;

pub(super) fn top(Top { width, count }: Top, x: &[f32], to: &mut [f32]) {
    let rows = x.par_chunks_exact(width);
    rows.zip(to.par_chunks_exact_mut(2 * count))
        .for_each(|(row, to)| {
            let keys = row.iter().zip(0..).map(|(&x, place)| key(x, place));
            let mut keys: Vec<Reverse<u64>> = keys.map(Reverse).collect();
            if count < width {
                keys.select_nth_unstable(count);
                keys.truncate(count);
            }
            keys.sort_unstable();
            for (to, Reverse(key)) in to.chunks_exact_mut(2).zip(keys) {
                let place = u32::MAX - key as u32;
                to.copy_from_slice(&[row[place as usize], place as f32]);
            }
        });
}

/// What is larger, the better: by the number, then by the place. What is not a number is largest.
fn key(x: f32, place: u32) -> u64 {
    let bits = x.to_bits();
    let rank = match (x.is_nan(), bits >> 31) {
        (true, _) => u32::MAX,
        (_, 1) => !bits,
        _ => bits | 1 << 31,
    };
    u64::from(rank) << 32 | u64::from(u32::MAX - place)
}
