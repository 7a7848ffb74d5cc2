//! Graphs in luminal's own API, lifted: against luminal's own execution of them.
//!
//! One long file: a case for each form that luminal gives a tensor.

mod support;

use ailora_graph::{
    AdaptConfig, Module, Trainable, Visitor,
    adapt::{Mode, adapt},
    grad::{gradient_name, gradients},
    ir::{
        Bindings, Draw, Op, Program, Tensor, Type,
        ops::{matmul::MatMul, reduce::Reduce},
    },
    lift::{Leaves, LiftError, Output, lift},
    nn::Cx,
};
use luminal::{
    nn::linear::Linear,
    op::{self, InputTensor, Operator},
    prelude::{
        Axes2, Axes3, Axes4, Axis, Const, ConstShape, Dyn, Graph, GraphTensor, InitModule, Matmul,
        Module as _, NodeIndex, R0, R1, R2, R3, R4, R5, Shape, ShapeTracker, Tensor as Data,
        symbolic::Expression,
    },
};
use support::{BATCH, Encoder, LENGTH, bind, close, encoder_inputs, normal};

const DRAW: Draw = Draw { seed: 0, step: 0 };
const TOLERANCE: f64 = 1e-5;

/// A graph whose loads have values both here and in luminal.
#[derive(Default)]
struct Bench {
    // Tensors point to their graph, so it must not move.
    cx: Box<Graph>,
    leaves: Leaves,
    bindings: Bindings,
}

impl Bench {
    /// Random numbers fixed by `name`.
    fn load<S: ConstShape>(&mut self, name: &str) -> GraphTensor<S> {
        let shape = <S as ConstShape>::realized_shape();
        self.load_value(name, normal(name, &shape, 1.0))
    }

    fn load_value<S: ConstShape>(&mut self, name: &str, value: Tensor) -> GraphTensor<S> {
        let tensor = self.cx.named_tensor::<S>(name).set(floats(&value));
        self.leaves
            .input(tensor.id, name, Type::f32(value.shape.clone()));
        self.bindings.insert(name.into(), rounded(value));
        tensor
    }

    fn lift<S: Shape>(&self, y: GraphTensor<S>) -> Result<Program, LiftError> {
        lift(&self.cx, &self.leaves, &[Output::of("y", &y)])
    }

    /// The program of `y`, after a comparison of its value with luminal's.
    fn check<S: Shape>(&mut self, y: GraphTensor<S>) -> Program {
        y.retrieve();
        let program = self.lift(y).unwrap();
        let found = &program.eval(&self.bindings, DRAW).unwrap()["y"];
        self.cx.execute();
        let expected = Tensor::new(found.shape.clone(), doubles(&y.data()));
        assert!(
            close(found, &expected, TOLERANCE),
            "{:?}\nluminal: {:?}\n{program}",
            found.data,
            expected.data
        );
        program
    }

    fn message<S: Shape>(&self, y: GraphTensor<S>) -> String {
        self.lift(y).unwrap_err().to_string()
    }
}

