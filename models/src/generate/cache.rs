use ailora_graph::{
    ir::Type,
    nn::{Cx, Tensor},
};

/// Keys and values of earlier tokens while a step's graph is built. They are states, which stay where
/// the programs are executed: a step puts its own there and reads those of the places that a table
/// names.
#[derive(Debug)]
pub struct Cache<'g> {
    cx: &'g Cx,
    rows: usize,
    mode: Mode,
    /// What is put into states, by their names.
    held: Vec<(String, Tensor<'g>)>,
    read: usize,
}

/// Where keys and values lie: that many rows, of that many places, in whatever order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Places {
    /// How many rows.
    pub rows: usize,
    /// How many places each of them has.
    pub len: usize,
}

impl Places {
    fn state(self, width: usize) -> Type {
        Type::f32([self.rows, self.len, width])
    }
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Nothing is kept.
    Absent,
    /// There are no earlier tokens, and those of the step are kept.
    First(Places),
    /// A table says what is there; and where the input texts' keys and values lie.
    Next(Places, Option<Places>),
}

impl<'g> Cache<'g> {
    /// No cache: a step is all there is.
    pub fn absent(cx: &'g Cx, rows: usize) -> Self {
        Self::new(cx, rows, Mode::Absent)
    }

    /// A cache that keeps the first tokens of `rows` sequences.
    pub(crate) fn first(cx: &'g Cx, rows: usize, places: Places) -> Self {
        Self::new(cx, rows, Mode::First(places))
    }

    /// A cache that has earlier tokens of `rows` sequences, and perhaps input texts.
    pub(crate) fn next(cx: &'g Cx, rows: usize, places: Places, source: Option<Places>) -> Self {
        Self::new(cx, rows, Mode::Next(places, source))
    }

    fn new(cx: &'g Cx, rows: usize, mode: Mode) -> Self {
        Self {
            cx,
            rows,
            mode,
            held: Vec::new(),
            read: 0,
        }
    }

    /// How many sequences there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Causal attention of a step's queries to its own keys and those before, which are kept. A model
    /// calls it in the same order in every step. `mask` is the name of the input that says which of the
    /// step's tokens are padding, where no table says what is seen.
    ///
    /// # Shapes
    /// As [`Tensor::causal_attention`].
    pub fn attention(
        &mut self,
        [q, k, v]: [&Tensor<'g>; 3],
        mask: &str,
        heads: usize,
        dropout: f64,
    ) -> Tensor<'g> {
        let [keys, values] = [k, v].map(|new| self.put(new));
        match self.mode {
            Mode::Next(places, _) => {
                let [table, counts] = self.named("cache", q, places.len);
                q.cached_attention(&keys, &values, [&table, &counts], heads)
            }
            Mode::Absent | Mode::First(_) => {
                let len = k.shape().get(1).copied().unwrap_or(1);
                let mask = self.cx.input(mask, Type::f32([self.rows, len]));
                q.causal_attention(k, v, &mask, heads, dropout)
            }
        }
    }

    /// Attention of a step's queries to the next layer's keys and values of the input texts. A model calls
    /// it in the order of [`Network::memory`](crate::family::Network::memory).
    ///
    /// # Shapes
    /// As the queries.
    pub fn cross_attention(&mut self, q: &Tensor<'g>, width: usize, heads: usize) -> Tensor<'g> {
        let source = match self.mode {
            Mode::Next(_, Some(source)) => source,
            _ => Places { rows: 1, len: 1 },
        };
        let [keys, values] = [0, 1].map(|i| {
            let name = memory(self.read + i);
            self.cx.state(&name, source.state(width))
        });
        self.read += 2;
        let [table, counts] = self.named("memory", q, source.len);
        q.cached_attention(&keys, &values, [&table, &counts], heads)
    }

    /// A table of places and how many of them each query sees.
    fn named(&self, name: &str, q: &Tensor<'g>, len: usize) -> [Tensor<'g>; 2] {
        let queries = q.shape().get(1).copied().unwrap_or(1);
        let inputs = [("table", len), ("counts", queries)];
        inputs.map(|(what, width)| {
            let ty = Type::i32([self.rows, width]);
            self.cx.input(&format!("{name}.{what}"), ty)
        })
    }

    /// The state with `new` in it; `new` itself where nothing is kept.
    fn put(&mut self, new: &Tensor<'g>) -> Tensor<'g> {
        let (Mode::First(places) | Mode::Next(places, _)) = self.mode else {
            return new.clone();
        };
        let name = entry(self.held.len());
        keep(self.cx, &name, new, places, "cache.ids", &mut self.held)
    }

    /// What is put into states, by their names.
    pub(crate) fn held(&self) -> &[(String, Tensor<'g>)] {
        &self.held
    }
}

/// Keeps parts of the input texts' keys and values, `[rows, len, width]` each, as states.
pub(crate) fn kept<'g>(cx: &'g Cx, parts: &[Tensor<'g>]) -> Vec<(String, Tensor<'g>)> {
    let mut held = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let [rows, len] = [0, 1].map(|axis| part.shape().get(axis).copied().unwrap_or(1));
        keep(
            cx,
            &memory(i),
            part,
            Places { rows, len },
            "memory.ids",
            &mut held,
        );
    }
    held
}

fn keep<'g>(
    cx: &'g Cx,
    name: &str,
    new: &Tensor<'g>,
    places: Places,
    ids: &str,
    held: &mut Vec<(String, Tensor<'g>)>,
) -> Tensor<'g> {
    let width = new.shape().last().copied().unwrap_or(1);
    let lead = new.shape().len().saturating_sub(1);
    let ids = cx.input(ids, Type::i32(&new.shape()[..lead]));
    let put = cx.state(name, places.state(width)).put(new, &ids);
    held.push((name.to_owned(), put.clone()));
    put
}

/// The name of a state of keys or values.
fn entry(i: usize) -> String {
    format!("cache.{i}")
}

/// The name of a state of input texts' keys or values.
fn memory(i: usize) -> String {
    format!("memory.{i}")
}

/// The tokens of a step, from which a family makes its inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Token ids, `[rows, len]`.
    pub ids: Vec<i32>,
    /// Their positions, `[rows, len]`, which count from each row's first token.
    pub positions: Vec<i32>,
    /// 1 for tokens, 0 for padding, `[rows, len]`.
    pub mask: Vec<f32>,
}
