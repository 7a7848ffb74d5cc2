// Attention by warpgroups, for GPUs that multiply matrices straight from shared memory (sm_90a).
// The first warpgroup of a block only copies; each of the other GROUPS owns 64 rows. So WARPS is
// 4 (GROUPS + 1), and DEPTH is 64 or 128.

#ifdef __CUDA_ARCH__

#define FOUR(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SIXTEEN(c, n) FOUR(c, n), FOUR(c, n + 1), FOUR(c, n + 2), FOUR(c, n + 3)
#define THIRTY_TWO(c, n) SIXTEEN(c, n), SIXTEEN(c, n + 4)
#define NAMES_32 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define NAMES_64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// Where a matrix lies in panels of 64 columns, `panel` elements apart, whose 128-byte rows are
// swizzled: chunk c of row r lies where c ^ r % 8 would.
struct Matrix {
    u64 bits;

    __device__ Matrix(const bf16* from, u32 panel)
        : bits(u64(1u << 30 | 1024 >> 4) << 32 | panel / 8 << 16 | shared_address(from) / 16) {}

    // What begins so many elements further.
    __device__ Matrix at(u32 further) const {
        Matrix other = *this;
        other.bits += further / 8;
        return other;
    }
};

// c = a b^T, or c + a b^T, for 16 columns of 64 rows of a and N rows of b, both in shared memory.
template <u32 N> __device__ inline void wgmma(
    float (&c)[N / 8][4], Matrix a, Matrix b, bool more) {
    static_assert(N == 64 || N == 128);
    if constexpr (N == 64) {
        asm volatile("{ .reg .pred more; setp.ne.b32 more, %34, 0; "
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES_32
            ", %32, %33, more, 1, 1, 0, 0; }"
            : THIRTY_TWO(c, 0) : "l"(a.bits), "l"(b.bits), "r"(int(more)) : "memory");
    } else {
        asm volatile("{ .reg .pred more; setp.ne.b32 more, %66, 0; "
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_64
            ", %64, %65, more, 1, 1, 0, 0; }"
            : THIRTY_TWO(c, 0), THIRTY_TWO(c, 8)
            : "l"(a.bits), "l"(b.bits), "r"(int(more)) : "memory");
    }
}

// c += a b for 16 columns of 64 rows of a, in registers, and 16 rows of N columns of b. (Not for an
// a that a loop goes on using: ptxas 13.0 may put other registers of a product in its place.)
template <u32 N> __device__ inline void wgmma(
    float (&c)[N / 8][4], const u32 (&a)[4], Matrix b) {
    static_assert(N == 64 || N == 128);
    if constexpr (N == 64) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " NAMES_32
            ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
            : THIRTY_TWO(c, 0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits) : "memory");
    } else {
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_64
            ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
            : THIRTY_TWO(c, 0), THIRTY_TWO(c, 8)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits) : "memory");
    }
}

// Keeps uses of registers on their side of what orders products.
__device__ inline void hold(float& x) { asm volatile("" : "+f"(x) :: "memory"); }
__device__ inline void hold(u32& x) { asm volatile("" : "+r"(x) :: "memory"); }

// Before products that use registers or memory written since the last ones.
__device__ inline void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Ends a group of products.
__device__ inline void end_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all groups but the last PENDING.
template <u32 PENDING> __device__ inline void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

// Lets products see what this thread has written to shared memory, or has seen others write.
__device__ inline void show_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier in shared memory, for `count` arrivals at a time.
__device__ inline void open_barrier(u64* barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
        :: "r"(shared_address(barrier)), "r"(count) : "memory");
}

__device__ inline void arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
        :: "r"(shared_address(barrier)) : "memory");
}

// Arrives once all that this thread has started to copy is there.
__device__ inline void arrive_copied(u64* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
        :: "r"(shared_address(barrier)) : "memory");
}

// Waits until the last phase of this parity has ended; those count from 0.
__device__ inline void wait_for(u64* barrier, u32 parity) {
    asm volatile("{ .reg .pred done; AGAIN: "
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra AGAIN; }"
        :: "r"(shared_address(barrier)), "r"(parity) : "memory");
}

// How many registers the threads of this warpgroup may use from now on.
template <u32 COUNT> __device__ inline void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COUNT));
}

template <u32 COUNT> __device__ inline void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COUNT));
}

// What is the same for all threads of a warp, so that the compiler knows.
__device__ inline u32 uniform(u32 x) { return __shfl_sync(~0u, x, 0); }

#else

struct Matrix {
    const bf16* from;
    u32 panel;

    Matrix at(u32 further) const { return {from + further, panel}; }

    float operator[](u32 element) const {
        const uintptr_t at = reinterpret_cast<uintptr_t>(from + element);
        return widened(reinterpret_cast<const bf16*>(at ^ at / 128 % 8 * 16)->bits);
    }
};

