// What a query sees of the keys: those that count, under a causal mask those of its own document that are
// not behind it.

// The first `count` bits, of 32.
__device__ inline u32 first_bits(int count) {
    return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1u;
}

// The document that a query sees alone, or 0 if it sees all: its own key's in the mask of its sequence.
__device__ inline float document_of(const float* mask, u32 row) {
    const int own = int(row) + AHEAD;
    return mask[own < 0 ? 0 : smaller(u32(own), KEYS - 1)];
}

// The documents of the COUNT (16 or 32) queries of a warp from `row` on.
template <u32 COUNT> struct Documents {
    // The mask of the sequence.
    const float* mask;
    // The document of all queries that are no padding; 0 if there are none, -1 if they have several.
    float one = 0.0f;
    // Whether a query is padding.
    bool padded = false;

    __device__ Documents(const float* mask, u32 row) : mask(mask) {
        if (!CAUSAL) return;
        const float own = document_of(mask, row + threadIdx.x % COUNT);
        float most[1] = {own};
        reduce<32, Max>(most, nullptr);
        padded = __ballot_sync(~0u, own == 0.0f) != 0;
        one = __ballot_sync(~0u, own != 0.0f && own != most[0]) == 0 ? most[0] : -1.0f;
    }
};

// Of a warp's 16 rows the thread's two, as bits of 32 columns each: `holds(row, i)` says for the one of columns
// 32 i to 32 i + 31 that is the thread's.
template <u32 WORDS, class Holds>
__device__ inline void select_rows(u32 (&to)[2][WORDS], Holds holds) {
    const Lane lane;
#pragma unroll 1
    for (u32 r = 0; r < 16; ++r) {
#pragma unroll
        for (u32 i = 0; i < WORDS; ++i) {
            const u32 bits = __ballot_sync(~0u, holds(r, i));
            if (r == lane.row) to[0][i] = bits;
            if (r == lane.row + 8) to[1][i] = bits;
        }
    }
}

// Which keys of a tile count, a bit for each, and how many of them the warp's first row may see.
template <u32 TILE> struct Sight {
    u32 counting[TILE / 32], row;
    int limit;
    // The documents of the tile's keys, and of all.
    const float *numbers, *mask;
    // Whether a key that counts may be of another document than a query.
    bool apart = false;

    // For rows from `row` on, of all a warp's, and keys from `start` on, whose mask begins at `numbers`.
    template <u32 COUNT> __device__ Sight(
        const float* numbers, u32 valid, u32 row, u32 start, const Documents<COUNT>& documents)
        : row(row), numbers(numbers), mask(documents.mask) {
        limit = CAUSAL ? int(row) + AHEAD + 1 - int(start) : int(TILE);
        const float one = documents.one;
        const bool alone = CAUSAL && one > 0.0f && !documents.padded;
        u32 others = 0;
#pragma unroll
        for (u32 i = 0; i < TILE / 32; ++i) {
            const u32 j = i * 32 + threadIdx.x % 32;
            const float number = j < valid ? numbers[j] : 0.0f;
            counting[i] = __ballot_sync(~0u, alone ? number == one : number != 0.0f);
            if (CAUSAL && one != 0.0f && !alone) {
                others |= __ballot_sync(~0u, number != 0.0f && number != one);
            }
        }
        apart = others != 0;
    }

    // The same for rows further up.
    __device__ Sight before(u32 rows) const {
        Sight other = *this;
        other.row -= rows;
        if (CAUSAL) other.limit -= int(rows);
        return other;
    }

    __device__ bool nothing() const {
        u32 any = 0;
#pragma unroll
        for (u32 i = 0; i < TILE / 32; ++i) any |= counting[i] & first_bits(limit + 15 - 32 * i);
        return any == 0;
    }

    __device__ bool everything() const {
        u32 all = ~0u;
#pragma unroll
        for (u32 i = 0; i < TILE / 32; ++i) all &= counting[i] & first_bits(limit - 32 * i);
        return all == ~0u;
    }

    // Scores of keys that are not seen become `hidden`.
    __device__ void hide(float (&s)[TILE / 8][4], float hidden = -INF) const {
        const bool alike = !CAUSAL || !apart;
        if (alike && everything()) return;
        const Lane lane;
        u32 seen[2][TILE / 32];
#pragma unroll
        for (u32 i = 0; i < TILE / 32; ++i) seen[0][i] = seen[1][i] = counting[i];
        if (!alike) {
            select_rows(seen, [&](u32 r, u32 i) {
                const float own = document_of(mask, row + r);
                const bool counts = counting[i] >> threadIdx.x % 32 & 1;
                return counts && (own == 0.0f || numbers[i * 32 + threadIdx.x % 32] == own);
            });
        }
#pragma unroll
        for (u32 n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (u32 h = 0; h < 2; ++h) {
                const int before = limit + int(lane.row + 8 * h) - int(n / 4 * 32);
                const u32 bits = (seen[h][n / 4] & first_bits(before)) >> lane.column;
#pragma unroll
                for (u32 e = 0; e < 2; ++e) {
                    if (!(bits >> (n % 4 * 8 + e) & 1)) s[n][2 * h + e] = hidden;
                }
            }
        }
    }
};

// Whether 16 keys of a sequence from `row` on and all behind them are of one document or padding: all
// queries that see them then see them alike.
__device__ inline bool is_last_document(const float* mask, u32 row) {
    if (!CAUSAL) return true;
    // The largest number, and the smallest but 0, negated.
    float most[2] = {-INF, -INF};
#pragma unroll 1
    for (u32 at = row + threadIdx.x % 32; at < KEYS; at += 32) {
        const float number = mask[at];
        if (number == 0.0f) continue;
        most[0] = larger(most[0], number);
        most[1] = larger(most[1], -number);
    }
    reduce<32, Max>(most, nullptr);
    return most[0] <= -most[1];
}

// Probabilities of a warp's 16 keys from `row` on and of queries from `first` on become 0 where both are of
// different documents. Keys are rows and queries columns.
template <u32 N>
__device__ inline void hide_other_documents(
    float (&p)[N][4], const float* mask, u32 row, u32 first) {
    const Lane lane;
    u32 seen[2][N / 4];
    select_rows(seen, [&](u32 r, u32 i) {
        const float own = document_of(mask, first + i * 32 + threadIdx.x % 32);
        return own == 0.0f || own == mask[smaller(row + r, KEYS - 1)];
    });
#pragma unroll
    for (u32 n = 0; n < N; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 column = n % 4 * 8 + lane.column + i % 2;
            if (!(seen[i / 2][n / 4] >> column & 1)) p[n][i] = 0.0f;
        }
    }
}
