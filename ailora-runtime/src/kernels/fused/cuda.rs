//! Fused loops. A thread keeps its elements of every register of the loop in machine registers.
//!
//! Where rows may be split, a thread handles a few vectors of neighbouring elements that are a block
//! apart, and loads all of them before it computes. Where an instruction needs whole rows, a part of
//! a warp, a warp or a block handles a row.
//!
//! One writer with its state writes all of a kernel, which is why this file is long.
//!
//! One long file: every function writes a part of one kernel's text.

use std::fmt::Write;

use ailora_graph::ir::{
    Name,
    ops::elementwise::{Binary, Unary},
    random::drop_threshold,
};

use super::{Instruction, Loop, LoopOp, Source as Arg};
use crate::kernels::device::{
    Operand, Param, Source,
    text::{Axes, BLOCK, BUSY, VECTOR, aligned, grid, indent, index, kernel, number},
};

/// Floats of a thread beyond which a row gets more threads.
const KEPT: usize = 64;
/// The same for a row that a warp can handle without shared memory.
const KEPT_IN_WARP: usize = 128;
/// The widest row of a warp.
const WARP_WIDTH: usize = 1024;
/// The most threads of a block.
const MOST_THREADS: usize = 1024;

/// The kernel of a loop. Its parameters are the operands that instructions read, the results, and
/// the keys of its streams.
///
/// A result may share memory with one operand, element for element.
pub(super) fn source(walk: &Loop, reads: &[Operand], writes: &[Operand]) -> Source {
    Writer::new(walk, reads, writes).source()
}

/// How threads share the elements.
struct Layout {
    /// Neighbouring elements that are loaded and stored at once.
    vector: usize,
    /// Vectors of a thread.
    chunks: usize,
    /// From one vector of a thread to its next, in vectors.
    threads: usize,
    /// Threads of a block.
    block: usize,
    /// Blocks.
    blocks: usize,
    /// Whether the last vectors of some threads lie behind the end.
    ragged: bool,
}

struct Writer<'a> {
    walk: &'a Loop,
    reads: &'a [Operand],
    writes: &'a [Operand],
    rows: usize,
    layout: Layout,
    /// The type of indices.
    index: &'static str,
    streams: Vec<&'a Name>,
    /// Which operands an instruction reads.
    used: Vec<bool>,
    /// How many reductions over a block there are so far, each with shared memory of its own.
    partials: usize,
}

impl<'a> Writer<'a> {
    fn new(walk: &'a Loop, reads: &'a [Operand], writes: &'a [Operand]) -> Self {
        let rows: usize = walk.rows.iter().product();
        let args = || walk.instructions.iter().flat_map(|i| &i.args);
        let used: Vec<bool> = (0..reads.len())
            .map(|i| args().any(|arg| *arg == Arg::Operand(i)))
            .collect();
        let streams = walk.instructions.iter().filter_map(|i| match &i.op {
            LoopOp::Dropout { stream, .. } => Some(stream),
            _ => None,
        });
        let mut distinct: Vec<&Name> = Vec::new();
        for stream in streams {
            if !distinct.contains(&stream) {
                distinct.push(stream);
            }
        }
        let mut writer = Self {
            walk,
            reads,
            writes,
            rows,
            layout: Layout {
                vector: 1,
                chunks: 1,
                threads: 1,
                block: BLOCK,
                blocks: 1,
                ragged: true,
            },
            index: "u32",
            streams: distinct,
            used,
            partials: 0,
        };
        writer.layout = if walk.whole_rows {
            writer.rows_layout()
        } else {
            writer.split_layout()
        };
        let spans = (0..reads.len()).filter(|&i| writer.used[i]);
        let spans = spans
            .map(|i| Axes::new(&walk.rows, &[&walk.operands[i].rows]).span(0) + walk.width)
            .chain(
                walk.results
                    .iter()
                    .map(|stored| Axes::new(&walk.rows, &[&stored.rows]).span(0) + walk.width),
            );
        // Indices of vectors run past the end by up to what all threads of the last block handle.
        let past = MOST_THREADS * VECTOR * writer.layout.chunks;
        writer.index = index(spans.max().unwrap_or(0).max(rows * walk.width) + past);
        writer
    }

    /// Operands that are read column by column.
    fn columns(&self) -> impl Iterator<Item = usize> {
        (0..self.reads.len()).filter(|&i| self.used[i] && self.walk.operands[i].column != 0)
    }

