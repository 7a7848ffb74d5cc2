// The lengths of the rows of `W + s B A + ...`, of which a block forms ROWS in its registers: each thread N
// neighbouring columns of them at a time. W has OUT rows of COLUMNS, STRIDE apart. PAIRS(DO) lists the factors
// as `DO(number, type of B, type of A, s, rank, how many elements of a row of B are read at a time, from one
// row of B to the next, from one row of A to the next)`.

// Adds `s B A` to the columns of the rows: `b` is the first of the rows, `a` begins at the columns.
template <u32 RANK, u32 K, class B, class A>
__device__ inline void add(
    float (&to)[ROWS][N], float scale, const B* const (&b)[ROWS], const A* a, Index a_stride) {
    float sum[ROWS][N] = {};
#pragma unroll 2
    for (u32 k = 0; k < RANK; k += K) {
        float down[K][N];
#pragma unroll
        for (u32 j = 0; j < K; ++j) load(a + (k + j) * a_stride, down[j]);
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
            float up[K];
            load(b[row] + k, up);
#pragma unroll
            for (u32 j = 0; j < K; ++j) {
#pragma unroll
                for (u32 i = 0; i < N; ++i) sum[row][i] += up[j] * down[j][i];
            }
        }
    }
#pragma unroll
    for (u32 row = 0; row < ROWS; ++row) {
#pragma unroll
        for (u32 i = 0; i < N; ++i) to[row][i] += scale * sum[row][i];
    }
}

#define FACTORS(i, B, A, ...) const B *b##i, const A *a##i,
#define ROWS_OF(i, B, A, scale, rank, k, b_stride, ...)                            \
    const B* up##i[ROWS];                                                          \
    for (u32 row = 0; row < ROWS; ++row) up##i[row] = b##i + own(row) * b_stride;
#define ADD(i, B, A, scale, rank, k, b_stride, a_stride) \
    add<rank, k>(x, scale, up##i, a##i + column, a_stride);

extern "C" __global__ void __launch_bounds__(BLOCK) KERNEL(const W* w, PAIRS(FACTORS) Y* y) {
    __shared__ float partials[32 * ROWS];
    const Index first = Index(blockIdx.x) * ROWS;
    // Behind the last row it is formed again.
    const auto own = [&](u32 row) { return first + row < OUT ? first + row : Index(OUT - 1); };
    PAIRS(ROWS_OF)
    float squares[ROWS] = {};
    for (Index column = threadIdx.x * N; column < COLUMNS; column += BLOCK * N) {
        float x[ROWS][N];
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) load(w + own(row) * STRIDE + column, x[row]);
        PAIRS(ADD)
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
#pragma unroll
            for (u32 i = 0; i < N; ++i) squares[row] += x[row][i] * x[row][i];
        }
    }
    reduce<BLOCK, Sum>(squares, partials);
#pragma unroll
    for (u32 row = 0; row < ROWS; ++row) {
        if (threadIdx.x == row && first + row < OUT) st(y + first + row, sqrtf(squares[row]));
    }
}

#undef FACTORS
#undef ROWS_OF
#undef ADD
#undef PAIRS
