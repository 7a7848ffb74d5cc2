// 1 for each of the ROWS rows whose label has the largest of CLASSES logits, the first of equals; 0 for the
// others, also where the label is IGNORED or a logit is NaN. THREADS threads share a row, and each takes N
// columns at a time.

constexpr u32 STEP = THREADS * N;

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const X* logits, const int* labels, Y* y) {
    __shared__ float partials[32];
    const Index row = Index(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    if (row >= ROWS) return;
    const X* x = logits + row * CLASSES;
    const int label = labels[row];
    const bool leads = threadIdx.x % THREADS == 0;
    // Threads of one row leave together.
    if (label == IGNORED) {
        if (leads) st(y + row, 0.0f);
        return;
    }
    const float own = ld(x + label);
    float others[1] = {0.0f};
#pragma unroll 2
    for (u32 column = threadIdx.x % THREADS * N; column < CLASSES; column += STEP) {
        float next[N];
        load(x + column, next);
#pragma unroll
        for (u32 k = 0; k < N; ++k) {
            const bool less = column + k < u32(label) ? next[k] < own : next[k] <= own;
            if (!less) others[0] = 1.0f;
        }
    }
    reduce<THREADS, Max>(others, partials);
    if (leads) st(y + row, 1.0f - others[0]);
}