    fn vector(&self) -> usize {
        let walked = |axes: &[usize], start: usize| {
            let strides = axes.iter().zip(&self.walk.rows);
            let strides = strides.filter(|(_, size)| **size > 1).map(|(s, _)| *s);
            aligned(strides.chain([start]))
        };
        let mut columns = self.columns();
        let reads = columns.all(|i| walked(&self.walk.operands[i].rows, self.reads[i].view.start));
        let mut results = self.walk.results.iter().zip(self.writes);
        let writes = results.all(|(stored, to)| walked(&stored.rows, to.view.start));
        if self.walk.width.is_multiple_of(VECTOR) && reads && writes {
            VECTOR
        } else {
            1
        }
    }

    fn split_layout(&self) -> Layout {
        let vector = self.vector();
        let units = self.rows * self.walk.width / vector;
        let mut chunks = (32 / (vector * self.columns().count().max(1))).clamp(1, 4);
        while chunks > 1 && units / (BLOCK * chunks) < BUSY {
            chunks /= 2;
        }
        let block = units.next_multiple_of(32).clamp(32, BLOCK);
        Layout {
            vector,
            chunks,
            threads: block,
            block,
            blocks: units.div_ceil(block * chunks),
            ragged: !units.is_multiple_of(block * chunks),
        }
    }

    fn rows_layout(&self) -> Layout {
        let vector = self.vector();
        let vectors = (self.walk.width / vector).max(1);
        let arrays = self.walk.registers + self.columns().count();
        let kept = |threads: usize| vectors.div_ceil(threads) * vector * arrays;
        let threads = if vectors < 32 {
            vectors.next_power_of_two()
        } else if self.walk.width <= WARP_WIDTH && kept(32) <= KEPT_IN_WARP {
            32
        } else {
            let mut threads = 64;
            while threads < MOST_THREADS && kept(threads) > KEPT {
                threads *= 2;
            }
            threads
        };
        let mut block = threads.max(BLOCK);
        while block > threads.max(32) && self.rows * threads / block < BUSY {
            block /= 2;
        }
        if threads > 32 {
            block = threads;
        }
        Layout {
            vector,
            chunks: vectors.div_ceil(threads),
            threads,
            block,
            blocks: self.rows.div_ceil(block / threads),
            ragged: !vectors.is_multiple_of(threads) || self.walk.width == 0,
        }
    }

    fn source(mut self) -> Source {
        let body = if self.rows * self.walk.width == 0 {
            String::new()
        } else {
            self.body()
        };
        let mut params = Vec::new();
        let mut arguments = Vec::new();
        for i in (0..self.reads.len()).filter(|&i| self.used[i]) {
            params.push(Param::Read(i));
            arguments.push(format!("const {}* a{i}", self.reads[i].dtype.kernel_name()));
        }
        for (i, to) in self.writes.iter().enumerate() {
            params.push(Param::Write(i));
            arguments.push(format!("{}* y{i}", to.dtype.kernel_name()));
        }
        for (i, &stream) in self.streams.iter().enumerate() {
            params.push(Param::Key(stream.clone()));
            arguments.push(format!("const u64* key{i}"));
        }
        let block = self.layout.block;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Source {
            code: kernel(block, &arguments, &indent(&body, 4)),
            params,
            grid: grid(self.layout.blocks),
            block: block as u32,
            shared: 0,
        }
    }

    fn body(&mut self) -> String {
        let instructions = self.instructions();
        let mut text = String::new();
        if self.layout.threads > 32 && self.walk.whole_rows {
            _ = writeln!(text, "__shared__ float partials[{}][64];", self.partials);
        }
        text += &self.place();
        for i in 0..self.streams.len() {
            _ = writeln!(text, "const u64 bits{i} = *key{i};");
        }
        text += &self.loads();
        let Layout { chunks, vector, .. } = self.layout;
        for register in 0..self.walk.registers {
            _ = writeln!(text, "float r{register}[{chunks}][{vector}];");
        }
        text += &instructions;
        text += &self.stores();
        text
    }

