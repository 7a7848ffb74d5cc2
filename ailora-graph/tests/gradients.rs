//! Every derivative against central differences in float64, and what is not computed at all.
//!
//! One long file: every operation is checked by the same few functions.

mod support;

use ailora_graph::{
    Trainable,
    adapt::{Mode, adapt},
    grad::{gradient_name, gradients},
    ir::{
        Bindings, DType, Draw, Id, Op, Program, Real, Tensor, Type,
        ops::{
            attention::{Attention, Operand},
            cast::Cast,
            concat::Concat,
            dropout::Dropout,
            elementwise::{Binary, Unary},
            embedding::Embedding,
            loss::{CrossEntropy, IGNORED},
            matmul::MatMul,
            normalize::Normalize,
            reduce::Reduce,
            rotary::Rotary,
            row_lengths::RowLengths,
            softmax::Softmax,
            take_along::TakeAlong,
            view::{Expand, Pad, Permute, Reshape, Slice},
        },
    },
    slice_pushdown::push_down_slices,
};
use support::{BATCH, LENGTH, WIDTH, bind, close, encoder, encoder_inputs, ids, normal};

const DRAW: Draw = Draw { seed: 3, step: 5 };

/// The gradient of `loss` towards each trained parameter by central differences.
fn central_differences(program: &Program, bindings: &Bindings) -> Vec<(String, Tensor)> {
    const H: f64 = 1e-5;
    let names: Vec<String> = program
        .trained_parameters()
        .map(|leaf| leaf.name.to_string())
        .collect();
    let loss = |bindings: &Bindings| program.eval(bindings, DRAW).unwrap()["loss"].data[0];
    let mut bindings = bindings.clone();
    names
        .into_iter()
        .map(|name| {
            let start = bindings[&name].clone();
            let mut slope = start.clone();
            for i in 0..start.data.len() {
                let mut at = |offset: f64| {
                    let mut moved = start.clone();
                    moved.data[i] += offset;
                    bindings.insert(name.clone(), moved);
                    loss(&bindings)
                };
                slope.data[i] = (at(H) - at(-H)) / (2.0 * H);
            }
            bindings.insert(name.clone(), start);
            (name, slope)
        })
        .collect()
}

fn check(program: &Program, bindings: &Bindings) {
    let backward = gradients(program, "loss").unwrap();
    let found = backward.eval(bindings, DRAW).unwrap();
    for (name, expected) in central_differences(program, bindings) {
        let found = &found[&*gradient_name(&name)];
        assert!(
            close(found, &expected, 1e-7),
            "{name}: {:?} but central differences give {:?}\n{backward}",
            found.data,
            expected.data
        );
    }
}

/// Checks `op` of trained arguments of these shapes, under a random linear loss.
fn check_op(op: impl Into<Op>, shapes: &[&[usize]]) {
    check_op_at(op, shapes, &[]);
}

/// The same with given values for some arguments, which are inputs.
fn check_op_at(op: impl Into<Op>, shapes: &[&[usize]], given: &[(usize, Type, Tensor)]) {
    let mut p = Program::new();
    let mut bindings = Bindings::new();
    let args: Vec<Id> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let name = format!("x{i}");
            if let Some((_, ty, value)) = given.iter().find(|(at, _, _)| *at == i) {
                bindings.insert(name.clone(), value.clone());
                p.input(&name, ty.clone()).unwrap()
            } else {
                p.trained(&name, Type::f32(*shape)).unwrap()
            }
        })
        .collect();
    let y = p.add(op, &args).unwrap();
    linear_loss(&mut p, y);
    bind(&p, &mut bindings);
    check(&p, &bindings);
}

