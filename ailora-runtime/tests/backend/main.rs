//! The backend against the float64 interpreter, on whole models and on every operation.
//!
//! One long file: the cases share the interpreter that they are held to.

mod attention;
#[path = "../../../tests/device/mod.rs"]
mod device;
#[path = "../../../ailora-graph/tests/support/mod.rs"]
mod support;
mod triplets;

use ailora_graph::{
    Trainable,
    adapt::{Mode, adapt},
    checkpoint::checkpoint,
    grad::gradients,
    hoist::hoist,
    ir::{
        Bindings, DType, Draw, Name, Program, Real, Tensor, Type,
        ops::{
            dropout::Dropout,
            elementwise::{Binary, Unary},
            loss::{CrossEntropy, CrossEntropyGrad, IGNORED, Matches},
            merge::{Merge, Update},
            normalize::{Normalize, NormalizeGrad},
            reduce::Reduce,
            row_lengths::RowLengths,
            softmax::{Softmax, SoftmaxGrad},
            take_along::{TakeAlong, TakeAlongGrad},
            view::{Pad, Permute, Slice},
        },
    },
};
use ailora_runtime::{
    backend::BackendError,
    kernels::{Kernel, gemm::Gemm},
    plan::{Plan, plan, rematerialising},
    run::Value,
    store::{Array, Params},
};
use device::Runner;
use indexmap::IndexMap;
use support::{bind, close, encoder, encoder_inputs};

const DRAW: Draw = Draw { seed: 3, step: 5 };

fn params(program: &Program, bindings: &Bindings) -> Params {
    program
        .frozen_parameters()
        .chain(program.trained_parameters())
        .map(|leaf| {
            let value = &bindings[&*leaf.name];
            let array = Array::new(
                value.shape.clone(),
                value.data.iter().map(|&x| x as f32).collect(),
            );
            (leaf.name.to_string(), array)
        })
        .collect()
}

/// Values as float32, so that both sides start from the same numbers.
fn rounded(bindings: Bindings) -> Bindings {
    let round = |x: f64| f64::from(x as f32);
    bindings
        .into_iter()
        .map(|(name, value)| (name, value.map(round)))
        .collect()
}

fn check(program: &Program, bindings: Bindings, tolerance: f64) {
    let bindings = rounded(bindings);
    let expected = program.eval(&bindings, DRAW).unwrap();
    let params = params(program, &bindings);
    let values: Vec<(String, DType, Vec<f64>)> = program
        .inputs()
        .map(|leaf| {
            (
                leaf.name.to_string(),
                leaf.ty.dtype,
                bindings[&*leaf.name].data.clone(),
            )
        })
        .collect();
    let floats: Vec<Vec<f32>> = values
        .iter()
        .map(|(_, _, v)| v.iter().map(|&x| x as f32).collect())
        .collect();
    let ids: Vec<Vec<i32>> = values
        .iter()
        .map(|(_, _, v)| v.iter().map(|&x| x as i32).collect())
        .collect();
    let inputs: Vec<(&str, Value)> = values
        .iter()
        .enumerate()
        .map(|(i, (name, dtype, _))| match dtype {
            DType::I32 => (name.as_str(), Value::I32(&ids[i])),
            _ => (name.as_str(), Value::F32(&floats[i])),
        })
        .collect();
    let tolerance = device::tolerance(tolerance);
    for form in [plan(program), rematerialising(program)] {
        check_plan(form, &params, &inputs, &expected, tolerance);
    }
}