    /// Where the thread's elements are: `unit` of all vectors or, with whole rows, `row` and the
    /// `first` column.
    fn place(&self) -> String {
        let (index, layout) = (self.index, &self.layout);
        if !self.walk.whole_rows {
            return format!(
                "const {index} first = {index}(blockIdx.x) * {} + threadIdx.x;\n",
                layout.threads * layout.chunks
            );
        }
        let (rows, threads, vector) = (self.rows, layout.threads, layout.vector);
        if threads > 32 {
            return format!(
                "const {index} row = blockIdx.x;\n\
                 const u32 first = threadIdx.x * {vector};\n"
            );
        }
        let each = layout.block / threads;
        let mut text = format!(
            "{index} row = {index}(blockIdx.x) * {each} + threadIdx.x / {threads};\n\
             const u32 first = threadIdx.x % {threads} * {vector};\n"
        );
        // Threads without a row keep those of their warp company, but store nothing.
        if rows % each != 0 {
            text += &format!(
                "const bool live = row < {rows};\nif (!live) row = {};\n",
                rows.saturating_sub(1)
            );
        }
        text
    }

    /// Whether not every thread has a row.
    fn idle(&self) -> bool {
        let Layout { threads, block, .. } = self.layout;
        self.walk.whole_rows && threads <= 32 && !self.rows.is_multiple_of(block / threads)
    }

    /// Whether chunk `c` is one, or nothing if every one is.
    fn inside(&self) -> Option<String> {
        let Layout {
            vector, threads, ..
        } = self.layout;
        let width = self.walk.width;
        self.layout.ragged.then(|| {
            if self.walk.whole_rows {
                format!("first + c * {} < {width}", threads * vector)
            } else {
                format!("first + c * {threads} < {}", self.rows * width / vector)
            }
        })
    }

    /// `body` for each chunk `c` that is one.
    fn each_chunk(&self, body: &str) -> String {
        let chunks = self.layout.chunks;
        let body = match self.inside() {
            Some(inside) => format!("if ({inside}) {{\n{}}}\n", indent(body, 4)),
            None => body.to_owned(),
        };
        format!(
            "{}for (u32 c = 0; c < {chunks}; ++c) {{\n{}}}\n",
            self.unroll(),
            indent(&body, 4)
        )
    }

    /// `body` for each element `k` of each chunk.
    fn each_element(&self, body: &str) -> String {
        let vector = self.layout.vector;
        let body = format!(
            "#pragma unroll\nfor (u32 k = 0; k < {vector}; ++k) {{\n{}}}\n",
            indent(body, 4)
        );
        self.each_chunk(&body)
    }

