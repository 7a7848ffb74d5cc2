// What kernels need of a device, on the host: the threads of a block are coroutines that take turns
// at barriers. Blocks run one after another.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <utility>
#include <vector>

using std::min;

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static

struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct Place { unsigned x, y, z; };

static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

static inline float __int_as_float(int bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline int __float_as_int(float x) {
    int bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static Place threadIdx, blockIdx, blockDim, gridDim;

enum class State { Ready, AtWarp, AtBlock, Done };

struct Thread {
    ucontext_t context;
    State state;
    // What it offers to the other threads of its warp.
    uint64_t offer;
};

static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::vector<char> stacks;
static std::function<void()>* kernel_body;

static inline void wait_at(State state) {
    Thread& own = threads[threadIdx.x];
    own.state = state;
    swapcontext(&own.context, &scheduler);
}

static inline void __syncthreads() { wait_at(State::AtBlock); }

template <class T> static inline T exchanged(T x, unsigned lane) {
    Thread& own = threads[threadIdx.x];
    own.offer = 0;
    memcpy(&own.offer, &x, sizeof x);
    wait_at(State::AtWarp);
    T other;
    memcpy(&other, &threads[threadIdx.x / 32 * 32 + lane].offer, sizeof other);
    wait_at(State::AtWarp);
    return other;
}

template <class T> static inline T __shfl_xor_sync(unsigned, T x, unsigned distance) {
    return exchanged(x, threadIdx.x % 32 ^ distance);
}

static inline unsigned __ballot_sync(unsigned, bool vote) {
    threads[threadIdx.x].offer = vote;
    wait_at(State::AtWarp);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        votes |= unsigned(threads[threadIdx.x / 32 * 32 + lane].offer) << lane;
    }
    wait_at(State::AtWarp);
    return votes;
}

static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

static inline int atomicAdd(int* to, int x) { return std::exchange(*to, *to + x); }
static inline int atomicMin(int* to, int x) { return std::exchange(*to, x < *to ? x : *to); }

static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }

static void enter() {
    (*kernel_body)();
    threads[threadIdx.x].state = State::Done;
    swapcontext(&threads[threadIdx.x].context, &scheduler);
}

// Lets threads go on that wait where all of `first..last` that are not done wait.
static bool release(unsigned first, unsigned last, State barrier) {
    bool any = false;
    for (unsigned i = first; i < last; ++i) {
        if (threads[i].state == barrier) any = true;
        else if (threads[i].state != State::Done) return false;
    }
    for (unsigned i = first; any && i < last; ++i) {
        if (threads[i].state == barrier) threads[i].state = State::Ready;
    }
    return any;
}

static int run_block(unsigned count) {
    const size_t size = 64 * 1024;
    threads.resize(count);
    stacks.resize(count * size);
    for (unsigned i = 0; i < count; ++i) {
        getcontext(&threads[i].context);
        threads[i].context.uc_stack.ss_sp = &stacks[i * size];
        threads[i].context.uc_stack.ss_size = size;
        threads[i].context.uc_link = nullptr;
        threads[i].state = State::Ready;
        makecontext(&threads[i].context, enter, 0);
    }
    for (;;) {
        bool moved = false, left = false;
        for (unsigned i = 0; i < count; ++i) {
            if (threads[i].state == State::Ready) {
                threadIdx = {i, 0, 0};
                swapcontext(&scheduler, &threads[i].context);
                moved = true;
            }
        }
        for (unsigned i = 0; i < count; ++i) left |= threads[i].state != State::Done;
        if (!left) return 0;
        for (unsigned i = 0; i < count; i += 32) {
            moved |= release(i, i + 32 < count ? i + 32 : count, State::AtWarp);
        }
        moved |= release(0, count, State::AtBlock);
        // Threads that wait for each other at different barriers.
        if (!moved) return 1;
    }
}

// An argument of a kernel: a pointer, or a number in the first bytes of a word.
template <class T> static inline T argument(void* word) {
    T x;
    memcpy(&x, &word, sizeof x);
    return x;
}

template <class... T, size_t... I>
static int run_grid(
    void (*kernel)(T...), void** arguments, const unsigned* grid, unsigned block,
    std::index_sequence<I...>) {
    std::function<void()> body = [=] { kernel(argument<T>(arguments[I])...); };
    kernel_body = &body;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    for (unsigned y = 0; y < grid[1]; ++y) {
        for (unsigned x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, 0};
            if (run_block(block)) return 1;
        }
    }
    return 0;
}

template <class... T>
static int launch(void (*kernel)(T...), void** arguments, const unsigned* grid, unsigned block) {
    return run_grid(kernel, arguments, grid, block, std::index_sequence_for<T...>());
}