/// Rounding has the slope of what it rounds, and a gradient is of its argument's type.
#[test]
fn gradients_of_casts_are_of_the_type_that_was_cast() {
    let mut p = Program::new();
    let x = p.trained("x", Type::f32([2])).unwrap();
    let narrow = p.cast(x, DType::Bf16).unwrap();
    let square = p.product(narrow, narrow).unwrap();
    let sum = p.add(Reduce::sum(vec![0]), &[square]).unwrap();
    let loss = p.reshape(sum, &[]).unwrap();
    p.set_output("loss", loss);
    let backward = gradients(&p, "loss").unwrap();
    let dx = backward.outputs()[&*gradient_name("x")];
    assert_eq!(*backward.ty(dx), Type::f32([2]));
    // The numbers nearest to these that bfloat16 has are 1.0 and -2.015625.
    let x = Tensor::new([2], [1.003, -2.012]);
    let found = backward.eval(&[("x".to_owned(), x)].into(), DRAW).unwrap();
    assert_eq!(found[&*gradient_name("x")].data, [2.0, -4.03125]);
    assert!(p.cast(loss, DType::I32).is_err());
}

fn linear_loss(p: &mut Program, y: Id) {
    let shape = p.shape(y).to_vec();
    let weights = p.input("weights", Type::f32(shape.clone())).unwrap();
    let product = p.product(y, weights).unwrap();
    let axes: Vec<usize> = (0..shape.len()).collect();
    let sum = p.add(Reduce::sum(axes), &[product]).unwrap();
    let loss = p.reshape(sum, &[]).unwrap();
    p.set_output("loss", loss);
}

fn positive(shape: &[usize]) -> Tensor {
    normal("positive", shape, 0.5).map(|x| x.abs() + 0.3)
}

#[test]
fn unary() {
    use Unary::{Cos, Exp, Exp2, Gelu, Relu, Sigmoid, Sin, Softplus, Tanh};
    for op in [Exp, Exp2, Sin, Cos, Tanh, Sigmoid, Softplus, Relu, Gelu] {
        check_op(op, &[&[3, 4]]);
    }
    for op in [Unary::Log, Unary::Log2, Unary::Sqrt, Unary::Recip] {
        let mut p = Program::new();
        let x = p.trained("x", Type::f32([3, 4])).unwrap();
        let y = p.add(op, &[x]).unwrap();
        linear_loss(&mut p, y);
        let mut bindings = Bindings::from([("x".into(), positive(&[3, 4]))]);
        bind(&p, &mut bindings);
        check(&p, &bindings);
    }
}

#[test]
fn binary_with_every_broadcast() {
    for op in [Binary::Add, Binary::Sub, Binary::Mul] {
        for (a, b) in [
            (&[2, 3][..], &[2, 3][..]),
            (&[2, 3], &[3]),
            (&[3], &[2, 3]),
            (&[2, 1, 3], &[4, 1]),
            (&[2, 3], &[]),
        ] {
            check_op(op, &[a, b]);
        }
    }
    let mut p = Program::new();
    let a = p.trained("a", Type::f32([2, 3])).unwrap();
    let b = p.trained("b", Type::f32([3])).unwrap();
    let y = p.add(Binary::Div, &[a, b]).unwrap();
    linear_loss(&mut p, y);
    let mut bindings = Bindings::from([("b".into(), positive(&[3]))]);
    bind(&p, &mut bindings);
    check(&p, &bindings);
}

#[test]
fn matrix_products() {
    for trans_a in [false, true] {
        for trans_b in [false, true] {
            let op = MatMul { trans_a, trans_b };
            let shape = |t: bool, [x, y]: [usize; 2]| if t { [y, x] } else { [x, y] };
            let (a, b) = (shape(trans_a, [3, 4]), shape(trans_b, [4, 5]));
            check_op(op, &[&a, &b]);
            let (stack_a, stack_b) = ([2, a[0], a[1]], [2, b[0], b[1]]);
            check_op(op, &[&stack_a, &stack_b]);
            check_op(op, &[&stack_a, &b]);
        }
    }
}

#[test]
fn views_and_reductions() {
    check_op(Reduce::sum([0, 2]), &[&[2, 3, 4]]);
    check_op(Reduce::max([1]), &[&[3, 5]]);
    check_op(Reshape { shape: vec![4, 3] }, &[&[2, 6]]);
    check_op(Cast { to: DType::F64 }, &[&[2, 6]]);
    check_op(
        Permute {
            axes: vec![2, 0, 1],
        },
        &[&[2, 3, 4]],
    );
    check_op(
        Expand {
            shape: vec![2, 3, 4],
        },
        &[&[3, 1]],
    );
    for axis in 0..2 {
        check_op(
            Slice {
                axis,
                start: 1,
                end: 3,
            },
            &[&[4, 5]],
        );
        check_op(
            Pad {
                axis,
                before: 2,
                after: 1,
            },
            &[&[2, 3]],
        );
    }
    check_op(Concat { axis: 0 }, &[&[2, 3], &[1, 3], &[4, 3]]);
    check_op(Concat { axis: 1 }, &[&[2, 3], &[2, 2]]);
}

