//! Cross-entropy and its gradient.

use ailora_graph::ir::ops::loss::IGNORED;

use super::{ALONE, actions, bytes, ids, kernel, read, scratch, write};
use crate::cuda::source::{
    Actions, Operand,
    text::{BLOCK, VECTOR, grid, index, number, vector},
};

/// How the threads of the loss share a row.
struct Rows {
    classes: usize,
    rows: usize,
    /// Threads of a row.
    threads: usize,
    vector: usize,
}

impl Rows {
    fn new(classes: usize, operands: &[Operand], labels: &Operand) -> Self {
        let n = vector(classes, operands);
        let vectors = classes / n;
        Self {
            classes,
            rows: labels.view.len(),
            threads: match vectors {
                0..=128 => 32,
                129..=2048 => BLOCK,
                _ => ALONE,
            },
            vector: n,
        }
    }

    fn block(&self) -> usize {
        self.threads.max(BLOCK)
    }

    fn grid(&self) -> [u32; 3] {
        grid(self.rows.div_ceil(self.block() / self.threads))
    }

    /// Definitions of the row, its label and its threads' first elements. Threads of one row leave
    /// together if `leave` is true.
    fn place(&self, index: &str, leave: &str) -> String {
        let Self {
            rows,
            threads,
            classes,
            vector: n,
            ..
        } = self;
        format!(
            "    \
    __shared__ float partials[3][64];
    const {index} row = {index}(blockIdx.x) * {each} + threadIdx.x / {threads};
    if (row >= {rows}) return;
    const u32 first = threadIdx.x % {threads} * {n};
    const auto* x = logits + row * {classes};
    const int label = labels[row];
    {leave}
",
            each = self.block() / self.threads,
        )
    }

    /// The largest logit `most[0]`, the sum `sums[0]` of the exponentials of the differences to it,
    /// and that of the logits, `sums[1]`.
    ///
    /// The largest so far starts at the lowest finite number, so that no difference of infinities
    /// arises before there is one in the row.
    fn exponentials(&self) -> String {
        let Self {
            classes,
            threads,
            vector: n,
            ..
        } = self;
        let step = threads * n;
        let partials = |i: usize| match threads {
            32 => "nullptr".to_owned(),
            _ => format!("partials[{i}]"),
        };
        format!(
            "    \
    float most[1] = {{-3.4028235e38f}}, sums[2] = {{}};
#pragma unroll 2
    for (u32 column = first; column < {classes}; column += {step}) {{
        float next[{n}];
        load(x + column, next);
        float top = most[0];
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) top = larger(top, next[k]);
        sums[0] *= expf(most[0] - top);
        most[0] = top;
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) {{
            sums[0] += expf(next[k] - top);
            sums[1] += next[k];
        }}
    }}
    const float own = most[0];
    reduce<{threads}, Max>(most, {});
    sums[0] *= expf(own - most[0]);
    reduce<{threads}, Sum>(sums, {});
",
            partials(0),
            partials(1),
        )
    }
}

