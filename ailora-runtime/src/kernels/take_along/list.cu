// For each element of a matrix, in rows of WIDTH, the places that add to it: `order` has those of each
// element one behind the other, and `ends` where they end. EACH ids add to a row, which begin FROM_ROW
// after those of the row before and are FROM_EACH apart.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const int* ids, int* ends, int* order) {
    const Unit unit = Unit(blockIdx.x) * BLOCK + threadIdx.x;
    if (unit >= UNITS) return;
    const u32 row = unit / WIDTH;
    const int id = unit % WIDTH;
    const int* own = ids + row * FROM_ROW;
    int at = row * EACH;
    for (u32 j = 0; j < EACH; ++j) at += own[j * FROM_EACH] < id;
    for (u32 j = 0; j < EACH; ++j) {
        if (own[j * FROM_EACH] == id) order[at++] = row * FROM_ROW + j * FROM_EACH;
    }
    ends[unit] = at;
}
