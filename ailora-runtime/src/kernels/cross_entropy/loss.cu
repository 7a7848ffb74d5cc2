// The loss of each row, `-sum(t log softmax(x))`, with `t` the label's one-hot vector of which SMOOTHING is
// spread over all classes and KEPT is left; 0 where the label does not count.

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(
    const X* logits, const int* labels, float* losses) {
    __shared__ float partials[3][64];
    const Index row = Index(blockIdx.x) * (BLOCK / THREADS) + threadIdx.x / THREADS;
    if (row >= ROWS) return;
    const X* x = logits + row * CLASSES;
    const int label = labels[row];
    const bool leads = threadIdx.x % THREADS == 0;
    // Threads of one row leave together.
    if (label == IGNORED) {
        if (leads) losses[row] = 0.0f;
        return;
    }
    float most[1], sums[2];
    exponentials(x, threadIdx.x % THREADS * N, most, sums, partials);
    if (!leads) return;
    float target = ld(x + label);
    if (SMOOTHING > 0.0f) target = KEPT * target + SMOOTHING * (sums[1] / float(CLASSES));
    losses[row] = logf(sums[0]) + most[0] - target;
}
