//! What generation computes beside a model: states, attention to them, and the likeliest tokens.

use ailora_graph::ir::{
    Program, Real, Type,
    ops::{
        cache::{CachedAttention, Put},
        loss::IGNORED,
        top::{LogSumExp, Top},
    },
};

use super::{agree_on, machine::typed};
use crate::{kernels::device::Target, plan::plan};

/// Keys and values are put into places of a cache, but for some, and queries see as many as they are told
/// of those that a table names in any order: none, some, one more than fits.
#[test]
fn attentions_to_caches() {
    for (heads, kv_heads, depth, queries) in [
        (2, 2, 4, 1),
        (6, 2, 64, 1),
        (2, 1, 128, 2),
        (3, 3, 7, 3),
        (4, 1, 80, 1),
        (10, 1, 16, 1),
        (1, 1, 256, 1),
    ] {
        let (rows, places, batch, longest) = (3, 30, 2, 71);
        let mut p = Program::new();
        let states = ["k", "v"].map(|name| {
            let width = kv_heads * depth;
            let state = p.state(name, Type::f32([rows, places, width])).unwrap();
            let new = p
                .input(&format!("new {name}"), Type::f32([batch, 40, width]))
                .unwrap();
            let ids = p.input("ids", Type::i32([batch, 40])).unwrap();
            let put = p.add(Put, &[state, new, ids]).unwrap();
            p.set_output(name, put);
            put
        });
        let q = p
            .input("q", Type::f32([batch, queries, heads * depth]))
            .unwrap();
        let table = p.input("table", Type::i32([batch, longest])).unwrap();
        let counts = p.input("counts", Type::i32([batch, queries])).unwrap();
        let op = CachedAttention {
            heads,
            kv_heads,
            scale: Real(0.7),
        };
        let y = p
            .add(op, &[q, states[0], states[1], table, counts])
            .unwrap();
        p.set_output("y", y);
        for bf16 in [false, true] {
            let plan = plan(&typed(&p, bf16));
            assert_eq!(plan.outputs.len(), 1);
            agree_on(&plan, bf16, Target::AMPERE, |name, i, x| match name {
                "ids" if i % 7 == 3 => *x = IGNORED as f32,
                "ids" => *x = (i * 11 % (rows * places)) as f32,
                "counts" => *x = [0.0, 72.0, 33.0, 1.0, 70.0, 5.0][(i + heads) % 6],
                _ => {}
            });
        }
    }
}

/// Equal numbers, what is not a number, infinities, rows narrower than a block and wider than several.
#[test]
fn largest_of_rows() {
    for (rows, width, count) in [
        (3, 5, 5),
        (2, 300, 1),
        (1, 4097, 24),
        (2, 9001, 64),
        (3, 1, 1),
    ] {
        let mut p = Program::new();
        let x = p.input("x", Type::f32([rows, width])).unwrap();
        let top = p.add(Top { count }, &[x]).unwrap();
        p.set_output("top", top);
        for bf16 in [false, true] {
            let plan = plan(&typed(&p, bf16));
            agree_on(&plan, bf16, Target::AMPERE, |_, i, x| match i {
                2 => *x = f32::NEG_INFINITY,
                4001 => *x = f32::NAN,
                _ if i % 5 == 1 => *x = 0.5,
                _ if i % 300 == 7 => *x = f32::INFINITY,
                _ => {}
            });
        }
        let mut p = Program::new();
        let x = p.input("x", Type::f32([rows, width])).unwrap();
        let sum = p.add(LogSumExp, &[x]).unwrap();
        p.set_output("sum", sum);
        for bf16 in [false, true] {
            let plan = plan(&typed(&p, bf16));
            agree_on(&plan, bf16, Target::AMPERE, |_, i, x| {
                if i % 5 == 2 {
                    *x = f32::NEG_INFINITY;
                }
            });
        }
    }
}
