// `(softmax(x) - t) share` of each row, with `t` HOT at the label, beside SPREAD everywhere; 0 where the
// label does not count.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const X* logits, const int* labels, const float* share, Y* y) {
    __shared__ float partials[3][64];
    const Index row = Index(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    if (row >= ROWS) return;
    const u32 first = threadIdx.x % THREADS * N;
    const X* x = logits + row * CLASSES;
    Y* to = y + row * CLASSES;
    const int label = labels[row];
    // Threads of one row leave together.
    if (label == IGNORED) {
        const float zero[N] = {};
        for (u32 column = first; column < CLASSES; column += STEP) store(to + column, zero);
        return;
    }
    float most[1], sums[2];
    exponentials(x, first, most, sums, partials);
    const float inverse = 1.0f / sums[0], factor = *share;
#pragma unroll 2
    for (u32 column = first; column < CLASSES; column += STEP) {
        float next[N];
        load(x + column, next);
#pragma unroll
        for (u32 k = 0; k < N; ++k) {
            float p = expf(next[k] - most[0]) * inverse;
            if (column + k == u32(label)) p -= HOT;
            next[k] = (p - SPREAD) * factor;
        }
        store(to + column, next);
    }
}
