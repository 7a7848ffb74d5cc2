// Moves matrices of HEIGHT x WIDTH, whose columns lie side by side in `x` and whose rows do in `y`, by tiles
// through shared memory, so that what is loaded at once lies side by side, and so does what is stored.
// FROM_STRIDE is from one column to the next, TO_STRIDE from one row to the next; the functions `from` and
// `to` say where each matrix lies behind FROM_START of `x` and TO_START of `y`.

constexpr u32 DOWN = (HEIGHT + TILE - 1) / TILE, ACROSS = (WIDTH + TILE - 1) / TILE;
constexpr u32 TILES = DOWN * ACROSS;

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* x, Y* y) {
    __shared__ float tile[TILE][TILE + 1];
    const Index other = blockIdx.x / TILES;
    const u32 top = blockIdx.x % TILES / ACROSS * TILE;
    const u32 left = blockIdx.x % ACROSS * TILE;
    const u32 lane = threadIdx.x % TILE, line = threadIdx.x / TILE;
    const X* a = x + FROM_START + from(other);
    Y* b = y + TO_START + to(other);
#pragma unroll
    for (u32 i = line; i < TILE; i += BLOCK / TILE) {
        if (top + lane < HEIGHT && left + i < WIDTH) {
            tile[i][lane] = ld(a + Index(left + i) * FROM_STRIDE + top + lane);
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 i = line; i < TILE; i += BLOCK / TILE) {
        if (top + i < HEIGHT && left + lane < WIDTH) {
            st(b + Index(top + i) * TO_STRIDE + left + lane, tile[lane][i]);
        }
    }
}
