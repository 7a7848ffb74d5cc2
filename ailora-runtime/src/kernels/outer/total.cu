// Adds up what the blocks of SHARES shares of the rows found: LEN numbers each, N by a thread. TASKS(DO) lists
// the products as `DO(number, its first number, behind its last, what its sums are multiplied by)`.

#define RESULT(i, ...) , float* c##i
#define STORE(i, first, last, alpha)                       \
    if (at < last) {                                       \
        for (u32 j = 0; j < N; ++j) sum[j] *= alpha;       \
        store(c##i + at - first, sum);                     \
        return;                                            \
    }

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const float* sums TASKS(RESULT)) {
    const u32 at = (blockIdx.x * BLOCK + threadIdx.x) * N;
    if (at >= LEN) return;
    float sum[N] = {}, x[N];
#pragma unroll
    for (u32 share = 0; share < SHARES; ++share) {
        load(sums + u64(share) * LEN + at, x);
        for (u32 j = 0; j < N; ++j) sum[j] += x[j];
    }
    TASKS(STORE)
}

#undef RESULT
#undef STORE
#undef TASKS
