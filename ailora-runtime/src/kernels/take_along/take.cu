// The elements of each matrix of `x`, of MATRIX elements in rows of WIDTH, at ids in rows of COLUMNS. There
// are PLACES ids, the same for all matrices.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* x, const int* ids, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const Index at = unit % PLACES, row = TRANSPOSED ? at % COLUMNS : at / COLUMNS;
    const Index id = ids[at];
    st(y + unit, ld(x + Index(unit / PLACES) * MATRIX + row * WIDTH + id));
}