fn floats(value: &Tensor) -> Vec<f32> {
    value.data.iter().map(|&x| x as f32).collect()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn rounded(value: Tensor) -> Tensor {
    value.map(|x| f64::from(x as f32))
}

/// What a program computes, without its leaves and reshapes.
fn ops(program: &Program) -> Vec<String> {
    let live = program.live();
    program
        .ids()
        .filter(|&id| live[usize::from(id)] && !program[id].args.is_empty())
        .filter(|&id| !matches!(program[id].op, Op::Reshape(_)))
        .map(|id| program[id].op.to_string())
        .collect()
}

fn positive(name: &str, shape: &[usize]) -> Tensor {
    normal(name, shape, 1.0).map(|x| x.abs() + 0.1)
}

#[test]
fn unary_primitives() {
    type Function = fn(GraphTensor<R2<3, 4>>) -> GraphTensor<R2<3, 4>>;
    let functions: [(Function, &str); 5] = [
        (GraphTensor::exp2, "exp2"),
        (GraphTensor::log2, "log2"),
        (GraphTensor::sin, "sin"),
        (GraphTensor::recip, "recip"),
        (GraphTensor::sqrt, "sqrt"),
    ];
    for (function, name) in functions {
        let mut bench = Bench::default();
        let x = bench.load_value::<R2<3, 4>>("x", positive("x", &[3, 4]));
        assert_eq!(ops(&bench.check(function(x))), [name]);
        // A function of a view is the view of the function of what lies in memory.
        let mut bench = Bench::default();
        let x = bench.load_value::<R2<4, 3>>("x", positive("x", &[4, 3]));
        let y = function(x.permute::<R2<3, 4>, Axes2<1, 0>>());
        assert_eq!(ops(&bench.check(y)), [name, "permute[1, 0]"]);
    }
}

#[test]
fn binary_primitives() {
    type X = GraphTensor<R2<3, 4>>;
    type Function = fn(X, X) -> X;
    let functions: [(Function, &str); 4] = [
        (|a, b| a + b, "add"),
        (|a, b| a * b, "mul"),
        (|a, b| a % b, "mod"),
        (GraphTensor::less_than, "less"),
    ];
    for (function, name) in functions {
        let mut bench = Bench::default();
        let [a, b] = ["a", "b"].map(|name| bench.load::<R2<3, 4>>(name));
        assert_eq!(ops(&bench.check(function(a, b))), [name]);

        let mut bench = Bench::default();
        let a = bench.load::<R2<3, 4>>("a");
        let row = bench.load::<R1<4>>("row").expand::<R2<3, 4>, Axis<0>>();
        assert_eq!(
            ops(&bench.check(function(a, row))),
            [name],
            "a row broadcasts as it is"
        );

        let mut bench = Bench::default();
        let column = bench.load::<R1<3>>("column").expand::<R2<3, 4>, Axis<1>>();
        let b = bench
            .load::<R2<4, 3>>("b")
            .permute::<R2<3, 4>, Axes2<1, 0>>();
        assert_eq!(
            ops(&bench.check(function(column, b))),
            ["permute[1, 0]", name]
        );
    }
}

#[test]
fn reductions() {
    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    assert_eq!(
        ops(&bench.check(x.sum_reduce::<R2<2, 4>, Axis<1>>())),
        ["sum[1]"]
    );
    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    assert_eq!(
        ops(&bench.check(x.max_reduce::<R2<3, 4>, Axis<0>>())),
        ["max[0]"]
    );
    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    let y = bench.check(x.sum_reduce::<R1<3>, Axes2<0, 2>>());
    assert_eq!(ops(&y), ["sum[2]", "sum[0]"]);
    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    bench.check(x.mean_reduce::<R2<2, 3>, Axis<2>>());
    let mut bench = Bench::default();
    let x = bench.load::<R2<2, 3>>("x");
    bench.check(x.mean_reduce::<R0, Axes2<0, 1>>());
    // Of permuted axes, as long as the ones that stay are in order.
    let mut bench = Bench::default();
    let x = bench
        .load::<R3<2, 3, 4>>("x")
        .permute::<R3<2, 4, 3>, Axes3<0, 2, 1>>();
    bench.check(x.sum_reduce::<R2<2, 4>, Axis<2>>());
    let mut bench = Bench::default();
    let x = bench
        .load::<R2<2, 3>>("x")
        .permute::<R2<3, 2>, Axes2<1, 0>>();
    bench.check(x.max_reduce::<R1<2>, Axis<0>>());
}

#[test]
fn compositions() {
    type X = GraphTensor<R2<3, 4>>;
    let functions: [fn(X) -> X; 8] = [
        GraphTensor::relu,
        GraphTensor::sigmoid,
        GraphTensor::tanh,
        GraphTensor::swish,
        GraphTensor::exp,
        GraphTensor::cos,
        |x| x.clip(-0.5, 0.5),
        |x| (x - 1.0) / (x * x + 2.0),
    ];
    for function in functions {
        let mut bench = Bench::default();
        let x = bench.load("x");
        bench.check(function(x));
    }
}

#[test]
fn movement() {
    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    let y = x.permute::<R3<4, 2, 3>, Axes3<2, 0, 1>>();
    assert_eq!(ops(&bench.check(y)), ["permute[2, 0, 1]"]);

    let mut bench = Bench::default();
    let x = bench
        .load::<R3<2, 3, 4>>("x")
        .permute::<R3<4, 2, 3>, Axes3<2, 0, 1>>();
    let y = x.reshape::<R2<8, 3>>();
    assert_eq!(
        ops(&bench.check(y)),
        ["permute[2, 0, 1]"],
        "luminal copies before the reshape"
    );

    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 5>>("x");
    let y = x
        .slice((
            Expression::from(1)..Expression::from(3),
            ..Expression::from(4),
        ))
        .realize::<R2<2, 4>>();
    assert_eq!(ops(&bench.check(y)), ["slice(0, 1..3)", "slice(1, 0..4)"]);

    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 5>>("x");
    let rows = x.slice((Expression::from(1).., ..)).realize::<R2<3, 5>>();
    let y = rows
        .contiguous()
        .reshape::<R2<5, 3>>()
        .permute::<R2<3, 5>, Axes2<1, 0>>()
        * rows;
    bench.check(y);

    let mut bench = Bench::default();
    let x = bench.load::<R2<2, 3>>("x");
    let y = x.pad::<R2<3, 5>, usize, usize>(&[(1, 0), (0, 2)]);
    assert_eq!(ops(&bench.check(y)), ["pad(0, 1, 0)", "pad(1, 0, 2)"]);

    let mut bench = Bench::default();
    let (a, b) = (bench.load::<R2<2, 3>>("a"), bench.load::<R2<2, 1>>("b"));
    let y = a.concat_along::<R2<2, 4>, Axis<1>, _>(b);
    bench.check(y.sin().sum_reduce::<R1<2>, Axis<1>>());

    // Padding of a single number, and of what is then permuted.
    let mut bench = Bench::default();
    let x = bench.load::<R1<5>>("x").sum_reduce::<R0, Axis<0>>();
    bench.check(x.reshape::<R1<1>>().pad::<R1<3>, usize, usize>(&[(1, 1)]));
    let mut bench = Bench::default();
    let x = bench.load::<R2<2, 3>>("x");
    let padded = x.pad::<R2<4, 3>, usize, usize>(&[(1, 1), (0, 0)]);
    bench.check(
        padded
            .permute::<R2<3, 4>, Axes2<1, 0>>()
            .contiguous()
            .reshape::<R3<3, 2, 2>>(),
    );
}

/// Lifts a product, compares it with luminal's, and expects one matrix product of this kind and
/// nothing else but reshapes.
fn check_matmul<S: Shape>(bench: &mut Bench, y: GraphTensor<S>, kind: &str) {
    let program = bench.check(y);
    assert_eq!(ops(&program), [kind], "{program}");
}

#[test]
fn matrix_products_of_vectors_and_matrices() {
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R1<3>>("x"), bench.load::<R2<3, 4>>("w"));
    check_matmul(&mut bench, x.matmul(w), "matmul_nn");
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R1<3>>("x"), bench.load::<R2<4, 3>>("w"));
    check_matmul(
        &mut bench,
        x.matmul(w.permute::<R2<3, 4>, Axes2<1, 0>>()),
        "matmul_nt",
    );

    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R2<2, 3>>("x"), bench.load::<R2<3, 4>>("w"));
    check_matmul(&mut bench, x.matmul(w), "matmul_nn");
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R2<3, 2>>("x"), bench.load::<R2<3, 4>>("w"));
    check_matmul(
        &mut bench,
        x.permute::<R2<2, 3>, Axes2<1, 0>>().matmul(w),
        "matmul_tn",
    );
}

