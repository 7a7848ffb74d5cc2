//! What attention does between its products. A warp or a block handles a query of a head.

use ailora_graph::ir::{
    ops::attention::{Attention, Dims},
    random::drop_threshold,
};

use super::{
    Element, Param, Source,
    text::{BLOCK, VECTOR, float, grid, indent, index, kernel, number},
};

/// The most keys of a query that a warp handles.
const WARP_KEYS: usize = 1024;
/// Keys of a thread beyond which a query gets more threads.
const KEPT: usize = 32;

/// Where scores become probabilities.
pub(super) struct Places {
    /// `[sequences, heads, queries, keys]` of float32.
    pub scores: Param,
    /// `[batch, keys]` of float32, 0 for a key that does not count.
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
    probability: Element,
    places: Places,
) -> Source {
    let rows = Rows::new(d, sequences, first);
    let Rows { vector, .. } = rows;
    let kept = places.kept.is_some();
    let seen = if op.causal {
        let unseen = d.queries as isize - d.keys as isize - 1;
        format!("int(row % {}) - ({unseen})", d.queries)
    } else {
        d.keys.to_string()
    };
    let mut body = format!(
        "\
const int seen = {seen};
const auto* own = scores + row * {keys};
const float* counts = mask + ({first} + row / {each}) * {keys};
float most[1] = {{-INF}}, total[1] = {{}};
",
        keys = d.keys,
        each = d.heads * d.queries,
    );
    body += &rows.each_chunk(&format!(
        "\
float count[{vector}];
load(counts + column, count);
load(own + column, x[c]);
for (u32 k = 0; k < {vector}; ++k) {{
    if (int(column + k) >= seen || count[k] == 0.0f) x[c][k] = -INF;
    most[0] = larger(most[0], x[c][k]);
}}
"
    ));
    body += &rows.reduce("Max", "most", 0);
    body += &rows.each_chunk(&format!(
        "\
for (u32 k = 0; k < {vector}; ++k) {{
    x[c][k] = x[c][k] == -INF ? 0.0f : expf(x[c][k] - most[0]);
    total[0] += x[c][k];
}}
"
    ));
    body += &rows.reduce("Sum", "total", 1);
    body += "const float factor = total[0] == 0.0f ? 0.0f : 1.0f / total[0];\n";
    let mut store = format!(
        "\
for (u32 k = 0; k < {vector}; ++k) x[c][k] *= factor;
store(probabilities + row * {keys} + column, x[c]);
",
        keys = d.keys
    );
    if kept {
        store += &format!(
            "\
for (u32 k = 0; k < {vector}; ++k) x[c][k] *= {};
store(kept + row * {} + column, x[c]);
",
            rows.dropout(op),
            d.keys
        );
        body += "const u64 bits = *key;\n";
    }
    body += &rows.each_chunk(&store);

    let probability = float(probability);
    let mut arguments = vec![
        ("const float* scores".to_owned(), places.scores),
        ("const float* mask".to_owned(), places.mask),
        (
            format!("{probability}* probabilities"),
            places.probabilities,
        ),
    ];
    if let Some(kept) = places.kept {
        arguments.push((format!("{probability}* kept"), kept));
        arguments.push(("const u64* key".to_owned(), Param::Key(op.stream.clone())));
    }
    rows.source(2, arguments, &["x"], &body)
}

