// The COUNT best of a row's keys, PARTS times as many, as numbers and places. Keys are unlike, but for 0.

__device__ inline u64 best_below(const u64* keys, u64 limit) {
    u64 best = 0;
    for (u32 i = threadIdx.x; i < PARTS * COUNT; i += BLOCK) {
        const u64 key = keys[i];
        best = key < limit && key > best ? key : best;
    }
    return best;
}

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const u64* keys, Y* y) {
    __shared__ u64 partials[2][BLOCK / 32];
    keys += Index(blockIdx.x) * PARTS * COUNT;
    y += Index(blockIdx.x) * COUNT * 2;
    u64 best = best_below(keys, ~0ull);
    for (u32 found = 0; found < COUNT; ++found) {
        const u64 key = best_of(best, partials[found % 2]);
        if (threadIdx.x == 0) {
            st(y + found * 2, number_of(key));
            st(y + found * 2 + 1, float(place_of(key)));
        }
        if (key == best) best = best_below(keys, key);
    }
}
