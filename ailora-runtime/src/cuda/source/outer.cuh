// Sums of outer products of rows, as adapters' gradients are: `wide^T thin`, or its transpose. A block
// sums a share of the rows for some columns of the wide factor, and the last one of these columns adds
// up what all of them found, in the order of the rows.
//
// The text that comes before says: how many ROWS there are, how many of them are a SHARE, how many
// SHARES that makes, the numbers LENGTH of all results, a block's COLUMNS, the rows of a TILE, and the
// STAGES of tiles in shared memory (u32).

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

// Whether this block is the last of its columns' that gets here; what the others wrote is there then.
__device__ inline bool is_last(u32* arrived) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived, 1u) == SHARES - 1;
        if (last) *arrived = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

// One product: WIDTH x RANK, or RANK x WIDTH if the wide factor comes second.
template <u32 WIDTH, u32 WIDE_STRIDE, u32 RANK, u32 THIN_STRIDE, bool WIDE_FIRST> struct Outer {
    static constexpr u32 TILES = divided(WIDTH, COLUMNS);

    const bf16 *wide, *thin;
    float alpha;
    // The result, and a place in the results of the first share.
    float *c, *sums;
    // How many blocks are done, for each tile of columns.
    u32* arrived;

    // Where neighbours of the result are in it: the first four of `i` fours of a tile's columns.
    static __device__ u32 place(u32 tile, u32 i) {
        if constexpr (WIDE_FIRST) return tile * COLUMNS * RANK + 4 * i;
        return i / (COLUMNS / 4) * WIDTH + tile * COLUMNS + i % (COLUMNS / 4) * 4;
    }

    __device__ void run(u32 tile, u32 share) const {
        sum(sums + u64(share) * LENGTH, tile, share);
        if (!is_last(arrived + tile)) return;
        // Enough of them at a time that memory is kept busy.
        constexpr u32 FOURS = COLUMNS * RANK / 4, AT_ONCE = SHARES > 16 ? 1 : 16 / SHARES;
        const u32 columns = smaller(COLUMNS, WIDTH - tile * COLUMNS);
#pragma unroll AT_ONCE
        for (u32 further = 0; further < FOURS; further += THREADS) {
            const u32 i = further + threadIdx.x;
            const u32 column = WIDE_FIRST ? 4 * i / RANK : i % (COLUMNS / 4) * 4;
            if (i >= FOURS || column >= columns) continue;
            float total[4] = {}, x[4];
#pragma unroll
            for (u32 k = 0; k < SHARES; ++k) {
                load(sums + u64(k) * LENGTH + place(tile, i), x);
#pragma unroll
                for (u32 j = 0; j < 4; ++j) total[j] += x[j];
            }
#pragma unroll
            for (u32 j = 0; j < 4; ++j) total[j] *= alpha;
            store(c + place(tile, i), total);
        }
    }

    // The sums of a share of the rows.
    __device__ void sum(float* sums, u32 tile, u32 share) const {
        constexpr u32 WIDE = TILE * pitch(COLUMNS), STAGE = WIDE + TILE * pitch(RANK);
        const u32 first = share * SHARE, end = smaller(first + SHARE, ROWS);
        const u32 steps = divided(end - first, TILE), warp = threadIdx.x / 32 * 32;
        bf16* const stages = reinterpret_cast<bf16*>(shared_memory);
        const auto copy = [&](u32 step) {
            if (step < steps) {
                bf16* to = stages + step % STAGES * STAGE;
                const u32 row = first + step * TILE;
                copy_tile<COLUMNS>(to, wide, WIDE_STRIDE, row, end, tile * COLUMNS, WIDTH);
                copy_tile<RANK>(to + WIDE, thin, THIN_STRIDE, row, end, 0, RANK);
            }
            commit();
        };

        float c[2][RANK / 8][4] = {};
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
                for (u32 n = 0; n < RANK / 8; n += 2) {
                    // Of the last eight columns the right half is padding.
                    const bf16* part = from + WIDE + k * pitch(RANK) + 8 * n;
                    ldmatrix_transposed(y, down(part, pitch(RANK)));
    #pragma unroll
                    for (u32 m = 0; m < 2; ++m) {
                        mma(c[m][n], x[m], y[0], y[1]);
                        if (n + 1 < RANK / 8) mma(c[m][n + 1], x[m], y[2], y[3]);
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
                for (u32 n = 0; n < RANK / 8; ++n) {
                    const u32 r = 8 * n + lane.column + i % 2;
                    sums[WIDE_FIRST ? column * RANK + r : r * WIDTH + column] = c[m][n][i];
                }
            }
        }
    }
};
