// Combines elements that lie side by side: THREADS threads those of one result, or of one of its parts. The
// function `kept` says where the elements of a result begin, and `deep` where each vector of N lies behind
// that; there are OUTPUTS results of VECTORS vectors, SHARE for a part.

constexpr u32 EACH = BLOCK / THREADS;

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* x, Y* y) {
    __shared__ float partials[32];
    const Index part = blockIdx.x / TILES;
    const Index output = blockIdx.x % TILES * EACH + threadIdx.x / THREADS;
    if (output >= OUTPUTS) return;
    const Index end = part * SHARE + SHARE < VECTORS ? part * SHARE + SHARE : VECTORS;
    const X* own = x + kept(output);
    float all[N];
#pragma unroll
    for (u32 k = 0; k < N; ++k) all[k] = Combine::neutral();
#pragma unroll 4
    for (Index at = part * SHARE + threadIdx.x % THREADS; at < end; at += THREADS) {
        float next[N];
        load(own + deep(at), next);
#pragma unroll
        for (u32 k = 0; k < N; ++k) all[k] = Combine::of(all[k], next[k]);
    }
    float one[1] = {all[0]};
#pragma unroll
    for (u32 k = 1; k < N; ++k) one[0] = Combine::of(one[0], all[k]);
    reduce<THREADS, Combine>(one, partials);
    if (threadIdx.x % THREADS == 0) st(y + part * OUTPUTS + output, one[0]);
}
