// What each of the ROWS rows whose label counts has of the mean; one block.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const int* labels, float* share) {
    __shared__ int counts[BLOCK];
    int count = 0;
    for (u32 i = threadIdx.x; i < ROWS; i += BLOCK) count += labels[i] != IGNORED;
    counts[threadIdx.x] = count;
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) counts[threadIdx.x] += counts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) *share = 1.0f / float(counts[0] > 1 ? counts[0] : 1);
}
