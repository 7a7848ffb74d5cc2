// For each id: no position yet, and no uses.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(int* first, int* uses) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    first[unit] = COUNT;
    uses[unit] = 0;
}