fn check_plan(
    plan: Plan,
    params: &Params,
    inputs: &[(&str, Value)],
    expected: &IndexMap<Name, Tensor>,
    tolerance: f64,
) {
    let mut runner = Runner::new(plan, params);
    // The second run meets an arena full of the first one's values.
    let mut last: Option<Vec<Vec<u32>>> = None;
    for _ in 0..2 {
        let outputs = runner.run(inputs, DRAW).unwrap();
        let mut bits = Vec::new();
        for (name, expected) in expected {
            let found = outputs.get(name).unwrap();
            bits.push(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            let found = support_tensor(expected.shape.clone(), found);
            assert!(
                close(&found, expected, tolerance),
                "{name}: {:?}\nexpected {:?}",
                &found.data[..found.data.len().min(8)],
                &expected.data[..expected.data.len().min(8)]
            );
        }
        assert!(
            last.is_none_or(|last| last == bits),
            "the same run gives the same bits"
        );
        last = Some(bits);
    }
}

fn support_tensor(shape: Vec<usize>, data: &[f32]) -> ailora_graph::ir::Tensor {
    ailora_graph::ir::Tensor::new(
        shape,
        data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(),
    )
}

const CONFIG: &str = r#"{"sites": {
    "query": {"init": "principal", "rank": 2, "alpha": 3.0},
    "value": {"init": "minor", "rank": 3, "lr": 2.0, "dropout": 0.2},
    "layers.1.up": {"init": "random", "rank": 2},
    "classifier": {"init": "full"}}}"#;

#[test]
fn a_training_step_equals_the_interpreter() {
    for (config, dropout) in [(CONFIG, 0.0), (CONFIG, 0.2), (r#"{"method": "full"}"#, 0.1)] {
        let (program, sites) = encoder(2, dropout, config);
        let trainable = match config {
            CONFIG => Trainable::Adapters,
            _ => Trainable::All,
        };
        let adapted = adapt(&program, &sites, &trainable, Mode::Train).unwrap();
        let step = gradients(&adapted, "loss").unwrap();
        let mut bindings = encoder_inputs();
        bind(&step, &mut bindings);
        check(&step, bindings, 2e-5);
    }
}

#[test]
fn what_is_computed_again_is_the_same_and_not_kept() {
    let arenas = [4, 8].map(|layers| {
        let (program, sites) = encoder(layers, 0.2, CONFIG);
        let step = gradients(
            &adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap(),
            "loss",
        )
        .unwrap();
        let again = checkpoint(&step, "loss").unwrap();
        let mut bindings = encoder_inputs();
        bind(&step, &mut bindings);
        let expected = step.eval(&bindings, DRAW).unwrap();
        assert_eq!(again.eval(&bindings, DRAW).unwrap(), expected);
        check(&again, bindings, 2e-5);
        [&step, &again].map(|program| rematerialising(program).arena_bytes() as f64)
    });
    // Four layers keep little more than what lies between them.
    let [kept, again] = [0, 1].map(|i| arenas[1][i] - arenas[0][i]);
    assert!(again < kept / 3.0, "{again} of {kept}");
}

/// As many small terms as a vocabulary has words are not lost beside a large one.
#[test]
fn losses_over_a_vocabulary() {
    const ROWS: usize = 5;
    const CLASSES: usize = 49_152;
    for smoothing in [0.0, 0.1] {
        let forward = CrossEntropy {
            smoothing: Real(smoothing),
        };
        let mut p = Program::new();
        let logits = Type::f32([ROWS, CLASSES]);
        let args = [
            p.input("logits", logits.clone()).unwrap(),
            p.input("labels", Type::i32([ROWS])).unwrap(),
        ];
        let others = p.input("others", logits).unwrap();
        for (name, logits) in [("matches", args[0]), ("misses", others)] {
            let matches = p.add(Matches, &[logits, args[1]]).unwrap();
            p.set_output(name, matches);
        }
        let loss = p.add(forward, &args).unwrap();
        let gradient = p.add(CrossEntropyGrad { forward }, &args).unwrap();
        p.set_output("loss", loss);
        p.set_output("gradient", gradient);
        let labels = [7.0, 49_151.0, f64::from(IGNORED), 0.0, 512.0];
        let mut bindings = Bindings::new();
        bind(&p, &mut bindings);
        let logits = &mut bindings.get_mut("logits").unwrap().data;
        for (row, label) in logits.chunks_exact_mut(CLASSES).zip(labels) {
            if label >= 0.0 {
                row[label as usize] = 16.0;
            }
        }
        bindings.insert("labels".into(), Tensor::new([ROWS], labels));
        let expected = p.eval(&bindings, DRAW).unwrap();
        assert_eq!(expected["matches"].data, [1.0, 1.0, 0.0, 1.0, 1.0]);
        assert_eq!(expected["misses"].data, [0.0; ROWS]);
        // One sum in float32 is off by 1.6e-4, where a loss of 0.006 counts as 0.01.
        check(&p, bindings, 1e-3);
    }
}

#[test]
fn hoisting_changes_nothing() {
    let (program, sites) = encoder(2, 0.0, CONFIG);
    let step = gradients(
        &adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap(),
        "loss",
    )
    .unwrap();
    let mut bindings = encoder_inputs();
    bind(&step, &mut bindings);
    let expected = step.eval(&bindings, DRAW).unwrap();
    let hoisted = hoist(&step).unwrap();
    for (name, value) in hoisted.once.eval(&bindings, DRAW).unwrap() {
        bindings.insert(name.to_string(), value);
    }
    let found = hoisted.step.eval(&bindings, DRAW).unwrap();
    assert_eq!(found, expected);
    let read: Vec<_> = hoisted
        .step
        .frozen_parameters()
        .map(|leaf| leaf.name.clone())
        .collect();
    assert!(
        !read
            .iter()
            .any(|name| name.contains("A0") && !name.contains('~')),
        "{read:?}"
    );
    assert!(
        !read.iter().any(|name| &**name == "layers.0.query.weight"),
        "{read:?}"
    );
    check(&hoisted.step, bindings, 2e-5);
}

/// Also where the product's rows are on other axes than the sum's.
#[test]
fn products_are_added_to_sums_through_reshapes() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([3, 4, 5])).unwrap();
    let old = p.input("old", Type::f32([12, 7])).unwrap();
    let w = p.frozen("w", Type::f32([7, 5])).unwrap();
    let old = p.unary(Unary::Tanh, old).unwrap();
    let product = p.matmul(x, false, w, true).unwrap();
    let product = p.reshape(product, &[12, 7]).unwrap();
    let sum = p.sum(old, product).unwrap();
    p.set_output("sum", sum);
    let steps = plan(&p).steps;
    let gemms = steps.iter().filter_map(|step| match &step.kernel {
        Kernel::Gemm(gemm) => Some(gemm.accumulate),
        _ => None,
    });
    assert_eq!(gemms.collect::<Vec<_>>(), [true]);
    assert_eq!(steps.len(), 2, "a loop and a product");
    let mut bindings = Bindings::new();
    bind(&p, &mut bindings);
    check(&p, bindings, 1e-6);
}

