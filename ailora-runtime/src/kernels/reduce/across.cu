// Combines rows: each thread N neighbouring columns of them, and the warps of a block every eighth row. The
// function `kept` says where the elements of a result begin, and `deep` where each of them lies behind
// that; there are OUTPUTS results of DEPTH elements, SHARE for a part.

constexpr u32 WARPS = BLOCK / 32;

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* x, Y* y) {
    __shared__ float sums[WARPS][32][N];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Index part = blockIdx.x / TILES;
    const Index output = Index(blockIdx.x % TILES) * (32 * N) + lane * N;
    const Index end = part * SHARE + SHARE < DEPTH ? part * SHARE + SHARE : DEPTH;
    float all[N];
#pragma unroll
    for (u32 k = 0; k < N; ++k) all[k] = Combine::neutral();
    if (output < OUTPUTS) {
        const X* own = x + kept(output);
#pragma unroll 4
        for (Index at = part * SHARE + warp; at < end; at += WARPS) {
            float next[N];
            load(own + deep(at), next);
#pragma unroll
            for (u32 k = 0; k < N; ++k) all[k] = Combine::of(all[k], next[k]);
        }
    }
#pragma unroll
    for (u32 k = 0; k < N; ++k) sums[warp][lane][k] = all[k];
    __syncthreads();
    if (warp > 0 || output >= OUTPUTS) return;
    for (u32 i = 1; i < WARPS; ++i) {
#pragma unroll
        for (u32 k = 0; k < N; ++k) all[k] = Combine::of(all[k], sums[i][lane][k]);
    }
    store(y + part * OUTPUTS + output, all);
}
