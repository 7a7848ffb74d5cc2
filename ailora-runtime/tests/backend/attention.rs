//! Attention of all sizes, masks and biases.

use ailora_graph::ir::{
    Bindings, Op, Program, Real, Tensor, Type,
    ops::{
        attention::{Attention, AttentionGrad, Operand},
        elementwise::{Binary, Unary},
    },
};
use ailora_runtime::{kernels::Kernel, plan::plan, run::Value};

use super::{
    DRAW, bind, check,
    device::{self, Runner},
    params,
};

/// Sequences of all tests: one for each of [`masks`].
const BATCH: usize = 5;

/// An attention of `[heads, kv_heads, depth]` over the sequences, and its gradients; with biases on
/// what it reads if `biased`.
fn attention(
    [queries, keys]: [usize; 2],
    [heads, kv_heads, depth]: [usize; 3],
    causal: bool,
    dropout: f64,
    biased: bool,
) -> Program {
    let mut p = Program::new();
    let mut input = |name: &str, shape: &[usize]| p.input(name, Type::f32(shape)).unwrap();
    let q = input("q", &[BATCH, queries, heads * depth]);
    let k = input("k", &[BATCH, keys, kv_heads * depth]);
    let v = input("v", &[BATCH, keys, kv_heads * depth]);
    let mask = input("mask", &[BATCH, keys]);
    let dy = input("dy", &[BATCH, queries, heads * depth]);
    let [q, k, v] = [("q bias", q), ("k bias", k), ("v bias", v)].map(|(name, x)| {
        if !biased {
            return x;
        }
        let width = p.shape(x)[2];
        let bias = p.frozen(name, Type::f32([width])).unwrap();
        p.sum(x, bias).unwrap()
    });
    let forward = Attention {
        heads,
        kv_heads,
        causal,
        scale: Real(0.6),
        dropout: Real(dropout),
        stream: "a".into(),
    };
    let y = p.add(forward.clone(), &[q, k, v, mask]).unwrap();
    p.set_output("y", y);
    for of in Operand::ALL {
        let forward = forward.clone();
        let gradient = AttentionGrad { forward, of };
        let gradient = p.add(gradient, &[q, k, v, mask, dy]).unwrap();
        p.set_output(format!("d{of:?}"), gradient);
    }
    p
}

/// All keys, those before the last ones, every third one, none, and those of documents of 9, 27, 45... tokens
/// with padding in and behind them.
fn masks(keys: usize) -> Tensor {
    Tensor::from_fn(&[BATCH, keys], |i| {
        let number = match i[0] {
            0 => 1,
            1 => usize::from(i[1] < keys.div_ceil(2)),
            2 => usize::from(i[1] % 3 == 0),
            3 => 0,
            _ if i[1] % 13 == 12 || i[1] > keys - keys / 8 => 0,
            _ => 1 + i[1].isqrt() / 3,
        };
        number as f64
    })
}

#[test]
fn attention_of_all_sizes() {
    let sizes = [
        ([1, 1], [1, 1, 1]),
        ([3, 5], [2, 2, 2]),
        ([16, 16], [2, 1, 16]),
        ([17, 33], [3, 3, 7]),
        ([33, 20], [1, 1, 32]),
        ([40, 129], [2, 2, 64]),
        ([130, 129], [4, 2, 8]),
        ([129, 200], [3, 1, 5]),
    ];
    for (tokens, widths) in sizes {
        for (causal, dropout) in [(false, 0.0), (false, 0.3), (true, 0.0), (true, 0.3)] {
            for biased in [false, true] {
                let p = attention(tokens, widths, causal, dropout, biased);
                let mut bindings = Bindings::new();
                bindings.insert("mask".into(), masks(tokens[1]));
                bind(&p, &mut bindings);
                check(&p, bindings, 1e-5);
                // Attention adds the biases itself.
                assert_eq!(plan(&p).steps.len(), 2);
            }
        }
    }
}

