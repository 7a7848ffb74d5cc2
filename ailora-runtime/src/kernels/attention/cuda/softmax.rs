//! What attention does between its products. A warp or a block handles a query of a head.

use ailora_graph::ir::{
    DType,
    ops::attention::{Attention, Dims},
    random::drop_threshold,
};

use crate::kernels::device::{
    Param, Source,
    text::{BLOCK, Constants, VECTOR, grid, index},
};

/// The most keys of a query that a warp handles.
const WARP_KEYS: usize = 1024;
/// Keys of a thread beyond which a query gets more threads.
const KEPT: usize = 32;

/// Where scores become probabilities.
pub(super) struct Places {
    /// `[sequences, heads, queries, keys]` of float32.
    pub scores: Param,
    /// `[batch, keys]` of float32: the number of a key's document, 0 for a key that does not count.
    pub mask: Param,
    /// As the scores; the probabilities before dropout.
    pub probabilities: Param,
    /// As the scores; what dropout keeps, times what that makes up for, if it is wanted.
    pub kept: Option<Param>,
}

/// Softmax of the scores over the keys that count and that a query sees, of some sequences of a
/// batch. A query that sees none has probabilities of 0.
pub(super) fn probabilities(
    op: &Attention,
    d: Dims,
    sequences: usize,
    first: usize,
    probability: DType,
    places: Places,
) -> Source {
    let rows = Rows::new(d, sequences, first);
    let key = key(op, places.kept.is_some());
    let constants = rows
        .constants(op, probability, places.kept.is_some())
        .flag("CAUSAL", op.causal)
        .counts([("QUERIES", d.queries), ("HEADS", d.heads), ("FIRST", first)]);
    let kept = places.kept.unwrap_or_else(|| places.probabilities.clone());
    rows.kernel(
        constants,
        include_str!("probabilities.cu"),
        [places.scores, places.mask, places.probabilities, kept, key],
    )
}

/// The gradient towards the products of queries and keys, `scale P (D dP - sum(P D dP))`, with `D`
/// what dropout multiplies by. `places`: the probabilities before dropout; the float32 gradient
/// towards what is kept of them; the result, of the probabilities' type.
pub(super) fn gradient(
    op: &Attention,
    d: Dims,
    sequences: usize,
    first: usize,
    probability: DType,
    [probabilities, towards, to]: [Param; 3],
) -> Source {
    let rows = Rows::new(d, sequences, first);
    let dropout = op.dropout.0 > 0.0;
    let constants = rows
        .constants(op, probability, dropout)
        .float("SCALE", op.scale.0 as f32);
    let key = key(op, dropout);
    rows.kernel(
        constants,
        include_str!("gradient.cu"),
        [probabilities, towards, to, key],
    )
}

/// The key of an attention's dropout; anything that is read, where there is none.
fn key(op: &Attention, dropout: bool) -> Param {
    match dropout {
        true => Param::Key(op.stream.clone()),
        false => Param::Read(0),
    }
}

/// How the threads share the rows of scores.
struct Rows {
    d: Dims,
    rows: usize,
    /// Rows of the sequences before.
    before: usize,
    vector: usize,
    threads: usize,
    chunks: usize,
}

impl Rows {
    fn new(d: Dims, sequences: usize, first: usize) -> Self {
        let vector = if d.keys.is_multiple_of(VECTOR) {
            VECTOR
        } else {
            1
        };
        let mut threads = 32;
        if d.keys > WARP_KEYS {
            while threads < 1024 && d.keys > KEPT * threads {
                threads *= 2;
            }
        }
        Self {
            d,
            rows: sequences * d.heads * d.queries,
            before: first * d.heads * d.queries,
            vector,
            threads,
            chunks: d.keys.div_ceil(threads * vector),
        }
    }

    fn constants(&self, op: &Attention, probability: DType, dropout: bool) -> Constants {
        let step = self.threads * self.vector;
        Constants::default()
            .ty("Probability", probability.kernel_name())
            .ty("Index", index(self.rows * self.d.keys + BLOCK))
            .counts([
                ("ROWS", self.rows),
                ("KEYS", self.d.keys),
                ("THREADS", self.threads),
                ("CHUNKS", self.chunks),
                ("N", self.vector),
                // Positions of random numbers have 32 bits.
                ("BEFORE", self.before as u32 as usize),
                ("THRESHOLD", drop_threshold(op.dropout.0) as usize),
            ])
            // Whether every thread's vectors are all within the row.
            .flag("EXACT", self.d.keys.is_multiple_of(step))
            .flag("DROPOUT", dropout)
            .float("KEEP", (1.0 / (1.0 - op.dropout.0)) as f32)
    }

    fn kernel<const N: usize>(
        &self,
        constants: Constants,
        text: &str,
        params: [Param; N],
    ) -> Source {
        let block = self.threads.max(BLOCK);
        let blocks = self.rows.div_ceil(block / self.threads);
        constants.kernel(text, params, grid(blocks), block)
    }
}
