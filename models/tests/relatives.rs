//! LoRA+, OLoRA, MiCA, LoRA-FA, VeRA and IA3 by their definitions: values, gradients, starts, what is merged
//! and what is saved. `methods.rs` has them beside PEFT.

mod support;

use std::collections::HashMap;

use ailora_graph::{
    AdaptConfig, AdapterSpec, Strategy,
    adapt::{Mode, adapt},
    adapter::{AdapterError, Layout, Site, Trainable},
    element_types::element_types,
    ir::{Bindings, DType, Draw, Op, Program, Tensor, Type},
    method::{
        Ia3, LoraFa, LoraPlus, METHODS, Method, Mica, Olora, Vera,
        constructors::{
            ia3, ia3_input, mica, minor, olora, principal, random, random_frozen, vera,
        },
    },
};
use ailora_models::{batch::Batch, head::Head, peft::Adapter, pretrained::Pretrained};
use ailora_runtime::{
    engine::PlanId,
    init::initialise,
    optim::{AdamW, AdamWConfig, Group, Schedule, ScheduleKind},
    passes::{Fusion, Passes},
    run::Value,
    spectrum::Options,
    store::{Array, Params},
    train::{MicroBatch, Trainer},
    weights::Weights,
};
use indexmap::IndexMap;
use support::{File, device, fixtures, largest_difference, run};

/// One projection of each layout, with a bias.
fn site(path: &str, [out, inputs]: [usize; 2], layout: Layout, spec: AdapterSpec) -> Site {
    Site {
        path: path.into(),
        weight: format!("{path}.weight"),
        bias: Some(format!("{path}.bias")),
        in_features: inputs,
        out_features: out,
        layout,
        spec,
    }
}

fn lying(site: &Site) -> [usize; 2] {
    match site.layout {
        Layout::OutIn => [site.out_features, site.in_features],
        Layout::InOut => [site.in_features, site.out_features],
    }
}

/// `y = x W^T + b` of each site by itself, and the sum of the squares of all.
fn program(sites: &[Site], rows: usize) -> Program {
    let mut p = Program::new();
    let mut total = p.constant(0.0);
    for site in sites {
        let input = format!("x.{}", site.path);
        let x = p
            .input(&input, Type::f32([rows, site.in_features]))
            .unwrap();
        let weight = p.frozen(&site.weight, Type::f32(lying(site))).unwrap();
        let bias = p.frozen(site.bias.as_ref().unwrap(), Type::f32([site.out_features]));
        let y = p
            .matmul(x, false, weight, site.layout == Layout::OutIn)
            .unwrap();
        let y = p.sum(y, bias.unwrap()).unwrap();
        let squares = p.product(y, y).unwrap();
        let loss = p.sum_to(squares, &[]).unwrap();
        total = p.sum(total, loss).unwrap();
        p.set_output(format!("y.{}", site.path), y);
    }
    p.set_output("loss", total);
    p
}

/// Normal numbers fixed by a name.
fn normal(name: &str, shape: &[usize]) -> Array {
    let key = Draw::default().key(name);
    let numbers = 0..shape.iter().product::<usize>() as u64;
    Array::new(shape, numbers.map(|i| key.normal(i) as f32).collect())
}

/// Weights and biases of the sites, with their adapters at their starts.
fn started(sites: &[Site], seed: u64) -> Params {
    let mut params = Params::new();
    for site in sites {
        params.insert(site.weight.clone(), normal(&site.weight, &lying(site)));
        let bias = site.bias.clone().unwrap();
        params.insert(bias.clone(), normal(&bias, &[site.out_features]));
    }
    initialise(sites, &mut params, seed, &Options::default(), |_| {}).unwrap();
    params
}

/// What trains, moved.
fn moved(sites: &[Site], params: &Params) -> Params {
    let mut params = params.clone();
    for (name, _) in Trainable::Adapters.rates(sites, []) {
        let shape = params[&name].shape().to_vec();
        let step = normal(&format!("step.{name}"), &shape);
        let (own, step) = (params[&name].floats().into_owned(), step.into_floats());
        let numbers = own.into_iter().zip(step).map(|(x, step)| x + 0.3 * step);
        let numbers = numbers.collect();
        params.insert(name, Array::new(shape, numbers));
    }
    params
}