#[test]
fn chains_run_as_one_loop_and_sums_in_place() {
    let (program, sites) = encoder(1, 0.1, CONFIG.replace("layers.1.up", "up").as_str());
    let adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let forward = plan(&hoist(&adapted).unwrap().step);
    let loops = forward
        .steps
        .iter()
        .filter(|s| matches!(s.kernel, Kernel::Loop(_)))
        .count();
    // Embedding dropout; dropped value input; q, k, v biases; bias + dropout + residual + norm and
    // bias + gelu and the same again; the pooled tanh; the logits' bias.
    assert!(loops <= 10, "{loops} loops:\n{adapted}");
    let gemms: Vec<_> = forward
        .steps
        .iter()
        .filter_map(|step| match &step.kernel {
            Kernel::Gemm(Gemm {
                accumulate, alpha, ..
            }) => Some((*accumulate, *alpha)),
            _ => None,
        })
        .collect();
    // 6 projections and a head; query, value and up with two thin products each.
    assert_eq!(gemms.len(), 7 + 6);
    assert_eq!(
        gemms.iter().filter(|(accumulate, _)| *accumulate).count(),
        3
    );
    assert_eq!(
        gemms.iter().filter(|(_, alpha)| *alpha != 1.0).count(),
        1,
        "alpha 3 / rank 2"
    );
}

