// O = D(softmax(scale Q K^T)) V. Each warpgroup but the first owns 64 queries of a head and goes
// over the keys: it multiplies by the values of a tile while it finds the next exponentials.

constexpr u32 TILES = divided(QUERIES, ROWS);
// Registers of threads that copy, and of others: together all of a multiprocessor's.
constexpr u32 FEW = GROUPS == 2 ? 40 : 32, MANY = GROUPS == 2 ? 232 : 160;

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, bf16* o) {
    using Own = Slots<ROWS, 2>;
    using Tiles = Slots<TILE, SLOTS>;
    const u32 warp = uniform(threadIdx.x / 32);
    bf16* tiles = first_tile();
    float* counts = reinterpret_cast<float*>(tiles + Own::ELEMENTS + 2 * Tiles::ELEMENTS);
    u64* barriers = reinterpret_cast<u64*>(counts + SLOTS * TILE);
    const Own queries{tiles, barriers};
    const Tiles keys{tiles + Own::ELEMENTS, barriers + Own::BARRIERS};
    const Tiles values{keys.tiles + Tiles::ELEMENTS, keys.barriers + Tiles::BARRIERS};
    if (threadIdx.x == 0) {
        queries.open();
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
                const Keys rows(k, bias_k, task.batch, kv_head);
                const float* of_batch = mask + task.batch * KEYS;
                for (u32 i = 0; i < count; ++i) {
                    keys.fill(base + i, rows, i * TILE, [&](u32 slot) {
                        copy_beside<TILE, 1>(
                            counts + slot * TILE, of_batch + i * TILE, KEYS - i * TILE);
                    });
                }
            } else {
                queries.fill(turn, Queries(q, bias_q, task.batch, task.head), start);
                const Values rows(v, bias_v, task.batch, kv_head);
                for (u32 i = 0; i < count; ++i) values.fill(base + i, rows, i * TILE);
            }
            base += count;
        });
        return;
    }
    more_registers<MANY>();
    const u32 group = warp / 4 - 1;
    const u64 random = DROPOUT ? *key : 0;
    for_tasks(TILES, HEADS, [&](const Task& task, u32 turn) {
        const u32 start = start_of(task), first_row = start + 64 * group;
        const u32 row = first_row + warp % 4 * 16, head = task.batch * HEADS + task.head;
        // A group of rows that are all beyond the end has none.
        const u32 own = first_row < QUERIES ? tiles_before<TILE>(first_row + 64) : 0;
        const u32 count = tiles_before<TILE>(start + ROWS);
        const Documents<16> documents(mask + task.batch * KEYS, row);

        Softmax softmax;
        float out[DEPTH / 8][4], s[TILE / 8][4], factor[2];
        u32 p[TILE / 16][1][4];
        zero(out);
        // Turns scores of tile i into exponentials.
        const auto exponentials = [&](u32 i) {
            const float* of_tile = counts + (base + i) % SLOTS * TILE;
            const Sight<TILE> sight(of_tile, TILE, row, i * TILE, documents);
            sight.hide(s);
            softmax.add(s, factor);
            keys.used(base + i, softmax.sum[0] + softmax.sum[1]);
            if (DROPOUT) {
                for_dropout<TILE / 8>(random, head, row, i * TILE,
                    [&](u32 n, u32 j, float x) { s[n][j] *= x; });
            }
        };
        const bf16* rows = queries.full(turn) + group * 64 * 64;
        if (own > 0) {
            start_transposed<TILE>(s, rows, keys.full(base));
            wait_products<0>(s);
            exponentials(0);
            round_all(p, s);
            for (u32 i = 1; i < own; ++i) {
                start_transposed<TILE>(s, rows, keys.full(base + i));
                start_product(out, p, values.full(base + i - 1));
                wait_products<1>(s);
                exponentials(i);
                wait_products<0>(out);
                values.used(base + i - 1);
#pragma unroll
                for (u32 n = 0; n < DEPTH / 8; ++n) {
#pragma unroll
                    for (u32 j = 0; j < 4; ++j) out[n][j] *= factor[j / 2];
                }
                round_all(p, s);
            }
            start_product(out, p, values.full(base + own - 1));
            wait_products<0>(out);
            values.used(base + own - 1);
        }
        queries.used(turn);
        for (u32 i = own; i < count; ++i) {
            keys.skip(base + i);
            values.skip(base + i);
        }
        base += count;

        float inverse[2];
#pragma unroll
        for (u32 h = 0; h < 2; ++h) {
            const float sum = row_sum(softmax.sum[h]);
            inverse[h] = sum == 0.0f ? 0.0f : 1.0f / sum;
        }
        write<O_STRIDE, QUERIES>(o, task.batch, task.head, row, out, inverse);
    });
}
