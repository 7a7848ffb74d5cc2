// Each element of the matrices, of MATRIX elements in rows of WIDTH: the sum of what the places in the list
// have in `dy`, PLACES for a matrix.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const Dy* dy, const u32* ends, const int* order, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const u32 place = unit % MATRIX;
    const u32 start = place % WIDTH == 0 ? place / WIDTH * EACH : ends[place - 1];
    const Dy* own = dy + Index(unit / MATRIX) * PLACES;
    float sum = 0.0f;
    for (u32 i = start; i < ends[place]; ++i) sum += ld(own + order[i]);
    st(y + unit, sum);
}