#[test]
fn odd_shapes_views_and_broadcasts() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([3, 5, 7])).unwrap();
    let column = p.input("column", Type::f32([5, 1])).unwrap();
    let frozen = p.frozen("w", Type::f32([7, 3])).unwrap();
    let sum = p.sum(x, column).unwrap();
    let permuted = p
        .add(
            Permute {
                axes: vec![2, 0, 1],
            },
            &[sum],
        )
        .unwrap();
    let padded = p
        .add(
            Pad {
                axis: 1,
                before: 1,
                after: 2,
            },
            &[permuted],
        )
        .unwrap();
    let sliced = p
        .add(
            Slice {
                axis: 2,
                start: 1,
                end: 4,
            },
            &[padded],
        )
        .unwrap();
    let rows = p.add(
        Slice {
            axis: 0,
            start: 2,
            end: 5,
        },
        &[x],
    );
    assert!(rows.is_err());
    let rows = p
        .add(
            Slice {
                axis: 0,
                start: 1,
                end: 3,
            },
            &[x],
        )
        .unwrap();
    let product = p.matmul(rows, false, frozen, false).unwrap();
    let soft = p.add(Softmax, &[product]).unwrap();
    let (centered, eps) = (true, Real(1e-3));
    let norm = p.add(Normalize { centered, eps }, &[sliced]).unwrap();
    let largest = p.add(Reduce::max([0, 2]), &[norm]).unwrap();
    let less = p.add(Binary::Less, &[norm, largest]).unwrap();
    let total = p.add(Reduce::sum([1]), &[less]).unwrap();
    let exp = p.add(Unary::Exp, &[total]).unwrap();
    let wide = p.expand(column, &[2, 5, 6]).unwrap();
    let constant = p.constant(2.5);
    for (name, id) in [
        ("soft", soft),
        ("norm", norm),
        ("exp", exp),
        ("wide", wide),
        ("constant", constant),
        ("rows", rows),
        ("parameter", frozen),
    ] {
        p.set_output(name, id);
    }
    let mut bindings = Bindings::new();
    bind(&p, &mut bindings);
    check(&p, bindings, 1e-5);
}

#[test]
fn wide_rows_are_split_and_many_rows_shared() {
    let mut p = Program::new();
    for (i, shape) in [[3, 5000], [700, 33], [1, 40_000]].into_iter().enumerate() {
        let x = p.input(&format!("x{i}"), Type::f32(shape)).unwrap();
        let bias = p.input(&format!("b{i}"), Type::f32([shape[1]])).unwrap();
        let y = p.sum(x, bias).unwrap();
        let y = p.add(Unary::Gelu, &[y]).unwrap();
        p.set_output(format!("y{i}"), y);
        let z = p.add(Softmax, &[y]).unwrap();
        p.set_output(format!("z{i}"), z);
        let columns = p.add(Reduce::sum([0]), &[y]).unwrap();
        p.set_output(format!("columns{i}"), columns);
    }
    let mut bindings = Bindings::new();
    bind(&p, &mut bindings);
    check(&p, bindings, 1e-5);
}

