//! What generation computes beside a model, against the interpreter in float64.

use ailora_graph::ir::{
    Bindings, Draw, Program, Real, Tensor, Type,
    ops::{
        cache::{CachedAttention, Put},
        loss::IGNORED,
        top::{LogSumExp, Top},
    },
};
use ailora_runtime::{engine::Engine, passes::Fusion, run::Value, store::Params};

const DRAW: Draw = Draw { seed: 7, step: 0 };

fn normal(name: &str, len: usize) -> Vec<f32> {
    let key = DRAW.key(name);
    (0..len as u64).map(|i| key.normal(i) as f32).collect()
}

fn close(found: &[f32], expected: &Tensor) {
    assert_eq!(found.len(), expected.data.len());
    for (i, (&found, &expected)) in found.iter().zip(&expected.data).enumerate() {
        let same = f64::from(found) == expected || (found.is_nan() && expected.is_nan());
        let off = (f64::from(found) - expected).abs();
        assert!(
            same || off <= 2e-6 * expected.abs().max(1.0),
            "{i}: {found} and not {expected}"
        );
    }
}

/// Two runs: the second reads what both put, of which some is put over, and in another order.
#[test]
fn states_stay_between_runs_and_attention_reads_what_a_table_names() {
    let (rows, places, batch, len, heads, kv_heads, depth) = (3, 8, 2, 4, 4, 2, 5);
    let width = kv_heads * depth;
    let mut p = Program::new();
    let states = ["k", "v"].map(|name| {
        let state = p.state(name, Type::f32([rows, places, width])).unwrap();
        let new = Type::f32([batch, len, width]);
        let new = p.input(&format!("new {name}"), new).unwrap();
        let ids = p.input("ids", Type::i32([batch, len])).unwrap();
        let put = p.add(Put, &[state, new, ids]).unwrap();
        p.set_output(name, put);
        put
    });
    let q = Type::f32([batch, 3, heads * depth]);
    let q = p.input("q", q).unwrap();
    let table = p.input("table", Type::i32([batch, 6])).unwrap();
    let counts = p.input("counts", Type::i32([batch, 3])).unwrap();
    let scale = Real(0.7);
    let op = CachedAttention {
        heads,
        kv_heads,
        scale,
    };
    let y = p.add(op, &[q, states[0], states[1], table, counts]);
    p.set_output("y", y.unwrap());

    let mut engine = Engine::with_fusion(Params::new(), Fusion::Elementwise);
    let id = engine.compile(&p).unwrap();
    let mut held = ["k", "v"].map(|_| Tensor::new([rows, places, width], vec![0.0; 240]));
    for (run, ids) in [
        [0, 9, 23, 4, IGNORED, 12, 7, 1],
        [9, 2, IGNORED, 3, 5, 20, 21, 22],
    ]
    .into_iter()
    .enumerate()
    {
        let name = |what: &str| format!("{what} {run}");
        let new = ["k", "v"].map(|state| normal(&name(state), batch * len * width));
        let q = normal(&name("q"), batch * 3 * heads * depth);
        let table = [23, 0, 9, 4, 1, 2, 12, 7, 1, 9, 0, 23];
        let counts = [0, 3, 6, 6, 1, 2];
        let inputs = [
            ("new k", Value::F32(&new[0])),
            ("new v", Value::F32(&new[1])),
            ("q", Value::F32(&q)),
            ("ids", Value::I32(&ids)),
            ("table", Value::I32(&table)),
            ("counts", Value::I32(&counts)),
        ];
        let mut bindings: Bindings = Bindings::new();
        let floats = |shape: &[usize], data: &[f32]| {
            let data: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
            Tensor::new(shape, data)
        };
        let whole = |shape: &[usize], data: &[i32]| {
            let data: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
            Tensor::new(shape, data)
        };
        bindings.insert("k".into(), held[0].clone());
        bindings.insert("v".into(), held[1].clone());
        bindings.insert("new k".into(), floats(&[batch, len, width], &new[0]));
        bindings.insert("new v".into(), floats(&[batch, len, width], &new[1]));
        bindings.insert("q".into(), floats(&[batch, 3, heads * depth], &q));
        bindings.insert("ids".into(), whole(&[batch, len], &ids));
        bindings.insert("table".into(), whole(&[batch, 6], &table));
        bindings.insert("counts".into(), whole(&[batch, 3], &counts));
        let expected = p.eval(&bindings, DRAW).unwrap();
        engine.execute(id, &inputs, DRAW).unwrap();
        close(&engine.output(id, "y").unwrap(), &expected["y"]);
        // What is put stays there and is no output.
        assert!(engine.output(id, "k").is_err());
        held = ["k", "v"].map(|state| expected[state].clone());
    }
    let bad = [("ids", Value::I32(&[24; 8]))];
    assert!(engine.execute(id, &bad, DRAW).is_err());
}