#[test]
fn matrix_products_of_batches() {
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R3<2, 3, 4>>("x"), bench.load::<R2<4, 5>>("w"));
    check_matmul(&mut bench, x.matmul(w), "matmul_nn");
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R3<2, 3, 4>>("x"), bench.load::<R2<5, 4>>("w"));
    check_matmul(
        &mut bench,
        x.matmul(w.permute::<R2<4, 5>, Axes2<1, 0>>()),
        "matmul_nt",
    );

    let mut bench = Bench::default();
    let (x, y) = (
        bench.load::<R3<2, 3, 4>>("x"),
        bench.load::<R3<2, 4, 5>>("y"),
    );
    check_matmul(&mut bench, x.matmul(y), "matmul_nn");
    let mut bench = Bench::default();
    let (x, y) = (
        bench.load::<R3<2, 3, 4>>("x"),
        bench.load::<R3<2, 5, 4>>("y"),
    );
    check_matmul(
        &mut bench,
        x.matmul(y.permute::<R3<2, 4, 5>, Axes3<0, 2, 1>>()),
        "matmul_nt",
    );

    let mut bench = Bench::default();
    let (x, y) = (
        bench.load::<R4<2, 3, 4, 5>>("x"),
        bench.load::<R4<2, 3, 5, 2>>("y"),
    );
    check_matmul(&mut bench, x.matmul(y), "matmul_nn");
    let mut bench = Bench::default();
    let (x, w) = (
        bench.load::<R4<2, 3, 4, 5>>("x"),
        bench.load::<R2<5, 2>>("w"),
    );
    check_matmul(
        &mut bench,
        x.matmul(w.expand::<R4<2, 3, 5, 2>, Axes2<0, 1>>()),
        "matmul_nn",
    );
    let mut bench = Bench::default();
    let (x, y) = (
        bench.load::<R5<1, 2, 2, 3, 4>>("x"),
        bench.load::<R5<1, 2, 2, 4, 2>>("y"),
    );
    check_matmul(&mut bench, x.matmul(y), "matmul_nn");
}

#[test]
fn matrix_products_with_axes_of_size_1() {
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R3<1, 1, 3>>("x"), bench.load::<R2<3, 1>>("w"));
    check_matmul(&mut bench, x.matmul(w), "matmul_nn");
    let mut bench = Bench::default();
    let (x, w) = (bench.load::<R2<2, 1>>("x"), bench.load::<R2<1, 3>>("w"));
    bench.check(x.matmul(w));
}

/// Heads side by side, as attention reads them.
#[test]
fn matrix_products_of_heads() {
    let mut bench = Bench::default();
    let (q, k) = (
        bench.load::<R3<2, 3, 8>>("q"),
        bench.load::<R3<2, 5, 8>>("k"),
    );
    let q = q
        .reshape::<R4<2, 3, 2, 4>>()
        .permute::<R4<2, 2, 3, 4>, Axes4<0, 2, 1, 3>>();
    let k = k
        .reshape::<R4<2, 5, 2, 4>>()
        .permute::<R4<2, 2, 4, 5>, Axes4<0, 2, 3, 1>>();
    let program = bench.check(q.matmul(k));
    let expected = ["permute[0, 2, 1, 3]", "permute[0, 2, 1, 3]", "matmul_nt"];
    assert_eq!(ops(&program), expected, "{program}");
}

