/// A table of the sums of rows by id.
pub(super) fn scatter_add(width: usize, ids: &[i32], rows: &[f32], to: &mut [f32]) {
    to.fill(0.0);
    for (&id, row) in ids.iter().zip(rows.chunks_exact(width)) {
        for (to, x) in to[id as usize * width..][..width].iter_mut().zip(row) {
            *to += x;
        }
    }
}
