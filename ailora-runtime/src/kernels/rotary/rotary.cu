// Rotates the heads of each row of `x`, of twice HALF columns, by the row's angles. A thread rotates N
// columns of the first half of a head with their partners in the second.
//
// FROM and TO are from one row of `x` and of `y` to the next; a row has HEADS heads, and half of one has
// VECTORS vectors.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const X* x, const Cos* cos, const Sin* sin, Y* y) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const Index column = unit % VECTORS * N, head = unit / VECTORS % HEADS;
    const Index row = Index(unit / (VECTORS * HEADS));
    const Index angle = row * HALF + column;
    const Index at = row * FROM + head * (2 * HALF) + column;
    const Index into = row * TO + head * (2 * HALF) + column;
    float c[N], s[N], first[N], second[N], rotated[2][N];
    load(cos + angle, c);
    load(sin + angle, s);
    load(x + at, first);
    load(x + at + HALF, second);
#pragma unroll
    for (u32 k = 0; k < N; ++k) {
        rotated[0][k] = first[k] * c[k] - second[k] * s[k];
        rotated[1][k] = second[k] * c[k] + first[k] * s[k];
    }
    store(y + into, rotated[0]);
    store(y + into + HALF, rotated[1]);
}