#[test]
fn sums_of_products_that_are_no_matrix_products() {
    // Of rows with their own partners.
    let mut bench = Bench::default();
    let [a, b] = ["a", "b"].map(|name| bench.load::<R2<3, 4>>(name));
    assert_eq!(
        ops(&bench.check((a * b).sum_reduce::<R1<3>, Axis<1>>())),
        ["mul", "sum[1]"]
    );
    let mut bench = Bench::default();
    let [a, b] = ["a", "b"].map(|name| bench.load::<R1<4>>(name));
    bench.check(a.dot(b));
    // Reshaped in between: the summed axis is not the product's.
    let mut bench = Bench::default();
    let a = bench.load::<R2<2, 4>>("a").expand::<R3<2, 4, 4>, Axis<1>>();
    let b = bench.load::<R2<4, 4>>("b").expand::<R3<2, 4, 4>, Axis<0>>();
    bench.check((a * b).reshape::<R2<8, 4>>().sum_reduce::<R1<8>, Axis<1>>());
    let mut bench = Bench::default();
    let a = bench.load::<R2<2, 4>>("a").expand::<R3<2, 4, 4>, Axis<1>>();
    let b = bench.load::<R2<4, 4>>("b").expand::<R3<2, 4, 4>, Axis<0>>();
    bench.check(
        (a * b)
            .reshape::<R3<4, 4, 2>>()
            .sum_reduce::<R2<4, 4>, Axis<2>>(),
    );
    // But one is, although its terms are read once more.
    let mut bench = Bench::default();
    let a = bench.load::<R2<2, 3>>("a").expand::<R3<2, 4, 3>, Axis<1>>();
    let b = bench.load::<R2<4, 3>>("b").expand::<R3<2, 4, 3>, Axis<0>>();
    let product = a * b;
    let sum = product.sum_reduce::<R2<2, 4>, Axis<2>>();
    let program = bench.check(product + sum.expand::<R3<2, 4, 3>, Axis<2>>());
    assert!(ops(&program).contains(&"matmul_nt".to_owned()), "{program}");
}

#[test]
fn softmax_and_normalisation_are_one_operation() {
    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    assert_eq!(ops(&bench.check(x.softmax::<2>())), ["softmax"]);
    let mut bench = Bench::default();
    let x = bench.load::<R1<4>>("x");
    assert_eq!(ops(&bench.check(x.softmax::<0>())), ["softmax"]);
    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 4>>("x");
    assert_eq!(ops(&bench.check(x.softmax::<1>())), ["softmax"]);

    let mut bench = Bench::default();
    let x = bench.load::<R3<2, 3, 4>>("x");
    let program = bench.check(x.layer_norm::<2, _>(1e-3));
    assert_eq!(ops(&program).len(), 1, "{program}");
    assert!(ops(&program)[0].starts_with("normalize(0.001"), "{program}");
    let mut bench = Bench::default();
    let x = bench.load::<R1<4>>("x");
    assert_eq!(ops(&bench.check(x.layer_norm::<0, _>(1e-5))).len(), 1);

    // Over another axis they stay what luminal makes of them.
    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 4>>("x");
    assert!(!ops(&bench.check(x.softmax::<0>())).contains(&"softmax".to_owned()));
    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 4>>("x");
    assert!(ops(&bench.check(x.layer_norm::<0, _>(1e-5))).len() > 1);
    // As does the normalisation by the root mean square.
    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 4>>("x");
    assert!(ops(&bench.check(x.std_norm::<1, _>(1e-5))).len() > 1);
}

/// In a square matrix a column of sums can be transposed into a row of them: nearly a softmax.
#[test]
fn what_only_looks_like_softmax_or_normalisation_is_not_recognised() {
    type Square = R2<4, 4>;
    let softmax =
        |x: GraphTensor<Square>, transpose_max: bool, transpose_sum: bool, log2_e: f32| {
            let transpose = |column: GraphTensor<R1<4>>, transpose: bool| {
                if transpose {
                    column.expand::<Square, Axis<0>>()
                } else {
                    column.expand::<Square, Axis<1>>()
                }
            };
            let e = ((x - transpose(x.max_reduce::<_, Axis<1>>(), transpose_max)) * log2_e).exp2();
            e / transpose(e.sum_reduce::<_, Axis<1>>(), transpose_sum)
        };
    let log2_e = std::f32::consts::LOG2_E;
    for (transpose_max, transpose_sum, factor, recognised) in [
        (false, false, log2_e, true),
        (true, false, log2_e, false),
        (false, true, log2_e, false),
        (false, false, 1.4, false),
    ] {
        let mut bench = Bench::default();
        let x = bench.load::<Square>("x");
        let program = bench.check(softmax(x, transpose_max, transpose_sum, factor));
        assert_eq!(ops(&program) == ["softmax"], recognised, "{program}");
    }

    let normalize =
        |x: GraphTensor<Square>, transpose_mean: bool, transpose_root: bool, width: f32| {
            let transpose = |column: GraphTensor<R1<4>>, transpose: bool| {
                if transpose {
                    column.expand::<Square, Axis<0>>()
                } else {
                    column.expand::<Square, Axis<1>>()
                }
            };
            let mean = |x: GraphTensor<Square>| x.sum_reduce::<R1<4>, Axis<1>>() / width;
            let c = x - transpose(mean(x), transpose_mean);
            c * transpose((mean(c * c) + 1e-3).sqrt().recip(), transpose_root)
        };
    for (transpose_mean, transpose_root, width, recognised) in [
        (false, false, 4.0, true),
        (true, false, 4.0, false),
        (false, true, 4.0, false),
        (false, false, 3.0, false),
    ] {
        let mut bench = Bench::default();
        let x = bench.load::<Square>("x");
        let program = bench.check(normalize(x, transpose_mean, transpose_root, width));
        assert_eq!(ops(&program).len() == 1, recognised, "{program}");
    }
}

