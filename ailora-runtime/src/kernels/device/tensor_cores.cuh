// Products of bfloat16 matrices by a warp's tensor cores, and copies to shared memory that go on by
// themselves.

// What only a GPU has, and what the host's tests have instead.
#ifdef __CUDA_ARCH__

extern __shared__ float4 shared_memory[];

__device__ inline u32 shared_address(const void* at) {
    return u32(__cvta_generic_to_shared(at));
}

// c += a b with a of 16 x 16, b of 16 x 8.
__device__ inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices, whose rows begin at the addresses that the threads give.
__device__ inline void ldmatrix(u32 (&to)[4], const bf16* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
        : "r"(shared_address(from)) : "memory");
}

__device__ inline void ldmatrix_transposed(u32 (&to)[4], const bf16* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
        : "r"(shared_address(from)) : "memory");
}

// Starts to copy BYTES to shared memory; zeros if not valid.
template <u32 BYTES> __device__ inline void copy_async(void* to, const void* from, bool valid) {
    const u32 size = valid ? BYTES : 0;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
            :: "r"(shared_address(to)), "l"(from), "r"(size) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
            :: "r"(shared_address(to)), "l"(from), "n"(BYTES), "r"(size) : "memory");
    }
}

// Ends a group of copies.
__device__ inline void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of this thread but the last PENDING.
template <u32 PENDING> __device__ inline void wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}

#else

static float4 shared_memory[227 * 1024 / sizeof(float4)];

static inline float half(u32 pair, u32 i) { return widened(pair >> 16 * i & 0xffffu); }

static inline void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    const u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < 4; ++i) {
        const u64 top = exchanged(u64(a[2]) << 32 | a[0], lane / 4 * 4 + i);
        const u64 bottom = exchanged(u64(a[3]) << 32 | a[1], lane / 4 * 4 + i);
        for (u32 column = 0; column < 2; ++column) {
            const u64 b = exchanged(u64(b1) << 32 | b0, (lane % 4 * 2 + column) * 4 + i);
            for (u32 k = 0; k < 4; ++k) {
                const float y = half(u32(b >> k / 2 * 32), k % 2);
                c[column] += half(u32(top >> k / 2 * 32), k % 2) * y;
                c[2 + column] += half(u32(bottom >> k / 2 * 32), k % 2) * y;
            }
        }
    }
}

static inline void ldmatrix(u32 (&to)[4], const bf16* from) {
    const u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < 4; ++i) {
        const bf16* row = exchanged(from, 8 * i + lane / 4);
        to[i] = u32(row[lane % 4 * 2 + 1].bits) << 16 | row[lane % 4 * 2].bits;
    }
}

static inline void ldmatrix_transposed(u32 (&to)[4], const bf16* from) {
    const u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < 4; ++i) {
        const bf16* first = exchanged(from, 8 * i + lane % 4 * 2);
        const bf16* second = exchanged(from, 8 * i + lane % 4 * 2 + 1);
        to[i] = u32(second[lane / 4].bits) << 16 | first[lane / 4].bits;
    }
}

template <u32 BYTES> static inline void copy_async(void* to, const void* from, bool valid) {
    if (valid) memcpy(to, from, BYTES);
    else memset(to, 0, BYTES);
}

static inline void commit() {}
template <u32 PENDING> static inline void wait() {}

#endif

__device__ constexpr u32 divided(u32 a, u32 b) { return (a + b - 1) / b; }
__device__ constexpr u32 smaller(u32 a, u32 b) { return a < b ? a : b; }

// How the accumulators of 16 rows and a depth, or of their scores, lie in a warp: of eight columns,
// a thread has two neighbours in row `lane / 4` and two in the row eight below.
struct Lane {
    u32 row, column;
    __device__ Lane() : row(threadIdx.x % 32 / 4), column(threadIdx.x % 4 * 2) {}
};

// Where a thread's row begins of the four matrices of a 16 x 16 part: those go down first.
__device__ inline const bf16* down(const bf16* part, u32 pitch) {
    return part + threadIdx.x % 16 * pitch + threadIdx.x % 32 / 16 * 8;
}

// The same, but they go right first.
__device__ inline const bf16* right(const bf16* part, u32 pitch) {
    const u32 row = threadIdx.x % 32 / 16 * 8 + threadIdx.x % 8;
    return part + row * pitch + threadIdx.x / 8 % 2 * 8;
}
