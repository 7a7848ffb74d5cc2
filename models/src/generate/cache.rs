use ailora_graph::{
    ir::Type,
    nn::{Cx, Tensor},
};

/// Keys and values of earlier tokens while a step's graph is built, and those that the step adds; for
/// an encoder-decoder, also those of the input text.
///
/// Places that hold no token yet are for the mask to leave out.
#[derive(Debug)]
pub struct Cache<'g> {
    cx: &'g Cx,
    rows: usize,
    len: usize,
    source: usize,
    read: usize,
    added: Vec<Tensor<'g>>,
}

impl<'g> Cache<'g> {
    /// A cache with places for `len` earlier tokens of each of `rows` sequences.
    pub fn new(cx: &'g Cx, rows: usize, len: usize) -> Self {
        Self {
            cx,
            rows,
            len,
            source: 0,
            read: 0,
            added: Vec::new(),
        }
    }

    /// A cache without earlier tokens.
    pub fn empty(cx: &'g Cx, rows: usize) -> Self {
        Self::new(cx, rows, 0)
    }

    /// This cache beside keys and values of input texts of `source` tokens.
    pub fn with_source(mut self, source: usize) -> Self {
        self.source = source;
        self
    }

    /// How many tokens each input text has.
    pub fn source(&self) -> usize {
        self.source
    }

    /// The next of what [`Network::memory`](crate::family::Network::memory) gives, in its order.
    ///
    /// # Shapes
    /// `[rows, source, width]`
    pub fn memory(&mut self, width: usize) -> Tensor<'g> {
        let name = memory(self.read);
        self.read += 1;
        let ty = Type::f32([self.rows, self.source, width]);
        self.cx.input(&name, ty)
    }

    /// How many sequences there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many places for earlier tokens each of them has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Earlier keys, or values, and `new` behind them. A model calls it in the same order in every
    /// step.
    ///
    /// # Shapes
    /// `[rows, n, width]` gives `[rows, len + n, width]`.
    pub fn extend(&mut self, new: &Tensor<'g>) -> Tensor<'g> {
        let name = entry(self.added.len());
        self.added.push(new.clone());
        if self.len == 0 {
            return new.clone();
        }
        let width = new.shape().last().copied().unwrap_or(1);
        let ty = Type::f32([self.rows, self.len, width]);
        self.cx.input(&name, ty).concat(new, 1)
    }

    /// What the step adds, in the order of [`extend`](Self::extend).
    pub(crate) fn added(&self) -> &[Tensor<'g>] {
        &self.added
    }
}

/// The name of an entry, as input and as output.
pub(crate) fn entry(i: usize) -> String {
    format!("cache.{i}")
}

/// The name of a part of the memory, as input and as output.
pub(crate) fn memory(i: usize) -> String {
    format!("memory.{i}")
}

/// The tokens of a step, from which a family makes its inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Token ids, `[rows, len]`.
    pub ids: Vec<i32>,
    /// Their positions, `[rows, len]`, which count from each row's first token.
    pub positions: Vec<i32>,
    /// 1 for tokens, 0 for padding and empty places, `[rows, cached + len]`.
    pub mask: Vec<f32>,
    /// 1 for tokens of the input texts, 0 for padding, `[rows, source]`; for encoder-decoders.
    pub source_mask: Vec<f32>,
}
