// Moves elements between strided places, N neighbours by a thread. The functions `from` and `to` say where
// place `unit` lies behind FROM_START of `x` and TO_START of `y`.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* x, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    float moved[N];
    load(x + FROM_START + from(unit), moved);
    store(y + TO_START + to(unit), moved);
}