template <u32 N> static inline void wgmma(
    float (&c)[N / 8][4], Matrix a, Matrix b, bool more) {
    const u32 lane = threadIdx.x % 32;
    for (u32 i = 0; i < N / 2; ++i) {
        const u32 row = threadIdx.x / 32 % 4 * 16 + lane / 4 + i % 4 / 2 * 8;
        const u32 column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float& x = c[i / 4][i % 4];
        if (!more) x = 0.0f;
        for (u32 k = 0; k < 16; ++k) {
            x += a[row * 64 + k] * b[column * 64 + k];
        }
    }
}

template <u32 N> static inline void wgmma(float (&c)[N / 8][4], const u32 (&a)[4], Matrix b) {
    const u32 lane = threadIdx.x % 32;
    float rows[2][16];
    for (u32 k = 0; k < 16; ++k) {
        const u32 from = lane / 4 * 4 + k % 8 / 2;
        for (u32 h = 0; h < 2; ++h) {
            const u64 both = exchanged(u64(a[2 + h]) << 32 | a[h], from);
            rows[h][k] = half(u32(both >> k / 8 * 32), k % 2);
        }
    }
    for (u32 i = 0; i < N / 2; ++i) {
        const u32 column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        const Matrix down = b.at(column / 64 * b.panel + column % 64);
        for (u32 k = 0; k < 16; ++k) c[i / 4][i % 4] += rows[i % 4 / 2][k] * down[k * 64];
    }
}

static inline void hold(float&) {}
static inline void hold(u32&) {}
static inline void begin_products() {}
static inline void end_products() {}
template <u32 PENDING> static inline void wait_products() {}
static inline void show_products() {}
template <u32 COUNT> static inline void fewer_registers() {}
template <u32 COUNT> static inline void more_registers() {}
static inline u32 uniform(u32 x) { return x; }

// Arrivals in a phase, those so far, and phases so far.
struct Arrivals { unsigned short count, now, phases; };

static inline void open_barrier(u64* barrier, u32 count) {
    *reinterpret_cast<Arrivals*>(barrier) = {(unsigned short)count, 0, 0};
}

static inline void arrive(u64* barrier) {
    Arrivals& all = *reinterpret_cast<Arrivals*>(barrier);
    if (++all.now < all.count) return;
    all.now = 0;
    ++all.phases;
}

static inline void arrive_copied(u64* barrier) { arrive(barrier); }

static inline void wait_for(u64* barrier, u32 parity) {
    const volatile Arrivals& all = *reinterpret_cast<Arrivals*>(barrier);
    while (all.phases % 2 == parity) wait_at(State::Ready);
}

#endif

constexpr u32 ROWS = 64 * GROUPS;

template <u32 N> __device__ inline void hold(float (&x)[N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) hold(x[n][i]);
    }
}

template <u32 N> __device__ inline void hold(u32 (&x)[N][1][4]) {
#pragma unroll
    for (u32 n = 0; n < N; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) hold(x[n][0][i]);
    }
}

// Waits until products are in x.
template <u32 PENDING, u32 N> __device__ inline void wait_products(float (&x)[N][4]) {
    wait_products<PENDING>();
    hold(x);
}

// Where 16 columns begin of a tile of so many rows.
__device__ constexpr u32 columns_at(u32 rows, u32 step) {
    return step / 4 * rows * 64 + step % 4 * 16;
}

// Starts c = a b^T for 64 rows of a, a tile of ROWS, and the N of b.
template <u32 N>
__device__ inline void start_transposed(float (&c)[N / 8][4], const bf16* a, const bf16* b) {
    const Matrix left{a, 0}, right{b, 0};
    hold(c);
    begin_products();
#pragma unroll
    for (u32 step = 0; step < DEPTH / 16; ++step) {
        wgmma<N>(c, left.at(columns_at(ROWS, step)), right.at(columns_at(N, step)), step > 0);
    }
    end_products();
}

// Starts c += a b for as many rows of b as a has columns.
template <u32 STEPS>
__device__ inline void start_product(
    float (&c)[DEPTH / 8][4], u32 (&a)[STEPS][1][4], const bf16* b) {
    const Matrix right{b, STEPS * 16 * 64};
    hold(c);
    hold(a);
    begin_products();
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
        wgmma<DEPTH>(c, a[step][0], right.at(step * 16 * 64));
    }
    end_products();
}

// Calls visit(row, column, place) for every 16 bytes of a tile that are this thread's, of THREADS.
template <u32 TILE_ROWS, u32 THREADS, class Visit>
__device__ inline void for_places(Visit visit) {
    constexpr u32 CHUNKS = DEPTH / 8, STEP = THREADS / CHUNKS, TURN = smaller(4 * STEP, TILE_ROWS);
    const u32 row = threadIdx.x % THREADS / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const u32 start = chunk / 8 * TILE_ROWS * 64 + row * 64, within = (chunk ^ row) % 8;
    // Not unrolled as a whole, which would take more registers than a thread that copies has.
#pragma unroll 1
    for (u32 turn = 0; turn < TILE_ROWS; turn += TURN) {
#pragma unroll
        for (u32 further = 0; further < TURN; further += STEP) {
            const u32 place = start + (within ^ further % 8) * 8 + (turn + further) * 64;
            visit(row + turn + further, chunk * 8, place);
        }
    }
}