#[test]
fn the_largest_come_in_order_and_sums_of_exponentials_do_not_overflow() {
    for (rows, width, count) in [(3, 9, 9), (2, 700, 64), (1, 40, 1)] {
        let mut p = Program::new();
        let x = p.input("x", Type::f32([rows, width])).unwrap();
        let top = p.add(Top { count }, &[x]).unwrap();
        p.set_output("top", top);
        let sum = p.add(LogSumExp, &[x]).unwrap();
        p.set_output("sum", sum);
        let mut data = normal("x", rows * width);
        data.iter_mut().step_by(7).for_each(|x| *x = 1.0);
        data[3] = f32::NEG_INFINITY;
        data.iter_mut().for_each(|x| *x *= 300.0);
        let wide: Vec<f64> = data.iter().map(|&x| f64::from(x)).collect();
        let bindings = [("x".to_owned(), Tensor::new([rows, width], wide))];
        let expected = p.eval(&bindings.into(), DRAW).unwrap();
        let mut engine = Engine::with_fusion(Params::new(), Fusion::Elementwise);
        let id = engine.compile(&p).unwrap();
        let outputs = engine.run(id, &[("x", Value::F32(&data))], DRAW).unwrap();
        close(outputs.output("top").unwrap(), &expected["top"]);
        close(outputs.output("sum").unwrap(), &expected["sum"]);
    }
    let mut p = Program::new();
    let x = p.input("x", Type::f32([2, 9])).unwrap();
    for count in [0, 10, 65] {
        assert!(p.add(Top { count }, &[x]).is_err());
    }
}

/// A value that is no state is put into a copy; a state that is read beside what is put into it is refused.
#[test]
fn what_is_put_into_is_a_state_or_a_copy() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([2, 3, 2])).unwrap();
    let twice = p.scale(x, 2.0).unwrap();
    let new = p.input("new", Type::f32([1, 2, 2])).unwrap();
    let ids = p.input("ids", Type::i32([1, 2])).unwrap();
    let put = p.add(Put, &[twice, new, ids]).unwrap();
    let both = p.sum(put, twice).unwrap();
    p.set_output("both", both);
    let mut engine = Engine::with_fusion(Params::new(), Fusion::Elementwise);
    let id = engine.compile(&p).unwrap();
    let (x, new, ids) = (normal("x", 12), normal("new", 4), [4, 1]);
    let inputs = [
        ("x", Value::F32(&x)),
        ("new", Value::F32(&new)),
        ("ids", Value::I32(&ids)),
    ];
    let outputs = engine.run(id, &inputs, DRAW).unwrap();
    let mut expected: Vec<f32> = x.iter().map(|x| 4.0 * x).collect();
    for (row, new) in ids.into_iter().zip(new.chunks(2)) {
        for (at, new) in new.iter().enumerate() {
            let at = 2 * row as usize + at;
            expected[at] = 2.0 * x[at] + new;
        }
    }
    let found = outputs.output("both").unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    let mut p = Program::new();
    let state = p.state("s", Type::f32([2, 3, 2])).unwrap();
    let new = p.input("new", Type::f32([1, 2, 2])).unwrap();
    let ids = p.input("ids", Type::i32([1, 2])).unwrap();
    let put = p.add(Put, &[state, new, ids]).unwrap();
    let both = p.sum(put, state).unwrap();
    p.set_output("both", both);
    let mut engine = Engine::with_fusion(Params::new(), Fusion::Elementwise);
    let error = engine.compile(&p).unwrap_err().to_string();
    assert!(error.contains("state `s` is put into"), "{error}");
}