#[test]
fn dynamic_dimensions_take_their_values_from_the_graph() {
    type Any = (Dyn<'b'>, Const<3>);
    let mut bench = Bench::default();
    let x = bench.cx.named_tensor::<Any>("x");
    let w = bench.load::<R2<3, 4>>("w");
    let y = x.matmul(w).softmax::<1>();
    assert!(
        bench.message(y).contains("set it with `set_dyn_dim`"),
        "{}",
        bench.message(y)
    );
    for rows in [2, 5] {
        let value = normal("x", &[rows, 3], 1.0);
        x.set_dyn(floats(&value), &[rows, 3]);
        bench.cx.tensors.clear();
        bench.bindings.insert("x".into(), rounded(value));
        let program = bench.check(y);
        assert_eq!(ops(&program), ["matmul_nn", "softmax"], "{program}");
        let ty = |name: &str| {
            program
                .inputs()
                .find(|leaf| *leaf.name == *name)
                .unwrap()
                .ty
                .clone()
        };
        assert_eq!(ty("x"), Type::f32([rows, 3]));
    }
}

#[test]
fn loads_without_a_name_are_inputs_under_luminals() {
    let mut cx = Box::new(Graph::new());
    let [a, b] = [(); 2].map(|()| cx.tensor::<R1<3>>());
    let c = cx.named_tensor::<R1<3>>("c");
    let y = a * b + c;
    let program = lift(&cx, &Leaves::default(), &[Output::of("y", &y)]).unwrap();
    let names: Vec<&str> = program.inputs().map(|leaf| &*leaf.name).collect();
    let numbered = [a, b].map(|x| format!("Tensor.{}", x.id.index()));
    assert_eq!(names, [&numbered[0], &numbered[1], "c"]);
}

/// What luminal computes wrongly, or for what reason not at all, is refused by its node.
fn refused(bench: &Bench, message: String, label: &str, reason: &str) {
    let graph = &bench.cx.graph;
    let mut nodes = graph.node_indices();
    let node = nodes.find(|&n| format!("{:?}", graph[n]) == label).unwrap();
    let start = format!("node {} ({label}): ", node.index());
    assert!(
        message.starts_with(&start) && message.contains(reason),
        "{message}"
    );
}

#[test]
fn sums_that_luminal_computes_wrongly_are_refused() {
    let mut bench = Bench::default();
    let x = bench
        .load::<R3<2, 3, 4>>("x")
        .permute::<R3<4, 2, 3>, Axes3<2, 0, 1>>();
    let y = x.sum_reduce::<R2<4, 2>, Axis<2>>().retrieve();
    refused(&bench, bench.message(y), "SumReduce(2)", "permuted");
    bench.cx.execute();
    let value = &bench.bindings["x"];
    let right = Tensor::from_fn(&[4, 2], |i| {
        (0..3).map(|j| value.at(&[i[1], j, i[0]])).sum()
    });
    assert!(!close(
        &right,
        &Tensor::new([4, 2], doubles(&y.data())),
        0.1
    ));
    // As the message says:
    let mut bench = Bench::default();
    let x = bench
        .load::<R3<2, 3, 4>>("x")
        .permute::<R3<4, 2, 3>, Axes3<2, 0, 1>>();
    let y = x.contiguous().sum_reduce::<R2<4, 2>, Axis<2>>();
    let program = bench.check(y);
    assert!(close(
        &program.eval(&bench.bindings, DRAW).unwrap()["y"],
        &right,
        TOLERANCE
    ));
}

#[test]
fn slices_that_luminal_reads_wrongly_are_refused() {
    let mut bench = Bench::default();
    let x = bench.load::<R2<4, 6>>("x");
    let sliced = x.slice((.., Expression::from(2)..)).realize::<R2<4, 4>>();
    let y = sliced.reshape::<R2<2, 8>>();
    refused(
        &bench,
        bench.message(y),
        "x Load",
        "24 elements is read as one of 16",
    );
    let middle = x
        .slice((.., Expression::from(1)..Expression::from(3)))
        .realize::<R2<4, 2>>();
    let y = middle.sum_reduce::<R1<4>, Axis<1>>();
    refused(&bench, bench.message(y), "SumReduce(1)", "sliced");
    let y = sliced.sum_reduce::<R1<4>, Axis<0>>();
    let message = bench.message(y);
    assert!(
        message.contains("4 elements is read as one of 6"),
        "{message}"
    );
    let y = sliced.pad::<R2<4, 5>, usize, usize>(&[(0, 0), (0, 1)]);
    bench.check(y);
}