/// Rows so long, and so many heads, that devices take their largest kernels, in bfloat16: operands and
/// results are computed and read by others.
#[test]
fn attention_of_long_rows() {
    for (heads, kv_heads, [queries, keys], depth, causal, dropout) in [
        (18, 18, [260, 300], 64, false, 0.0),
        (24, 12, [300, 290], 128, true, 0.3),
    ] {
        let mut p = Program::new();
        let mut input = |name: &str, rows: usize, heads: usize| {
            let ty = Type::f32([BATCH, rows, heads * depth]);
            let x = p.input(name, ty).unwrap();
            p.unary(Unary::Tanh, x).unwrap()
        };
        let q = input("q", queries, heads);
        let k = input("k", keys, kv_heads);
        let v = input("v", keys, kv_heads);
        let dy = input("dy", queries, heads);
        let mask = p.input("mask", Type::f32([BATCH, keys])).unwrap();
        let forward = Attention {
            heads,
            kv_heads,
            causal,
            scale: Real(0.2),
            dropout: Real(dropout),
            stream: "a".into(),
        };
        let y = p.add(forward.clone(), &[q, k, v, mask]).unwrap();
        let mut results = vec![("y".to_owned(), y)];
        for of in Operand::ALL {
            let forward = forward.clone();
            let gradient = AttentionGrad { forward, of };
            let id = p.add(gradient, &[q, k, v, mask, dy]).unwrap();
            results.push((format!("{of:?}"), id));
        }
        for (name, id) in results {
            let result = p.scale(id, 2.0).unwrap();
            p.set_output(name, result);
        }
        let mut bindings = Bindings::new();
        bindings.insert("mask".into(), masks(keys));
        bind(&p, &mut bindings);
        check(&p, bindings, 1e-5);
    }
}

/// An attention over parts of one wide tensor plus biases, for those of `q, k, v` that have one, and
/// its gradients.
fn attention_of_parts(
    tokens: usize,
    [heads, kv_heads, depth]: [usize; 3],
    causal: bool,
    biases: [bool; 3],
) -> Program {
    let mut p = Program::new();
    let widths = [heads, kv_heads, kv_heads].map(|heads| heads * depth);
    let all = widths.iter().sum::<usize>() + 3;
    let wide = p.input("wide", Type::f32([BATCH * tokens, all])).unwrap();
    let mask = p.input("mask", Type::f32([BATCH, tokens])).unwrap();
    let dy = Type::f32([BATCH, tokens, widths[0]]);
    let dy = p.input("dy", dy).unwrap();
    let mut start = 1;
    let mut operands = Vec::new();
    for (i, (width, biased)) in widths.into_iter().zip(biases).enumerate() {
        let part = p.slice(wide, 1, start, start + width).unwrap();
        let part = p.reshape(part, &[BATCH, tokens, width]).unwrap();
        start += width;
        operands.push(if biased {
            let (name, ty) = (format!("bias {i}"), Type::f32([width]));
            // Frozen or trained, before or behind the value.
            let bias = match i {
                0 => p.frozen(&name, ty).unwrap(),
                _ => p.trained(&name, ty).unwrap(),
            };
            let [a, b] = if i == 2 { [bias, part] } else { [part, bias] };
            p.sum(a, b).unwrap()
        } else {
            part
        });
    }
    let forward = Attention {
        heads,
        kv_heads,
        causal,
        scale: Real(0.6),
        dropout: Real(0.3),
        stream: "a".into(),
    };
    let args = [operands[0], operands[1], operands[2], mask];
    let y = p.add(forward.clone(), &args).unwrap();
    p.set_output("y", y);
    for of in Operand::ALL {
        let forward = forward.clone();
        let gradient = AttentionGrad { forward, of };
        let args = [args[0], args[1], args[2], mask, dy];
        let gradient = p.add(gradient, &args).unwrap();
        p.set_output(format!("d{of:?}"), gradient);
    }
    p
}

