/// The rows of a table at ids.
pub(super) fn gather(width: usize, table: &[f32], ids: &[i32], to: &mut [f32]) {
    for (&id, to) in ids.iter().zip(to.chunks_exact_mut(width)) {
        to.copy_from_slice(&table[id as usize * width..][..width]);
    }
}
