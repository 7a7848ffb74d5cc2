// The mean of the losses of those ROWS rows whose label counts; one block.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const int* labels, const float* losses, Y* y) {
    __shared__ double sums[BLOCK];
    __shared__ int counts[BLOCK];
    double sum = 0.0;
    int count = 0;
    for (u32 i = threadIdx.x; i < ROWS; i += BLOCK) {
        sum += losses[i];
        count += labels[i] != IGNORED;
    }
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = count;
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
            counts[threadIdx.x] += counts[threadIdx.x + half];
        }
    }
    if (threadIdx.x == 0) st(y, float(sums[0] / (counts[0] > 1 ? counts[0] : 1)));
}