/// The gradient towards the products of queries and keys, `scale P (D dP - sum(P D dP))`, with `D`
/// what dropout multiplies by. `places`: the probabilities before dropout; the float32 gradient
/// towards what is kept of them; the result, of the probabilities' type.
pub(super) fn gradient(
    op: &Attention,
    d: Dims,
    sequences: usize,
    first: usize,
    probability: Element,
    places: [Param; 3],
) -> Source {
    let rows = Rows::new(d, sequences, first);
    let Rows { vector, .. } = rows;
    let dropout = op.dropout.0 > 0.0;
    let mut body = String::from("float dot[1] = {};\n");
    if dropout {
        body += "const u64 bits = *key;\n";
    }
    let dropped = match dropout {
        true => format!("    x[c][k] *= {};\n", rows.dropout(op)),
        false => String::new(),
    };
    body += &rows.each_chunk(&format!(
        "\
load(towards + row * {keys} + column, x[c]);
load(probabilities + row * {keys} + column, p[c]);
for (u32 k = 0; k < {vector}; ++k) {{
{dropped}    dot[0] += p[c][k] == 0.0f ? 0.0f : p[c][k] * x[c][k];
}}
",
        keys = d.keys,
    ));
    body += &rows.reduce("Sum", "dot", 0);
    // What is masked may hold anything.
    body += &rows.each_chunk(&format!(
        "\
for (u32 k = 0; k < {vector}; ++k) {{
    x[c][k] = p[c][k] == 0.0f ? 0.0f : {scale} * p[c][k] * (x[c][k] - dot[0]);
}}
store(y + row * {keys} + column, x[c]);
",
        keys = d.keys,
        scale = number(op.scale.0 as f32),
    ));
    let probability = float(probability);
    let [probabilities, towards, to] = places;
    let mut arguments = vec![
        (format!("const {probability}* probabilities"), probabilities),
        ("const float* towards".to_owned(), towards),
        (format!("{probability}* y"), to),
    ];
    if dropout {
        arguments.push(("const u64* key".to_owned(), Param::Key(op.stream.clone())));
    }
    rows.source(1, arguments, &["x", "p"], &body)
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
    index: &'static str,
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
        let rows = sequences * d.heads * d.queries;
        Self {
            d,
            rows,
            before: first * d.heads * d.queries,
            vector,
            threads,
            chunks: d.keys.div_ceil(threads * vector),
            index: index(rows * d.keys + BLOCK),
        }
    }

    /// `body` for each chunk `c` of the thread, which begins at `column`.
    fn each_chunk(&self, body: &str) -> String {
        let Self {
            vector,
            threads,
            chunks,
            ..
        } = self;
        let keys = self.d.keys;
        let column = format!("const u32 column = (lane + c * {threads}) * {vector};\n");
        let body = match keys.is_multiple_of(threads * vector) {
            true => body.to_owned(),
            false => format!("if (column < {keys}) {{\n{}}}\n", indent(body, 4)),
        };
        format!(
            "#pragma unroll\nfor (u32 c = 0; c < {chunks}; ++c) {{\n{}}}\n",
            indent(&(column + &body), 4)
        )
    }

    fn reduce(&self, op: &str, array: &str, which: usize) -> String {
        match self.threads {
            32 => format!("reduce<32, {op}>({array}, nullptr);\n"),
            threads => format!("reduce<{threads}, {op}>({array}, partials[{which}]);\n"),
        }
    }

    /// What dropout multiplies element `k` of a chunk by.
    fn dropout(&self, op: &Attention) -> String {
        let rate = op.dropout.0;
        format!(
            "dropout(bits, (u32({}) + u32(row)) * {}u + column + k, {}u, {})",
            self.before as u32,
            self.d.keys,
            drop_threshold(rate),
            number((1.0 / (1.0 - rate)) as f32)
        )
    }

    fn source(
        &self,
        reductions: usize,
        arguments: Vec<(String, Param)>,
        arrays: &[&str],
        body: &str,
    ) -> Source {
        let Self {
            rows,
            threads,
            chunks,
            vector,
            index,
            ..
        } = self;
        let block = (*threads).max(BLOCK);
        let each = block / threads;
        let mut text = String::new();
        if *threads > 32 {
            text += &format!("__shared__ float partials[{reductions}][32];\n");
        }
        text += &format!(
            "\
const {index} row = {index}(blockIdx.x) * {each} + threadIdx.x / {threads};
if (row >= {rows}) return;
const u32 lane = threadIdx.x % {threads};
"
        );
        for array in arrays {
            text += &format!("float {array}[{chunks}][{vector}];\n");
        }
        text += body;
        let names: Vec<&str> = arguments.iter().map(|(name, _)| &**name).collect();
        Source {
            code: kernel(block, &names, &indent(&text, 4)),
            params: arguments.into_iter().map(|(_, param)| param).collect(),
            grid: grid(rows.div_ceil(each)),
            block: block as u32,
            shared: 0,
        }
    }
}
