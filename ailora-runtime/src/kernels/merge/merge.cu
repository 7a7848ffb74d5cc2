// A pack `[W | B; A | _]` as `[W | s B; s A | 0]`, to which `s B A` is left to be added. W is
// CORNER_ROWS x CORNER_COLUMNS, s is SCALE. A thread moves N columns of a row, which has VECTORS times as
// many.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const Pack* pack, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const bool above = unit / VECTORS < CORNER_ROWS, left = unit % VECTORS * N < CORNER_COLUMNS;
    float x[N];
    load(pack + unit * N, x);
#pragma unroll
    for (u32 k = 0; k < N; ++k) x[k] = above && left ? x[k] : above || left ? SCALE * x[k] : 0.0f;
    store(y + unit * N, x);
}
