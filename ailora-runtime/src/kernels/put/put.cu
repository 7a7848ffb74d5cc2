// Rows put at ids, but where an id is IGNORED. A thread moves N of a row's WIDTH columns, of which there are
// VECTORS times as many.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* rows, const int* ids, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const Index row = unit / VECTORS, column = unit % VECTORS * N;
    const int id = ids[row];
    if (id == IGNORED) return;
    float x[N];
    load(rows + row * FROM + column, x);
    store(y + Index(id) * WIDTH + column, x);
}