/// Every operation on rows, with arguments that are rows, one number a row, and parts of wider rows.
fn row_operations(rows: usize, width: usize) -> Program {
    let mut p = Program::new();
    let shape = [rows, width];
    let wide = p.input("wide", Type::f32([rows, width + 3])).unwrap();
    let column = p.input("column", Type::f32([rows, 1])).unwrap();
    let x = p.input("x", Type::f32(shape)).unwrap();
    let part = Slice {
        axis: 1,
        start: 2,
        end: width + 2,
    };
    let part = p.add(part, &[wide]).unwrap();
    let constant = p.expand(column, &shape).unwrap();
    let dropout = Dropout {
        rate: Real(0.3),
        stream: "d".into(),
    };
    // Two nearly equal numbers would have their rounding amplified.
    let eps = Real(0.1);
    for (i, [a, b]) in [[x, part], [part, x], [x, constant], [constant, x]]
        .into_iter()
        .enumerate()
    {
        let sum = p.sum(a, b).unwrap();
        // Of a constant they are 0 but for rounding, which is small next to the sum.
        let centered = width.is_multiple_of(2);
        let norm = p.add(Normalize { centered, eps }, &[a]).unwrap();
        let norm_grad = p.add(NormalizeGrad { centered, eps }, &[a, b]).unwrap();
        let softmax_grad = p.add(SoftmaxGrad, &[a, b]).unwrap();
        for (name, value) in [
            ("gelu", p.add(Unary::Gelu, &[sum]).unwrap()),
            ("slope", p.add(Unary::GeluPrime, &[sum]).unwrap()),
            ("slope of a", p.add(Unary::GeluPrime, &[a]).unwrap()),
            ("gelu of a", p.add(Unary::Gelu, &[a]).unwrap()),
            ("dropout", p.add(dropout.clone(), &[a]).unwrap()),
            ("softmax", p.add(Softmax, &[a]).unwrap()),
            ("softmax grad", p.sum(softmax_grad, sum).unwrap()),
            ("norm", p.sum(norm, sum).unwrap()),
            ("grad", p.sum(norm_grad, sum).unwrap()),
        ] {
            p.set_output(format!("{name} {i}"), value);
        }
    }
    p
}

#[test]
fn row_operations_of_all_widths() {
    for width in [1, 2, 15, 16, 17, 63, 64, 65, 100, 129] {
        // On this thread, and on several.
        for rows in [3, 16 * 1024 / width + 1] {
            let p = row_operations(rows, width);
            let mut bindings = Bindings::new();
            bind(&p, &mut bindings);
            check(&p, bindings, 1e-5);
        }
    }
}

#[test]
fn gelu_and_its_slope_in_one_loop_are_what_they_are_alone() {
    for width in [1, 33, 1500] {
        let x: Vec<f32> = (0..3 * width)
            .map(|i| match i % 7 {
                0 => f32::NAN,
                _ => (i as f32 * 0.7).sin() * 4.0,
            })
            .collect();
        let run = |ops: &[Unary]| -> Vec<Vec<u32>> {
            let mut p = Program::new();
            let input = p.input("x", Type::f32([3, width])).unwrap();
            let bias = p.constant(0.5);
            let sum = p.sum(input, bias).unwrap();
            for &op in ops {
                let y = p.add(op, &[sum]).unwrap();
                p.set_output(format!("{op}"), y);
            }
            let (plan, params) = (plan(&p), Params::new());
            assert_eq!(plan.steps.len(), 1);
            let inputs = [("x", Value::F32(&x))];
            let mut runner = Runner::new(plan, &params);
            let outputs = runner.run(&inputs, DRAW).unwrap();
            let bits = |op: &Unary| outputs.get(&format!("{op}")).unwrap().iter();
            ops.iter()
                .map(|op| bits(op).map(|y| y.to_bits()).collect())
                .collect()
        };
        let both = run(&[Unary::Gelu, Unary::GeluPrime]);
        let alone = [run(&[Unary::Gelu]), run(&[Unary::GeluPrime])].concat();
        assert_eq!(both, alone, "width {width}");
        let nan = both.iter().all(|y| f32::from_bits(y[0]).is_nan());
        assert!(nan, "NaN stays");
    }
}

