//! Gradients of adapters that one kernel computes.
//!
//! Each is a sum of outer products of two rows, of which one is wide: `dB = dY^T h`, `dA = dh^T x`. Alone
//! such a product has too little work to keep a device busy.

use std::collections::HashMap;

use ailora_graph::ir::{Id, Op, Program};

use super::units::{ScaledProduct, Unit, are_read};

/// Columns up to which a factor is an adapter's.
const THIN: usize = 128;
/// The most products of one kernel.
const MOST_PRODUCTS: usize = 8;

/// Joins products that nothing reads with later ones of as many rows, where their wide factor is kept
/// until then for others anyway.
pub(super) fn join_outer_products(program: &Program, schedule: &mut Vec<Unit>) {
    let last_use = last_uses(program, schedule);
    let are_read = are_read(program);
    let outer_product =
        |unit: &Unit| outer_product(program, unit).filter(|(_, p)| !are_read[usize::from(p.node)]);
    // The products that wait for others, by their rows, and where the last of them stood.
    let mut waiting: Option<(usize, usize, Vec<ScaledProduct>)> = None;
    let mut joined: Vec<(usize, Vec<ScaledProduct>)> = Vec::new();
    for (time, unit) in schedule.iter().enumerate() {
        let Some((rows, product)) = outer_product(unit) else {
            continue;
        };
        let stay = |products: &[ScaledProduct]| {
            products.iter().all(|p| {
                let wide = program.source(wide_factor(program, p.product));
                last_use.get(&wide).is_some_and(|&last| last > time)
            })
        };
        waiting = match waiting.take() {
            Some((_, known, mut products))
                if known == rows && products.len() < MOST_PRODUCTS && stay(&products) =>
            {
                products.push(product);
                Some((time, rows, products))
            }
            before => {
                joined.extend(before.map(|(time, _, products)| (time, products)));
                Some((time, rows, vec![product]))
            }
        };
    }
    joined.extend(waiting.map(|(time, _, products)| (time, products)));
    joined.retain(|(_, products)| products.len() > 1);
    let mut at: HashMap<Id, usize> = HashMap::new();
    for (time, products) in &joined {
        at.extend(products.iter().map(|p| (p.node, *time)));
    }
    let mut joined: HashMap<usize, Vec<ScaledProduct>> = joined.into_iter().collect();
    // Results under other shapes or types come after what they are of.
    let mut views: HashMap<usize, Vec<Unit>> = HashMap::new();
    for (time, unit) in std::mem::take(schedule).into_iter().enumerate() {
        let viewed = match unit {
            Unit::Single(id) if program[id].op.is_view() => Some(program.source(id)),
            _ => None,
        };
        if let Some(&last) = viewed
            .and_then(|id| at.get(&id))
            .filter(|last| **last > time)
        {
            views.entry(last).or_default().push(unit);
            continue;
        }
        match outer_product(&unit).and_then(|(_, p)| at.get(&p.node)) {
            Some(&last) if last == time => {
                schedule.extend(joined.remove(&time).map(Unit::Outer));
                schedule.extend(views.remove(&time).into_iter().flatten());
            }
            Some(_) => {}
            None => schedule.push(unit),
        }
    }
}

/// A unit that is such a product, and its rows.
fn outer_product(program: &Program, unit: &Unit) -> Option<(usize, ScaledProduct)> {
    let product = match *unit {
        Unit::Single(node) => ScaledProduct {
            node,
            product: node,
            alpha: 1.0,
        },
        Unit::Gemm {
            node,
            product,
            alpha,
            onto: None,
        } => ScaledProduct {
            node,
            product,
            alpha,
        },
        _ => return None,
    };
    let Op::MatMul(op) = program[product.product].op else {
        return None;
    };
    let [a, b] = [0, 1].map(|i| program.shape(program[product.product].args[i]));
    let is_outer = op.trans_a && !op.trans_b && a.len() == 2 && b.len() == 2;
    (is_outer && a[1].min(b[1]) <= THIN).then_some((a[0], product))
}

