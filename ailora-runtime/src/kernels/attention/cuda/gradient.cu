// The gradient towards scores, `scale P (D dP - sum(P D dP))`, with P the probabilities before dropout, D
// what dropout multiplies by, and dP the gradient towards what is kept of them. As in probabilities.cu,
// THREADS threads handle a query of a head, CHUNKS vectors of N keys each.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const Probability* probabilities, const float* towards, Probability* y, const u64* key) {
    __shared__ float partials[1][32];
    const Index row = Index(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    if (row >= ROWS) return;
    const u32 lane = threadIdx.x % THREADS;
    float x[CHUNKS][N], p[CHUNKS][N], dot[1] = {};
    const u64 bits = DROPOUT ? *key : 0;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; ++c) {
        const u32 column = (lane + c * THREADS) * N;
        if (EXACT || column < KEYS) {
            load(towards + row * KEYS + column, x[c]);
            load(probabilities + row * KEYS + column, p[c]);
            const u32 first = (BEFORE + u32(row)) * KEYS + column;
            for (u32 k = 0; k < N; ++k) {
                if (DROPOUT) x[c][k] *= dropout(bits, first + k, THRESHOLD, KEEP);
                dot[0] += p[c][k] == 0.0f ? 0.0f : p[c][k] * x[c][k];
            }
        }
    }
    reduce<THREADS, Sum>(dot, partials[0]);
    // What is masked may hold anything.
#pragma unroll
    for (u32 c = 0; c < CHUNKS; ++c) {
        const u32 column = (lane + c * THREADS) * N;
        if (EXACT || column < KEYS) {
            for (u32 k = 0; k < N; ++k) {
                x[c][k] = p[c][k] == 0.0f ? 0.0f : SCALE * p[c][k] * (x[c][k] - dot[0]);
            }
            store(y + row * KEYS + column, x[c]);
        }
    }
}
