// The sums of rows by id, in a fixed order. The blocks of an id's first position, one for each 32 * N of
// the WIDTH columns, sum all of its rows: each warp those of every eighth position with the id, and the
// first one the sums of the warps. There are COUNT positions.

constexpr u32 WARPS = BLOCK / 32;

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const int* ids, const Rows* rows, const int* first, const int* uses, Y* y) {
    __shared__ int found[BLOCK + 1], counts[WARPS];
    __shared__ float sums[WARPS][32][N];
    const int start = blockIdx.x, id = ids[start];
    if (first[id] != start) return;
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const Index column = blockIdx.y * (32 * N) + lane * N;
    const bool inside = column < WIDTH;
    int left = uses[id];
    float sum[N] = {};
    for (int at = start; at < int(COUNT) && left > 0; at += BLOCK) {
        // The positions with this id among the next ones, in order.
        const int position = at + threadIdx.x;
        const bool is = position < int(COUNT) && ids[position] == id;
        const u32 votes = __ballot_sync(~0u, is);
        if (lane == 0) counts[warp] = __popc(votes);
        __syncthreads();
        int before = 0, all = 0;
        for (u32 i = 0; i < WARPS; ++i) {
            before += i < warp ? counts[i] : 0;
            all += counts[i];
        }
        if (is) found[before + __popc(votes & ((1u << lane) - 1))] = position;
        __syncthreads();
        if (inside) {
#pragma unroll 4
            for (int i = warp; i < all; i += WARPS) {
                float x[N];
                load(rows + Index(found[i]) * WIDTH + column, x);
#pragma unroll
                for (u32 k = 0; k < N; ++k) sum[k] += x[k];
            }
        }
        left -= all;
        __syncthreads();
    }
#pragma unroll
    for (u32 k = 0; k < N; ++k) sums[warp][lane][k] = sum[k];
    __syncthreads();
    if (warp > 0 || !inside) return;
    for (u32 i = 1; i < WARPS; ++i) {
#pragma unroll
        for (u32 k = 0; k < N; ++k) sum[k] += sums[i][lane][k];
    }
    store(y + Index(id) * WIDTH + column, sum);
}
