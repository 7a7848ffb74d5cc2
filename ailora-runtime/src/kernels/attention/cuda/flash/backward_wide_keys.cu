// The backward pass for keys and values. Each warpgroup but the first owns 64 keys of a head and
// goes over the queries of all heads that use it. Scores are transposed: keys are rows.

constexpr u32 TILES = divided(KEYS, ROWS), GROUP = HEADS / KV_HEADS, ALL = divided(QUERIES, TILE);
// Registers of threads that copy, and of others: together all of a multiprocessor's.
constexpr u32 FEW = 24, MANY = 240;

// Two probabilities, of which those with a sign are dropped.
__device__ inline u32 kept(u32 pair) {
    return DROPOUT ? pair & ~((pair >> 15 & 0x10001u) * 0xffffu) : pair;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, const bf16* dy,
    const float* statistics, bf16* dk, bf16* dv) {
    using Own = Slots<ROWS, 1>;
    using Tiles = Slots<TILE, SLOTS>;
    const u32 warp = uniform(threadIdx.x / 32);
    bf16* tiles = first_tile();
    float* pairs = reinterpret_cast<float*>(tiles + 2 * Own::ELEMENTS + 2 * Tiles::ELEMENTS);
    u64* barriers = reinterpret_cast<u64*>(pairs + SLOTS * 2 * TILE);
    const Own keys{tiles, barriers}, values{tiles + Own::ELEMENTS, barriers + Own::BARRIERS};
    const Tiles queries{tiles + 2 * Own::ELEMENTS, barriers + 2 * Own::BARRIERS};
    const Tiles gradients{queries.tiles + Tiles::ELEMENTS, queries.barriers + Tiles::BARRIERS};
    if (threadIdx.x == 0) {
        keys.open();
        values.open();
        queries.open();
        gradients.open();
    }
    __syncthreads();
    // The first tile of queries that sees a key from `first` on.
    const auto seen_from = [](u32 first) {
        return CAUSAL && int(first) > AHEAD ? u32(int(first) - AHEAD) / TILE : 0;
    };
    // Tiles of queries so far.
    u32 i = 0;

    if (warp < 4) {
        fewer_registers<FEW>();
        for_tasks(TILES, KV_HEADS, [&](const Task& task, u32 turn) {
            const u32 start = task.tile * ROWS;
            if (warp < 2) {
                keys.fill(turn, Keys(k, bias_k, task.batch, task.head), start);
            } else {
                values.fill(turn, Values(v, bias_v, task.batch, task.head), start);
            }
            for (u32 head = task.head * GROUP; head < (task.head + 1) * GROUP; ++head) {
                for (u32 tile = seen_from(start); tile < ALL; ++tile, ++i) {
                    const u32 first = tile * TILE;
                    if (warp < 2) {
                        const Queries rows(q, bias_q, task.batch, head);
                        queries.fill(i, rows, first, [&](u32 slot) {
                            const u64 at = u64(task.batch * HEADS + head) * QUERIES + first;
                            copy_beside<TILE, 2>(
                                pairs + slot * 2 * TILE, statistics + 2 * at, QUERIES - first);
                        });
                    } else {
                        gradients.fill(i, Gradients(dy, nullptr, task.batch, head), first);
                    }
                }
            }
        });
        return;
    }
    more_registers<MANY>();
    const Lane lane;
    const u32 group = warp / 4 - 1;
    const u64 random = DROPOUT ? *key : 0;
    for_tasks(TILES, KV_HEADS, [&](const Task& task, u32 turn) {
        const u32 start = task.tile * ROWS, first_row = start + 64 * group;
        const u32 row = first_row + warp % 4 * 16;
        // Which keys count: of the group, and the thread's.
        const float* of_batch = mask + task.batch * KEYS;
        const auto counts_at = [&](u32 at) { return at < KEYS && of_batch[at] != 0.0f; };
        const u32 low = __ballot_sync(~0u, counts_at(first_row + threadIdx.x % 32));
        const u32 high = __ballot_sync(~0u, counts_at(first_row + 32 + threadIdx.x % 32));
        const u32 votes = (warp % 4 < 2 ? low : high) >> warp % 2 * 16;
        const bool alike = is_last_document(of_batch, row);
        const bool all_count = (votes & 0xffffu) == 0xffffu;
        const bool counts[2] = {bool(votes >> lane.row & 1), bool(votes >> (lane.row + 8) & 1)};
        // The group's own queries; none if no key counts.
        const u32 from = seen_from(start), own_from = (low | high) ? seen_from(first_row) : ALL;
        const bf16* k_rows = keys.full(turn) + group * 64 * 64;
        const bf16* v_rows = values.full(turn) + group * 64 * 64;

        float dk_rows[DEPTH / 8][4], dv_rows[DEPTH / 8][4], s[TILE / 8][4], dp[TILE / 8][4];
        u32 p[TILE / 16][1][4], kept_p[TILE / 16][1][4], ds[TILE / 16][1][4];
        zero(dk_rows);
        zero(dv_rows);
        for (u32 head = task.head * GROUP; head < (task.head + 1) * GROUP; ++head) {
            for (u32 tile = from; tile < own_from; ++tile, ++i) {
                queries.skip(i);
                gradients.skip(i);
            }
            for (u32 tile = own_from; tile < ALL; ++tile, ++i) {
                const u32 first = tile * TILE;
                const bf16* q_tile = queries.full(i);
                start_transposed<TILE>(s, k_rows, q_tile);
                const bf16* dy_tile = gradients.full(i);
                if (WANT_DK) start_transposed<TILE>(dp, v_rows, dy_tile);
                wait_products<WANT_DK ? 1 : 0>(s);
                // The products with the tile before are over, too.
                if (tile > own_from) queries.used(i - 1);

                const float* of_tile = pairs + i % SLOTS * 2 * TILE;
                const float4* statistic = reinterpret_cast<const float4*>(of_tile);
                // Query first + j sees the warp's key l if j >= l + behind.
                const int behind = int(row) - AHEAD - int(first);
#pragma unroll
                for (u32 n = 0; n < TILE / 8; ++n) {
                    const float4 pair = statistic[n * 4 + lane.column / 2];
#pragma unroll
                    for (u32 h = 0; h < 2; ++h) {
                        s[n][2 * h] = power_of_two(fmaf(s[n][2 * h], EXPONENT, -pair.x));
                        s[n][2 * h + 1] = power_of_two(fmaf(s[n][2 * h + 1], EXPONENT, -pair.z));
                    }
                }
                if (!all_count || (CAUSAL && behind + 15 > 0)) {
#pragma unroll
                    for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
                        for (u32 j = 0; j < 4; ++j) {
                            const int query = int(n * 8 + lane.column + j % 2);
                            const int key = int(lane.row + j / 2 * 8);
                            const bool sees = !CAUSAL || query >= behind + key;
                            if (!counts[j / 2] || !sees) s[n][j] = 0.0f;
                        }
                    }
                }
                if (!alike) hide_other_documents(s, of_batch, row, first);
                if (DROPOUT) {
                    // The sign of a probability says that it is dropped.
#pragma unroll
                    for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
                        for (u32 j = 0; j < 4; ++j) {
                            const u32 query = first + n * 8 + lane.column + j % 2;
                            const u32 at = ((task.batch * HEADS + head) * QUERIES + query) * KEYS;
                            const u32 index = at + row + lane.row + j / 2 * 8;
                            const bool drops = dropout(random, index, THRESHOLD, KEEP) == 0.0f;
                            if (drops) s[n][j] = -s[n][j];
                        }
                    }
                }
                // From here on as products have them, which takes half as many registers.
                round_all(p, s);
                if (WANT_DV) {
#pragma unroll
                    for (u32 n = 0; n < TILE / 4; ++n) {
                        kept_p[n / 4][0][n % 4] = kept(p[n / 4][0][n % 4]);
                    }
                    start_product(dv_rows, kept_p, dy_tile);
                }
                if (WANT_DK) {
                    wait_products<WANT_DV ? 1 : 0>(dp);
#pragma unroll
                    for (u32 n = 0; n < TILE / 8; ++n) {
                        const float4 pair = statistic[n * 4 + lane.column / 2];
#pragma unroll
                        for (u32 j = 0; j < 4; ++j) {
                            const u32 both = p[n / 2][0][n % 2 * 2 + j / 2];
                            const float x = widened(both >> j % 2 * 16 & 0xffffu);
                            const float delta = j % 2 ? pair.w : pair.y;
                            if (DROPOUT) dp[n][j] *= x < 0.0f ? 0.0f : KEEP;
                            dp[n][j] = (DROPOUT ? fabsf(x) : x) * (dp[n][j] - delta);
                        }
                    }
                    round_all(ds, dp);
                    start_product(dk_rows, ds, q_tile);
                }
                wait_products<WANT_DK ? 1 : 0>(dv_rows);
                gradients.used(i);
            }
            if (head % GROUP == GROUP - 1) {
                keys.used(turn);
                values.used(turn);
            }
            wait_products<0>(dk_rows);
            if (own_from < ALL) queries.used(i - 1);
        }
        const float scale[2] = {SCALE, SCALE}, keep[2] = {KEEP, KEEP};
        if (WANT_DK) write<DK_STRIDE, KEYS>(dk, task.batch, task.head, row, dk_rows, scale);
        if (WANT_DV) write<DV_STRIDE, KEYS>(dv, task.batch, task.head, row, dv_rows, keep);
    });
}
