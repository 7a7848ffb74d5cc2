// The backward pass for queries. Each warpgroup but the first owns 64 queries of a head. A first
// sweep over the keys finds each row's log-sum-exp (base 2) and delta = sum_j P D dP, a second dQ.

constexpr u32 TILES = divided(QUERIES, ROWS), SWEEPS = WANT_DQ ? 2 : 1;
// Registers of threads that copy, and of others: together all of a multiprocessor's.
constexpr u32 FEW = 24, MANY = 240;

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, const bf16* dy, float* statistics,
    bf16* dq) {
    // Keys stay longer than values.
    using Own = Slots<ROWS, 1>;
    using KeySlots = Slots<TILE, SLOTS + 1>;
    using ValueSlots = Slots<TILE, SLOTS>;
    const u32 warp = uniform(threadIdx.x / 32);
    bf16* tiles = first_tile();
    float* counts = reinterpret_cast<float*>(
        tiles + 2 * Own::ELEMENTS + KeySlots::ELEMENTS + ValueSlots::ELEMENTS);
    u64* barriers = reinterpret_cast<u64*>(counts + (SLOTS + 1) * TILE);
    const Own queries{tiles, barriers};
    const Own gradients{tiles + Own::ELEMENTS, barriers + Own::BARRIERS};
    const KeySlots keys{tiles + 2 * Own::ELEMENTS, barriers + 2 * Own::BARRIERS};
    const ValueSlots values{keys.tiles + KeySlots::ELEMENTS, keys.barriers + KeySlots::BARRIERS};
    if (threadIdx.x == 0) {
        queries.open();
        gradients.open();
        keys.open();
        values.open();
    }
    __syncthreads();
    // The longest rows first.
    const auto start_of = [](const Task& task) { return (TILES - 1 - task.tile) * ROWS; };
    // Tiles of keys so far.
    u32 base = 0;

    if (warp < 4) {
        fewer_registers<FEW>();
        for_tasks(TILES, HEADS, [&](const Task& task, u32 turn) {
            const u32 kv_head = task.head / (HEADS / KV_HEADS), start = start_of(task);
            const u32 count = tiles_before<TILE>(start + ROWS);
            if (warp < 2) {
                queries.fill(turn, Queries(q, bias_q, task.batch, task.head), start);
                const Keys rows(k, bias_k, task.batch, kv_head);
                const float* of_batch = mask + task.batch * KEYS;
                for (u32 i = 0; i < count * SWEEPS; ++i) {
                    const u32 first = (i < count ? i : i - count) * TILE;
                    keys.fill(base + i, rows, first, [&](u32 slot) {
                        copy_beside<TILE, 1>(counts + slot * TILE, of_batch + first, KEYS - first);
                    });
                }
            } else {
                gradients.fill(turn, Gradients(dy, nullptr, task.batch, task.head), start);
                const Values rows(v, bias_v, task.batch, kv_head);
                for (u32 i = 0; i < count * SWEEPS; ++i) {
                    values.fill(base + i, rows, (i < count ? i : i - count) * TILE);
                }
            }
            base += count * SWEEPS;
        });
        return;
    }
    more_registers<MANY>();
    const Lane lane;
    const u32 group = warp / 4 - 1;
    const u64 random = DROPOUT ? *key : 0;
    for_tasks(TILES, HEADS, [&](const Task& task, u32 turn) {
        const u32 start = start_of(task), first_row = start + 64 * group;
        const u32 row = first_row + warp % 4 * 16, head = task.batch * HEADS + task.head;
        // A group of rows that are all beyond the end has none.
        const u32 own = first_row < QUERIES ? tiles_before<TILE>(first_row + 64) : 0;
        const u32 count = tiles_before<TILE>(start + ROWS);

        const Documents<16> documents(mask + task.batch * KEYS, row);
        const bf16* rows = queries.full(turn) + group * 64 * 64;
        const bf16* dy_rows = gradients.full(turn) + group * 64 * 64;

        // Exponentials of scores, and D dP.
        float s[TILE / 8][4], dp[TILE / 8][4];
        const auto hide = [&](u32 i, float hidden) {
            const float* of_tile = counts + (base + i) % (SLOTS + 1) * TILE;
            Sight<TILE>(of_tile, TILE, row, i * TILE, documents).hide(s, hidden);
        };
        const auto drop = [&](u32 i, float (&to)[TILE / 8][4]) {
            if (DROPOUT) {
                for_dropout<TILE / 8>(random, head, row, i * TILE,
                    [&](u32 n, u32 j, float x) { to[n][j] *= x; });
            }
        };
        const auto skip_others = [&] {
            for (u32 i = own; i < count; ++i) {
                keys.skip(base + i);
                values.skip(base + i);
            }
            base += count;
        };

        Softmax softmax;
        float delta[2] = {}, logarithm[2];
        for (u32 i = 0; i < own; ++i) {
            float factor[2];
            start_transposed<TILE>(s, rows, keys.full(base + i));
            start_transposed<TILE>(dp, dy_rows, values.full(base + i));
            wait_products<1>(s);
            hide(i, -INF);
            softmax.add(s, factor);
            keys.used(base + i, softmax.sum[0] + softmax.sum[1]);
            wait_products<0>(dp);
            values.used(base + i);
            drop(i, dp);
#pragma unroll
            for (u32 h = 0; h < 2; ++h) {
                delta[h] *= factor[h];
#pragma unroll
                for (u32 n = 0; n < TILE / 8; ++n) {
                    delta[h] = fmaf(s[n][2 * h], dp[n][2 * h], delta[h]);
                    delta[h] = fmaf(s[n][2 * h + 1], dp[n][2 * h + 1], delta[h]);
                }
            }
        }
        skip_others();
#pragma unroll
        for (u32 h = 0; h < 2; ++h) {
            const u32 at = row + lane.row + 8 * h;
            const float sum = row_sum(softmax.sum[h]), total = row_sum(delta[h]);
            // A query that sees no key: the exponentials of its scores minus infinity are 0.
            logarithm[h] = sum == 0.0f ? INF : fmaf(softmax.top[h], EXPONENT, log2f(sum));
            delta[h] = sum == 0.0f ? 0.0f : total / sum;
            if (lane.column == 0 && at < QUERIES) {
                float* to = statistics + (u64(head) * QUERIES + at) * 2;
                to[0] = logarithm[h];
                to[1] = delta[h];
            }
        }

        const auto done = [&] {
            queries.used(turn);
            gradients.used(turn);
        };
        float out[DEPTH / 8][4];
        u32 p[TILE / 16][1][4];
        if (WANT_DQ) zero(out);
        if (WANT_DQ && own > 0) {
            u32 i = 0;
            do {
                start_transposed<TILE>(s, rows, keys.full(base + i));
                // Not before the product with the tile before is over: its factor takes registers.
                wait_products<1>(out);
                if (i > 0) keys.used(base + i - 1);
                start_transposed<TILE>(dp, dy_rows, values.full(base + i));
                wait_products<1>(s);
#pragma unroll
                for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
                    for (u32 j = 0; j < 4; ++j) {
                        s[n][j] = power_of_two(fmaf(s[n][j], EXPONENT, -logarithm[j / 2]));
                    }
                }
                hide(i, 0.0f);
                // From here on as products have them, which takes half as many registers.
                round_all(p, s);
                wait_products<0>(dp);
                values.used(base + i);
                drop(i, dp);
#pragma unroll
                for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
                    for (u32 j = 0; j < 4; ++j) {
                        const u32 both = p[n / 2][0][n % 2 * 2 + j / 2];
                        const float x = widened(both >> j % 2 * 16 & 0xffffu);
                        dp[n][j] = x * (dp[n][j] - delta[j / 2]);
                    }
                }
                round_all(p, dp);
                start_product(out, p, keys.tile(base + i));
            } while (++i < own);
            done();
            wait_products<0>(out);
            keys.used(base + own - 1);
        } else {
            done();
        }
        if (WANT_DQ) {
            skip_others();
            const float scale[2] = {SCALE, SCALE};
            write<DQ_STRIDE, QUERIES>(dq, task.batch, task.head, row, out, scale);
        }
    });
}
