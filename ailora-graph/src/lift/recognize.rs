//! Softmax and normalisation in the primitives that luminal writes them with.

use crate::ir::{
    Id, Op, Program, ProgramError, Real,
    ops::{
        elementwise::{Binary, Unary},
        normalize::Normalize,
        reduce::{Combine, Reduce},
        softmax::Softmax,
        view::{Expand, Reshape},
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
            return new.add(Normalize { eps: Real(eps) }, &[x]);
        }
        Ok(id)
    })
}

/// `x`, where `id` is `e * expand(recip(sum(e)))` with `e = exp2((x - max(x)) * log2(e))`.
fn softmax(p: &Program, id: Id) -> Option<Id> {
    let (e, total) = factors(p, id)?
        .into_iter()
        .find_map(|(e, other)| Some((e, unary(p, unrepeated(p, other), Unary::Recip)?)))?;
    let summed = reduced_rows(p, total, Combine::Sum)?;
    let scaled = unary(p, e, Unary::Exp2)?;
    if summed != e {
        return None;
    }
    let centred = factors(p, scaled)?
        .into_iter()
        .find_map(|(x, c)| is_close(p, c, std::f64::consts::LOG2_E).then_some(x))?;
    let (x, max) = terms(p, centred)?
        .into_iter()
        .find_map(|(x, other)| Some((x, unrepeated(p, negated(p, other)?))))?;
    (reduced_rows(p, max, Combine::Max)? == x).then_some(x)
}

/// `x` and `eps`, where `id` is `c * expand(recip(sqrt(mean(c * c) + eps)))` with
/// `c = x - expand(mean(x))`.
fn normalize(p: &Program, id: Id) -> Option<(Id, f64)> {
    let (centred, root) = factors(p, id)?.into_iter().find_map(|(c, other)| {
        let root = unary(p, unrepeated(p, other), Unary::Recip)?;
        Some((c, unary(p, unrepeated(p, root), Unary::Sqrt)?))
    })?;
    let (variance, eps) = terms(p, root)?
        .into_iter()
        .find_map(|(variance, eps)| Some((variance, constant(p, eps)?)))?;
    let square = mean(p, variance)?;
    if p[square].op != Op::Binary(Binary::Mul) || p[square].args != [centred, centred] {
        return None;
    }
    let (x, average) = terms(p, centred)?
        .into_iter()
        .find_map(|(x, other)| Some((x, unrepeated(p, negated(p, other)?))))?;
    (mean(p, average)? == x).then_some((x, eps))
}

/// Both ways of reading a product.
fn factors(p: &Program, id: Id) -> Option<[(Id, Id); 2]> {
    binary(p, id, Binary::Mul)
}

/// Both ways of reading a sum.
fn terms(p: &Program, id: Id) -> Option<[(Id, Id); 2]> {
    binary(p, id, Binary::Add)
}

fn binary(p: &Program, id: Id, op: Binary) -> Option<[(Id, Id); 2]> {
    let id = unrepeated(p, id);
    match (&p[id].op, &p[id].args[..]) {
        (Op::Binary(found), &[a, b]) if *found == op => Some([(a, b), (b, a)]),
        _ => None,
    }
}

fn unary(p: &Program, id: Id, op: Unary) -> Option<Id> {
    (p[id].op == Op::Unary(op)).then(|| p[id].args[0])
}

/// What `id` repeats or reshapes.
fn unrepeated(p: &Program, mut id: Id) -> Id {
    while let Op::Expand(Expand { .. }) | Op::Reshape(Reshape { .. }) = &p[id].op {
        id = p[id].args[0];
    }
    id
}

/// `x`, where `id` is its negation, which luminal writes as a product with -1.
fn negated(p: &Program, id: Id) -> Option<Id> {
    factors(p, id)?
        .into_iter()
        .find_map(|(x, c)| (constant(p, c)? == -1.0).then_some(x))
}

/// `x`, where `id` reduces it along its last axis.
fn reduced_rows(p: &Program, id: Id, combine: Combine) -> Option<Id> {
    let id = unrepeated(p, id);
    let x = *p[id].args.first()?;
    let last = p.ty(x).rank().checked_sub(1)?;
    let axes = vec![last];
    (p[id].op == Op::Reduce(Reduce { combine, axes })).then_some(x)
}

/// `x`, where `id` is its mean along the last axis: the sum times the reciprocal of the count.
fn mean(p: &Program, id: Id) -> Option<Id> {
    let (total, count) = factors(p, id)?.into_iter().find_map(|(total, other)| {
        let other = unrepeated(p, other);
        let count = match unary(p, other, Unary::Recip) {
            Some(count) => constant(p, count)?,
            None => 1.0 / constant(p, other)?,
        };
        Some((total, count))
    })?;
    let x = reduced_rows(p, total, Combine::Sum)?;
    let width = *p.shape(x).last()? as f64;
    ((count - width).abs() < 1e-6 * width).then_some(x)
}

fn constant(p: &Program, id: Id) -> Option<f64> {
    match p[unrepeated(p, id)].op {
        Op::Const(Real(value)) => Some(value),
        _ => None,
    }
}

fn is_close(p: &Program, id: Id, value: f64) -> bool {
    constant(p, id).is_some_and(|found| (found - value).abs() < 1e-6)
}
