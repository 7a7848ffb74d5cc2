// Sums of outer products of rows, as adapters' gradients are: `wide^T thin`, or its transpose. A block
// sums some of the rows for some columns of the wide factor; what blocks found is added up afterwards.
//
// There are ROWS rows, of which SHARE are a block's, COLUMNS columns of a block, TILE rows of a tile, and STAGES
// tiles in shared memory. The products' columns make TILES tiles, and their results LEN numbers. TASKS(DO)
// lists the products as `DO(number, its first tile, behind its last, its first number among the results,
// SKIPPED, WIDTH, WIDE_STRIDE, RANK, THIN_STRIDE, COPIED, WIDE_FIRST)`.

constexpr u32 WARPS = COLUMNS / 32, THREADS = 32 * WARPS;

// Rows of a tile, padded so that eight of them begin in different banks.
__device__ constexpr u32 pitch(u32 width) { return width + (width / 8 % 2 ? 16 : 8); }

// Starts to copy a tile's rows of WIDTH columns; zeros from row `end` and from column `width` on.
template <u32 WIDTH>
__device__ inline void copy_tile(
    bf16* to, const bf16* from, u32 stride, u32 row, u32 end, u32 column, u32 width) {
    constexpr u32 CHUNKS = WIDTH / 8;
#pragma unroll
    for (u32 further = 0; further < TILE * CHUNKS; further += THREADS) {
        const u32 i = further + threadIdx.x;
        if (TILE * CHUNKS % THREADS > 0 && i >= TILE * CHUNKS) break;
        const u32 y = i / CHUNKS, x = i % CHUNKS * 8;
        copy_async<16>(to + y * pitch(WIDTH) + x, from + u64(row + y) * stride + column + x,
            row + y < end && column + x < width);
    }
}

// The sums of block `tile` of columns and `share` of the rows: WIDTH x RANK, or RANK x WIDTH if the
// wide factor comes second. Of the thin factor COPIED columns are copied, of which SKIPPED come before
// its own.
template <u32 SKIPPED, u32 WIDTH, u32 WIDE_STRIDE, u32 RANK, u32 THIN_STRIDE, u32 COPIED, bool WIDE_FIRST>
__device__ inline void outer(
    const bf16* wide, const bf16* thin, float* sums, u32 tile, u32 share) {
    constexpr u32 WIDE = TILE * pitch(COLUMNS), STAGE = WIDE + TILE * pitch(COPIED);
    const u32 first = share * SHARE, end = smaller(first + SHARE, ROWS);
    const u32 steps = divided(end - first, TILE), warp = threadIdx.x / 32 * 32;
    bf16* const stages = reinterpret_cast<bf16*>(shared_memory);
    const auto copy = [&](u32 step) {
        if (step < steps) {
            bf16* to = stages + step % STAGES * STAGE;
            const u32 row = first + step * TILE;
            copy_tile<COLUMNS>(to, wide, WIDE_STRIDE, row, end, tile * COLUMNS, WIDTH);
            copy_tile<COPIED>(to + WIDE, thin, THIN_STRIDE, row, end, 0, COPIED);
        }
        commit();
    };

    float c[2][COPIED / 8][4] = {};
#pragma unroll
    for (u32 step = 0; step < STAGES - 1; ++step) copy(step);
    for (u32 step = 0; step < steps; ++step) {
        wait<STAGES - 2>();
        __syncthreads();
        copy(step + STAGES - 1);
        const bf16* from = stages + step % STAGES * STAGE;
#pragma unroll
        for (u32 k = 0; k < TILE; k += 16) {
            u32 x[2][4], y[4];
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
                const bf16* part = from + k * pitch(COLUMNS) + warp + 16 * m;
                ldmatrix_transposed(x[m], right(part, pitch(COLUMNS)));
            }
#pragma unroll
            for (u32 n = 0; n < COPIED / 8; n += 2) {
                // Of the last eight columns the right half is padding.
                const bf16* part = from + WIDE + k * pitch(COPIED) + 8 * n;
                ldmatrix_transposed(y, down(part, pitch(COPIED)));
#pragma unroll
                for (u32 m = 0; m < 2; ++m) {
                    mma(c[m][n], x[m], y[0], y[1]);
                    if (n + 1 < COPIED / 8) mma(c[m][n + 1], x[m], y[2], y[3]);
                }
            }
        }
    }

    const Lane lane;
#pragma unroll
    for (u32 m = 0; m < 2; ++m) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 column = tile * COLUMNS + warp + 16 * m + lane.row + i / 2 * 8;
            if (column >= WIDTH) continue;
#pragma unroll
            for (u32 n = 0; n < COPIED / 8; ++n) {
                const u32 r = 8 * n + lane.column + i % 2 - SKIPPED;
                // Wrapped around, those before the first are large.
                if (r >= RANK) continue;
                sums[WIDE_FIRST ? column * RANK + r : r * WIDTH + column] = c[m][n][i];
            }
        }
    }
}

#define FACTORS(i, ...) const bf16 *wide##i, const bf16 *thin##i,
#define SUM(i, first_tile, last_tile, first, skipped, ...)                                            \
    if (tile < last_tile) {                                                                           \
        outer<skipped, __VA_ARGS__>(wide##i, thin##i - skipped, to + first, tile - first_tile, share); \
        return;                                                                                       \
    }

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(TASKS(FACTORS) float* sums) {
    const u32 tile = blockIdx.x % TILES, share = blockIdx.x / TILES;
    float* to = sums + u64(share) * LEN;
    TASKS(SUM)
}

#undef FACTORS
#undef SUM
#undef TASKS