#[test]
fn rows() {
    check_op(Softmax, &[&[3, 5]]);
    for centered in [true, false] {
        let eps = Real(1e-3);
        check_op(Normalize { centered, eps }, &[&[3, 6]]);
    }
    let angles =
        |f: fn(f64) -> f64| Tensor::from_fn(&[2, 3, 2], |i| f((i[0] + 2 * i[1] + i[2]) as f64));
    let ty = Type::f32([2, 3, 2]);
    let given = [(1, ty.clone(), angles(f64::cos)), (2, ty, angles(f64::sin))];
    check_op_at(Rotary, &[&[2, 3, 8], &[2, 3, 2], &[2, 3, 2]], &given);
    let dropout = Dropout {
        rate: Real(0.4),
        stream: "s".into(),
    };
    check_op(dropout, &[&[6, 7]]);
    let ids = (1, Type::i32([2, 3]), ids("i", &[2, 3], 4));
    check_op_at(Embedding, &[&[4, 5], &[2, 3]], &[ids]);
}

#[test]
fn elements_of_rows_by_id() {
    // Some ids occur twice in a row, some never.
    let by = |s, t| (1, Type::i32([s, t]), ids("by", &[s, t], 4));
    for transposed in [false, true] {
        for (s, t) in [(2, 5), (5, 2), (3, 3), (1, 1)] {
            let rows = if transposed { t } else { s };
            let op = TakeAlong { transposed };
            check_op_at(op, &[&[rows, 4], &[s, t]], &[by(s, t)]);
            check_op_at(op, &[&[2, 3, rows, 4], &[s, t]], &[by(s, t)]);
        }
    }
}

#[test]
fn cross_entropy() {
    let labels = (1, Type::i32([4]), ids("labels", &[4], 3));
    check_op_at(CrossEntropy::default(), &[&[4, 3], &[4]], &[labels]);
    let some = Tensor::new([4], [1.0, f64::from(IGNORED), 0.0, f64::from(IGNORED)]);
    let smoothing = Real(0.3);
    for loss in [CrossEntropy::default(), CrossEntropy { smoothing }] {
        let labels = (1, Type::i32([4]), some.clone());
        check_op_at(loss, &[&[4, 3], &[4]], &[labels]);
    }
}

#[test]
fn attention_with_padding_dropout_and_other_keys() {
    // The second sequence has two documents and padding.
    let mask = |t: usize| {
        Tensor::from_fn(&[2, t], |i| match i[1] + i[0] < t {
            true => 1.0 + f64::from(u8::from(i[0] == 1 && i[1] > 1)),
            false => 0.0,
        })
    };
    for (dropout, kv_heads, causal) in [(0.0, 2, false), (0.3, 2, false), (0.3, 1, true)] {
        for t in [2, 3, 5] {
            let op = Attention {
                heads: 2,
                kv_heads,
                causal,
                scale: Real(0.7),
                dropout: Real(dropout),
                stream: "a".into(),
            };
            let shapes: [&[usize]; 4] = [
                &[2, 3, 4],
                &[2, t, 2 * kv_heads],
                &[2, t, 2 * kv_heads],
                &[2, t],
            ];
            check_op_at(op, &shapes, &[(3, Type::f32([2, t]), mask(t))]);
        }
    }
}

#[test]
fn a_whole_adapted_model() {
    let config = r#"{"sites": {
        "query": {"init": "principal", "rank": 2, "alpha": 3.0},
        "value": {"init": "minor", "rank": 3, "lr": 2.0, "dropout": 0.2},
        "layers.1.up": {"init": "random", "rank": 2},
        "classifier": {"init": "full"}}}"#;
    for dropout in [0.0, 0.2] {
        let (program, sites) = encoder(2, dropout, config);
        let program = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
        let mut bindings = encoder_inputs();
        bind(&program, &mut bindings);
        check(&program, &bindings);
    }
}