fn bindings(program: &Program, params: &Params) -> Bindings {
    let leaves = program.inputs().chain(program.frozen_parameters());
    let leaves = leaves.chain(program.trained_parameters());
    let tensor = |name: &str, shape: &[usize]| {
        let own = params
            .get(name)
            .cloned()
            .unwrap_or_else(|| normal(name, shape));
        Tensor::new(
            shape.to_vec(),
            own.floats()
                .iter()
                .copied()
                .map(f64::from)
                .collect::<Vec<_>>(),
        )
    };
    let bound = leaves.map(|leaf| (leaf.name.to_string(), tensor(&leaf.name, &leaf.ty.shape)));
    bound.collect()
}

fn values(program: &Program, params: &Params) -> HashMap<String, Vec<f64>> {
    let outputs = program
        .eval(&bindings(program, params), Draw::default())
        .unwrap();
    let outputs = outputs.into_iter();
    outputs
        .map(|(name, tensor)| (name.to_string(), tensor.data.to_vec()))
        .collect()
}

fn near(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
    largest_difference(found, expected) <= tolerance
}

/// All of them, where two projections share what is shared.
fn all() -> Vec<AdapterSpec> {
    vec![
        vera(2).with_dropout(0.0),
        ia3(),
        ia3_input(),
        olora(2).with_alpha(3.0),
        mica(2).with_alpha(3.0),
        random_frozen(2).with_alpha(3.0),
        random(2).with_b_lr(16.0),
    ]
}

fn pair(spec: AdapterSpec) -> Vec<Site> {
    vec![
        site("a", [3, 5], Layout::OutIn, spec),
        site("b", [4, 2], Layout::InOut, spec),
    ]
}

fn adapted(sites: &[Site], mode: Mode) -> Program {
    adapt(&program(sites, 4), sites, &Trainable::Adapters, mode).unwrap()
}

/// At its start it computes what the projection does, later what its merged weight does, and its base
/// stays as it is.
#[test]
fn starts_change_nothing_and_merged_is_unmerged() {
    for spec in all() {
        let sites = pair(spec);
        let start = started(&sites, 3);
        let plain = values(&program(&sites, 4), &start);
        let found = adapted(&sites, Mode::Infer);
        for site in &sites {
            let name = format!("y.{}", site.path);
            assert!(
                near(&values(&found, &start)[&name], &plain[&name], 1e-5),
                "{spec:?}"
            );
            assert!(start[&site.weight].same_values(&normal(&site.weight, &lying(site))));
        }
        let params = moved(&sites, &start);
        let expected = values(&found, &params);
        let mut adapter = Adapter::default();
        for site in &sites {
            adapter.sites.insert(site.path.clone(), site.clone());
        }
        adapter.tensors = params.clone();
        adapter
            .tensors
            .retain(|name, _| !name.ends_with("weight") || name.contains("lora"));
        adapter.tensors.retain(|name, _| !name.ends_with("bias"));
        let mut merged = params.clone();
        adapter.merge_into(&mut merged).unwrap();
        let found = values(&program(&sites, 4), &merged);
        for site in &sites {
            let name = format!("y.{}", site.path);
            assert!(near(&found[&name], &expected[&name], 1e-5), "{spec:?}");
            assert!(!near(&found[&name], &plain[&name], 1e-2), "{spec:?}");
        }
    }
}

/// Gradients, but for LoRA-FA's, which are these times what is between.
#[test]
fn gradients_are_central_differences() {
    for spec in all() {
        let sites = pair(spec);
        let params = moved(&sites, &started(&sites, 0));
        let forward = adapted(&sites, Mode::Train);
        let step = ailora_graph::grad::step(&forward, "loss").unwrap();
        let bound = bindings(&step, &params);
        let found = step.eval(&bound, Draw::default()).unwrap();
        let rates = Trainable::Adapters.rates(&sites, []);
        assert_eq!(found.len(), rates.len() + 1, "{spec:?}");
        for (name, _) in rates {
            let found = &found[&*format!("grad.{name}")];
            for (i, &found) in found.data.iter().enumerate() {
                let loss = |h: f64| {
                    let mut bound = bound.clone();
                    bound.get_mut(&name).unwrap().data[i] += h;
                    forward.eval(&bound, Draw::default()).unwrap()["loss"].data[0]
                };
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                let near = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0);
                assert!(near, "{name}: {found} is not {expected}");
            }
        }
    }
}