fn wide_factor(program: &Program, product: Id) -> Id {
    let args = &program[product].args;
    let width = |id: Id| program.shape(id)[1];
    if width(args[0]) > width(args[1]) {
        args[0]
    } else {
        args[1]
    }
}

/// When each value in memory of its own is last read, through views and what it is a part of.
fn last_uses(program: &Program, schedule: &[Unit]) -> HashMap<Id, usize> {
    let mut last: HashMap<Id, usize> = HashMap::new();
    for (time, unit) in schedule.iter().enumerate().rev() {
        for id in unit.members() {
            let whole = match program[id].op {
                Op::Concat(_) => last.get(&id).copied(),
                _ => None,
            };
            let read = whole.unwrap_or(time);
            for &arg in &program[id].args {
                let known = last.entry(program.source(arg)).or_insert(read);
                *known = read.max(*known);
            }
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use ailora_graph::ir::{
        Type,
        ops::{concat::Concat, elementwise::Unary, reduce::Reduce},
    };

    use super::*;
    use crate::plan::rematerialising;

    /// How many products each kernel of a program has that computes three gradients, one of other rows.
    fn joined(change: impl FnOnce(&mut Program, [Id; 4])) -> Vec<usize> {
        let mut p = Program::new();
        let mut input = |name, rows, columns| p.input(name, Type::f32([rows, columns])).unwrap();
        let [x, dy] = ["x", "dy"].map(|name| input(name, 64, 32));
        let [h, dh] = ["h", "dh"].map(|name| input(name, 64, 4));
        let other = [input("dz", 48, 32), input("g", 48, 4)];
        for (name, a, b) in [("db", dy, h), ("da", dh, x), ("dc", other[0], other[1])] {
            let gradient = p.matmul(a, true, b, false).unwrap();
            p.set_output(name, gradient);
        }
        change(&mut p, [x, dy, h, dh]);
        let steps = rematerialising(&p).steps;
        let products = steps.iter().map(|step| step.kernel.products());
        products.filter(|n| *n > 0).collect()
    }

    fn total(p: &mut Program, of: Id, name: &str) {
        let late = p.unary(Unary::Tanh, of).unwrap();
        let sum = p.add(Reduce::sum(vec![0, 1]), &[late]).unwrap();
        p.set_output(name, sum);
    }

    #[test]
    fn join_where_the_wide_factor_is_kept_anyway() {
        assert_eq!(joined(|p, [_, dy, ..]| total(p, dy, "kept")), [2, 1]);
    }

    #[test]
    fn join_where_results_are_other_shapes_of_products() {
        let reshaped = |p: &mut Program, [_, dy, ..]: [Id; 4]| {
            total(p, dy, "kept");
            let db = p.outputs()["db"];
            let flat = p.reshape(db, &[32 * 4]).unwrap();
            p.set_output("db", flat);
        };
        assert_eq!(joined(reshaped), [2, 1]);
    }

    #[test]
    fn join_where_the_wide_factor_is_part_of_what_is_kept() {
        let wide = |p: &mut Program, [_, dy, _, dh]: [Id; 4]| {
            let whole = p.add(Concat { axis: 1 }, &[dy, dh]).unwrap();
            let late = p.input("late", Type::f32([36, 4])).unwrap();
            let read = p.matmul(whole, false, late, false).unwrap();
            total(p, read, "kept");
        };
        assert_eq!(joined(wide), [2, 1, 1]);
    }

    #[test]
    fn stay_apart_where_waiting_would_keep_the_wide_factor() {
        assert_eq!(joined(|_, _| {}), [1, 1, 1]);
        assert_eq!(joined(|p, [_, _, h, _]| total(p, h, "kept")), [1, 1, 1]);
    }

    #[test]
    fn stay_apart_where_something_reads_the_result() {
        let read = joined(|p, [_, dy, ..]| {
            total(p, dy, "kept");
            let db = p.outputs()["db"];
            let square = p.product(db, db).unwrap();
            p.set_output("db", square);
        });
        assert_eq!(read, [1, 1, 1]);
    }
}
