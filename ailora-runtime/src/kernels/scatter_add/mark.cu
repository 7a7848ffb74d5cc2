// The first position of each id, and how often it is used.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const int* ids, int* first, int* uses) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const int id = ids[unit];
    atomicMin(first + id, int(unit));
    atomicAdd(uses + id, 1);
}
