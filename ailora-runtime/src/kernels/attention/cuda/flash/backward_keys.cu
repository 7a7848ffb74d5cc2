// The backward pass for keys and values: a block owns some keys of a head and goes over the
// queries of all heads that use it. Scores are transposed: keys are rows.

constexpr u32 BLOCKS = (DEPTH <= 64 ? 12 : 8) / WARPS;
constexpr u32 ROWS = 16 * WARPS, THREADS = 32 * WARPS, TILES = divided(KEYS, ROWS);
constexpr u32 STAGE = 2 * TILE * PITCH + 4 * TILE;

// Queries, gradients and statistics of a tile in shared memory.
__device__ inline void copy_stage(
    bf16* stage, const Queries& queries, const Gradients& gradients, const float* statistics,
    u32 first) {
    queries.template copy<TILE, THREADS>(stage, first);
    gradients.template copy<TILE, THREADS>(stage + TILE * PITCH, first);
    float* to = reinterpret_cast<float*>(stage + 2 * TILE * PITCH);
    copy_each<TILE, THREADS, 2>(to, statistics + 2 * first, QUERIES - first);
    commit();
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, const bf16* dy,
    const float* statistics, bf16* dk, bf16* dv) {
    constexpr u32 GROUP = HEADS / KV_HEADS;
    const Task task(TILES, KV_HEADS);
    const Lane lane;
    const u32 start = task.tile * ROWS, warp = threadIdx.x / 32 * 16, row = start + warp;
    const u64 random = DROPOUT ? *key : 0;
    const Keys keys(k, bias_k, task.batch, task.head);
    const Values values(v, bias_v, task.batch, task.head);

    bf16* k_tile = reinterpret_cast<bf16*>(shared_memory);
    bf16* v_tile = k_tile + ROWS * PITCH;
    bf16* stages = v_tile + ROWS * PITCH;
    keys.template copy<ROWS, THREADS>(k_tile, start);
    values.template copy<ROWS, THREADS>(v_tile, start);
    commit();

    const float* of_batch = mask + task.batch * KEYS;
    const bool alike = is_last_document(of_batch, row);
    bool counts[2];
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const u32 at = row + lane.row + 8 * h;
        counts[h] = at < KEYS && of_batch[at] != 0.0f;
    }
    // Not votes on `&&` and `||` of the two: ptxas 13.0 takes one for the other.
    const u32 votes[2] = {__ballot_sync(~0u, counts[0]), __ballot_sync(~0u, counts[1])};
    const bool all_count = (votes[0] & votes[1]) == ~0u;
    const bool none_counts = (votes[0] | votes[1]) == 0;

    // Of each head of the group, tiles of queries from the first that sees a key of the block.
    const u32 seen_from = CAUSAL && int(start) > AHEAD ? u32(int(start) - AHEAD) / TILE : 0;
    const u32 steps = divided(QUERIES, TILE) - seen_from;
    const auto head_of = [&](u32 step) { return task.head * GROUP + step / steps; };
    const auto first_of = [&](u32 step) { return (seen_from + step % steps) * TILE; };
    const auto stage_of = [&](u32 step) { return stages + step % 2 * STAGE; };
    const auto copy = [&](u32 step) {
        const u32 head = head_of(step);
        const Queries queries(q, bias_q, task.batch, head);
        const Gradients gradients(dy, nullptr, task.batch, head);
        const float* of_head = statistics + u64(task.batch * HEADS + head) * QUERIES * 2;
        copy_stage(stage_of(step), queries, gradients, of_head, first_of(step));
    };

    float dk_rows[1][DEPTH / 8][4], dv_rows[1][DEPTH / 8][4];
    zero(dk_rows);
    zero(dv_rows);
    copy(0);
    for (u32 step = 0; step < steps * GROUP; ++step) {
        const u32 head = head_of(step), first = first_of(step);
        const bf16* q_tile = stage_of(step);
        const bf16* dy_tile = q_tile + TILE * PITCH;
        const float4* pairs = reinterpret_cast<const float4*>(dy_tile + TILE * PITCH);
        wait<0>();
        if (step == 0) {
            keys.template finish<ROWS, THREADS>(k_tile, start);
            values.template finish<ROWS, THREADS>(v_tile, start);
        }
        const Queries queries(q, bias_q, task.batch, head);
        queries.template finish<TILE, THREADS>(stage_of(step), first);
        __syncthreads();
        if (step + 1 < steps * GROUP) copy(step + 1);

        // Query first + i sees the warp's key j if i >= j + behind.
        const int behind = int(row) - AHEAD - int(first);
        if (none_counts || (CAUSAL && behind >= int(TILE))) continue;
        float p[TILE / 8][4], ds[TILE / 8][4];
        zero(p);
        multiply_transposed<TILE>(p, k_tile + warp * PITCH, q_tile);
#pragma unroll
        for (u32 n = 0; n < TILE / 8; ++n) {
            const float4 pair = pairs[n * 4 + lane.column / 2];
#pragma unroll
            for (u32 h = 0; h < 2; ++h) {
                p[n][2 * h] = power_of_two(fmaf(p[n][2 * h], EXPONENT, -pair.x));
                p[n][2 * h + 1] = power_of_two(fmaf(p[n][2 * h + 1], EXPONENT, -pair.z));
            }
        }
        if (!all_count || (CAUSAL && behind + 15 > 0)) {
#pragma unroll
            for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    const int query = int(n * 8 + lane.column + i % 2);
                    const bool sees = !CAUSAL || query >= behind + int(lane.row + i / 2 * 8);
                    if (!counts[i / 2] || !sees) p[n][i] = 0.0f;
                }
            }
        }
        if (!alike) hide_other_documents(p, of_batch, row, first);
        if (WANT_DK) {
            zero(ds);
            multiply_transposed<TILE>(ds, v_tile + warp * PITCH, dy_tile);
        }
#pragma unroll
        for (u32 n = 0; n < TILE / 8; ++n) {
            const float4 pair = pairs[n * 4 + lane.column / 2];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const float delta = i % 2 ? pair.w : pair.y;
                float kept = 1.0f;
                if (DROPOUT) {
                    const u32 query = first + n * 8 + lane.column + i % 2;
                    const u32 at = ((task.batch * HEADS + head) * QUERIES + query) * KEYS;
                    const u32 index = at + row + lane.row + i / 2 * 8;
                    kept = dropout(random, index, THRESHOLD, KEEP);
                }
                if (WANT_DK) ds[n][i] = p[n][i] * (ds[n][i] * kept - delta);
                p[n][i] *= kept;
            }
        }
        u32 parts[TILE / 16][1][4];
        if (WANT_DV) {
            round_all(parts, p);
            multiply(dv_rows, parts, dy_tile);
        }
        if (WANT_DK) {
            round_all(parts, ds);
            multiply(dk_rows, parts, q_tile);
        }
    }
    const float scale[2] = {SCALE, SCALE}, one[2] = {1.0f, 1.0f};
    if (WANT_DK) write<DK_STRIDE, KEYS>(dk, task.batch, task.head, row, dk_rows[0], scale);
    if (WANT_DV) write<DV_STRIDE, KEYS>(dv, task.batch, task.head, row, dv_rows[0], one);
}
