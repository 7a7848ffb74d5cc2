// Numbers with their places, as keys of which the larger is the better: by the number, then by the place, of
// which the first is better. What is not a number is largest, and 0 is worse than any.

__device__ inline u64 key_of(float x, u32 place) {
    const u32 bits = u32(__float_as_int(x));
    const u32 rank = x != x ? ~0u : bits >> 31 ? ~bits : bits | 0x80000000u;
    return u64(rank) << 32 | (~0u - place);
}

__device__ inline float number_of(u64 key) {
    const u32 rank = u32(key >> 32);
    return __int_as_float(int(rank >> 31 ? (rank == ~0u ? 0x7fc00000u : rank & 0x7fffffffu) : ~rank));
}

__device__ inline u32 place_of(u64 key) { return ~0u - u32(key); }

// The best key of a block's threads. Two calls in a row have partials of their own.
__device__ inline u64 best_of(u64 key, u64* partials) {
#pragma unroll
    for (u32 distance = 16; distance > 0; distance /= 2) {
        const u64 other = __shfl_xor_sync(~0u, key, distance);
        key = other > key ? other : key;
    }
    if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = key;
    __syncthreads();
    key = partials[0];
#pragma unroll
    for (u32 warp = 1; warp < BLOCK / 32; ++warp) key = partials[warp] > key ? partials[warp] : key;
    return key;
}