#[test]
fn padding_that_luminal_computes_wrongly_is_refused() {
    let mut bench = Bench::default();
    let x = bench.load::<R2<2, 3>>("x");
    let padded = x.pad::<R2<2, 5>, usize, usize>(&[(0, 0), (1, 1)]);
    refused(
        &bench,
        bench.message(padded.exp2()),
        "Exp2",
        "leaves padding 0",
    );
    let y = padded.max_reduce::<R1<2>, Axis<1>>();
    refused(
        &bench,
        bench.message(y),
        "MaxReduce(1)",
        "leaves padding out",
    );
    let repeated = bench.load::<R1<3>>("row").expand::<R2<2, 3>, Axis<0>>();
    let y = repeated.pad::<R2<3, 3>, usize, usize>(&[(0, 1), (0, 0)]);
    refused(&bench, bench.message(y), "row Load", "repeated");
    let mut bench = Bench::default();
    let x = bench.load::<R2<2, 3>>("x");
    bench.check(
        x.pad::<R2<2, 5>, usize, usize>(&[(0, 0), (1, 1)])
            .sin()
            .contiguous(),
    );
    let mut bench = Bench::default();
    let x = bench.load::<R2<2, 3>>("x");
    let padded = x.pad::<R2<2, 5>, usize, usize>(&[(0, 0), (1, 1)]);
    bench.check(padded.contiguous().max_reduce::<R1<2>, Axis<1>>());
}

#[test]
fn ranges_without_values_are_refused() {
    let mut bench = Bench::default();
    let y = bench.cx.arange::<Const<4>>();
    assert!(
        bench.message(y).contains("give the values of `arange`"),
        "{}",
        bench.message(y)
    );
}

#[derive(Debug, PartialEq)]
struct Custom;

impl Operator for Custom {
    fn process(&mut self, _: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        Vec::new()
    }
}

#[test]
fn other_operators_are_refused_by_name() {
    let mut cx = Box::new(Graph::new());
    let x = cx.tensor::<R1<3>>();
    let function = op::Function("f".into(), Box::new(|_| Vec::new()));
    let nodes = [
        (cx.add_op(Custom).input(x.id, 0, x.shape).finish(), "Custom"),
        (
            cx.add_op(op::Print("x".into()))
                .input(x.id, 0, x.shape)
                .finish(),
            "Print-x",
        ),
        (cx.add_op(function).input(x.id, 0, x.shape).finish(), "f"),
    ];
    for (node, label) in nodes {
        let y = GraphTensor::<R1<3>>::from_id(node, x.shape, &mut *cx).sin();
        let error = lift(&cx, &Leaves::default(), &[Output::of("y", &y)]).unwrap_err();
        let start = format!(
            "node {} ({label}): the operation is not part of",
            node.index()
        );
        assert!(error.to_string().starts_with(&start), "{error}");
    }
    // What only prints is not in the way.
    x.print("x");
    assert!(lift(&cx, &Leaves::default(), &[Output::of("y", &x.sin())]).is_ok());
}

#[test]
fn an_output_of_another_graph_is_refused() {
    let [mut cx, mut other] = [(); 2].map(|()| Box::new(Graph::new()));
    let [here, there] = [cx.tensor::<R1<3>>().sin(), other.tensor::<R1<3>>().sqrt()];
    let leaves = Leaves::default();
    assert!(lift(&cx, &leaves, &[Output::of("y", &here)]).is_ok());
    let error = lift(&cx, &leaves, &[Output::of("y", &there)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "output `y` is not in the graph; was it made in another one?"
    );
    let nowhere = Output::new("z", NodeIndex::new(1000), &[3]);
    let error = lift(&cx, &leaves, &[nowhere]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("output `z` is not in the graph")
    );
}

#[ailora_graph::adapt(q = principal(2), v = minor(2), v_lr = 2.0)]
struct Attention {
    q: Linear<8, 8>,
    k: Linear<8, 8>,
    v: Linear<8, 8>,
    output: Linear<8, 8>,
}

#[derive(Module)]
struct Block {
    attention: Attention,
    up: Linear<8, 16>,
    down: Linear<16, 8>,
}

type Sequence = GraphTensor<R3<2, 3, 8>>;

impl Attention {
    fn forward(&self, x: Sequence) -> Sequence {
        let heads = |x: Sequence| {
            x.reshape::<R4<2, 3, 2, 4>>()
                .permute::<R4<2, 2, 3, 4>, Axes4<0, 2, 1, 3>>()
        };
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|linear| heads(linear.forward(x)));
        let scores = q.matmul(k.permute::<R4<2, 2, 4, 3>, Axes4<0, 1, 3, 2>>()) / 2.0;
        let mixed = scores.softmax::<3>().matmul(v);
        let merged = mixed
            .permute::<R4<2, 3, 2, 4>, Axes4<0, 2, 1, 3>>()
            .reshape::<R3<2, 3, 8>>();
        self.output.forward(merged)
    }
}

impl Block {
    fn new(cx: &mut Graph) -> Self {
        Self {
            attention: Attention {
                q: Linear::initialize(cx),
                k: Linear::initialize(cx),
                v: Linear::initialize(cx),
                output: Linear::initialize(cx),
            },
            up: Linear::initialize(cx),
            down: Linear::initialize(cx),
        }
    }

    fn forward(&self, x: Sequence) -> Sequence {
        let x = (x + self.attention.forward(x)).layer_norm::<2, _>(1e-5);
        let inner = self.down.forward(self.up.forward(x).swish());
        (x + inner).layer_norm::<2, _>(1e-5)
    }
}

