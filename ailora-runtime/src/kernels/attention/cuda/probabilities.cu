// Softmax of scores `[sequences, heads, queries, keys]` over the keys that count and that a query sees, under
// a causal mask those of its own document; a query that sees none has probabilities of 0. THREADS threads handle a query of a head, CHUNKS vectors of N
// keys each. The sequences are those from FIRST on of a batch.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const float* scores, const float* mask, Probability* probabilities, Probability* kept,
    const u64* key) {
    __shared__ float partials[2][32];
    const Index row = Index(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    if (row >= ROWS) return;
    const u32 lane = threadIdx.x % THREADS;
    const int seen = CAUSAL ? int(row % QUERIES) - (int(QUERIES) - int(KEYS) - 1) : int(KEYS);
    const float* own = scores + row * KEYS;
    const float* counts = mask + (FIRST + row / (HEADS * QUERIES)) * KEYS;
    const float document = CAUSAL && seen > 0 ? counts[seen - 1] : 0.0f;
    float x[CHUNKS][N], most[1] = {-INF}, total[1] = {};
#pragma unroll
    for (u32 c = 0; c < CHUNKS; ++c) {
        const u32 column = (lane + c * THREADS) * N;
        if (EXACT || column < KEYS) {
            float count[N];
            load(counts + column, count);
            load(own + column, x[c]);
            for (u32 k = 0; k < N; ++k) {
                const bool other = document != 0.0f && count[k] != document;
                if (int(column + k) >= seen || count[k] == 0.0f || other) x[c][k] = -INF;
                most[0] = larger(most[0], x[c][k]);
            }
        }
    }
    reduce<THREADS, Max>(most, partials[0]);
#pragma unroll
    for (u32 c = 0; c < CHUNKS; ++c) {
        const u32 column = (lane + c * THREADS) * N;
        if (EXACT || column < KEYS) {
            for (u32 k = 0; k < N; ++k) {
                x[c][k] = x[c][k] == -INF ? 0.0f : expf(x[c][k] - most[0]);
                total[0] += x[c][k];
            }
        }
    }
    reduce<THREADS, Sum>(total, partials[1]);
    const float factor = total[0] == 0.0f ? 0.0f : 1.0f / total[0];
    const u64 bits = DROPOUT ? *key : 0;
#pragma unroll
    for (u32 c = 0; c < CHUNKS; ++c) {
        const u32 column = (lane + c * THREADS) * N;
        if (EXACT || column < KEYS) {
            for (u32 k = 0; k < N; ++k) x[c][k] *= factor;
            store(probabilities + row * KEYS + column, x[c]);
            if (DROPOUT) {
                const u32 first = (BEFORE + u32(row)) * KEYS + column;
                for (u32 k = 0; k < N; ++k) x[c][k] *= dropout(bits, first + k, THRESHOLD, KEEP);
                store(kept + row * KEYS + column, x[c]);
            }
        }
    }
}