#[test]
fn attention_adds_the_biases_that_only_it_reads() {
    for (tokens, widths) in [
        (1, [1, 1, 1]),
        (33, [4, 2, 7]),
        (129, [2, 1, 32]),
        (40, [2, 2, 40]),
    ] {
        for causal in [false, true] {
            for biases in [
                [true, true, true],
                [true, false, true],
                [false, true, false],
                [false, false, false],
            ] {
                let mut p = attention_of_parts(tokens, widths, causal, biases);
                let steps = plan(&p).steps;
                let loops = |s: &&ailora_runtime::plan::Step| matches!(s.kernel, Kernel::Loop(_));
                assert_eq!(steps.iter().filter(loops).count(), 0, "{p}");
                let mut bindings = Bindings::new();
                bindings.insert("mask".into(), masks(tokens));
                bind(&p, &mut bindings);
                check(&p, bindings.clone(), 1e-5);
                // What something else reads too is there for it, and for attention as well.
                let sums: Vec<_> = p
                    .ids()
                    .filter(|&id| matches!(p[id].op, Op::Binary(Binary::Add)))
                    .collect();
                if let (Some(&first), Some(&last)) = (sums.first(), sums.last()) {
                    p.set_output("sum", first);
                    let tanh = p.unary(Unary::Tanh, last).unwrap();
                    p.set_output("tanh", tanh);
                    check(&p, bindings, 1e-5);
                }
            }
        }
    }
}

/// A value is kept for as long as attention reads it, though only a sum that is not computed does.
#[test]
fn biased_operands_outlive_their_sums() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([BATCH, 9, 8])).unwrap();
    let mask = p.input("mask", Type::f32([BATCH, 9])).unwrap();
    let bias = p.frozen("bias", Type::f32([8])).unwrap();
    let value = p.unary(Unary::Tanh, x).unwrap();
    let operand = p.sum(value, bias).unwrap();
    let forward = Attention {
        heads: 2,
        kv_heads: 2,
        causal: false,
        scale: Real(0.6),
        dropout: Real(0.0),
        stream: "a".into(),
    };
    let args = [operand, operand, operand, mask];
    let y = p.add(forward.clone(), &args).unwrap();
    // A loop between the attentions, which could take the place of what dies at it.
    let z = p.sum(y, value).unwrap();
    let square = p.product(value, z).unwrap();
    let wide = p.reshape(square, &[BATCH * 9, 8]).unwrap();
    let product = p.matmul(wide, true, wide, false).unwrap();
    let dy = p.matmul(wide, false, product, false).unwrap();
    let dy = p.reshape(dy, &[BATCH, 9, 8]).unwrap();
    for of in Operand::ALL {
        let forward = forward.clone();
        let args = [operand, operand, operand, mask, dy];
        let gradient = p.add(AttentionGrad { forward, of }, &args).unwrap();
        p.set_output(format!("d{of:?}"), gradient);
    }
    let mut bindings = Bindings::new();
    bindings.insert("mask".into(), masks(9));
    bind(&p, &mut bindings);
    check(&p, bindings, 1e-5);
}

#[test]
fn attention_keeps_nan_where_it_counts() {
    let p = attention([20, 18], [1, 1, 8], false, 0.3, true);
    let mut bindings = Bindings::new();
    bindings.insert("mask".into(), masks(18));
    bind(&p, &mut bindings);
    let q = &bindings["q"];
    let floats = |name: &str| bindings[name].data.iter().map(|&x| x as f32);
    let values: Vec<(&str, Vec<f32>)> = ["q", "k", "v", "mask", "dy"]
        .map(|name| {
            // The sixth query of each sequence.
            let spoiled = |i: usize| name == "q" && i / 8 % 20 == 5;
            let values = floats(name).enumerate();
            let values = values.map(|(i, x)| if spoiled(i) { f32::NAN } else { x });
            (name, values.collect())
        })
        .into();
    let inputs: Vec<_> = values
        .iter()
        .map(|(name, values)| (*name, Value::F32(values)))
        .collect();
    let mut runner = Runner::new(plan(&p), &params(&p, &bindings));
    let outputs = runner.run(&inputs, DRAW).unwrap();
    for name in ["y", "dQ"] {
        let found = outputs.get(name).unwrap();
        assert_eq!(found.len(), q.data.len());
        for (i, x) in found.iter().enumerate() {
            let nan = i / 8 % 20 == 5 && i / (8 * 20) != 3;
            assert_eq!(x.is_nan(), nan, "{name} at {i}");
        }
    }
}

