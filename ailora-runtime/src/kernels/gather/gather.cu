// The rows of a table at ids. A thread moves N of a row's WIDTH columns, of which there are VECTORS times
// as many.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const Table* table, const int* ids, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const Index id = ids[unit / VECTORS];
    float x[N];
    load(table + id * WIDTH + unit % VECTORS * N, x);
    store(y + Index(unit) * N, x);
}
