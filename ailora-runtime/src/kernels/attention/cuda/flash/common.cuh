// Fused attention: a block keeps tiles of rows in shared memory, multiplies them with tensor cores
// and never writes scores to memory.
//
// The text that comes before says:
// BATCH, QUERIES, KEYS, HEADS, KV_HEADS, DEPTH, the strides of rows Q_STRIDE, K_STRIDE, V_STRIDE,
// O_STRIDE, DO_STRIDE, DQ_STRIDE, DK_STRIDE, DV_STRIDE, and THRESHOLD (u32); CAUSAL, BIAS_Q,
// BIAS_K, BIAS_V, WANT_DQ, WANT_DK, WANT_DV (bool); SCALE and KEEP (float). And how a block works: its
// WARPS, the rows of a TILE that it goes over at a time, GROUPS of 16 rows that a warp owns or, where
// warpgroups multiply, GROUPS of them that own rows, and the SLOTS that tiles are copied to (u32).

constexpr bool DROPOUT = THRESHOLD > 0;
// Scores times this are exponents of 2.
constexpr float EXPONENT = SCALE * 1.44269504f;
// Query i sees keys up to i + AHEAD.
constexpr int AHEAD = int(KEYS) - int(QUERIES);
// A tile's rows are padded by 16 bytes, so that eight of them begin in different banks.
constexpr u32 PITCH = DEPTH + 8;

// The left factor of a product: 16 columns of 16 rows that are in registers, or of group m of 16
// rows in shared memory.
template <u32 STEPS>
__device__ inline void columns(u32 (&to)[4], const u32 (&rows)[STEPS][4], u32, u32 step) {
#pragma unroll
    for (u32 i = 0; i < 4; ++i) to[i] = rows[step][i];
}

__device__ inline void columns(u32 (&to)[4], const bf16* rows, u32 m, u32 step) {
    ldmatrix(to, down(rows, PITCH) + m * 16 * PITCH + step * 16);
}

// All columns of 16 rows, for registers.
__device__ inline void load_rows(u32 (&to)[DEPTH / 16][4], const bf16* rows) {
#pragma unroll
    for (u32 step = 0; step < DEPTH / 16; ++step) columns(to[step], rows, 0, step);
}

// c += a b^T for M groups of 16 rows of a and N rows of b.
template <u32 N, u32 M, class Rows>
__device__ inline void multiply_transposed(float (&c)[M][N / 8][4], const Rows& a, const bf16* b) {
    const bf16* from = right(b, PITCH);
#pragma unroll
    for (u32 step = 0; step < DEPTH / 16; ++step) {
        u32 x[M][4], y[4];
#pragma unroll
        for (u32 m = 0; m < M; ++m) columns(x[m], a, m, step);
#pragma unroll
        for (u32 n = 0; n < N / 16; ++n) {
            ldmatrix(y, from + n * 16 * PITCH + step * 16);
#pragma unroll
            for (u32 m = 0; m < M; ++m) {
                mma(c[m][2 * n], x[m], y[0], y[1]);
                mma(c[m][2 * n + 1], x[m], y[2], y[3]);
            }
        }
    }
}

template <u32 N, class Rows>
__device__ inline void multiply_transposed(float (&c)[N / 8][4], const Rows& a, const bf16* b) {
    multiply_transposed<N, 1>(reinterpret_cast<float (&)[1][N / 8][4]>(c), a, b);
}

// c += a b for 16 columns of a and 16 rows of b.
template <u32 M>
__device__ inline void multiply_step(
    float (&c)[M][DEPTH / 8][4], const u32 (&a)[M][4], const bf16* b) {
    const bf16* from = down(b, PITCH);
#pragma unroll
    for (u32 n = 0; n < DEPTH / 16; ++n) {
        u32 y[4];
        ldmatrix_transposed(y, from + n * 16);
#pragma unroll
        for (u32 m = 0; m < M; ++m) {
            mma(c[m][2 * n], a[m], y[0], y[1]);
            mma(c[m][2 * n + 1], a[m], y[2], y[3]);
        }
    }
}

// c += a b for as many rows of b as a has columns. The latter come in groups of 16.
template <u32 M, u32 STEPS>
__device__ inline void multiply(
    float (&c)[M][DEPTH / 8][4], const u32 (&a)[STEPS][M][4], const bf16* b) {
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) multiply_step(c, a[step], b + step * 16 * PITCH);
}

// Accumulators of group m rounded, as the left factor of a product.
template <u32 M, u32 STEPS>
__device__ inline void round_all(
    u32 (&to)[STEPS][M][4], const float (&x)[2 * STEPS][4], u32 m = 0) {
#pragma unroll
    for (u32 n = 0; n < 2 * STEPS; ++n) {
        to[n / 2][m][n % 2 * 2] = rounded(x[n][0], x[n][1]);
        to[n / 2][m][n % 2 * 2 + 1] = rounded(x[n][2], x[n][3]);
    }
}

