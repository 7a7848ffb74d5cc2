//! Softmax and normalisation in the primitives that luminal writes them with.

use crate::ir::{
    Id, Op, Program, ProgramError, Real,
    ops::{
        elementwise::{Binary, Unary},
        normalize::Normalize,
        reduce::{Combine, Reduce},
        softmax::Softmax,
    },
};

/// The same program with recognised forms as one operation each.
pub(super) fn recognize(program: &Program) -> Result<Program, ProgramError> {
    program.rewrite(|new, _, node, args| {
        let id = new.add(node.op.clone(), args)?;
        if let Some(x) = softmax(new, id) {
            return new.add(Softmax, &[x]);
        }
        if let Some((x, eps)) = normalize(new, id) {
            let normalize = Normalize {
                centered: true,
                eps: Real(eps),
            };
            return new.add(normalize, &[x]);
        }
        Ok(id)
    })
}

/// `x`, where `id` is `e * recip(sum(e))` with `e = exp2((x - max(x)) * log2(e))`.
fn softmax(p: &Program, id: Id) -> Option<Id> {
    let (e, other) = either(p, id, Binary::Mul, |e| unary(p, e, Unary::Exp2).is_some())?;
    let rows = Rows::of(p, id)?;
    let total = rows.unary(rows.argument(other, id)?, Unary::Recip)?;
    if rows.reduced(total, Combine::Sum)? != e {
        return None;
    }
    let scaled = unary(p, e, Unary::Exp2)?;
    let log2_e = |c| constant(p, c).is_some_and(|c| (c - std::f64::consts::LOG2_E).abs() < 1e-6);
    let (_, centred) = either(p, scaled, Binary::Mul, log2_e)?;
    let [x, max] = rows.centred(centred)?;
    (rows.reduced(max, Combine::Max)? == x).then_some(x)
}

/// `x` and `eps`, where `id` is `c * recip(sqrt(mean(c * c) + eps))` with `c = x - mean(x)`.
fn normalize(p: &Program, id: Id) -> Option<(Id, f64)> {
    let (centred, other) = either(p, id, Binary::Mul, |c| {
        matches!(p[c].op, Op::Binary(Binary::Add))
    })?;
    let rows = Rows::of(p, id)?;
    let root = rows.unary(rows.argument(other, id)?, Unary::Recip)?;
    let variance = rows.unary(root, Unary::Sqrt)?;
    let (eps, variance) = rows.with_constant(variance, Binary::Add)?;
    let square = rows.mean(variance)?;
    if p[square].op != Op::Binary(Binary::Mul) || p[square].args != [centred, centred] {
        return None;
    }
    let [x, average] = rows.centred(centred)?;
    (rows.mean(average)? == x).then_some((x, eps))
}

/// Both arguments of `id`, a `op` of two values, of which `first` accepts the first.
fn either(p: &Program, id: Id, op: Binary, first: impl Fn(Id) -> bool) -> Option<(Id, Id)> {
    match (&p[id].op, &p[id].args[..]) {
        (Op::Binary(found), &[a, b]) if *found == op => {
            [(a, b), (b, a)].into_iter().find(|(a, _)| first(*a))
        }
        _ => None,
    }
}

fn unary(p: &Program, id: Id, op: Unary) -> Option<Id> {
    (p[id].op == Op::Unary(op)).then(|| p[id].args[0])
}

/// The number that every element of `id` is.
fn constant(p: &Program, id: Id) -> Option<f64> {
    match &p[id].op {
        Op::Const(Real(value)) => Some(*value),
        Op::Expand(_) | Op::Reshape(_) => constant(p, p[id].args[0]),
        Op::Unary(Unary::Recip) => constant(p, p[id].args[0]).map(f64::recip),
        _ => None,
    }
}

/// What is computed for each row of a tensor (of shape `lead` and `width`): a value of the leading dimensions, with or without a
/// last axis of 1, or repeated along the row. Values in between are followed only where they keep
/// to their row: in a square matrix, a column of sums may also be transposed into a row of them.
struct Rows<'p> {
    p: &'p Program,
    lead: &'p [usize],
    width: usize,
}

impl<'p> Rows<'p> {
    fn of(p: &'p Program, x: Id) -> Option<Self> {
        let (&width, lead) = p.shape(x).split_last()?;
        Some(Self { p, lead, width })
    }

    /// Whether a value of this shape has one element a row.
    fn is_column(&self, shape: &[usize]) -> bool {
        shape.split_last() == Some((&1, self.lead)) || shape.is_empty() && self.lead.is_empty()
    }

    /// Whether `id` repeats the single elements of its argument `arg` along their rows, or keeps
    /// its shape.
    fn keeps(&self, arg: Id, id: Id) -> bool {
        let [from, to] = [arg, id].map(|id| self.p.shape(id));
        let whole = to.split_last() == Some((&self.width, self.lead));
        from == to || self.is_column(from) && whole
    }

    /// The value of each row that `id` repeats or reshapes.
    fn source(&self, id: Id) -> Option<Id> {
        let arg = match self.p[id].op {
            Op::Expand(_) | Op::Reshape(_) => self.p[id].args[0],
            _ => return Some(id),
        };
        let per_row = |id| {
            let shape = self.p.shape(id);
            shape == self.lead || self.is_column(shape)
        };
        (self.keeps(arg, id) || per_row(arg) && per_row(id))
            .then(|| self.source(arg))
            .flatten()
    }

    /// The value of each row that the argument `arg` of the elementwise `id` is made of.
    fn argument(&self, arg: Id, id: Id) -> Option<Id> {
        self.keeps(arg, id).then(|| self.source(arg)).flatten()
    }

    fn unary(&self, id: Id, op: Unary) -> Option<Id> {
        self.source(unary(self.p, id, op)?)
    }

    /// `c` and `x`, where `id` is `op` of a number `c` and of `x`, a value of each row.
    fn with_constant(&self, id: Id, op: Binary) -> Option<(f64, Id)> {
        let (c, x) = either(self.p, id, op, |c| constant(self.p, c).is_some())?;
        Some((constant(self.p, c)?, self.argument(x, id)?))
    }

    /// `x` and `m`, where `id` is `x - m` with one `m` a row, which luminal writes `x + -1 * m`.
    fn centred(&self, id: Id) -> Option<[Id; 2]> {
        let negated = |m| match self.with_constant(self.argument(m, id)?, Binary::Mul)? {
            (-1.0, m) => Some(m),
            _ => None,
        };
        let (m, x) = either(self.p, id, Binary::Add, |m| negated(m).is_some())?;
        (self.p.shape(x) == self.p.shape(id)).then_some([x, negated(m)?])
    }

    /// `x`, where `id` reduces each row of it to one number.
    fn reduced(&self, id: Id, combine: Combine) -> Option<Id> {
        let axes = vec![self.lead.len()];
        (self.p[id].op == Op::Reduce(Reduce { combine, axes })).then(|| self.p[id].args[0])
    }

    /// `x`, where `id` is the mean of each row of it: the sum times the reciprocal of the width.
    fn mean(&self, id: Id) -> Option<Id> {
        let (factor, total) = self.with_constant(id, Binary::Mul)?;
        let is_mean = (factor * self.width as f64 - 1.0).abs() < 1e-6;
        is_mean.then(|| self.reduced(total, Combine::Sum)).flatten()
    }
}
