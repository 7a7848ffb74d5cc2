// Zeros, N by a thread.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const float zero[N] = {};
    store(y + unit * N, zero);
}
