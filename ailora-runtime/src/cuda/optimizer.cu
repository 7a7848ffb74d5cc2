// The optimiser over all trained parameters at once. Gradients, moments and float32 values lie one
// parameter behind the other in flat arrays; a block handles neighbours of one parameter.

// `Parameter`, `Part`, `Outcome` and `COUNT` are declared in optimizer.rs.

__device__ float* losses(Outcome* outcome) { return reinterpret_cast<float*>(outcome + 1); }

// gradients = share g, or += share g; sources holds where each parameter's g is.
extern "C" __global__ void accumulate(const Parameter* parameters, const Part* parts,
                                      const float* const* sources, float* gradients, float share,
                                      u32 is_first, const float* loss, Outcome* outcome, u32 batch) {
    const Part part = parts[blockIdx.x];
    const Parameter parameter = parameters[part.parameter];
    const float* source = sources[part.parameter];
    const u64 end = min(parameter.len, u64(part.first) + COUNT);
    for (u64 i = part.first + threadIdx.x; i < end; i += blockDim.x) {
        float* sum = gradients + parameter.start + i;
        const float g = share * source[i];
        *sum = is_first ? g : *sum + g;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) losses(outcome)[batch] = *loss;
}

// The sum of squares of each part.
extern "C" __global__ void squares(const Parameter* parameters, const Part* parts,
                                   const float* gradients, double* sums) {
    __shared__ double partials[256];
    const Part part = parts[blockIdx.x];
    const Parameter parameter = parameters[part.parameter];
    const u64 end = min(parameter.len, u64(part.first) + COUNT);
    double sum = 0.0;
    for (u64 i = part.first + threadIdx.x; i < end; i += blockDim.x) {
        const double g = gradients[parameter.start + i];
        sum += g * g;
    }
    partials[threadIdx.x] = sum;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partials[threadIdx.x] += partials[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = partials[0];
}

// The norm from the sums of `count` parts, and the factor that clips it at `most`, 0 for none. A step
// that `follows` one that nobody has looked at yet diverged if that did.
extern "C" __global__ void clip_norm(const double* sums, u32 count, double most, u32 batches,
                                     u32 follows, Outcome* outcome) {
    __shared__ double partials[256];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
    partials[threadIdx.x] = sum;
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) partials[threadIdx.x] += partials[threadIdx.x + half];
    }
    if (threadIdx.x == 0) {
        const double norm = sqrt(partials[0]);
        u32 finite = norm < 1.0 / 0.0;
        for (u32 i = 0; i < batches; ++i) finite &= fabsf(losses(outcome)[i]) < INF;
        if (follows) finite &= outcome->finite;
        outcome->norm = norm;
        outcome->factor = most > 0.0 ? float(min(most / (norm + 1e-6), 1.0)) : 1.0f;
        outcome->finite = finite;
    }
}

// AdamW (Loshchilov & Hutter, 2019), unless training diverged.
extern "C" __global__ void adamw(const Parameter* parameters, const Part* parts,
                                 const float* gradients, float* values, float* first,
                                 float* second, const Outcome* outcome, double base, double beta1,
                                 double beta2, double eps, double correction1, double correction2) {
    if (!outcome->finite) return;
    const Part part = parts[blockIdx.x];
    const Parameter parameter = parameters[part.parameter];
    const double lr = base * parameter.lr;
    const float rate = float(lr / correction1), keep = float(1.0 - lr * parameter.weight_decay);
    const float b1 = float(beta1), b2 = float(beta2), root = 1.0f / float(correction2);
    const u64 end = min(parameter.len, u64(part.first) + COUNT);
    for (u64 i = part.first + threadIdx.x; i < end; i += blockDim.x) {
        const u64 at = parameter.start + i;
        const float g = gradients[at] * outcome->factor;
        const float m = b1 * first[at] + (1.0f - b1) * g;
        const float v = b2 * second[at] + (1.0f - b2) * g * g;
        const float x = values[at] * keep - rate * m / (sqrtf(v) * root + float(eps));
        first[at] = m;
        second[at] = v;
        values[at] = x;
        const u64 place = i / parameter.width * parameter.stride + i % parameter.width;
        if (parameter.is_bf16) {
            st(static_cast<bf16*>(parameter.place) + place, x);
        } else {
            static_cast<float*>(parameter.place)[place] = x;
        }
    }
}