/// Row 7 of the pitfalls: one pair, as large as the largest sides, from PyTorch's generator of seed 0.
#[test]
fn vera_shares_one_pair_of_the_largest_sides() {
    let sites = [
        site("a", [2, 3], Layout::OutIn, vera(2)),
        site("b", [4, 2], Layout::OutIn, vera(2)),
    ];
    for seed in [0, 5] {
        let params = started(&sites, seed);
        let (a, b) = (&params["vera_A"], &params["vera_B"]);
        assert_eq!((a.shape(), b.shape()), (&[2, 3][..], &[4, 2][..]));
        for (found, expected) in a.floats().iter().zip([-0.010_588, 0.758_646, -1.163_962]) {
            assert!((found - expected).abs() < 1e-6, "{found}");
        }
        for (found, expected) in b.floats().iter().zip([-0.034_317, 1.373_325]) {
            assert!((found - expected).abs() < 1e-6, "{found}");
        }
        for (site, out) in [("a", 2), ("b", 4)] {
            assert_eq!(*params[&format!("{site}.vera_lambda_d")].floats(), [0.1; 2]);
            assert_eq!(
                *params[&format!("{site}.vera_lambda_b")].floats(),
                vec![0.0; out]
            );
        }
    }
    // y = x W^T + b o (B (d o (A x))) of the second, which reads the first two columns of A.
    let mut params = started(&sites, 0);
    let pairs = [
        ("vera_lambda_d", vec![2.0, -1.0]),
        ("vera_lambda_b", vec![1.0, 2.0, 3.0, -4.0]),
    ];
    for (name, numbers) in pairs {
        params.insert(format!("b.{name}"), Array::new([numbers.len()], numbers));
    }
    params.insert("x.b".into(), Array::new([1, 2], vec![0.5, -2.0]));
    let with = adapt(
        &program(&sites, 1),
        &sites,
        &Trainable::Adapters,
        Mode::Infer,
    )
    .unwrap();
    let [found, plain] =
        [&with, &program(&sites, 1)].map(|program| values(program, &params)["y.b"].clone());
    let (a, b) = (params["vera_A"].floats(), params["vera_B"].floats());
    let inner = |k: usize| {
        let sum = 0.5 * f64::from(a[3 * k]) - 2.0 * f64::from(a[3 * k + 1]);
        [2.0, -1.0][k] * sum
    };
    for (i, outer) in [1.0, 2.0, 3.0, -4.0].into_iter().enumerate() {
        let up = f64::from(b[2 * i]) * inner(0) + f64::from(b[2 * i + 1]) * inner(1);
        assert!((found[i] - plain[i] - outer * up).abs() < 1e-6);
    }

    let config = AdaptConfig {
        sites: [(
            "b".to_owned(),
            serde_json::from_str(r#"{"rank": 3}"#).unwrap(),
        )]
        .into(),
        ..AdaptConfig::default()
    };
    let error = config.resolve(sites.to_vec()).unwrap_err();
    assert!(matches!(error, AdapterError::Shared { .. }), "{error}");
    assert!(
        error.to_string().contains("give both the same rank"),
        "{error}"
    );
}

/// Row 16: the bias is scaled with the output, and not with the input; a zero loses nothing of the base.
#[test]
fn ia3_scales_the_bias_where_it_scales_the_output() {
    for (spec, y, bias, shape) in [
        (ia3(), 50.0, 30.0, [1, 1]),
        (ia3_input(), 23.0, 3.0, [1, 1]),
    ] {
        let sites = [site("p", [1, 1], Layout::OutIn, spec)];
        let one = |shape: &[usize], x: f32| Array::new(shape, vec![x]);
        let mut params: Params = [
            ("p.weight".to_owned(), one(&[1, 1], 2.0)),
            ("p.bias".to_owned(), one(&[1], 3.0)),
            ("p.ia3_l".to_owned(), one(&shape, 10.0)),
            ("x.p".to_owned(), one(&[1, 1], 1.0)),
        ]
        .into();
        let with = adapt(
            &program(&sites, 1),
            &sites,
            &Trainable::Adapters,
            Mode::Infer,
        )
        .unwrap();
        assert_eq!(values(&with, &params)["y.p"], [y]);
        let mut adapter = Adapter::default();
        adapter.sites.insert("p".into(), sites[0].clone());
        for (l, weight, bias) in [
            (10.0, 20.0, bias),
            (0.0, 0.0, if bias == 3.0 { 3.0 } else { 0.0 }),
        ] {
            adapter.tensors.insert("p.ia3_l".into(), one(&shape, l));
            let mut merged = params.clone();
            adapter.merge_into(&mut merged).unwrap();
            assert_eq!(*merged["p.weight"].floats(), [weight]);
            assert_eq!(*merged["p.bias"].floats(), [bias]);
        }
        // What was merged is a copy: without the adapter, the base is what it was.
        params.insert("p.ia3_l".into(), one(&shape, 0.0));
        assert_eq!(values(&program(&sites, 1), &params)["y.p"], [5.0]);
        assert_eq!(*params["p.weight"].floats(), [2.0]);
    }
}

/// Where IA3 goes: keys, values, and what feed-forward blocks read last; `ia3_l` as PEFT has it.
#[test]
fn ia3_goes_to_keys_values_and_feed_forward_blocks() {
    let base = bert();
    let config = AdaptConfig::method(&Ia3, 1);
    let sites = config.resolve(base.model.sites()).unwrap();
    let found: Vec<(String, Vec<usize>)> = (sites.iter().filter(|site| site.is_adapted()))
        .flat_map(|site| site.parameters(&sites))
        .map(|parameter| (parameter.name, parameter.shape))
        .collect();
    let layers = found.len() / 3;
    assert_eq!((found.len(), layers > 0), (3 * layers, true));
    for (name, shape) in found {
        let output = name.ends_with("key.ia3_l") || name.ends_with("value.ia3_l");
        assert!(output || name.ends_with(".output.dense.ia3_l"), "{name}");
        assert!(!name.contains("attention.output"), "{name}");
        assert_eq!(shape[usize::from(output)], 1, "{name}");
    }
}

fn bert() -> Pretrained {
    let dir = fixtures().join("parity/bert_cls-0");
    Pretrained::open(&dir, Head::classification(2)).unwrap()
}

fn batch() -> Batch {
    let file = fixtures().join("parity/bert_cls-0/io.safetensors");
    File::open(&file).batch(Head::classification(2))
}

fn logits(base: &Pretrained, sites: &[Site], params: &Params) -> Vec<f64> {
    let batch = batch();
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
    let mut outputs = run(&program, params, &base.model.inputs(&batch));
    outputs.retain(|(name, _)| name == "logits");
    outputs.remove(0).1
}

/// A method's adapters on BERT, what was trained moved.
fn on_bert(base: &Pretrained, method: &'static dyn Method) -> (Vec<Site>, Params) {
    let rank = if method.name() == "vera" { 5 } else { 3 };
    let config = AdaptConfig::method(method, rank);
    let sites = config.resolve(base.model.sites()).unwrap();
    let mut params = base.weights.clone();
    initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
    let own: Vec<Site> = sites
        .iter()
        .filter(|site| site.is_adapted())
        .cloned()
        .collect();
    (sites, moved(&own, &params))
}

const FOLDERS: [&dyn Method; 6] = [&Vera, &Ia3, &Olora, &Mica, &LoraFa, &LoraPlus];

/// Rows 8 and 13: what is saved gives the same logits when it is loaded, without drawing or decomposing
/// again what was random, and the base has its bytes.
#[test]
fn what_is_saved_is_what_is_loaded() {
    let head = Head::classification(2);
    for method in FOLDERS {
        let mut base = bert();
        let untouched = base.weights.clone();
        let (sites, params) = on_bert(&base, method);
        let expected = logits(&base, &sites, &params);
        assert!(!near(&expected, &logits(&base, &[], &untouched), 1e-3));
        let mut adapter =
            Adapter::from_trained(&base.model, &sites, &params, &Trainable::Adapters, &[]).unwrap();
        for left_out in [false, true] {
            if left_out {
                adapter.leave_out_draws().unwrap();
            }
            let folder = tempfile::tempdir().unwrap();
            adapter.save(folder.path(), "bert_cls-0", head).unwrap();
            let loaded = Adapter::load(folder.path(), &mut base).unwrap();
            let mut beside = untouched.clone();
            beside.extend(loaded.tensors.clone());
            let found = logits(&base, &loaded.apply_to(base.model.sites()), &beside);
            assert!(near(&found, &expected, 1e-5), "{}", method.name());
            let mut merged = untouched.clone();
            loaded.merge_into(&mut merged).unwrap();
            assert!(
                near(&logits(&base, &[], &merged), &expected, 1e-5),
                "{}",
                method.name()
            );
        }
        for (name, array) in &untouched {
            assert!(params[name].same_values(array), "{}: {name}", method.name());
            assert!(
                base.weights[name].same_values(array),
                "{}: {name}",
                method.name()
            );
        }
    }
}

/// Matrices that the seed does not give are not left out, nor is a folder read that says two things.
#[test]
fn drawn_matrices_are_left_out_only_if_the_seed_gives_them() {
    let mut base = bert();
    let (sites, params) = on_bert(&base, &Vera);
    let save = |params: &Params| {
        Adapter::from_trained(&base.model, &sites, params, &Trainable::Adapters, &[]).unwrap()
    };
    let mut others = params.clone();
    others["vera_B"].floats_mut()[3] += 1.0;
    let error = save(&others).leave_out_draws().unwrap_err().to_string();
    assert!(
        error.contains("`vera_B` is not what seed 0 draws"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    save(&params)
        .save(folder.path(), "x", Head::classification(2))
        .unwrap();
    let config = folder.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, says) in [
        (
            "\"save_projection\": true",
            "\"save_projection\": false",
            "set it to true, or remove",
        ),
        (
            "\"projection_prng_key\": 0",
            "\"projection_prng_key\": -1",
            "projection_prng_key",
        ),
        ("\"d_initial\": 0.1", "\"d_initial\": \"x\"", "d_initial"),
        ("\"bias\": \"none\"", "\"bias\": \"vera_only\"", "bias"),
    ] {
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let error = Adapter::load(folder.path(), &mut base)
            .unwrap_err()
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// Row 12: beside the published weights, what is saved is what was trained beside the residual; for each
/// start, scale, and with or without ranks of single projections.
#[test]
fn starts_from_the_weight_are_saved_as_plain_lora() {
    let mut base = bert();
    for adapter in [principal(3), minor(3), olora(3)] {
        for scaling in ["classic", "rank_stabilized"] {
            for pattern in ["", r#", "value": {"rank": 2, "alpha": 7.0}"#] {
                let strategy = adapter.strategy.name();
                let config = format!(
                    r#"{{"alpha": 5.0, "scaling": "{scaling}", "sites": {{
                        "query": {{"init": "{strategy}"}}, "v": {{"init": "{strategy}"}}{pattern}}}}}"#
                );
                let config: AdaptConfig = serde_json::from_str(&config).unwrap();
                let sites = config.resolve(base.model.sites()).unwrap();
                let mut params = base.weights.clone();
                initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
                let own: Vec<Site> = sites
                    .iter()
                    .filter(|site| site.is_adapted())
                    .cloned()
                    .collect();
                let params = moved(&own, &params);
                let expected = logits(&base, &sites, &params);
                let saved =
                    Adapter::from_trained(&base.model, &sites, &params, &Trainable::Adapters, &[]);
                let folder = tempfile::tempdir().unwrap();
                saved
                    .unwrap()
                    .save(folder.path(), "x", Head::classification(2))
                    .unwrap();
                let loaded = Adapter::load(folder.path(), &mut base).unwrap();
                let mut beside = base.weights.clone();
                beside.extend(loaded.tensors.clone());
                let found = logits(&base, &loaded.apply_to(base.model.sites()), &beside);
                assert!(
                    near(&found, &expected, 1e-5),
                    "{strategy} {scaling} {pattern}"
                );
            }
        }
    }
}

