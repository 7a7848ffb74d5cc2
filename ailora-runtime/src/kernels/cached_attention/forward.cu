// Attention to places of a cache. A block computes GROUP heads of one query, which share a head of keys. LANES
// lanes of a warp share a place, N columns at a time; each has PARTS times as many. The warps take turns at
// the places; softmax is kept as it stands (Milakov & Gimelshein, 2018) and put together at the end.

constexpr u32 WARPS = BLOCK / 32, AT_ONCE = 32 / LANES;

// Makes the sums of two parts of the places those of both: the largest score, the sum of exponentials, and
// what a lane has of the output.
__device__ inline void join(float& most, float& sum, float (&y)[PARTS][N], u32 distance) {
    const float other = __shfl_xor_sync(~0u, most, distance);
    const float both = larger(most, other);
    const float own = power_of_two(most - both);
    // Both sides round alike: the other's share is what it gives.
    const float kept = sum * own;
    sum = kept + __shfl_xor_sync(~0u, kept, distance);
#pragma unroll
    for (u32 part = 0; part < PARTS; ++part) {
#pragma unroll
        for (u32 k = 0; k < N; ++k) {
            const float mine = y[part][k] * own;
            y[part][k] = mine + __shfl_xor_sync(~0u, mine, distance);
        }
    }
    most = both;
}

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const Q* queries, const K* keys, const V* values, const int* table, const int* counts, Y* result) {
    __shared__ float outputs[WARPS][GROUP][DEPTH];
    __shared__ float mosts[WARPS][GROUP], sums[WARPS][GROUP];
    const u32 row = blockIdx.x / (HEADS / GROUP), head = blockIdx.x % (HEADS / GROUP) * GROUP;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 first = lane % LANES * N, turn = lane / LANES;
    const int counted = counts[row];
    const u32 count = counted < 0 ? 0 : counted > int(LONGEST) ? LONGEST : u32(counted);
    const int* places = table + u64(row / QUERIES) * LONGEST;
    const u32 start = head / SHARING * DEPTH;

    float q[GROUP][PARTS][N], y[GROUP][PARTS][N] = {}, most[GROUP], sum[GROUP] = {};
#pragma unroll
    for (u32 g = 0; g < GROUP; ++g) {
        // Finite, so that no difference of infinities arises.
        most[g] = -1e30f;
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            const u32 column = first + part * LANES * N;
#pragma unroll
            for (u32 k = 0; k < N; ++k) q[g][part][k] = 0.0f;
            if (column < DEPTH) load(queries + Index(row) * FROM + (head + g) * DEPTH + column, q[g][part]);
#pragma unroll
            for (u32 k = 0; k < N; ++k) q[g][part][k] *= SCALE;
        }
    }
    // All lanes of a warp go round together.
#pragma unroll 2
    for (u32 next = warp * AT_ONCE; next < count; next += WARPS * AT_ONCE) {
        const bool sees = next + turn < count;
        const Index at = Index(places[sees ? next + turn : next]) * WIDTH + start;
        float k[PARTS][N] = {}, v[PARTS][N] = {}, score[GROUP] = {};
#pragma unroll
        for (u32 part = 0; part < PARTS; ++part) {
            const u32 column = first + part * LANES * N;
            if (column < DEPTH) {
                load(keys + at + column, k[part]);
                load(values + at + column, v[part]);
            }
        }
#pragma unroll
        for (u32 g = 0; g < GROUP; ++g) {
#pragma unroll
            for (u32 part = 0; part < PARTS; ++part) {
#pragma unroll
                for (u32 i = 0; i < N; ++i) score[g] = fmaf(q[g][part][i], k[part][i], score[g]);
            }
        }
        reduce<LANES, Sum>(score, nullptr);
#pragma unroll
        for (u32 g = 0; g < GROUP; ++g) {
            const float top = sees ? larger(score[g], most[g]) : most[g];
            const float fade = power_of_two(most[g] - top);
            const float p = sees ? power_of_two(score[g] - top) : 0.0f;
            most[g] = top;
            sum[g] = fmaf(sum[g], fade, p);
#pragma unroll
            for (u32 part = 0; part < PARTS; ++part) {
#pragma unroll
                for (u32 i = 0; i < N; ++i) y[g][part][i] = fmaf(y[g][part][i], fade, p * v[part][i]);
            }
        }
    }
#pragma unroll
    for (u32 g = 0; g < GROUP; ++g) {
#pragma unroll
        for (u32 distance = LANES; distance < 32; distance *= 2) join(most[g], sum[g], y[g], distance);
        if (turn == 0) {
#pragma unroll
            for (u32 part = 0; part < PARTS; ++part) {
                const u32 column = first + part * LANES * N;
                if (column < DEPTH) {
#pragma unroll
                    for (u32 i = 0; i < N; ++i) outputs[warp][g][column + i] = y[g][part][i];
                }
            }
        }
        if (lane == 0) {
            mosts[warp][g] = most[g];
            sums[warp][g] = sum[g];
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < GROUP * DEPTH; i += BLOCK) {
        const u32 g = i / DEPTH, column = i % DEPTH;
        float top = mosts[0][g];
#pragma unroll
        for (u32 w = 1; w < WARPS; ++w) top = larger(top, mosts[w][g]);
        float total = 0.0f, output = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; ++w) {
            const float share = power_of_two(mosts[w][g] - top);
            total = fmaf(sums[w][g], share, total);
            output = fmaf(outputs[w][g][column], share, output);
        }
        st(result + Index(row) * TO + (head + g) * DEPTH + column, count == 0 ? 0.0f : output / total);
    }
}