    fn unroll(&self) -> &'static str {
        // What does not fit in registers need not be unrolled.
        if self.layout.chunks * self.layout.vector <= 2 * KEPT {
            "#pragma unroll\n"
        } else {
            "#pragma unroll 4\n"
        }
    }

    /// The position of a chunk's first element in the domain.
    fn position(&self) -> String {
        let Layout {
            vector, threads, ..
        } = self.layout;
        if self.walk.whole_rows {
            let width = self.walk.width;
            format!("u32(row) * {width}u + first + c * {}", threads * vector)
        } else {
            format!("u32(first + c * {threads}) * {vector}u")
        }
    }

    /// `body`, after definitions of the `unit`, `row` and `column` that it names, where rows are
    /// split.
    fn split(&self, body: &str) -> String {
        let Layout {
            vector, threads, ..
        } = self.layout;
        let (index, vectors) = (self.index, (self.walk.width / vector).max(1));
        let mut text = format!("const {index} unit = first + c * {threads};\n");
        if body.contains("row") {
            _ = writeln!(text, "const {index} row = unit / {vectors};");
        }
        if body.contains("column") {
            _ = writeln!(text, "const {index} column = unit % {vectors} * {vector};");
        }
        text + body
    }

    /// Where the elements of a chunk are, of what is walked at these strides of the rows.
    fn at(&self, strides: &[usize], column: bool) -> String {
        let axes = Axes::new(&self.walk.rows, &[strides]);
        let row = axes.offset(0, "row");
        let Layout {
            vector, threads, ..
        } = self.layout;
        let dense = axes.sizes.is_empty() || axes.strides[0] == [self.walk.width];
        match (column, self.walk.whole_rows) {
            (false, _) => row,
            (true, true) => format!("{row} + first + c * {}", threads * vector),
            (true, false) if dense => format!("unit * {vector}"),
            (true, false) => format!("{row} + column"),
        }
    }

    fn loads(&self) -> String {
        let Layout { chunks, vector, .. } = self.layout;
        let whole = self.walk.whole_rows;
        let mut text = String::new();
        let mut body = String::new();
        for i in (0..self.reads.len()).filter(|&i| self.used[i]) {
            let walked = &self.walk.operands[i];
            let column = walked.column != 0;
            let at = self.at(&walked.rows, column);
            if column {
                _ = writeln!(text, "float x{i}[{chunks}][{vector}];");
                _ = writeln!(body, "load(a{i} + ({at}), x{i}[c]);");
            } else if whole {
                _ = writeln!(text, "const float x{i} = ld(a{i} + ({at}));");
            } else {
                _ = writeln!(text, "float x{i}[{chunks}];");
                _ = writeln!(body, "x{i}[c] = ld(a{i} + ({at}));");
            }
        }
        if !body.is_empty() {
            let body = if whole { body } else { self.split(&body) };
            text += &self.each_chunk(&body);
        }
        text
    }

    fn stores(&self) -> String {
        let mut body = String::new();
        for (i, stored) in self.walk.results.iter().enumerate() {
            let at = self.at(&stored.rows, true);
            _ = writeln!(body, "store(y{i} + ({at}), r{}[c]);", stored.register);
        }
        if !self.walk.whole_rows {
            body = self.split(&body);
        }
        let text = self.each_chunk(&body);
        if self.idle() {
            format!("if (live) {{\n{}}}\n", indent(&text, 4))
        } else {
            text
        }
    }

    /// Element `k` of chunk `c` of an argument.
    fn arg(&self, arg: Arg) -> String {
        match arg {
            Arg::Number(x) => number(x),
            Arg::Register(register) => format!("r{register}[c][k]"),
            Arg::Operand(i) if self.walk.operands[i].column != 0 => format!("x{i}[c][k]"),
            Arg::Operand(i) if self.walk.whole_rows => format!("x{i}"),
            Arg::Operand(i) => format!("x{i}[c]"),
        }
    }

    fn instructions(&mut self) -> String {
        let walk = self.walk;
        let mut text = String::new();
        let mut run = String::new();
        for instruction in &walk.instructions {
            if instruction.op.needs_row() {
                if !run.is_empty() {
                    text += &self.each_element(&std::mem::take(&mut run));
                }
                text += &self.row(instruction);
            } else {
                _ = writeln!(run, "{}", self.element(instruction));
            }
        }
        if !run.is_empty() {
            text += &self.each_element(&run);
        }
        text
    }

    /// An instruction on element `k` of chunk `c`.
    fn element(&self, instruction: &Instruction) -> String {
        let arg = |i: usize| self.arg(instruction.args[i]);
        let value = match &instruction.op {
            LoopOp::Unary(op) => unary(*op, &arg(0)),
            LoopOp::Binary(op) => binary(*op, &arg(0), &arg(1)),
            LoopOp::Dropout { rate, stream } => {
                let key = self.streams.iter().position(|&other| other == stream);
                let Some(key) = key else {
                    unreachable!("the streams are those of all instructions")
                };
                let keep = number((1.0 / (1.0 - rate)) as f32);
                format!(
                    "{} * dropout(bits{key}, {} + k, {}u, {keep})",
                    arg(0),
                    self.position(),
                    drop_threshold(*rate)
                )
            }
            _ => arg(0),
        };
        format!("r{}[c][k] = {value};", instruction.to)
    }

    /// An instruction on the whole row.
    fn row(&mut self, instruction: &Instruction) -> String {
        let arg = |i: usize| self.arg(instruction.args[i]);
        let to = format!("r{}[c][k]", instruction.to);
        let width = number(self.walk.width as f32);
        let mut text = String::new();
        match &instruction.op {
            LoopOp::Softmax => {
                let x = arg(0);
                text += "float most[1] = {-INF}, total[1] = {};\n";
                text += &self.each_element(&format!("most[0] = larger(most[0], {x});\n"));
                text += &self.reduce("Max", "most");
                text += &self
                    .each_element(&format!("{to} = expf({x} - most[0]);\ntotal[0] += {to};\n"));
                text += &self.reduce("Sum", "total");
                text += "const float factor = 1.0f / total[0];\n";
                text += &self.each_element(&format!("{to} *= factor;\n"));
            }
            LoopOp::SoftmaxGrad => {
                let (y, dy) = (arg(0), arg(1));
                text += "float dot[1] = {};\n";
                text += &self.each_element(&format!("dot[0] += {y} * {dy};\n"));
                text += &self.reduce("Sum", "dot");
                text += &self.each_element(&format!("{to} = {y} * ({dy} - dot[0]);\n"));
            }
            LoopOp::Normalize { centered, eps } => {
                let x = arg(0);
                text += &self.means(*centered, &[("mean", &x)]);
                text += "float squares[1] = {};\n";
                text += &self.each_element(&format!(
                    "const float x = {x} - mean;\nsquares[0] += x * x;\n"
                ));
                text += &self.reduce("Sum", "squares");
                text += &format!(
                    "const float factor = 1.0f / sqrtf(squares[0] / {width} + {});\n",
                    number(*eps)
                );
                text += &self.each_element(&format!("{to} = ({x} - mean) * factor;\n"));
            }
            LoopOp::NormalizeGrad { centered, eps } => {
                let (x, dy) = (arg(0), arg(1));
                text += &self.means(*centered, &[("mean", &x), ("average", &dy)]);
                text += "float sums[2] = {};\n";
                text += &self.each_element(&format!(
                    "const float x = {x} - mean;\nsums[0] += x * x;\nsums[1] += x * {dy};\n"
                ));
                text += &self.reduce("Sum", "sums");
                text += &format!(
                    "const float factor = 1.0f / sqrtf(sums[0] / {width} + {});\n\
                     const float along = sums[1] / {width} * factor * factor;\n",
                    number(*eps)
                );
                text += &self.each_element(&format!(
                    "{to} = factor * ({dy} - average - ({x} - mean) * along);\n"
                ));
            }
            _ => text += &self.element(instruction),
        }
        format!("{{\n{}}}\n", indent(&text, 4))
    }

    /// Definitions of the means of some rows, or of 0 if they are not to be subtracted.
    fn means(&mut self, centered: bool, rows: &[(&str, &str)]) -> String {
        let mut text = String::new();
        if !centered {
            for (name, _) in rows {
                _ = writeln!(text, "const float {name} = 0.0f;");
            }
            return text;
        }
        _ = writeln!(text, "float totals[{}] = {{}};", rows.len());
        let sums = rows.iter().enumerate();
        let sums: String = sums
            .map(|(i, (_, x))| format!("totals[{i}] += {x};\n"))
            .collect();
        text += &self.each_element(&sums);
        text += &self.reduce("Sum", "totals");
        let width = number(self.walk.width as f32);
        for (i, (name, _)) in rows.iter().enumerate() {
            _ = writeln!(text, "const float {name} = totals[{i}] / {width};");
        }
        text
    }

    /// Combines the numbers of an array over the threads of the row.
    fn reduce(&mut self, op: &str, array: &str) -> String {
        let threads = self.layout.threads;
        let partials = if threads > 32 {
            self.partials += 1;
            format!("partials[{}]", self.partials - 1)
        } else {
            "nullptr".into()
        };
        format!("reduce<{threads}, {op}>({array}, {partials});\n")
    }
}

fn unary(op: Unary, x: &str) -> String {
    let function = match op {
        Unary::Recip => return format!("1.0f / {x}"),
        Unary::Exp => "expf",
        Unary::Exp2 => "exp2f",
        Unary::Log => "logf",
        Unary::Log2 => "log2f",
        Unary::Sqrt => "sqrtf",
        Unary::Sin => "sinf",
        Unary::Cos => "cosf",
        Unary::Tanh => "tanhf",
        Unary::Sigmoid => "sigmoid",
        Unary::Softplus => "softplus",
        Unary::Relu => "relu",
        Unary::Gelu => "gelu",
        Unary::GeluPrime => "gelu_prime",
    };
    format!("{function}({x})")
}

fn binary(op: Binary, a: &str, b: &str) -> String {
    match op {
        Binary::Add => format!("{a} + {b}"),
        Binary::Sub => format!("{a} - {b}"),
        Binary::Mul => format!("{a} * {b}"),
        Binary::Div => format!("{a} / {b}"),
        Binary::Mod => format!("fmodf({a}, {b})"),
        Binary::Less => format!("{a} < {b} ? 1.0f : 0.0f"),
    }
}