#[test]
fn parameters_that_train_beside_adapters() {
    let config = r#"{"sites": {
        "query": {"init": "principal", "rank": 2, "alpha": 3.0},
        "value": {"init": "frozen"},
        "classifier": {"init": "frozen"}}}"#;
    let (program, sites) = encoder(1, 0.1, config);
    for (patterns, trained) in [
        (
            vec!["*norm*", "tokens.weight"],
            vec![
                "tokens.weight",
                "layers.0.norm.weight",
                "layers.0.norm.bias",
                "layers.0.last_norm.weight",
                "layers.0.last_norm.bias",
            ],
        ),
        (
            vec!["*.bias", "value.weight"],
            vec![
                "layers.0.query.bias",
                "layers.0.key.bias",
                "layers.0.value.weight",
                "layers.0.value.bias",
                "layers.0.output.bias",
                "layers.0.up.bias",
                "layers.0.down.bias",
                "layers.0.norm.bias",
                "layers.0.last_norm.bias",
                "classifier.bias",
            ],
        ),
    ] {
        let patterns = patterns.into_iter().map(str::to_owned);
        let trainable = Trainable::Parameters(patterns.collect());
        let program = adapt(&program, &sites, &trainable, Mode::Train).unwrap();
        let mut found: Vec<&str> = program
            .trained_parameters()
            .map(|leaf| &*leaf.name)
            .collect();
        let factors = [
            "layers.0.query.lora_A.weight",
            "layers.0.query.lora_B.weight",
        ];
        let mut expected = [&trained[..], &factors].concat();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let mut bindings = encoder_inputs();
        bind(&program, &mut bindings);
        check(&program, &bindings);
    }
}

#[test]
fn a_whole_model_trained_in_full() {
    let (program, sites) = encoder(1, 0.0, r#"{"method": "full"}"#);
    let program = adapt(&program, &sites, &Trainable::All, Mode::Train).unwrap();
    assert_eq!(program.frozen_parameters().count(), 0);
    let mut bindings = encoder_inputs();
    bind(&program, &mut bindings);
    check(&program, &bindings);
}

#[test]
fn nothing_is_computed_for_what_is_frozen_or_below_the_lowest_adapter() {
    let config = r#"{"sites": {"layers.1.query": {"init": "minor", "rank": 2}}}"#;
    let (program, sites) = encoder(3, 0.0, config);
    let program = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let backward = gradients(&program, "loss").unwrap();
    let added: Vec<String> = backward
        .outputs()
        .keys()
        .filter_map(|name| Some(name.strip_prefix("grad.")?.to_owned()))
        .collect();
    assert_eq!(
        added,
        [
            "layers.1.query.lora_A.weight",
            "layers.1.query.lora_B.weight"
        ]
    );

    // A node of the backward pass depends on the seed of differentiation, so what the forward pass
    // of the frozen part would need for its gradients shows as products that read its weights
    // twice. None does: below the adapter, and for keys and values beside it.
    let readers = |name: &str| {
        let leaf = backward
            .ids()
            .find(|&id| matches!(&backward[id].op, Op::Frozen(leaf) if *leaf.name == *name));
        let leaf = leaf.unwrap();
        let live = backward.live();
        backward
            .ids()
            .filter(|&id| live[usize::from(id)] && backward[id].args.contains(&leaf))
            .count()
    };
    for part in ["query", "key", "value", "output", "up", "down"] {
        assert_eq!(
            readers(&format!("layers.0.{part}.weight")),
            1,
            "layer 0, {part}"
        );
        let above = if part == "down" || part == "up" || part == "output" {
            2
        } else {
            1
        };
        assert_eq!(
            readers(&format!("layers.1.{part}.weight")),
            above,
            "layer 1, {part}"
        );
        assert_eq!(
            readers(&format!("layers.2.{part}.weight")),
            2,
            "layer 2, {part}"
        );
    }
    assert_eq!(readers("tokens.weight"), 1);
    assert!(
        !backward
            .ids()
            .any(|id| matches!(backward[id].op, Op::EmbeddingGrad(_)))
    );
    // Weights of layer 1's key and value are read forward only, so `dk` and `dv` are not computed.
    let of = backward.ids().filter_map(|id| match &backward[id].op {
        Op::AttentionGrad(grad) => Some(grad.of),
        _ => None,
    });
    use Operand::{K, Q, V};
    assert_eq!(of.collect::<Vec<_>>(), [Q, K, V, Q]);
}

#[test]
fn a_loss_that_is_missing_or_not_a_number_is_named() {
    let (program, _) = encoder(1, 0.0, r#"{"method": "full"}"#);
    let message = |loss| gradients(&program, loss).unwrap_err().to_string();
    assert_eq!(
        message("los"),
        "the program has no output `los`; it has logits, loss"
    );
    assert!(message("logits").contains("expected a single number"));
}

#[test]
fn only_the_first_token_goes_through_the_last_layer() {
    let config = r#"{"sites": {"query": {"init": "minor", "rank": 2},
                               "value": {"init": "random", "rank": 2}}}"#;
    let (program, sites) = encoder(2, 0.0, config);
    let program = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let pushed = push_down_slices(&program).unwrap();
    let mut bindings = encoder_inputs();
    bind(&program, &mut bindings);
    let expected = program.eval(&bindings, DRAW).unwrap();
    let found = pushed.eval(&bindings, DRAW).unwrap();
    assert!(close(&found["logits"], &expected["logits"], 1e-12));
    check(&pushed, &bindings);
    let rows = |p: &Program| -> usize {
        let live = p.live();
        p.ids()
            .filter(|&id| live[usize::from(id)] && matches!(p[id].op, Op::MatMul(_)))
            .map(|id| p.shape(id).iter().rev().skip(1).product::<usize>())
            .sum()
    };
    // Of the 12 projections of two layers with their adapters' two halves, the second layer's query,
    // its adapter, the output and the two of the feed-forward part see one token of five.
    let (tokens, firsts) = (BATCH * LENGTH, BATCH);
    // The products of the two queries' starts, which are computed once.
    let starts = 2 * WIDTH;
    assert_eq!(rows(&program), 20 * tokens + firsts + starts);
    assert_eq!(rows(&pushed), 14 * tokens + 7 * firsts + starts);
}