// Starts to copy rows from `start` on; zeros beyond the end.
template <u32 TILE_ROWS, u32 THREADS, u32 STRIDE, u32 COUNT, bool BIAS>
__device__ inline void copy_wide(
    bf16* tile, const Source<STRIDE, COUNT, BIAS>& source, u32 start) {
    for_places<TILE_ROWS, THREADS>([&](u32 row, u32 column, u32 place) {
        const bf16* from = source.rows + u64(start + row) * STRIDE + column;
        copy_async<16>(tile + place, from, start + row < COUNT);
    });
}

// Adds the bias to what this thread has copied, once it is there, and lets products see it.
template <u32 TILE_ROWS, u32 THREADS, u32 STRIDE, u32 COUNT, bool BIAS>
__device__ inline void finish_wide(
    bf16* tile, const Source<STRIDE, COUNT, BIAS>& source, u32 start) {
    if constexpr (BIAS) {
        float b[8];
        const u32 first = threadIdx.x % (DEPTH / 8) * 8;
#pragma unroll
        for (u32 i = 0; i < 8; ++i) b[i] = source.bias[first + i];
        for_places<TILE_ROWS, THREADS>([&](u32 row, u32, u32 place) {
            if (start + row < COUNT) source.add(tile + place, b);
        });
    }
    show_products();
}

// Shared memory from where tiles may begin.
__device__ inline bf16* first_tile() {
#ifdef __CUDA_ARCH__
    const u32 behind = 0u - shared_address(shared_memory);
#else
    const u32 behind = 0u - u32(reinterpret_cast<uintptr_t>(shared_memory));
#endif
    return reinterpret_cast<bf16*>(shared_memory) + behind % 1024 / 2;
}

// Slots for tiles of some rows: some are copied to while others are used. Tile i is in slot
// i % SIZE, which two warps fill; `barriers` say that slots are full, and that they are empty.
template <u32 TILE_ROWS, u32 SIZE> struct Slots {
    static constexpr u32 ELEMENTS = SIZE * TILE_ROWS * DEPTH, BARRIERS = 2 * SIZE;

    bf16* tiles;
    u64* barriers;

    __device__ void open() const {
        for (u32 i = 0; i < SIZE; ++i) {
            open_barrier(barriers + i, 64);
            open_barrier(barriers + SIZE + i, 128 * GROUPS);
        }
    }

    __device__ bf16* tile(u32 i) const { return tiles + i % SIZE * TILE_ROWS * DEPTH; }

    // Copies tile i, and what `beside` copies.
    template <u32 STRIDE, u32 COUNT, bool BIAS, class Beside> __device__ void fill(
        u32 i, const Source<STRIDE, COUNT, BIAS>& source, u32 start, Beside beside) const {
        wait_for(barriers + SIZE + i % SIZE, i / SIZE % 2 ^ 1);
        copy_wide<TILE_ROWS, 64>(tile(i), source, start);
        beside(i % SIZE);
        if constexpr (BIAS) {
            commit();
            wait<0>();
            finish_wide<TILE_ROWS, 64>(tile(i), source, start);
            arrive(barriers + i % SIZE);
        } else {
            arrive_copied(barriers + i % SIZE);
        }
    }

    template <u32 STRIDE, u32 COUNT, bool BIAS>
    __device__ void fill(u32 i, const Source<STRIDE, COUNT, BIAS>& source, u32 start) const {
        fill(i, source, start, [](u32) {});
    }

    // Tile i, once it is there.
    __device__ const bf16* full(u32 i) const {
        wait_for(barriers + i % SIZE, i / SIZE % 2);
        show_products();
        return tile(i);
    }

    // This thread is done with tile i. If told a number, which is not below zero, not before that is
    // known: the compiler would wait for products that come later before it finds the number.
    __device__ void used(u32 i, float x = 0.0f) const {
        if (!(x < 0.0f)) arrive(barriers + SIZE + i % SIZE);
    }

    // A group that does not use tile i waits nonetheless, so as not to be ahead of the copies.
    __device__ void skip(u32 i) const {
        full(i);
        used(i);
    }
};

// Starts to copy N items of SIZE floats by two warps; zeros beyond `count`.
template <u32 N, u32 SIZE>
__device__ inline void copy_beside(float* to, const float* from, u32 count) {
#pragma unroll
    for (u32 further = 0; further < N; further += 64) {
        const u32 i = threadIdx.x % 64 + further;
        copy_async<4 * SIZE>(to + i * SIZE, from + i * SIZE, i < count);
    }
}

// Calls visit(task, i) for the block's share of all tasks. Every other turn goes the other way, so
// that all blocks get about as many of the long ones.
template <class Visit>
__device__ inline void for_tasks(u32 tiles, u32 heads, Visit visit) {
    const u32 count = tiles * heads * BATCH;
    for (u32 turn = 0; turn * gridDim.x < count; ++turn) {
        const u32 place = turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x;
        const u32 i = turn * gridDim.x + place;
        if (i < count) visit(Task(tiles, heads, i), turn);
    }
}
