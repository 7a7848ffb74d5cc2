// The COUNT best keys of a part of a row of WIDTH columns, in descending order; 0 where there are fewer. A
// thread has OWN columns.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* x, u64* keys) {
    __shared__ u64 partials[2][BLOCK / 32];
    const u32 first = blockIdx.x * OWN * BLOCK + threadIdx.x;
    const X* row = x + Index(blockIdx.y) * WIDTH;
    u64 own[OWN], best = 0;
#pragma unroll
    for (u32 i = 0; i < OWN; ++i) {
        const u32 column = first + i * BLOCK;
        own[i] = column < WIDTH ? key_of(ld(row + column), column) : 0;
        best = own[i] > best ? own[i] : best;
    }
    u64* to = keys + (Index(blockIdx.y) * PARTS + blockIdx.x) * COUNT;
    for (u32 found = 0; found < COUNT; ++found) {
        const u64 key = best_of(best, partials[found % 2]);
        if (threadIdx.x == 0) to[found] = key;
        if (key == best) {
            best = 0;
#pragma unroll
            for (u32 i = 0; i < OWN; ++i) best = own[i] < key && own[i] > best ? own[i] : best;
        }
    }
}