/// Adapters of blocks of the weights, one of them of two blocks and two of one, beside columns of zeros.
#[test]
fn packs_are_merged_block_by_block() {
    let update = |at, shape, inner, rank| Update {
        at,
        shape,
        inner,
        rank,
    };
    for (corner, rank, spare, updates) in [
        ([150, 96], 8, 8, vec![update([0, 0], [150, 96], 0, 8)]),
        (
            [200, 48],
            12,
            4,
            vec![
                update([40, 0], [100, 48], 0, 8),
                update([140, 0], [60, 48], 0, 8),
                update([130, 16], [70, 32], 8, 4),
            ],
        ),
        (
            [37, 60],
            5,
            0,
            vec![
                update([0, 0], [37, 20], 0, 3),
                update([1, 30], [36, 29], 3, 2),
            ],
        ),
    ] {
        let [m, n] = corner;
        let mut program = Program::new();
        let pack = Type::f32([m + rank, n + rank + spare]);
        let pack = program.input("pack", pack).unwrap();
        let merge = Merge {
            corner,
            updates,
            scale: Real(1.5),
        };
        let merged = program.add(merge, &[pack]).unwrap();
        program.set_output("merged", merged);
        let mut bindings = Bindings::new();
        bind(&program, &mut bindings);
        let pack = bindings["pack"].clone();
        let pack = Tensor::from_fn(&pack.shape, |i| match i[1] < n + rank {
            true => pack.at(i),
            false => 0.0,
        });
        bindings.insert("pack".into(), pack);
        check(&program, bindings, 1e-6);
    }
}

/// Of what lies in a pack; a row of zeros has no length.
#[test]
fn lengths_of_the_rows_of_a_weight_with_adapters() {
    for ([out, inner], [first, second]) in [([3, 5], [1, 2]), ([37, 70], [8, 3])] {
        let mut p = Program::new();
        let shape = [out + first, inner + first];
        let pack = p.frozen("pack", Type::f32(shape)).unwrap();
        let mut part = |at: [usize; 2], shape: [usize; 2]| {
            let rows = p.slice(pack, 0, at[0], at[0] + shape[0]).unwrap();
            p.slice(rows, 1, at[1], at[1] + shape[1]).unwrap()
        };
        let w = part([0, 0], [out, inner]);
        let (b, a) = (
            part([0, inner], [out, first]),
            part([out, 0], [first, inner]),
        );
        let b2 = p.input("b", Type::f32([out, second])).unwrap();
        let a2 = p.trained("a", Type::f32([second, inner])).unwrap();
        let scales = vec![Real(2.0), Real(-0.5)];
        let lengths = p.add(RowLengths { scales }, &[w, b, a, b2, a2]).unwrap();
        p.set_output("lengths", lengths);
        let mut bindings = Bindings::new();
        bind(&p, &mut bindings);
        for name in ["pack", "b"] {
            let of = bindings.get_mut(name).unwrap();
            let width = of.shape[1];
            of.data[width..2 * width].fill(0.0);
        }
        let expected = p.eval(&bindings, DRAW).unwrap();
        assert_eq!(expected["lengths"].data[1], 0.0);
        check(&p, bindings, 1e-6);
    }
}

#[test]
fn inputs_that_do_not_fit_are_named() {
    let (program, sites) = encoder(1, 0.0, r#"{"method": "full"}"#);
    let adapted = adapt(&program, &sites, &Trainable::All, Mode::Train).unwrap();
    let mut bindings = encoder_inputs();
    bind(&adapted, &mut bindings);
    let params = params(&adapted, &bindings);
    let plan = plan(&adapted);
    let mut runner = Runner::new(plan.clone(), &params);
    let mask = [1.0; 15];
    let good = [1; 15];
    let mut run = |ids: &[i32], labels: Value| -> Result<(), BackendError> {
        let inputs = [
            ("ids", Value::I32(ids)),
            ("mask", Value::F32(&mask)),
            ("labels", labels),
        ];
        runner.run(&inputs, DRAW).map(|_| ())
    };
    assert!(run(&good, Value::I32(&[0, 1, 1])).is_ok());
    let message = run(&good, Value::I32(&[0, 2, 1])).unwrap_err().to_string();
    assert_eq!(message, "input `labels`: id 2 at position 1 is not in 0..2");
    let mut bad = good;
    bad[4] = -1;
    let message = run(&bad, Value::I32(&[0, 1, 1])).unwrap_err().to_string();
    assert_eq!(message, "input `ids`: id -1 at position 4 is not in 0..13");
    let message = run(&good, Value::F32(&[0.0; 3])).unwrap_err().to_string();
    assert_eq!(message, "input `labels` is i32[3], found 3 floats");
    let mut fewer = params.clone();
    fewer.shift_remove("classifier.weight");
    let inputs = [
        ("ids", Value::I32(&good)),
        ("mask", Value::F32(&mask)),
        ("labels", Value::I32(&[0, 1, 1])),
    ];
    let error = Runner::new(plan, &fewer)
        .run(&inputs, DRAW)
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("`classifier.weight`"));
}