// Calls visit(row, further, column) for every 16 bytes of a tile that are this thread's, in row
// `row + further`. Only `further` differs from call to call, and is known when this is compiled.
template <u32 ROWS, u32 THREADS, class Visit>
__device__ inline void for_chunks(Visit visit) {
    constexpr u32 CHUNKS = DEPTH / 8, STEP = THREADS / CHUNKS;
    const u32 row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * 8;
    if (THREADS % CHUNKS > 0 && row >= STEP) return;
#pragma unroll
    for (u32 further = 0; further < ROWS; further += STEP) {
        if (ROWS % STEP == 0 || row + further < ROWS) visit(row, further, column);
    }
}

// Starts to copy N items of `SIZE` floats; zeros beyond `count`.
template <u32 N, u32 THREADS, u32 SIZE>
__device__ inline void copy_each(float* to, const float* from, u32 count) {
#pragma unroll
    for (u32 further = 0; further < N; further += THREADS) {
        const u32 i = threadIdx.x + further;
        if (i < N) copy_async<4 * SIZE>(to + i * SIZE, from + i * SIZE, i < count);
    }
}

// The rows of a head in memory, and a bias that they get before use.
template <u32 STRIDE, u32 COUNT, bool BIAS> struct Source {
    const bf16* rows;
    const float* bias;

    __device__ Source(const bf16* all, const float* biases, u32 batch, u32 head)
        : rows(all + u64(batch) * COUNT * STRIDE + head * DEPTH), bias(biases + head * DEPTH) {}

    // Starts to copy rows from `start` on; zeros beyond the end.
    template <u32 ROWS, u32 THREADS> __device__ void copy(bf16* tile, u32 start) const {
        for_chunks<ROWS, THREADS>([&](u32 row, u32 further, u32 column) {
            const bf16* from = rows + u64(start + row) * STRIDE + column + u64(further) * STRIDE;
            bf16* to = tile + row * PITCH + column + further * PITCH;
            copy_async<16>(to, from, start + row + further < COUNT);
        });
    }

    // Adds the bias to what this thread has copied.
    template <u32 ROWS, u32 THREADS> __device__ void finish(bf16* tile, u32 start) const {
        if constexpr (BIAS) {
            float b[8];
            const u32 first = threadIdx.x % (DEPTH / 8) * 8;
#pragma unroll
            for (u32 i = 0; i < 8; ++i) b[i] = bias[first + i];
            for_chunks<ROWS, THREADS>([&](u32 row, u32 further, u32 column) {
                bf16* to = tile + row * PITCH + column + further * PITCH;
                if (start + row + further < COUNT) add(to, b);
            });
        }
    }

    static __device__ void add(bf16* to, const float (&b)[8]) {
#pragma unroll
        for (u32 i = 0; i < 8; i += 4) {
            float x[4];
            load(to + i, x);
#pragma unroll
            for (u32 j = 0; j < 4; ++j) x[j] += b[i + j];
            store(to + i, x);
        }
    }
};

using Queries = Source<Q_STRIDE, QUERIES, BIAS_Q>;
using Keys = Source<K_STRIDE, KEYS, BIAS_K>;
using Values = Source<V_STRIDE, KEYS, BIAS_V>;
using Gradients = Source<DO_STRIDE, QUERIES, false>;

// What a block works on: `tile` of a head of a sequence.
struct Task {
    u32 tile, head, batch;
    __device__ Task(u32 tiles, u32 heads, u32 i = blockIdx.x)
        : tile(i % tiles), head(i / tiles % heads), batch(i / tiles / heads) {}
};

// Swaps one's y with the x of the thread that is `distance` further.
__device__ inline void swap(u32& x, u32& y, u32 distance) {
    const bool upper = threadIdx.x & distance;
    const u32 got = __shfl_xor_sync(~0u, upper ? x : y, distance);
    (upper ? x : y) = got;
}

// Writes 16 rows of accumulators to a head's rows, times a factor for each half of the rows. Four
// threads trade what they have, so that each writes 16 bytes.
template <u32 STRIDE, u32 COUNT>
__device__ inline void write(
    bf16* all, u32 batch, u32 head, u32 start, const float (&x)[DEPTH / 8][4],
    const float (&factor)[2]) {
    const Lane lane;
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const u32 row = start + lane.row + 8 * h;
        bf16* to = all + (u64(batch) * COUNT + row) * STRIDE + head * DEPTH;
        u32 pairs[DEPTH / 8];
#pragma unroll
        for (u32 n = 0; n < DEPTH / 8; ++n) {
            pairs[n] = rounded(x[n][2 * h] * factor[h], x[n][2 * h + 1] * factor[h]);
        }
#pragma unroll
        for (u32 n = 0; n + 4 <= DEPTH / 8; n += 4) {
            swap(pairs[n], pairs[n + 1], 1);
            swap(pairs[n + 2], pairs[n + 3], 1);
            swap(pairs[n], pairs[n + 2], 2);
            swap(pairs[n + 1], pairs[n + 3], 2);
            if (row < COUNT) {
                const float4 four = make_float4(
                    __int_as_float(pairs[n]), __int_as_float(pairs[n + 1]),
                    __int_as_float(pairs[n + 2]), __int_as_float(pairs[n + 3]));
                *reinterpret_cast<float4*>(to + n * 8 + lane.column * 4) = four;
            }
        }
        if constexpr (DEPTH % 32 > 0) {
#pragma unroll
            for (u32 n = DEPTH / 32 * 4; n < DEPTH / 8; ++n) {
                if (row < COUNT) *reinterpret_cast<u32*>(to + n * 8 + lane.column) = pairs[n];
            }
        }
    }
}

