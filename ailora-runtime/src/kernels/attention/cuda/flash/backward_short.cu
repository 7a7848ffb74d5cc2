// The whole backward pass of a head whose queries and keys are at most 128: a block keeps all of
// their rows in shared memory, and each warp owns 16 rows of scores.

constexpr u32 SIDE = 16 * WARPS, THREADS = 32 * WARPS, SCORE_PITCH = SIDE + 8;
// Gradients of scores take the place of keys and values once those have been used.
constexpr u32 PLACE = 2 * PITCH > SCORE_PITCH ? 2 * SIDE * PITCH : SIDE * SCORE_PITCH;
constexpr u32 SHARED = 2 * (2 * SIDE * PITCH + PLACE + SIDE * SCORE_PITCH);
constexpr u32 BLOCKS = SHARED <= 112 * 1024 ? 2 : 1;

// The sign of a probability says that dropout drops it.
__device__ inline u32 kept_of(u32 pair) {
    const u32 dropped = (pair >> 15 & 0x10001u) * 0xffffu;
    return pair & ~dropped;
}

// c = s^T b for the 16 columns of s from `column` on.
template <bool SIGNS>
__device__ inline void multiply_columns(
    float (&c)[1][DEPTH / 8][4], const bf16* s, u32 column, const bf16* b) {
    const bf16* from = right(s + column, SCORE_PITCH);
    zero(c);
#pragma unroll
    for (u32 step = 0; step < SIDE / 16; ++step) {
        u32 x[1][4];
        ldmatrix_transposed(x[0], from + step * 16 * SCORE_PITCH);
#pragma unroll
        for (u32 i = 0; i < 4; ++i) x[0][i] = SIGNS ? kept_of(x[0][i]) : x[0][i];
        multiply_step(c, x, b + step * 16 * PITCH);
    }
}

// Where a thread's two neighbours of eight columns are, in the upper or lower half of 16 rows.
__device__ inline u32* pair_at(bf16* rows, u32 n, u32 h) {
    const Lane lane;
    return reinterpret_cast<u32*>(rows + (lane.row + 8 * h) * SCORE_PITCH + 8 * n + lane.column);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, const bf16* dy, bf16* dq, bf16* dk,
    bf16* dv) {
    const Task task(1, HEADS);
    const u32 row = threadIdx.x / 32 * 16;
    const u64 random = DROPOUT ? *key : 0;
    const Queries queries(q, bias_q, task.batch, task.head);
    const Keys keys(k, bias_k, task.batch, task.head);
    const Values values(v, bias_v, task.batch, task.head);
    const Gradients gradients(dy, nullptr, task.batch, task.head);

    bf16* q_tile = reinterpret_cast<bf16*>(shared_memory);
    bf16* dy_tile = q_tile + SIDE * PITCH;
    bf16* k_tile = dy_tile + SIDE * PITCH;
    bf16* v_tile = k_tile + SIDE * PITCH;
    bf16* ds_tile = k_tile;
    bf16* p_tile = k_tile + PLACE;
    bf16* p_rows = p_tile + row * SCORE_PITCH;
    queries.template copy<SIDE, THREADS>(q_tile, 0);
    keys.template copy<SIDE, THREADS>(k_tile, 0);
    commit();
    gradients.template copy<SIDE, THREADS>(dy_tile, 0);
    values.template copy<SIDE, THREADS>(v_tile, 0);
    commit();
    const float* of_batch = mask + task.batch * KEYS;
    const Sight<SIDE> sight(of_batch, KEYS, row, 0, Documents<16>(of_batch, row));
    wait<1>();
    queries.template finish<SIDE, THREADS>(q_tile, 0);
    keys.template finish<SIDE, THREADS>(k_tile, 0);
    __syncthreads();

    float s[SIDE / 8][4], sums[2];
    zero(s);
    multiply_transposed<SIDE>(s, q_tile + row * PITCH, k_tile);
    sight.hide(s);
    Softmax softmax;
    softmax.add(s, sums);
    if (DROPOUT) {
        const u32 head = task.batch * HEADS + task.head;
        for_dropout<SIDE / 8>(random, head, row, 0,
            [&](u32 n, u32 i, float x) { s[n][i] = x == 0.0f ? -s[n][i] : s[n][i]; });
    }
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const float sum = row_sum(softmax.sum[h]), inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        sums[h] = 0.0f;
#pragma unroll
        for (u32 n = 0; n < SIDE / 8; ++n) {
            const u32 pair = rounded(s[n][2 * h] * inverse, s[n][2 * h + 1] * inverse);
            *pair_at(p_rows, n, h) = pair;
            sums[h] += widened(pair & 0x7fffu) + widened(pair >> 16 & 0x7fffu);
        }
        // Rounded probabilities need not add up to 1, yet what all dP share must cancel out.
        sums[h] = row_sum(sums[h]);
    }
    wait<0>();
    values.template finish<SIDE, THREADS>(v_tile, 0);
    __syncthreads();

    zero(s);
    multiply_transposed<SIDE>(s, dy_tile + row * PITCH, v_tile);
    u32 ds[SIDE / 16][1][4];
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        float delta = 0.0f;
#pragma unroll
        for (u32 n = 0; n < SIDE / 8; ++n) {
            const u32 pair = *pair_at(p_rows, n, h);
#pragma unroll
            for (u32 e = 0; e < 2; ++e) {
                const u32 p = pair >> 16 * e & 0xffffu;
                if (DROPOUT) s[n][2 * h + e] *= p >> 15 ? 0.0f : KEEP;
                delta = fmaf(widened(p & 0x7fffu), s[n][2 * h + e], delta);
            }
        }
        delta = row_sum(delta);
        delta = sums[h] == 0.0f ? 0.0f : delta / sums[h];
#pragma unroll
        for (u32 n = 0; n < SIDE / 8; ++n) {
            const u32 pair = *pair_at(p_rows, n, h) & 0x7fff7fffu;
            const float x = widened(pair & 0xffffu) * (s[n][2 * h] - delta);
            const float y = widened(pair >> 16) * (s[n][2 * h + 1] - delta);
            ds[n / 2][0][n % 2 * 2 + h] = rounded(x, y);
        }
    }

    float out[1][DEPTH / 8][4];
    const float scale[2] = {SCALE, SCALE}, keep[2] = {KEEP, KEEP};
    if (WANT_DQ) {
        zero(out);
        multiply(out, ds, k_tile);
        write<DQ_STRIDE, QUERIES>(dq, task.batch, task.head, row, out[0], scale);
    }
    __syncthreads();
    if (WANT_DK) {
#pragma unroll
        for (u32 i = 0; i < SIDE / 8; ++i) {
            *pair_at(ds_tile + row * SCORE_PITCH, i, 0) = ds[i / 2][0][i % 2 * 2];
            *pair_at(ds_tile + row * SCORE_PITCH, i, 1) = ds[i / 2][0][i % 2 * 2 + 1];
        }
    }
    if (WANT_DV) {
        multiply_columns<DROPOUT>(out, p_tile, row, dy_tile);
        write<DV_STRIDE, KEYS>(dv, task.batch, task.head, row, out[0], keep);
    }
    if (WANT_DK) {
        __syncthreads();
        multiply_columns<false>(out, ds_tile, row, q_tile);
        write<DK_STRIDE, KEYS>(dk, task.batch, task.head, row, out[0], scale);
    }
}