/// `Q_r` is orthonormal, `Q_r R_r` is the projection of the weight onto its first columns, and MiCA's `B`
/// is orthonormal with the least of the weight.
#[test]
fn factors_span_what_they_should() {
    let sites = [
        site("a", [6, 5], Layout::OutIn, olora(2).with_alpha(3.0)),
        site("b", [6, 5], Layout::OutIn, mica(2)),
    ];
    let params = started(&sites, 0);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    let column = |name: &str, width: usize, k: usize| -> Vec<f32> {
        params[name]
            .floats()
            .iter()
            .skip(k)
            .step_by(width)
            .copied()
            .collect()
    };
    for b in ["a.lora_B.weight", "b.lora_B.weight"] {
        for i in 0..2 {
            for j in 0..2 {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot(&column(b, 2, i), &column(b, 2, j)) - expected).abs() < 1e-6);
            }
        }
    }
    // The first two columns of W are in Q's span, and R = Q^T W.
    for k in 0..5 {
        let w = column("a.weight", 5, k);
        for i in 0..2 {
            let q = column("a.lora_B.weight", 2, i);
            let r = params["a.lora_A.weight"].floats()[5 * i + k];
            assert!((dot(&q, &w) - f64::from(r)).abs() < 1e-5);
        }
        let inside: f64 = (0..2)
            .map(|i| dot(&column("a.lora_B.weight", 2, i), &w).powi(2))
            .sum();
        assert!((dot(&w, &w) - inside).abs() < 1e-5 || k >= 2, "{k}");
    }
    // |B^T W| is the root of the sum of the two least squared singular values of five.
    let spectrum = {
        let weight = params["b.weight"].floats();
        let matrix = ailora_runtime::spectrum::Matrix::new("b", &weight, 6, 5).unwrap();
        ailora_runtime::spectrum::spectrum(&matrix).unwrap()
    };
    let inside: f64 = (0..5)
        .flat_map(|k| (0..2).map(move |i| (k, i)))
        .map(|(k, i)| dot(&column("b.lora_B.weight", 2, i), &column("b.weight", 5, k)).powi(2))
        .sum();
    assert!((inside - spectrum[3].powi(2) - spectrum[4].powi(2)).abs() < 1e-5);
    assert!(params["b.lora_A.weight"].floats().iter().all(|x| *x == 0.0));
}

