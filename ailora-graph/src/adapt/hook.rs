//! Finds where in a program an adapter changes the output of its projection.

use std::collections::HashMap;

use crate::{
    adapter::Place,
    ir::{Id, Op, Program, ops::elementwise::Binary},
};

/// Where the output of a product is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    /// The product with the projection's weight.
    pub product: Id,
    /// The bias that is added to it.
    pub bias: Option<Id>,
    /// The residual's sum, if that is the place.
    pub residual: Option<Residual>,
}

/// The sum of a block's output and its residual.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual {
    /// Which argument of the sum is the output.
    pub output: usize,
    /// The norm of the sum with its weight and bias, in a block that ends with one.
    pub norm: Option<Id>,
}

/// What reads each node, of what the results need.
pub(super) struct Readers<'a> {
    program: &'a Program,
    readers: HashMap<Id, Vec<Id>>,
}

impl<'a> Readers<'a> {
    pub fn new(program: &'a Program) -> Self {
        let live = program.live();
        let mut readers: HashMap<Id, Vec<Id>> = HashMap::new();
        for id in program.ids().filter(|&id| live[usize::from(id)]) {
            for &arg in &program[id].args {
                readers.entry(arg).or_default().push(id);
            }
        }
        // A result is read by whoever asks for it.
        for &id in program.outputs().values() {
            readers.entry(id).or_default().push(id);
        }
        Self { program, readers }
    }

    /// The only node that reads another one.
    fn only(&self, id: Id) -> Option<Id> {
        match self.readers.get(&id).map(Vec::as_slice) {
            Some(&[reader]) if reader != id => Some(reader),
            _ => None,
        }
    }

    /// The node at which the output of `product` is changed, and how it is found there; `bias` is the
    /// projection's. Nothing if the place is the residual's sum, and there is none.
    pub fn hook(&self, product: Id, bias: Option<&str>, place: Place) -> Option<(Id, Hook)> {
        let mut at = product;
        let mut hook = Hook {
            product,
            bias: None,
            residual: None,
        };
        if let Some((sum, own)) = self.biased(product, bias) {
            at = sum;
            hook.bias = Some(own);
        }
        if place == Place::Output {
            return Some((at, hook));
        }
        let mut last = at;
        while let Some(reader) = self.only(last) {
            match self.program[reader].op {
                Op::Reshape(_) => {}
                Op::Dropout(_) => at = reader,
                _ => break,
            }
            last = reader;
        }
        if place == Place::Sublayer {
            return Some((at, hook));
        }
        let sum = self.only(last)?;
        let (output, other) = self.added(sum, last)?;
        let norm = match self.is_normalized(other) {
            true => None,
            false => self.norm(sum),
        };
        hook.residual = Some(Residual { output, norm });
        Some((sum, hook))
    }

    /// The sum of a product and the projection's bias, where nothing else reads the product; and the
    /// bias.
    fn biased(&self, product: Id, bias: Option<&str>) -> Option<(Id, Id)> {
        let sum = self.only(product)?;
        let (_, other) = self.added(sum, product)?;
        let leaf = &self.program[self.program.source(other)].op;
        let own = matches!(leaf, Op::Frozen(leaf) if bias == Some(&*leaf.name));
        own.then_some((sum, other))
    }

    /// Which argument of a sum is `value`, and what the other is.
    fn added(&self, sum: Id, value: Id) -> Option<(usize, Id)> {
        match (&self.program[sum].op, &self.program[sum].args[..]) {
            (Op::Binary(Binary::Add), &[a, b]) if a == value && b != value => Some((0, b)),
            (Op::Binary(Binary::Add), &[a, b]) if b == value && a != value => Some((1, a)),
            _ => None,
        }
    }

    /// Whether a norm reads a residual, as in a block that begins with one.
    fn is_normalized(&self, residual: Id) -> bool {
        let mut readers = self.readers.get(&residual).into_iter().flatten();
        readers.any(|&reader| matches!(self.program[reader].op, Op::Normalize(_)))
    }

    /// The last node of the norm of a value: with its weight and bias, where it has them.
    fn norm(&self, value: Id) -> Option<Id> {
        let readers = &self.readers.get(&value)?[..];
        let is_norm = |id: &&Id| matches!(self.program[**id].op, Op::Normalize(_));
        let mut norm = *readers.iter().find(is_norm)?;
        for op in [Binary::Mul, Binary::Add] {
            let affine = self.only(norm).filter(|&id| {
                let node = &self.program[id];
                let mut args = node.args.iter();
                let others = |&arg: &Id| {
                    let leaf = &self.program[self.program.source(arg)].op;
                    arg == norm || matches!(leaf, Op::Frozen(_))
                };
                node.op == Op::Binary(op) && args.all(others)
            });
            norm = affine.unwrap_or(norm);
        }
        Some(norm)
    }
}