/// Two blocks in luminal's API alone, and their value there.
fn transformer() -> (Program, Vec<Block>, Bindings, Tensor) {
    let mut cx = Box::new(Graph::new());
    let blocks: Vec<Block> = (0..2).map(|_| Block::new(&mut cx)).collect();
    let x = cx.named_tensor::<R3<2, 3, 8>>("x");
    let y = blocks
        .iter()
        .fold(x, |x, block| block.forward(x))
        .retrieve();
    let program = lift(&cx, &Leaves::of(&blocks), &[Output::of("y", &y)]).unwrap();
    let mut bindings = Bindings::new();
    bind(&program, &mut bindings);
    bindings
        .values_mut()
        .for_each(|value| *value = rounded(value.clone()));
    let (parameters, _) = Visitor::inventory(&blocks);
    set(&mut cx, x.id, &bindings["x"]);
    for parameter in parameters {
        set(&mut cx, parameter.node, &bindings[&parameter.name]);
    }
    cx.execute();
    let value = Tensor::new([2, 3, 8], doubles(&y.data()));
    (program, blocks, bindings, value)
}

/// Gives a load its value.
fn set(cx: &mut Graph, node: NodeIndex, value: &Tensor) {
    let data = floats(value);
    let load = cx.graph.node_weight_mut(node).unwrap().as_any_mut();
    load.downcast_mut::<op::Function>().unwrap().1 =
        Box::new(move |_| vec![Data::new(data.clone())]);
}

#[test]
fn a_transformer_in_luminals_own_api() {
    let (program, _, bindings, expected) = transformer();
    let found = &program.eval(&bindings, DRAW).unwrap()["y"];
    assert!(
        close(found, &expected, TOLERANCE),
        "{:?}\n{:?}",
        found.data,
        expected.data
    );

    let ops = ops(&program);
    let count = |start: &str| ops.iter().filter(|op| op.starts_with(start)).count();
    // Per block: four projections, scores, mixture, two in the feed-forward part.
    assert_eq!(count("matmul"), 16, "{program}");
    assert_eq!(
        count("matmul_nn"),
        14,
        "only the scores read their right side transposed"
    );
    assert_eq!([count("softmax"), count("normalize")], [2, 4]);
    assert_eq!(
        [count("sum"), count("max"), count("sqrt")],
        [0, 0, 0],
        "{program}"
    );
    // The weights are read as they lie.
    for id in program
        .ids()
        .filter(|&id| matches!(program[id].op, Op::Frozen(_)))
    {
        let live = program.live();
        let mut readers = program
            .ids()
            .filter(|&r| live[usize::from(r)] && program[r].args.contains(&id));
        let product = MatMul {
            trans_a: false,
            trans_b: false,
        };
        assert!(
            readers.all(|r| program[r].op == Op::MatMul(product)),
            "{program}"
        );
    }
}

#[test]
fn a_transformer_in_luminals_own_api_adapts_and_trains() {
    let (program, blocks, mut bindings, expected) = transformer();
    let (_, sites) = Visitor::inventory(&blocks);
    let config = r#"{"sites": {"q": {"alpha": 6.0}, "1.attention.v": {"alpha": 1.0, "scaling": "rank_stabilized"},
        "0.up": {"init": "random", "rank": 3, "alpha": 2.0}}}"#;
    let config: AdaptConfig = serde_json::from_str(config).unwrap();
    let sites = config.resolve(sites).unwrap();
    let mut adapted = adapt(&program, &sites, &Trainable::Adapters, Mode::Train).unwrap();
    let y = adapted.outputs()["y"];
    let weights = adapted.input("weights", Type::f32([2, 3, 8])).unwrap();
    let product = adapted.product(y, weights).unwrap();
    let sum = adapted.add(Reduce::sum([0, 1, 2]), &[product]).unwrap();
    let loss = adapted.reshape(sum, &[]).unwrap();
    adapted.set_output("loss", loss);
    let trained: Vec<String> = adapted
        .trained_parameters()
        .map(|leaf| leaf.name.to_string())
        .collect();
    assert_eq!(trained.len(), 2 * 5);
    assert!(
        trained.contains(&"1.attention.v.lora_B.weight".to_owned()),
        "{trained:?}"
    );

    bind(&adapted, &mut bindings);
    for site in sites.iter().filter(|site| site.spec.trains()) {
        if site.path == "0.up" {
            bindings.insert(site.lora_b(), Tensor::new([16, 3], vec![0.0; 48]));
        } else {
            bindings.insert(site.lora_a(), bindings[&site.lora_a0()].clone());
            bindings.insert(site.lora_b(), bindings[&site.lora_b0()].clone());
        }
    }
    let start = &adapted.eval(&bindings, DRAW).unwrap()["y"];
    assert!(close(start, &expected, TOLERANCE));

    for name in &trained {
        let moved = normal(&format!("moved {name}"), &bindings[name].shape, 0.5);
        bindings.insert(name.clone(), moved);
    }
    let backward = gradients(&adapted, "loss").unwrap();
    let found = backward.eval(&bindings, DRAW).unwrap();
    for name in &trained {
        // The slope along a random direction.
        let at = &bindings[name];
        let direction = normal(&format!("direction {name}"), &at.shape, 1.0);
        let loss = |h: f64| {
            let data: Vec<f64> = at
                .data
                .iter()
                .zip(&direction.data)
                .map(|(x, d)| x + h * d)
                .collect();
            let mut bindings = bindings.clone();
            bindings.insert(name.clone(), Tensor::new(at.shape.clone(), data));
            adapted.eval(&bindings, DRAW).unwrap()["loss"].data[0]
        };
        let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
        let gradient = &found[&*gradient_name(name)];
        let along: f64 = gradient
            .data
            .iter()
            .zip(&direction.data)
            .map(|(g, d)| g * d)
            .sum();
        let near = (along - expected).abs() <= 1e-7 * expected.abs().max(0.01);
        assert!(near, "{name}: {along} but differences give {expected}");
    }
}

