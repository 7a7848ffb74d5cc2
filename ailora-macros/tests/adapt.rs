//! What the implementations show: paths, shapes and specifications, in field order.

use ailora_graph::{
    AdapterSpec, Module, Projection, Scaling, Visitor, adapt,
    adapter::{Layout, Site},
    method::constructors::{minor, principal, random},
};
use luminal::{
    nn::{Repeated, linear::Linear, norm::RMSNorm},
    prelude::{Graph, GraphTensor, InitModule, R1},
};

type Shown = (Vec<(String, Vec<usize>)>, Vec<(String, AdapterSpec)>);

fn inventory<M: Module>(model: &M) -> Shown {
    let (parameters, sites) = Visitor::inventory(model);
    let parameters = parameters.into_iter().map(|p| (p.name, p.shape));
    (
        parameters.collect(),
        sites
            .into_iter()
            .map(|site| (site.path, site.spec))
            .collect(),
    )
}

fn names<M: Module>(model: &M) -> Vec<String> {
    inventory(model)
        .0
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

fn linear<const A: usize, const B: usize>() -> Linear<A, B> {
    Linear::initialize(&mut Graph::default())
}

const fn half(n: usize) -> usize {
    n / 2
}

const RATE: f64 = 0.5;

#[adapt(
    q = principal(half(D)),
    k_lr = 4,
    k = full,
    v = minor(Self::RANK),
    v_alpha = 16.0,
    o = frozen,
    v_lr = RATE * 4.0,
    alpha = D as f64,
    dropout = 0.1,
    scaling = rank_stabilized,
    dora = true
)]
struct Attention<const D: usize, const INNER: usize> {
    #[module(name = "self.query")]
    q: Linear<D, INNER>,
    k: Linear<D, INNER>,
    v: Linear<D, INNER>,
    o: Linear<INNER, D>,
    #[module(skip)]
    _heads: fn() -> usize,
}

impl<const D: usize, const INNER: usize> Attention<D, INNER> {
    const RANK: usize = 3;

    fn new() -> Self {
        Self {
            q: linear(),
            k: linear(),
            v: linear(),
            o: linear(),
            _heads: || 2,
        }
    }
}

/// Parameters and sites of an `Attention<8, 6>` under a prefix.
fn attention(prefix: &str) -> Shown {
    let low_rank = |spec: AdapterSpec| {
        let spec = spec.with_dropout(0.1).with_dora(true);
        spec.with_scaling(Scaling::RankStabilized)
    };
    let parameters = [
        ("self.query", [8, 6]),
        ("k", [8, 6]),
        ("v", [8, 6]),
        ("o", [6, 8]),
    ];
    let sites = [
        ("self.query", low_rank(principal(4).with_alpha(8.0))),
        ("k", AdapterSpec::full().with_lr(4.0)),
        ("v", low_rank(minor(3).with_lr(2.0).with_alpha(16.0))),
        ("o", AdapterSpec::frozen()),
    ];
    (
        parameters
            .map(|(name, shape)| (format!("{prefix}{name}.weight"), shape.into()))
            .into(),
        sites
            .map(|(path, spec)| (format!("{prefix}{path}"), spec))
            .into(),
    )
}

#[test]
fn every_field_is_shown_with_its_specification() {
    assert_eq!(inventory(&Attention::<8, 6>::new()), attention(""));
}

#[test]
fn sites_have_the_shapes_of_their_weights() {
    let (_, sites) = Visitor::inventory(&Attention::<8, 6>::new());
    let low_rank = principal(4).with_alpha(8.0).with_dropout(0.1);
    let expected = Site {
        path: "self.query".into(),
        weight: "self.query.weight".into(),
        bias: None,
        in_features: 8,
        out_features: 6,
        layout: Layout::InOut,
        spec: low_rank
            .with_scaling(Scaling::RankStabilized)
            .with_dora(true),
    };
    assert_eq!(sites[0], expected);
    assert_eq!((sites[3].in_features, sites[3].out_features), (6, 8));
}

#[derive(Module)]
struct Block<M> {
    attention: Attention<8, 6>,
    mlp: M,
}

