// What every kernel may use: elements in memory, random bits, reductions and functions of floats.
// Nothing is included, so that a kernel compiles in no time.

typedef unsigned int u32;
typedef unsigned long long u64;

#define INF __int_as_float(0x7f800000)

// The upper half of a float32.
struct bf16 {
    unsigned short bits;
};

__device__ inline float widened(u32 bits) { return __int_as_float(int(bits << 16)); }

// Two floats rounded to nearest, ties to even; the first in the lower half.
__device__ inline u32 rounded(float first, float second) {
#ifdef __CUDA_ARCH__
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
#else
    const float both[2] = {first, second};
    u32 halves[2];
    for (u32 i = 0; i < 2; ++i) {
        const u32 bits = u32(__float_as_int(both[i]));
        const u32 even = bits + 0x7fffu + (bits >> 16 & 1u);
        halves[i] = (both[i] != both[i] ? 0x7fff0000u : even) >> 16;
    }
    return halves[1] << 16 | halves[0];
#endif
}

// One element, or neighbours whose first is aligned to all of them.

__device__ inline float ld(const float* from) { return *from; }
__device__ inline float ld(const bf16* from) { return widened(from->bits); }
__device__ inline int ld(const int* from) { return *from; }

__device__ inline void st(float* to, float x) { *to = x; }
__device__ inline void st(bf16* to, float x) { to->bits = (unsigned short)rounded(x, 0.0f); }
__device__ inline void st(int* to, int x) { *to = x; }

template <class T> __device__ inline void load(const T* from, float (&to)[1]) { to[0] = ld(from); }

__device__ inline void load(const float* from, float (&to)[4]) {
    const float4 all = *reinterpret_cast<const float4*>(from);
    to[0] = all.x;
    to[1] = all.y;
    to[2] = all.z;
    to[3] = all.w;
}

__device__ inline void load(const bf16* from, float (&to)[4]) {
    const uint2 all = *reinterpret_cast<const uint2*>(from);
    to[0] = widened(all.x);
    to[1] = __int_as_float(int(all.x & 0xffff0000u));
    to[2] = widened(all.y);
    to[3] = __int_as_float(int(all.y & 0xffff0000u));
}

template <class T> __device__ inline void store(T* to, const float (&x)[1]) { st(to, x[0]); }

__device__ inline void store(float* to, const float (&x)[4]) {
    *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}

__device__ inline void store(bf16* to, const float (&x)[4]) {
    *reinterpret_cast<uint2*>(to) = make_uint2(rounded(x[0], x[1]), rounded(x[2], x[3]));
}

// 32 random bits of a stream for position `index`, but for a last step: h ^= h >> 16.
__device__ inline u32 almost_random_bits(u64 key, u32 index) {
    u32 h = index * 0x9e3779b1u + u32(key);
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    const u32 high = u32(key >> 32);
    // (h ^ high) ^ (h ^ high) >> 13, of which the part of the key is the same for all.
    h ^= h >> 13 ^ (high ^ high >> 13);
    return h * 0xc2b2ae35u;
}

// The factor of an element that dropout drops if its bits are below the threshold, or keeps. The bits'
// last step changes their lower half only, which matters where the upper halves are equal.
__device__ inline float dropout(u64 key, u32 index, u32 threshold, float keep) {
    return (almost_random_bits(key, index) ^ threshold >> 16) < threshold ? 0.0f : keep;
}

// The larger of two; NaN if one is.
__device__ inline float larger(float a, float b) { return a > b || a != a ? a : b; }

struct Sum {
    static __device__ float neutral() { return 0.0f; }
    static __device__ float of(float a, float b) { return a + b; }
};

struct Max {
    static __device__ float neutral() { return -INF; }
    static __device__ float of(float a, float b) { return larger(a, b); }
};

// Combines N numbers over groups of T neighbouring threads, in a fixed order; every thread gets the
// same bits. T is a power of 2 up to 32, or the whole block, which then needs N * 32 floats of
// shared memory that no other reduction uses.
template <u32 T, class Op, u32 N>
__device__ inline void reduce(float (&x)[N], float* partials) {
    const u32 within = T < 32 ? T : 32;
#pragma unroll
    for (u32 distance = within / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (u32 i = 0; i < N; ++i) x[i] = Op::of(x[i], __shfl_xor_sync(~0u, x[i], distance));
    }
    if constexpr (T > 32) {
        const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        if (lane == 0) {
#pragma unroll
            for (u32 i = 0; i < N; ++i) partials[i * 32 + warp] = x[i];
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < N; ++i) x[i] = lane < T / 32 ? partials[i * 32 + lane] : Op::neutral();
#pragma unroll
        for (u32 distance = 16; distance > 0; distance /= 2) {
#pragma unroll
            for (u32 i = 0; i < N; ++i) x[i] = Op::of(x[i], __shfl_xor_sync(~0u, x[i], distance));
        }
    }
}

// 2^x and 1/x as the device has them in one instruction: within two units of the last place.
#ifdef __CUDA_ARCH__
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#else
static inline float power_of_two(float x) { return exp2f(x); }
static inline float reciprocal(float x) { return 1.0f / x; }
#endif

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Not fmaxf, which would turn NaN into 0.
__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }

// ln(1 + e^x)
__device__ inline float softplus(float x) { return relu(x) + log1pf(expf(-fabsf(x))); }

// The normal distribution function and e^(-x^2/2): erfc(z) = e^(-z^2) t P(t) with t = 1/(1 + p z),
// whose relative error stays small where erf is close to 1.
__device__ inline void normal(float x, float& phi, float& bell) {
    const float z = fabsf(x) * 0.70710678f;
    const float t = reciprocal(fmaf(0.3275291f, z, 1.0f));
    float p = -0.14426552f;
    p = fmaf(p, t, 0.5104282f);
    p = fmaf(p, t, -0.43013882f);
    p = fmaf(p, t, 0.47632858f);
    p = fmaf(p, t, 0.012608234f);
    p = fmaf(p, t, 0.20999212f);
    p = fmaf(p, t, 0.17997753f);
    p = fmaf(p, t, 0.18506963f);
    bell = power_of_two(x * x * -0.72134752f);
    const float tail = 0.5f * p * t * bell;
    phi = x < 0.0f ? tail : 1.0f - tail;
}

__device__ inline float gelu(float x) {
    float phi, bell;
    normal(x, phi, bell);
    return x * phi;
}

__device__ inline float gelu_prime(float x) {
    float phi, bell;
    normal(x, phi, bell);
    return phi + x * bell * 0.3989423f;
}