/// A trainer of these sites on a program, at a constant rate.
fn trainer(sites: &[Site], params: &Params, fusion: Fusion) -> (Trainer, PlanId) {
    let trainable = &Trainable::Adapters;
    let precision = device::precision();
    let passes = Passes {
        sites,
        trainable,
        precision,
    };
    let step = passes.step(&program(sites, 4)).unwrap();
    let mut engine = device::engine(params.clone(), fusion);
    let plan = engine.compile(&step).unwrap();
    let groups = trainable
        .rates(sites, [])
        .into_iter()
        .map(|(name, lr)| Group {
            lr,
            parameters: vec![name],
        });
    let optimizer = AdamW::new(AdamWConfig::default(), groups.collect(), engine.weights());
    let schedule = Schedule {
        kind: ScheduleKind::Constant,
        warmup: 0,
        total: 20,
    };
    (
        Trainer::new(engine, optimizer, 1e-2, schedule, None, 0),
        plan,
    )
}

fn train(trainer: &mut Trainer, plan: PlanId, sites: &[Site], steps: usize) {
    let inputs: Vec<(String, Array)> = sites
        .iter()
        .map(|site| format!("x.{}", site.path))
        .zip(sites)
        .map(|(name, site)| (name.clone(), normal(&name, &[4, site.in_features])))
        .collect();
    for _ in 0..steps {
        let values = inputs
            .iter()
            .map(|(name, array)| (name.as_str(), Value::F32(array.as_f32().unwrap())));
        let micro = MicroBatch {
            plan,
            inputs: values.collect(),
            rows: 4,
            targets: 1,
        };
        trainer.step(&[micro]).unwrap();
    }
}