#[test]
fn elements_of_rows_by_id_of_all_sizes() {
    for transposed in [false, true] {
        for [batch, s, t, n] in [[1, 1, 1, 1], [1, 3, 5, 7], [4, 17, 17, 33], [6, 40, 9, 2]] {
            let mut p = Program::new();
            let rows = if transposed { t } else { s };
            let op = TakeAlong { transposed };
            let x = p.input("x", Type::f32([2, batch, rows, n])).unwrap();
            let by = p.input("by", Type::i32([s, t])).unwrap();
            let dy = p.input("dy", Type::f32([2, batch, s, t])).unwrap();
            let y = p.add(op, &[x, by]).unwrap();
            let grad = TakeAlongGrad {
                forward: op,
                width: n,
            };
            let dx = p.add(grad, &[by, dy]).unwrap();
            p.set_output("y", y);
            p.set_output("dx", dx);
            let mut bindings = Bindings::new();
            bindings.insert("by".into(), support::ids("by", &[s, t], n));
            bind(&p, &mut bindings);
            check(&p, bindings, 1e-6);
        }
    }
}

#[test]
fn an_id_behind_the_end_of_a_row_is_named() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([2, 3])).unwrap();
    let by = p.input("by", Type::i32([2, 2])).unwrap();
    let y = p.add(TakeAlong { transposed: false }, &[x, by]).unwrap();
    p.set_output("y", y);
    let inputs = [
        ("x", Value::F32(&[0.0; 6])),
        ("by", Value::I32(&[0, 2, 3, 0])),
    ];
    let error = Runner::new(plan(&p), &Params::new())
        .run(&inputs, DRAW)
        .map(|_| ())
        .unwrap_err();
    let message = "input `by`: id 3 at position 2 is not in 0..3";
    assert_eq!(error.to_string(), message);
}

/// The forward and backward pass of a gated unit.
#[test]
fn rematerialising_plans_keep_less() {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([64, 16])).unwrap();
    let [w, v] = ["w", "v"].map(|name| p.trained(name, Type::f32([16, 32])).unwrap());
    let down = p.trained("down", Type::f32([32, 16])).unwrap();
    let [gate, up] = [w, v].map(|w| p.matmul(x, false, w, false).unwrap());
    let sigmoid = p.unary(Unary::Sigmoid, gate).unwrap();
    let silu = p.product(gate, sigmoid).unwrap();
    let both = p.product(silu, up).unwrap();
    let y = p.matmul(both, false, down, false).unwrap();
    let squares = p.product(y, y).unwrap();
    let sum = p.add(Reduce::sum([0, 1]), &[squares]).unwrap();
    let loss = p.reshape(sum, &[]).unwrap();
    p.set_output("loss", loss);
    let step = gradients(&p, "loss").unwrap();
    let [kept, again] = [plan(&step), rematerialising(&step)].map(|plan| {
        let loops = plan
            .steps
            .iter()
            .filter(|s| matches!(s.kernel, Kernel::Loop(_)));
        let written: usize = loops.map(|step| step.writes.len()).sum();
        (written, plan.arena_bytes())
    });
    assert!(again.0 < kept.0 && again.1 < kept.1, "{again:?} {kept:?}");
    let mut bindings = Bindings::new();
    bind(&step, &mut bindings);
    check(&step, bindings, 1e-5);
}
