// The backward pass for queries: a block owns some queries of a head. A first sweep over the keys
// finds each row's log-sum-exp (base 2) and delta = sum_j P D dP, a second one dQ.

constexpr u32 BLOCKS = (DEPTH <= 64 ? 12 : 8) / WARPS;
constexpr u32 ROWS = 16 * WARPS, THREADS = 32 * WARPS, TILES = divided(QUERIES, ROWS);

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, const bf16* dy, float* statistics,
    bf16* dq) {
    const Task task(TILES, HEADS);
    const u32 kv_head = task.head / (HEADS / KV_HEADS);
    const u32 head = task.batch * HEADS + task.head;
    const u32 start = (TILES - 1 - task.tile) * ROWS, warp = threadIdx.x / 32 * 16;
    const u32 row = start + warp;
    const Queries queries(q, bias_q, task.batch, task.head);
    const Gradients gradients(dy, nullptr, task.batch, task.head);
    const u64 random = DROPOUT ? *key : 0;
    const Documents<16> documents(mask + task.batch * KEYS, row);

    const KeyTiles<TILE, THREADS> tiles{
        Keys(k, bias_k, task.batch, kv_head), Values(v, bias_v, task.batch, kv_head),
        mask + task.batch * KEYS, reinterpret_cast<bf16*>(shared_memory)};
    // The second stage is not copied to before all threads have loaded these.
    bf16* q_tile = tiles.stage(1);
    bf16* dy_tile = q_tile + ROWS * PITCH;

    queries.template copy<ROWS, THREADS>(q_tile, start);
    gradients.template copy<ROWS, THREADS>(dy_tile, start);
    tiles.copy(0);
    wait<0>();
    queries.template finish<ROWS, THREADS>(q_tile, start);
    __syncthreads();
    u32 rows[DEPTH / 16][4], dy_rows[DEPTH / 16][4];
    load_rows(rows, q_tile + warp * PITCH);
    load_rows(dy_rows, dy_tile + warp * PITCH);

    // Exponentials of scores, and D dP. Those of the last tile are kept for the second sweep.
    float s[TILE / 8][4], dp[TILE / 8][4];
    bool sees_last = false;
    const auto products = [&](u32 first, const bf16* k_tile, const bf16* v_tile) {
        zero(s);
        zero(dp);
        multiply_transposed<TILE>(s, rows, k_tile);
        if (WANT_DQ || WANT_DK) multiply_transposed<TILE>(dp, dy_rows, v_tile);
        if (DROPOUT) {
            for_dropout<TILE / 8>(random, head, row, first,
                [&](u32 n, u32 i, float x) { dp[n][i] *= x; });
        }
    };

    Softmax softmax;
    float delta[2] = {}, logarithm[2], inverse[2];
    const u32 count = tiles_before<TILE>(start + ROWS);
    tiles.sweep(count,
        [&](u32 first, const bf16* k_tile, const bf16* v_tile, const float* counts) {
            const Sight<TILE> sight(counts, TILE, row, first, documents);
            sees_last = !sight.nothing();
            if (!sees_last) return;
            float factor[2];
            products(first, k_tile, v_tile);
            sight.hide(s);
            softmax.add(s, factor);
#pragma unroll
            for (u32 h = 0; h < 2; ++h) {
                delta[h] *= factor[h];
#pragma unroll
                for (u32 n = 0; n < TILE / 8; ++n) {
                    delta[h] = fmaf(s[n][2 * h], dp[n][2 * h], delta[h]);
                    delta[h] = fmaf(s[n][2 * h + 1], dp[n][2 * h + 1], delta[h]);
                }
            }
        });

    const Lane lane;
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const u32 at = row + lane.row + 8 * h;
        const float sum = row_sum(softmax.sum[h]), total = row_sum(delta[h]);
        // A query that sees no key: the exponentials of its scores minus infinity are 0.
        logarithm[h] = sum == 0.0f ? INF : fmaf(softmax.top[h], EXPONENT, log2f(sum));
        inverse[h] = sum == 0.0f ? 0.0f : 1.0f / sum;
        delta[h] = total * inverse[h];
        if (lane.column == 0 && at < QUERIES) {
            float* to = statistics + (u64(head) * QUERIES + at) * 2;
            to[0] = logarithm[h];
            to[1] = delta[h];
        }
    }
    if (!WANT_DQ) return;

    float out[1][DEPTH / 8][4];
    zero(out);
    // Adds dS K, where s holds P.
    const auto add = [&](const bf16* k_tile) {
        u32 ds[TILE / 16][1][4];
#pragma unroll
        for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) s[n][i] *= dp[n][i] - delta[i / 2];
        }
        round_all(ds, s);
        multiply(out, ds, k_tile);
    };
    if (sees_last) {
#pragma unroll
        for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) s[n][i] *= inverse[i / 2];
        }
        add(tiles.stage(count - 1));
    }
    tiles.sweep_back(count,
        [&](u32 first, const bf16* k_tile, const bf16* v_tile, const float* counts) {
            const Sight<TILE> sight(counts, TILE, row, first, documents);
            if (sight.nothing()) return;
            products(first, k_tile, v_tile);
            sight.hide(s);
#pragma unroll
            for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    s[n][i] = power_of_two(fmaf(s[n][i], EXPONENT, -logarithm[i / 2]));
                }
            }
            add(k_tile);
        });
    const float scale[2] = {SCALE, SCALE};
    write<DQ_STRIDE, QUERIES>(dq, task.batch, task.head, row, out[0], scale);
}
