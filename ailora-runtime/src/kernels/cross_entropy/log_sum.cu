// The logarithm of each row's sum of exponentials.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const X* logits, Y* y) {
    __shared__ float partials[3][64];
    const Index row = Index(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    if (row >= ROWS) return;
    float most[1], sums[2];
    exponentials(logits + row * CLASSES, threadIdx.x % THREADS * N, most, sums, partials);
    if (threadIdx.x % THREADS == 0) st(y + row, logf(sums[0]) + most[0]);
}