/// The lengths are values of all their arguments, and constants to the derivative.
#[test]
fn lengths_of_rows_have_their_value_and_no_gradient() {
    let mut p = Program::new();
    let w = p.frozen("w", Type::f32([2, 2])).unwrap();
    let b = p.trained("b", Type::f32([2, 1])).unwrap();
    let a = p.trained("a", Type::f32([1, 2])).unwrap();
    let scales = vec![Real(2.0)];
    let lengths = p.add(RowLengths { scales }, &[w, b, a]).unwrap();
    let sum = p.add(Reduce::sum(vec![0]), &[lengths]).unwrap();
    let part = p.add(Reduce::sum(vec![0, 1]), &[b]).unwrap();
    let [sum, part] = [sum, part].map(|id| p.reshape(id, &[]).unwrap());
    let loss = p.product(sum, part).unwrap();
    p.set_output("loss", loss);
    p.set_output("lengths", lengths);
    let tensor = |shape: [usize; 2], data: &[f64]| Tensor::new(shape, data);
    let bindings: Bindings = [
        ("w".to_owned(), tensor([2, 2], &[1.0, 2.0, 0.0, 0.0])),
        ("b".to_owned(), tensor([2, 1], &[1.0, 0.0])),
        ("a".to_owned(), tensor([1, 2], &[1.0, 1.0])),
    ]
    .into();
    let found = gradients(&p, "loss")
        .unwrap()
        .eval(&bindings, DRAW)
        .unwrap();
    // [1, 2] + 2 [1, 1] = [3, 4].
    assert_eq!(found["lengths"].data, [5.0, 0.0]);
    assert_eq!(found[&*gradient_name("b")].data, [5.0, 5.0]);
    assert!(!found.contains_key(&*gradient_name("a")));
    for args in [&[w][..], &[w, b], &[w, a, b], &[lengths, b, a]] {
        let scales = vec![Real(2.0)];
        assert!(p.add(RowLengths { scales }, args).is_err());
    }
}