/// The values of `outputs` by luminal's own execution of a graph of our dialect.
fn execute(cx: Cx, loads: &[(NodeIndex, &Tensor)], outputs: &[NodeIndex]) -> Vec<Vec<f64>> {
    let mut graph = cx.into_graph();
    for (node, value) in loads {
        set(&mut graph, *node, value);
    }
    graph.no_delete.extend(outputs);
    graph.execute();
    outputs
        .iter()
        .map(|&node| {
            let data = &graph.get_tensor_ref(node, 0).unwrap().data;
            doubles(data.as_any().downcast_ref::<Vec<f32>>().unwrap())
        })
        .collect()
}

#[test]
fn luminal_runs_a_model_of_our_dialect() {
    let cx = Cx::new();
    let model = Encoder::new(&cx, 2);
    let ids = cx.input("ids", Type::i32([BATCH, LENGTH]));
    let mask = cx.input("mask", Type::f32([BATCH, LENGTH]));
    let labels = cx.input("labels", Type::i32([BATCH]));
    let logits = model.forward(&ids, &mask, 0.1);
    let loss = logits.cross_entropy(&labels);
    let program = cx
        .program(&model, &[("logits", &logits), ("loss", &loss)])
        .unwrap();
    let mut bindings = encoder_inputs();
    bind(&program, &mut bindings);
    let expected = program.eval(&bindings, DRAW).unwrap();

    let (parameters, _) = Visitor::inventory(&model);
    let mut loads: Vec<(NodeIndex, &Tensor)> = parameters
        .iter()
        .map(|p| (p.node, &bindings[&p.name]))
        .collect();
    for (tensor, name) in [(&ids, "ids"), (&mask, "mask"), (&labels, "labels")] {
        loads.push((tensor.node(), &bindings[name]));
    }
    let outputs = [logits.node(), loss.node()];
    for (found, expected) in execute(cx, &loads, &outputs)
        .into_iter()
        .zip(expected.values())
    {
        let found = Tensor::new(expected.shape.clone(), found);
        assert!(
            close(&found, expected, TOLERANCE),
            "{:?}\n{:?}",
            found.data,
            expected.data
        );
    }
}

#[test]
fn luminal_runs_every_method_of_our_tensors() {
    let cx = Cx::new();
    let x = cx.input("x", Type::f32([2, 3, 4]));
    let w = cx.input("w", Type::f32([4, 4]));
    let outputs = [
        x.matmul(&w),
        x.matmul_t(&w),
        x.matmul_t(&x),
        x.reshape([3, 8]).permute([1, 0]).slice(0, 2, 7),
        x.sum([0, 2]),
        x.mean([1]),
        x.softmax(),
        x.normalize(1e-3),
        x.gelu_tanh(),
        &x.silu() - &w.slice(0, 0, 1).tanh(),
        &x.relu() / &(&x * &x).shift(0.5),
        x.reshape([1, 2, 1, 3, 1, 2, 2])
            .permute([6, 5, 4, 3, 2, 1, 0])
            .scale(3.0),
    ];
    let names: Vec<String> = (0..outputs.len()).map(|i| i.to_string()).collect();
    let named: Vec<_> = names.iter().map(String::as_str).zip(&outputs).collect();
    let program = cx.program(&(), &named).unwrap();
    let mut bindings = Bindings::new();
    bind(&program, &mut bindings);
    let expected = program.eval(&bindings, DRAW).unwrap();
    let loads = [(x.node(), &bindings["x"]), (w.node(), &bindings["w"])];
    let nodes: Vec<NodeIndex> = outputs.iter().map(|output| output.node()).collect();
    for (found, (name, expected)) in execute(cx, &loads, &nodes).into_iter().zip(&expected) {
        let found = Tensor::new(expected.shape.clone(), found);
        assert!(
            close(&found, expected, TOLERANCE),
            "{name}: {:?}",
            found.data
        );
    }
}

#[test]
fn what_does_not_fit_in_our_dialect_is_named() {
    let cx = Cx::new();
    let x = cx.input("x", Type::f32([2, 3]));
    let y = x.matmul(&x).softmax().reshape([5]);
    let error = cx.program(&(), &[("y", &y)]).unwrap_err();
    let expected =
        "matmul_nn of f32[2, 3], f32[2, 3]: expected equal inner dimensions, found 3 and 2";
    assert_eq!(error.to_string(), expected);
}
