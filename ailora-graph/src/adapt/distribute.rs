//! Residuals by the distributive law, for lower precisions, in which they are never formed.

use crate::ir::{
    Id, Op, Program, ProgramError, Real,
    ops::{elementwise::Binary, matmul::MatMul, row_lengths::RowLengths},
};

/// Replaces `x (W - s B0 A0)^T` by `x W^T + s (x A0^T) (-B0)^T`, so that `W` stays as it is; the lengths of
/// the rows of `W - s B0 A0 + s B A` are those of `W` with both pairs of factors.
///
/// In float32 the residual is formed once and costs nothing more. In lower precisions, or over a
/// quantised `W`, it would round away most of what a minor adapter starts from; there, this is the
/// form to compute, and fusion makes `s x [A | A0]` and `[x | h] [W; B; -B0]` of it. To be applied
/// to an adapted program before it is differentiated.
///
/// # Errors
/// None for a program that passed its own type checks.
pub fn distribute(program: &Program) -> Result<Program, ProgramError> {
    program.rewrite(|new, _, node, args| {
        if let Op::RowLengths(lengths) = &node.op {
            return lengths_apart(new, lengths, args);
        }
        let residual = match &node.op {
            Op::MatMul(MatMul {
                trans_a: false,
                trans_b: true,
            }) => residual(new, args[1]),
            _ => None,
        };
        let Some(Residual {
            weight,
            scale,
            b0,
            a0,
        }) = residual
        else {
            return new.add(node.op.clone(), args);
        };
        let whole = new.matmul(args[0], false, weight, true)?;
        let down = new.matmul(args[0], false, a0, true)?;
        let down = new.scale(down, scale)?;
        let minus = new.scale(b0, -1.0)?;
        let part = new.matmul(down, false, minus, true)?;
        new.sum(whole, part)
    })
}

/// The lengths of rows of a residual and factors, as those of the weight and one pair of factors more.
fn lengths_apart(new: &mut Program, lengths: &RowLengths, args: &[Id]) -> Result<Id, ProgramError> {
    let Some(own) = residual(new, args[0]) else {
        return new.add(lengths.clone(), args);
    };
    let mut scales = lengths.scales.clone();
    scales.push(Real(own.scale));
    let minus = new.scale(own.b0, -1.0)?;
    let args = [&[own.weight], &args[1..], &[minus, own.a0]].concat();
    new.add(RowLengths { scales }, &args)
}

/// `weight - scale · b0 · a0`
struct Residual {
    weight: Id,
    scale: f64,
    b0: Id,
    a0: Id,
}

fn residual(p: &Program, id: Id) -> Option<Residual> {
    if p[id].op != Op::Binary(Binary::Sub) {
        return None;
    }
    let [weight, part] = [p[id].args[0], p[id].args[1]];
    let (scale, product) = match (&p[part].op, &p[part].args[..]) {
        (Op::Binary(Binary::Mul), &[product, factor]) => match p[factor].op {
            Op::Const(Real(scale)) => (scale, product),
            _ => return None,
        },
        _ => (1.0, part),
    };
    match (&p[product].op, &p[product].args[..]) {
        (
            Op::MatMul(MatMul {
                trans_a: false,
                trans_b: false,
            }),
            &[b0, a0],
        ) => Some(Residual {
            weight,
            scale,
            b0,
            a0,
        }),
        _ => None,
    }
}