/// The mean over the rows that count of `-sum(t log softmax(logits))`, `t` the smoothed one-hot
/// label.
pub(in crate::cuda::source) fn cross_entropy(
    classes: usize,
    smoothing: f32,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let shared = Rows::new(classes, &reads[..1], &reads[1]);
    let rows = shared.rows;
    let index = index(rows * classes + ALONE * VECTOR);
    let target = if smoothing == 0.0 {
        "ld(x + label)".to_owned()
    } else {
        format!(
            "{} * ld(x + label) + {} * (sums[1] / {})",
            number(1.0 - smoothing),
            number(smoothing),
            number(classes as f32)
        )
    };
    let threads = shared.threads;
    let lead = format!("threadIdx.x % {threads} == 0");
    let skip = format!(
        "if (label == {IGNORED}) {{\n        if ({lead}) losses[row] = 0.0f;\n        return;\n    }}"
    );
    let body = format!(
        "{}{}    if ({lead}) losses[row] = logf(sums[0]) + most[0] - ({target});\n",
        shared.place(index, &skip),
        shared.exponentials()
    );
    let arguments = [
        read(0, "logits", reads),
        ids(1, "labels"),
        scratch("float* losses", 0),
    ];
    let each = kernel(shared.grid(), shared.block(), &arguments, &body);
    let body = format!(
        "    \
    __shared__ double sums[{ALONE}];
    __shared__ int counts[{ALONE}];
    double sum = 0.0;
    int count = 0;
    for (u32 i = threadIdx.x; i < {rows}; i += {ALONE}) {{
        sum += losses[i];
        count += labels[i] != {IGNORED};
    }}
    sums[threadIdx.x] = sum;
    counts[threadIdx.x] = count;
    for (u32 half = {ALONE} / 2; half > 0; half /= 2) {{
        __syncthreads();
        if (threadIdx.x < half) {{
            sums[threadIdx.x] += sums[threadIdx.x + half];
            counts[threadIdx.x] += counts[threadIdx.x + half];
        }}
    }}
    if (threadIdx.x == 0) st(y, float(sums[0] / (counts[0] > 1 ? counts[0] : 1)));
"
    );
    let arguments = [
        ids(1, "labels"),
        scratch("const float* losses", 0),
        write("y", writes),
    ];
    let total = kernel(grid(1), ALONE, &arguments, &body);
    actions([each, total], bytes(rows))
}

/// `(softmax(logits) - t) / n` in the `n` rows that count, 0 in the others.
pub(in crate::cuda::source) fn cross_entropy_grad(
    classes: usize,
    smoothing: f32,
    reads: &[Operand],
    writes: &[Operand],
) -> Actions {
    let shared = Rows::new(classes, &[reads[0], writes[0]], &reads[1]);
    let rows = shared.rows;
    let count = format!(
        "    \
    __shared__ int counts[{ALONE}];
    int count = 0;
    for (u32 i = threadIdx.x; i < {rows}; i += {ALONE}) count += labels[i] != {IGNORED};
    counts[threadIdx.x] = count;
    for (u32 half = {ALONE} / 2; half > 0; half /= 2) {{
        __syncthreads();
        if (threadIdx.x < half) counts[threadIdx.x] += counts[threadIdx.x + half];
    }}
    if (threadIdx.x == 0) *factor = 1.0f / float(counts[0] > 1 ? counts[0] : 1);
"
    );
    let arguments = [ids(1, "labels"), scratch("float* factor", 0)];
    let count = kernel(grid(1), ALONE, &arguments, &count);
    let index = index(rows * classes + ALONE * VECTOR);
    let (n, step) = (shared.vector, shared.threads * shared.vector);
    let zero = format!(
        "\
    if (label == {IGNORED}) {{
        const float zero[{n}] = {{}};
        for (u32 column = first; column < {classes}; column += {step}) store(own_y + column, zero);
        return;
    }}"
    );
    let place = shared.place(
        index,
        &format!("auto* own_y = y + row * {classes};\n{zero}"),
    );
    let body = format!(
        "{place}{}    \
    const float inverse = 1.0f / sums[0], share = *factor;
#pragma unroll 2
    for (u32 column = first; column < {classes}; column += {step}) {{
        float next[{n}];
        load(x + column, next);
#pragma unroll
        for (u32 k = 0; k < {n}; ++k) {{
            float p = expf(next[k] - most[0]) * inverse;
            if (column + k == u32(label)) p -= {hot};
            next[k] = (p - {spread}) * share;
        }}
        store(own_y + column, next);
    }}
",
        shared.exponentials(),
        hot = number(1.0 - smoothing),
        spread = number(smoothing / classes as f32),
    );
    let arguments = [
        read(0, "logits", reads),
        ids(1, "labels"),
        scratch("const float* factor", 0),
        write("y", writes),
    ];
    let gradient = kernel(shared.grid(), shared.block(), &arguments, &body);
    actions([count, gradient], 64)
}
