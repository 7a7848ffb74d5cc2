// Rows of logits, of CLASSES columns, of which THREADS threads share one and each takes N columns at a time.

constexpr u32 STEP = THREADS * N;

// The largest logit `most[0]` of a row, the sum `sums[0]` of the exponentials of the differences to it, and
// that of the logits, `sums[1]`. `first` is the thread's first column.
//
// The largest so far starts at the lowest finite number, so that no difference of infinities arises before
// there is one in the row.
__device__ inline void exponentials(const X* x, u32 first, float (&most)[1], float (&sums)[2],
                                    float (&partials)[3][64]) {
    most[0] = -3.4028235e38f;
    sums[0] = sums[1] = 0.0f;
#pragma unroll 2
    for (u32 column = first; column < CLASSES; column += STEP) {
        float next[N];
        load(x + column, next);
        float top = most[0];
#pragma unroll
        for (u32 k = 0; k < N; ++k) top = larger(top, next[k]);
        sums[0] *= expf(most[0] - top);
        most[0] = top;
#pragma unroll
        for (u32 k = 0; k < N; ++k) {
            sums[0] += expf(next[k] - top);
            sums[1] += next[k];
        }
    }
    const float own = most[0];
    reduce<THREADS, Max>(most, partials[0]);
    sums[0] *= expf(own - most[0]);
    reduce<THREADS, Sum>(sums, partials[1]);
}