/// Row 17: each layer's first moment is `(1 - beta1) dB (A A^T + 1e-8 I)^-1 / s^2` with its own scale; `A` stays,
/// and a run that is stopped and goes on ends where one that is not does.
#[test]
fn lora_fa_projects_gradients_by_its_own_scales() {
    let sites = [
        site("a", [6, 9], Layout::OutIn, random_frozen(4).with_alpha(6.0)),
        site(
            "b",
            [10, 8],
            Layout::OutIn,
            random_frozen(8).with_alpha(2.0),
        ),
    ];
    let start = started(&sites, 2);
    let plain = ailora_graph::grad::step(&adapted(&sites, Mode::Train), "loss").unwrap();
    let gradients = values(&plain, &start);
    let (mut unbroken, plan) = trainer(&sites, &start, Fusion::Elementwise);
    train(&mut unbroken, plan, &sites, 1);
    let moments = unbroken.checkpoint().unwrap().tensors;
    for (site, scale) in sites.iter().zip([1.5, 0.25]) {
        let rank = site.spec.rank().unwrap();
        let a = start[&site.lora_a()].floats();
        // first (A A^T + delta I) s^2 / (1 - beta1) = dB
        let first = moments[&format!("adam.first.{}", site.lora_b())]
            .floats()
            .into_owned();
        let expected = &gradients[&format!("grad.{}", site.lora_b())];
        let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        for (row, expected) in first.chunks(rank).zip(expected.chunks(rank)) {
            for (j, expected) in expected.iter().enumerate() {
                let product: f64 = (0..rank)
                    .map(|i| {
                        let pairs = a.chunks(site.in_features).nth(i).unwrap().iter();
                        let pairs = pairs.zip(a.chunks(site.in_features).nth(j).unwrap());
                        let gram: f64 = pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                        f64::from(row[i]) * (gram + if i == j { 1e-8 } else { 0.0 })
                    })
                    .sum();
                let found = product * scale * scale / 0.1;
                assert!(
                    (found - expected).abs() < 1e-4 * largest,
                    "{found} {expected}"
                );
            }
        }
    }
    train(&mut unbroken, plan, &sites, 9);
    let expected = unbroken.trained().unwrap();
    assert_eq!(expected.len(), 2, "B alone trains");
    for fusion in [
        Fusion::Elementwise,
        Fusion::At(ailora_graph::fuse::cost::Costs::default()),
    ] {
        let (mut first, plan) = trainer(&sites, &start, fusion);
        train(&mut first, plan, &sites, 5);
        let checkpoint = first.checkpoint().unwrap();
        let (mut second, plan) = trainer(&sites, &start, fusion);
        second.restore(&checkpoint).unwrap();
        train(&mut second, plan, &sites, 5);
        train(&mut first, plan, &sites, 5);
        let (found, own) = (second.trained().unwrap(), first.trained().unwrap());
        for (name, array) in &own {
            assert!(found[name].same_values(array), "{name}");
            let pairs = array
                .floats()
                .into_owned()
                .into_iter()
                .zip(expected[name].floats().into_owned());
            assert!(
                pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-5),
                "{name}"
            );
        }
        for site in &sites {
            let a = first
                .engine()
                .unwrap()
                .weights()
                .get(&site.lora_a())
                .unwrap();
            assert!(a.same_values(&start[&site.lora_a()]), "A stays");
        }
    }
}