// A sum over the threads that share a row.
__device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// The maximum and the sum of exponentials of two rows so far, the sum of this thread's columns.
struct Softmax {
    float top[2] = {-INF, -INF}, sum[2] = {};

    // Turns scores into exponentials relative to the new maxima; `factor` makes older ones so.
    template <u32 N> __device__ void add(float (&s)[N][4], float (&factor)[2]) {
#pragma unroll
        for (u32 h = 0; h < 2; ++h) {
            float most = top[h];
            // A NaN that fmaxf ignores comes back as the exponential of its own score.
#pragma unroll
            for (u32 n = 0; n < N; ++n) most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
            most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
            const float base = most == -INF ? 0.0f : most * EXPONENT;
            factor[h] = power_of_two(fmaf(top[h], EXPONENT, -base));
            top[h] = most;
            sum[h] *= factor[h];
#pragma unroll
            for (u32 n = 0; n < N; ++n) {
#pragma unroll
                for (u32 i = 2 * h; i < 2 * h + 2; ++i) {
                    s[n][i] = power_of_two(fmaf(s[n][i], EXPONENT, -base));
                    sum[h] += s[n][i];
                }
            }
        }
    }
};

// Calls visit(element, factor) for all scores: queries are rows and keys columns.
template <u32 N, class Visit>
__device__ inline void for_dropout(u64 key, u32 head, u32 query, u32 start, Visit visit) {
    const Lane lane;
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const u32 row = head * QUERIES + query + lane.row + 8 * h;
        const u32 index = row * KEYS + start + lane.column;
#pragma unroll
        for (u32 n = 0; n < N; ++n) {
#pragma unroll
            for (u32 e = 0; e < 2; ++e) {
                visit(n, 2 * h + e, dropout(key, index + n * 8 + e, THRESHOLD, KEEP));
            }
        }
    }
}

template <u32 N> __device__ inline void zero(float (&x)[N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; ++n) x[n][0] = x[n][1] = x[n][2] = x[n][3] = 0.0f;
}

template <u32 M, u32 N> __device__ inline void zero(float (&x)[M][N][4]) {
#pragma unroll
    for (u32 m = 0; m < M; ++m) zero(x[m]);
}

// Two stages of keys, values and mask in shared memory: one is copied while the other is used.
// Tile i is in stage i % 2.
template <u32 TILE, u32 THREADS> struct KeyTiles {
    static constexpr u32 ELEMENTS = 2 * TILE * PITCH + 2 * TILE;

    Keys keys;
    Values values;
    const float* mask;
    bf16* stages;

    __device__ bf16* stage(u32 i) const { return stages + i % 2 * ELEMENTS; }

    __device__ void copy(u32 i) const {
        bf16* tile = stage(i);
        keys.template copy<TILE, THREADS>(tile, i * TILE);
        values.template copy<TILE, THREADS>(tile + TILE * PITCH, i * TILE);
        float* counts = reinterpret_cast<float*>(tile + 2 * TILE * PITCH);
        copy_each<TILE, THREADS, 1>(counts, mask + i * TILE, KEYS - i * TILE);
        commit();
    }

    // After this, all threads may use tile i, and none uses another one.
    __device__ void ready(u32 i, bool copied) const {
        wait<0>();
        if (copied) {
            keys.template finish<TILE, THREADS>(stage(i), i * TILE);
            values.template finish<TILE, THREADS>(stage(i) + TILE * PITCH, i * TILE);
        }
        __syncthreads();
    }

    template <class Visit> __device__ void use(u32 i, Visit visit) const {
        const bf16* tile = stage(i);
        const float* counts = reinterpret_cast<const float*>(tile + 2 * TILE * PITCH);
        visit(i * TILE, tile, tile + TILE * PITCH, counts);
    }

    // Calls visit(first key, keys, values, mask) for `count` tiles, of which the first is copied.
    template <class Visit> __device__ void sweep(u32 count, Visit visit) const {
        for (u32 i = 0; i < count; ++i) {
            ready(i, true);
            if (i + 1 < count) copy(i + 1);
            use(i, visit);
        }
    }

    // The same for all but the last tile, going back, after a sweep that has left the last two.
    template <class Visit> __device__ void sweep_back(u32 count, Visit visit) const {
        for (u32 i = count; i-- > 1;) {
            ready(i - 1, i + 1 < count);
            if (i > 1) copy(i - 2);
            use(i - 1, visit);
        }
    }
};

// How many tiles of keys the queries before `end` may see.
template <u32 TILE> __device__ inline u32 tiles_before(u32 end) {
    const int seen = int(smaller(end, QUERIES)) + AHEAD;
    return divided(!CAUSAL ? KEYS : seen < 0 ? 0 : u32(seen), TILE);
}
