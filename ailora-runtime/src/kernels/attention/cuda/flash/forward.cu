// O = D(softmax(scale Q K^T)) V. A block owns some queries of a head and goes over the keys.

// As many blocks at a time as have enough registers.
constexpr u32 BLOCKS = (GROUPS == 2 ? 8 : 16) / WARPS;
constexpr u32 ROWS = 16 * GROUPS * WARPS, THREADS = 32 * WARPS, TILES = divided(QUERIES, ROWS);

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) KERNEL(
    const bf16* q, const bf16* k, const bf16* v, const float* mask, const float* bias_q,
    const float* bias_k, const float* bias_v, const u64* key, bf16* o) {
    const Task task(TILES, HEADS);
    const u32 kv_head = task.head / (HEADS / KV_HEADS);
    // The longest rows first.
    const u32 start = (TILES - 1 - task.tile) * ROWS, warp = threadIdx.x / 32 * 16 * GROUPS;
    const Queries queries(q, bias_q, task.batch, task.head);
    const u64 random = DROPOUT ? *key : 0;
    const Documents<16 * GROUPS> documents(mask + task.batch * KEYS, start + warp);

    bf16* q_tile = reinterpret_cast<bf16*>(shared_memory);
    const KeyTiles<TILE, THREADS> tiles{
        Keys(k, bias_k, task.batch, kv_head), Values(v, bias_v, task.batch, kv_head),
        mask + task.batch * KEYS, q_tile + ROWS * PITCH};
    queries.template copy<ROWS, THREADS>(q_tile, start);
    tiles.copy(0);
    wait<0>();
    queries.template finish<ROWS, THREADS>(q_tile, start);

    Softmax softmax[GROUPS];
    float out[GROUPS][DEPTH / 8][4];
    zero(out);
    tiles.sweep(tiles_before<TILE>(start + ROWS),
        [&](u32 first, const bf16* k_tile, const bf16* v_tile, const float* counts) {
            const u32 row = start + warp;
            const Sight<TILE> last(counts, TILE, row + 16 * (GROUPS - 1), first, documents);
            if (last.nothing()) return;
            float s[GROUPS][TILE / 8][4];
            u32 p[TILE / 16][GROUPS][4];
            zero(s);
            multiply_transposed<TILE, GROUPS>(s, q_tile + warp * PITCH, k_tile);
#pragma unroll
            for (u32 m = 0; m < GROUPS; ++m) {
                float factor[2];
                last.before(16 * (GROUPS - 1 - m)).hide(s[m]);
                softmax[m].add(s[m], factor);
#pragma unroll
                for (u32 n = 0; n < DEPTH / 8; ++n) {
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) out[m][n][i] *= factor[i / 2];
                }
                if (DROPOUT) {
                    const u32 head = task.batch * HEADS + task.head;
                    for_dropout<TILE / 8>(random, head, row + 16 * m, first,
                        [&](u32 n, u32 i, float x) { s[m][n][i] *= x; });
                }
                round_all(p, s[m], m);
            }
            multiply(out, p, v_tile);
        });

#pragma unroll
    for (u32 m = 0; m < GROUPS; ++m) {
        float inverse[2];
#pragma unroll
        for (u32 h = 0; h < 2; ++h) {
            const float sum = row_sum(softmax[m].sum[h]);
            inverse[h] = sum == 0.0f ? 0.0f : 1.0f / sum;
        }
        write<O_STRIDE, QUERIES>(
            o, task.batch, task.head, start + warp + 16 * m, out[m], inverse);
    }
}