/// Rows 9 and 10: `B` at 16 times the rate of `A`, each in one group, with the decay of its own rate, and
/// vectors without.
#[test]
fn lora_plus_has_a_rate_and_a_decay_for_each_factor() {
    let config = AdaptConfig::method(&LoraPlus, 2);
    let annotated = site("q", [3, 4], Layout::OutIn, random(2));
    let sites = config.resolve(vec![annotated]).unwrap();
    let rates = Trainable::Adapters.rates(&sites, []);
    let of = |name: &str, rate: f64| (format!("q.{name}.weight"), rate);
    assert_eq!(rates, [of("lora_A", 1.0), of("lora_B", 16.0)]);
    assert_eq!(Trainable::Adapters.count(&sites, &[]), 2 * 4 + 3 * 2);

    let ones = |shape: &[usize]| Array::new(shape, vec![1.0; shape.iter().product()]);
    let params: Params = [
        ("q.lora_A.weight".to_owned(), ones(&[2, 4])),
        ("q.lora_B.weight".to_owned(), ones(&[3, 2])),
        ("bias".to_owned(), ones(&[3])),
        ("q.ia3_l".to_owned(), ones(&[3, 1])),
    ]
    .into();
    let mut weights = Weights::new(params);
    let mut rates = rates;
    rates.extend([("bias".to_owned(), 16.0), ("q.ia3_l".to_owned(), 1.0)]);
    let groups = rates.iter().map(|(name, lr)| Group {
        lr: *lr,
        parameters: vec![name.clone()],
    });
    let config = AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(config, groups.collect(), &weights);
    let gradients: IndexMap<String, Vec<f32>> = rates
        .iter()
        .map(|(name, _)| (name.clone(), vec![0.0; weights.len(name).unwrap()]))
        .collect();
    optimizer.update(&mut weights, &gradients, 1e-2, 1.0);
    for (name, expected) in [
        ("q.lora_A.weight", 1.0 - 1e-3),
        ("q.lora_B.weight", 1.0 - 1.6e-2),
        ("bias", 1.0),
        ("q.ia3_l", 1.0),
    ] {
        let found = weights.get(name).unwrap();
        assert!(
            found.floats().iter().all(|x| (x - expected).abs() < 1e-7),
            "{name}"
        );
    }
}