/// The documents of a row, which the mask numbers, see nothing of each other; neither do the last queries of
/// a row, of the documents before theirs.
#[test]
fn documents_of_a_row_are_as_if_each_were_alone() {
    let (sizes, heads, kv_heads, depth) = ([21, 70, 6], 2, 1, 16);
    let all: usize = sizes.iter().sum();
    let program = |batch: usize, queries: usize, keys: usize| {
        let mut p = Program::new();
        let mut input = |name: &str, rows: usize, width: usize| {
            p.input(name, Type::f32([batch, rows, width])).unwrap()
        };
        let q = input("q", queries, heads * depth);
        let [k, v] = ["k", "v"].map(|name| input(name, keys, kv_heads * depth));
        let dy = input("dy", queries, heads * depth);
        let mask = p.input("mask", Type::f32([batch, keys])).unwrap();
        let forward = Attention {
            heads,
            kv_heads,
            causal: true,
            scale: Real(0.3),
            dropout: Real(0.0),
            stream: "a".into(),
        };
        let y = p.add(forward.clone(), &[q, k, v, mask]).unwrap();
        p.set_output("y", y);
        for of in Operand::ALL {
            let forward = forward.clone();
            let id = p.add(AttentionGrad { forward, of }, &[q, k, v, mask, dy]);
            p.set_output(format!("d{of:?}"), id.unwrap());
        }
        p
    };
    let run = |p: &Program, bindings: &Bindings| {
        let floats = |name: &str| bindings[name].data.iter().map(|&x| x as f32).collect();
        let values: Vec<(&str, Vec<f32>)> = ["q", "k", "v", "mask", "dy"]
            .map(|name| (name, floats(name)))
            .into();
        let inputs: Vec<_> = values
            .iter()
            .map(|(name, values)| (*name, Value::F32(values)))
            .collect();
        let mut runner = Runner::new(plan(p), &params(p, bindings));
        let outputs = runner.run(&inputs, DRAW).unwrap();
        ["y", "dQ", "dK", "dV"].map(|name| outputs.get(name).unwrap().to_vec())
    };
    let packed = program(1, all, all);
    let mut bindings = Bindings::new();
    let document = |i: usize| 1 + usize::from(i >= sizes[0]) + usize::from(i >= all - sizes[2]);
    let numbers = Tensor::from_fn(&[1, all], |i| document(i[1]) as f64);
    bindings.insert("mask".into(), numbers);
    bind(&packed, &mut bindings);
    let found = run(&packed, &bindings);
    let part = |name: &str, start: usize, rows: usize| {
        let x = &bindings[name];
        let width = x.shape[2];
        let data = x.data[start * width..][..rows * width].to_vec();
        (name.to_owned(), Tensor::new([1, rows, width], data))
    };
    let tolerance = device::tolerance(1e-5) as f32;
    let close = |found: &[f32], expected: &[f32], what: &str| {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= tolerance, "{what}: {a} {b}");
        }
    };
    let mut start = 0;
    for rows in sizes {
        let mut own: Bindings = ["q", "k", "v", "dy"]
            .map(|name| part(name, start, rows))
            .into();
        own.insert("mask".into(), Tensor::new([1, rows], vec![1.0; rows]));
        let expected = run(&program(1, rows, rows), &own);
        for (found, expected) in found.iter().zip(&expected) {
            let width = expected.len() / rows;
            close(&found[start * width..][..rows * width], expected, "alone");
        }
        start += rows;
    }
    // The last 30 queries alone, of which the first 24 are in the middle document.
    let few = 30;
    let mut last: Bindings = ["q", "dy"].map(|name| part(name, all - few, few)).into();
    last.extend(["k", "v", "mask"].map(|name| (name.to_owned(), bindings[name].clone())));
    let of_last = run(&program(1, few, all), &last);
    for (found, expected) in of_last.iter().zip(&found).take(2) {
        close(
            found,
            &expected[(all - few) * heads * depth..],
            "last queries",
        );
    }
}