#[derive(Module)]
struct Mlp(Linear<8, 32>, #[module(skip)] (), Linear<32, 8>);

#[derive(Module)]
struct Model<M, const LAYERS: usize> {
    #[module(flatten)]
    embeddings: Embeddings,
    #[module(name = "encoder.layer")]
    layers: Vec<Block<M>>,
    experts: [Option<Mlp>; LAYERS],
    pooler: Option<Linear<8, 8>>,
    repeated: Repeated<RMSNorm<4>, 2>,
    boxed: Box<Linear<2, 2>>,
    heads: usize,
}

#[derive(Module)]
struct Embeddings {
    scale: GraphTensor<R1<8>>,
}

#[test]
fn parents_vectors_options_and_arrays_are_walked() {
    let mut cx = Graph::default();
    let block = || Block {
        attention: Attention::new(),
        mlp: Mlp(linear(), (), linear()),
    };
    let model = Model {
        embeddings: Embeddings { scale: cx.tensor() },
        layers: vec![block(), block()],
        experts: [None, Some(Mlp(linear(), (), linear()))],
        pooler: None,
        repeated: Repeated::initialize(&mut cx),
        boxed: Box::new(linear()),
        heads: 2,
    };
    let (parameters, sites) = inventory(&model);
    let mut expected = (vec![("scale".to_owned(), vec![8])], Vec::new());
    let mlp = |path: String, expected: &mut Shown| {
        for (field, shape) in [("0", [8, 32]), ("2", [32, 8])] {
            expected
                .0
                .push((format!("{path}.{field}.weight"), shape.into()));
            expected
                .1
                .push((format!("{path}.{field}"), AdapterSpec::frozen()));
        }
    };
    for i in 0..2 {
        let (parameters, sites) = attention(&format!("encoder.layer.{i}.attention."));
        expected.0.extend(parameters);
        expected.1.extend(sites);
        mlp(format!("encoder.layer.{i}.mlp"), &mut expected);
    }
    mlp("experts.1".to_owned(), &mut expected);
    expected.0.push(("repeated.0.weight".into(), vec![4]));
    expected.0.push(("repeated.1.weight".into(), vec![4]));
    expected.0.push(("boxed.weight".into(), vec![2, 2]));
    expected.1.push(("boxed".into(), AdapterSpec::frozen()));
    assert_eq!((parameters, sites), expected);
    assert_eq!(model.heads, 2);
}

#[adapt(v_lr = principal(2), alpha = random(2), v = minor(2), alpha_alpha = 4.0)]
struct Ambiguous {
    v: Linear<4, 4>,
    v_lr: Linear<4, 4>,
    alpha: Linear<4, 4>,
    r#type: Linear<4, 4>,
}

#[test]
fn a_key_that_is_a_field_is_the_field() {
    let model = Ambiguous {
        v: linear(),
        v_lr: linear(),
        alpha: linear(),
        r#type: linear(),
    };
    let expected = [
        ("v", minor(2)),
        ("v_lr", principal(2)),
        ("alpha", random(2).with_alpha(4.0)),
        ("type", AdapterSpec::frozen()),
    ];
    assert_eq!(
        inventory(&model).1,
        expected.map(|(path, spec)| (path.to_owned(), spec))
    );
}

#[adapt(q = principal(2), k = random(R))]
struct Generic<P, Q: Projection, const R: usize> {
    q: P,
    k: Option<Q>,
}

#[test]
fn fields_of_a_parameters_type_are_adapted() {
    let shown = |k| {
        let q = linear::<2, 3>();
        inventory(&Generic::<_, Linear<5, 4>, 4> { q, k }).1
    };
    let q = ("q".to_owned(), principal(2));
    let k = ("k".to_owned(), random(4));
    assert_eq!(
        shown(None),
        std::slice::from_ref(&q),
        "what is absent leaves no specification behind"
    );
    assert_eq!(shown(Some(linear())), [q, k]);
}

#[derive(Module)]
enum Feedforward {
    Dense {
        up: Box<Linear<2, 4>>,
        down: Box<Linear<4, 2>>,
    },
    Single(Box<Linear<2, 2>>),
    Skipped(#[module(skip)] (), #[module(flatten)] Box<Linear<2, 2>>),
    Absent,
}

#[test]
fn enums_show_the_fields_of_their_variant() {
    let dense = Feedforward::Dense {
        up: Box::new(linear()),
        down: Box::new(linear()),
    };
    assert_eq!(names(&dense), ["up.weight", "down.weight"]);
    assert_eq!(
        names(&Feedforward::Single(Box::new(linear()))),
        ["0.weight"]
    );
    assert_eq!(
        names(&Feedforward::Skipped((), Box::new(linear()))),
        ["weight"]
    );
    assert!(names(&Feedforward::Absent).is_empty());
}

#[adapt(q = principal(2), absent = frozen)]
struct Conditional {
    #[cfg(test)]
    q: Linear<4, 4>,
    #[cfg(not(test))]
    q: NoSuchType,
    #[cfg(not(test))]
    absent: NoSuchType,
}

#[test]
fn conditional_fields_are_shown_where_they_exist() {
    let sites = inventory(&Conditional { q: linear() }).1;
    assert_eq!(sites, [("q".to_owned(), principal(2))]);
}