/// Rows 20 and 21: over a base in bfloat16 what trains is float32, and moves by steps that bfloat16 has
/// not; what a projection puts out stays bfloat16.
#[test]
fn a_narrow_base_narrows_no_adapter_and_no_adapter_widens_it() {
    let methods = METHODS
        .iter()
        .filter(|method| method.trainable() == Trainable::Adapters);
    let mut narrow = 0;
    for method in methods {
        let config = AdaptConfig::method(*method, 2);
        let path = if method.name() == "ia3" { "k" } else { "q" };
        let annotated = [[3, 5], [4, 2]].into_iter().enumerate();
        let annotated = annotated
            .map(|(i, shape)| site(&format!("{i}.{path}"), shape, Layout::OutIn, random(2)));
        let Ok(sites) = config.resolve(annotated.collect()) else {
            continue;
        };
        if !sites.iter().any(Site::is_adapted) {
            continue;
        }
        for parameter in sites.iter().flat_map(|site| site.parameters(&sites)) {
            assert_eq!(parameter.ty().dtype, DType::F32);
        }
        let with = adapted(&sites, Mode::Infer);
        let typed = element_types(&with, DType::Bf16).unwrap();
        for site in &sites {
            let output = typed.outputs()[&*format!("y.{}", site.path)];
            assert!(matches!(typed[output].op, Op::Cast(_)), "{}", method.name());
            let inner = typed[output].args[0];
            assert_eq!(typed.ty(inner).dtype, DType::Bf16, "{}", method.name());
            narrow += 1;
        }
    }
    assert!(narrow >= 20, "{narrow} projections");

    let mut weights = Weights::new([("p".to_owned(), Array::new([1], vec![0.02]))].into());
    let groups = vec![Group {
        lr: 1.0,
        parameters: vec!["p".into()],
    }];
    let mut optimizer = AdamW::new(AdamWConfig::default(), groups, &weights);
    let gradients = IndexMap::from([("p".to_owned(), vec![1.0])]);
    for _ in 0..1000 {
        optimizer.update(&mut weights, &gradients, 1e-5, 1.0);
    }
    let found = weights.get("p").unwrap();
    assert_eq!(found.dtype(), DType::F32);
    assert!(
        (found.floats()[0] - 0.01).abs() < 1e-5,
        "{}",
        found.floats()[0]
    );

    let base = bert();
    let narrow = |array: &Array| {
        let bytes: Vec<u8> = (array.floats().iter())
            .flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes())
            .collect();
        Array::from_bytes(DType::Bf16, array.shape(), &bytes)
    };
    let weights: Params = (base.weights.iter())
        .map(|(name, array)| (name.clone(), narrow(array)))
        .collect();
    for method in FOLDERS {
        let narrow = Pretrained {
            weights: weights.clone(),
            ..bert()
        };
        let (sites, params) = on_bert(&narrow, method);
        for parameter in sites.iter().flat_map(|site| site.parameters(&sites)) {
            assert_eq!(
                params[&parameter.name].dtype(),
                DType::F32,
                "{}",
                parameter.name
            );
        }
        let saved =
            Adapter::from_trained(&base.model, &sites, &params, &Trainable::Adapters, &[]).unwrap();
        let site = saved.sites.values().next().unwrap();
        assert!(matches!(site.spec.strategy, Strategy::Adapted(_)));
        let own = saved
            .tensors
            .iter()
            .filter(|(name, _)| !weights.contains_key(*name));
        assert!(
            own.into_iter()
                .all(|(_, array)| array.dtype() == DType::F32),
            "{}",
            method.name()
        );
    }
}
