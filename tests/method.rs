//! Adapter methods from outside the crates: the example's IA3 from its gradients to PEFT's folder, and
//! what becomes of an adapter that has no merged weight, or none of PEFT's forms.

#[path = "../examples/10_method.rs"]
#[allow(dead_code, reason = "the example has a `main`")]
mod example;

use std::{fs, path::Path};

use ailora::{
    AdapterSpec, Strategy, Trainable,
    adapt::{Mode, adapt},
    adapter::{Layout, Site},
    grad::gradients,
    ir::{Bindings, Draw, Id, Op, Program, ProgramError, Tensor, Type, ops::elementwise::Unary},
    method::{
        Adapter as Method, AdapterOption, AdapterParameter, METHODS, Operands, Projected, Start,
        constructors::random,
    },
    models::{
        batch::{Batch, Targets},
        head::Head,
        peft::{Adapter, PeftError},
        pretrained::Pretrained,
    },
    runtime::{
        engine::Engine,
        init::initialise,
        spectrum::Options,
        store::{Array, Params},
    },
};
use example::mine::scaled;
use safetensors::{Dtype, tensor::TensorView};

#[test]
fn the_example_trains_saves_loads_and_merges() {
    example::main().unwrap();
}

#[test]
fn the_book_describes_every_method() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/methods.md");
    let book = fs::read_to_string(book).unwrap();
    for method in METHODS {
        let row = format!("| `{}`", method.name());
        assert!(book.contains(&row), "{row}");
    }
}

fn site(path: &str, [out, inputs]: [usize; 2], spec: AdapterSpec) -> Site {
    Site {
        path: path.into(),
        weight: format!("{path}.weight"),
        bias: Some(format!("{path}.bias")),
        in_features: inputs,
        out_features: out,
        layout: Layout::OutIn,
        spec,
    }
}

/// `y = x W^T + b`, and the loss `sum(y^2)`; and the weight itself, if it is to be read besides.
fn program([out, inputs]: [usize; 2], rows: usize, tied: bool) -> Program {
    let mut p = Program::new();
    let x = p.input("x", Type::f32([rows, inputs])).unwrap();
    let weight = p.frozen("p.weight", Type::f32([out, inputs])).unwrap();
    let bias = p.frozen("p.bias", Type::f32([out])).unwrap();
    let y = p.matmul(x, false, weight, true).unwrap();
    let y = p.sum(y, bias).unwrap();
    let squares = p.product(y, y).unwrap();
    let loss = p.sum_to(squares, &[]).unwrap();
    p.set_output("y", y);
    p.set_output("loss", loss);
    if tied {
        p.set_output("weight", weight);
    }
    p
}

/// The output with its bias is scaled, and both are in the merged ones.
#[test]
fn the_bias_is_scaled_too() {
    let sites = [site("p", [1, 1], scaled())];
    let tensor = |shape: &[usize], x: f64| Tensor::new(shape.to_vec(), [x]);
    let bindings: Bindings = [
        ("x", tensor(&[1, 1], 1.0)),
        ("p.weight", tensor(&[1, 1], 2.0)),
        ("p.bias", tensor(&[1], 3.0)),
        ("p.ia3_l", tensor(&[1, 1], 10.0)),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    let adapted = adapt(
        &program([1, 1], 1, false),
        &sites,
        &Trainable::Adapters,
        Mode::Infer,
    );
    let outputs = adapted.unwrap().eval(&bindings, Draw::default()).unwrap();
    assert_eq!(outputs["y"].data, [50.0]);

    let array = |shape: &[usize], x: f32| Array::new(shape.to_vec(), vec![x]);
    let mut adapter = Adapter::default();
    adapter.sites.insert("p".into(), sites[0].clone());
    adapter
        .tensors
        .insert("p.ia3_l".into(), array(&[1, 1], 10.0));
    let mut params: Params = [
        ("p.weight".to_owned(), array(&[1, 1], 2.0)),
        ("p.bias".to_owned(), array(&[1], 3.0)),
    ]
    .into();
    adapter.merge_into(&mut params).unwrap();
    assert_eq!(*params["p.weight"].floats(), [20.0]);
    assert_eq!(*params["p.bias"].floats(), [30.0]);
}

/// Normal numbers fixed by a name.
fn normal(name: &str, shape: &[usize]) -> Tensor {
    let key = Draw::default().key(name);
    let data: Vec<f64> = (0..shape.iter().product::<usize>() as u64)
        .map(|i| key.normal(i))
        .collect();
    Tensor::new(shape.to_vec(), data)
}

#[test]
fn gradients_are_central_differences() {
    let shape = [4, 3];
    let sites = [site("p", shape, scaled())];
    let adapted = adapt(
        &program(shape, 5, false),
        &sites,
        &Trainable::Adapters,
        Mode::Train,
    )
    .unwrap();
    let step = gradients(&adapted, "loss").unwrap();
    let leaves = step
        .inputs()
        .chain(step.frozen_parameters())
        .chain(step.trained_parameters());
    let bindings: Bindings = leaves
        .map(|leaf| (leaf.name.to_string(), normal(&leaf.name, &leaf.ty.shape)))
        .collect();
    let found = &step.eval(&bindings, Draw::default()).unwrap()["grad.p.ia3_l"];
    assert_eq!(found.shape, [4, 1]);
    let loss = |i: usize, h: f64| {
        let mut bindings = bindings.clone();
        bindings.get_mut("p.ia3_l").unwrap().data[i] += h;
        adapted.eval(&bindings, Draw::default()).unwrap()["loss"].data[0]
    };
    for (i, &found) in found.data.iter().enumerate() {
        let expected = (loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5;
        let near = (found - expected).abs() <= 1e-6 * expected.abs().max(1.0);
        assert!(
            near && expected.abs() > 1e-2,
            "{i}: {found} is not {expected}"
        );
    }
}

/// A bottleneck behind the projection: `y + B max(A y, 0)`.
#[derive(Debug)]
struct Bottleneck;

impl Method for Bottleneck {
    fn name(&self) -> &'static str {
        "bottleneck"
    }

    fn options(&self) -> &'static [AdapterOption] {
        &[AdapterOption::Rank]
    }

    fn parameters(&self, site: &Site, _: &[Site]) -> Vec<AdapterParameter> {
        let (rank, out) = (site.spec.rank().unwrap_or(1), site.out_features);
        let named = |name: &str| format!("{}.{name}", site.path);
        let bound = 1.0;
        vec![
            AdapterParameter::trained(named("down"), [rank, out], Start::Uniform { bound }),
            AdapterParameter::trained(named("up"), [out, rank], Start::Constant(0.0)),
        ]
    }

    fn output(&self, p: &mut Projected<'_>, _: Operands, y: Id) -> Result<Id, ProgramError> {
        let [down, up] = &self.parameters(p.site, p.sites)[..] else {
            return Ok(y);
        };
        let (down, up) = (p.parameter(down)?, p.parameter(up)?);
        let inner = p.program.matmul(y, false, down, true)?;
        let inner = p.program.unary(Unary::Relu, inner)?;
        let added = p.program.matmul(inner, false, up, true)?;
        p.program.sum(y, added)
    }
}

const fn bottleneck(size: usize) -> AdapterSpec {
    AdapterSpec::adapted(&Bottleneck).with_rank(size)
}

#[test]
fn an_adapter_without_a_merged_weight_is_refused_where_one_is_needed() {
    let shape = [4, 3];
    let sites = [site("p", shape, bottleneck(2))];
    let place = |tied| {
        adapt(
            &program(shape, 5, tied),
            &sites,
            &Trainable::Adapters,
            Mode::Infer,
        )
    };
    let adapted = place(false).unwrap();
    let trained: Vec<&str> = adapted
        .trained_parameters()
        .map(|leaf| &*leaf.name)
        .collect();
    assert_eq!(trained, ["p.down", "p.up"]);
    assert!(
        adapted
            .ids()
            .any(|id| matches!(adapted[id].op, Op::Unary(Unary::Relu)))
    );
    let error = place(true).unwrap_err().to_string();
    assert!(
        error.contains("`bottleneck` has no merged weight"),
        "{error}"
    );

    let mut adapter = Adapter::default();
    adapter.sites.insert("p".into(), sites[0].clone());
    let array = |shape: &[usize]| Array::zeros(shape);
    let mut params: Params = [
        ("p.weight".to_owned(), array(&[4, 3])),
        ("p.bias".to_owned(), array(&[4])),
    ]
    .into();
    let error = adapter.merge_into(&mut params).unwrap_err();
    assert!(matches!(error, PeftError::NotMergeable { .. }), "{error}");
    // Neither has PEFT a form of it, nor a folder room for two kinds.
    let error = Adapter::check(&sites).unwrap_err();
    assert!(matches!(error, PeftError::NoForm { .. }), "{error}");
    let mixed = [site("a", shape, scaled()), site("b", shape, random(2))];
    let error = Adapter::check(&mixed).unwrap_err().to_string();
    assert!(
        error.contains("kind LORA") && error.contains("have IA3"),
        "{error}"
    );
}

/// Three rows of seven tokens.
fn batch() -> Batch {
    let (rows, len) = (3, 7);
    Batch {
        rows,
        len,
        ids: (0..rows * len).map(|i| 5 + (i * 7 % 20) as i32).collect(),
        type_ids: vec![0; rows * len],
        mask: vec![1.0; rows * len],
        targets: Targets::default(),
        indices: (0..rows).collect(),
    }
}

/// What a model with adapters says of the batch.
fn logits(base: &Pretrained, sites: &[Site], params: &Params) -> Vec<f32> {
    let batch = batch();
    let program = base.model.program(batch.shape(), false, false).unwrap();
    let program = adapt(&program, sites, &Trainable::Adapters, Mode::Infer).unwrap();
    let mut engine = Engine::new(params.clone());
    let plan = engine.compile(&program).unwrap();
    let inputs = base.model.inputs(&batch);
    let outputs = engine.run(plan, &inputs.values(), Draw::default()).unwrap();
    outputs.output("logits").unwrap().to_vec()
}

/// Writes the batch, and what a model says of it.
fn export(folder: &Path, expected: &[f32]) {
    let batch = batch();
    let (rows, len) = (batch.rows, batch.len);
    let integers = |x: &[i32]| x.iter().flat_map(|&x| i64::from(x).to_le_bytes()).collect();
    let floats = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mask: Vec<i32> = vec![1; rows * len];
    let data: [(&str, Dtype, Vec<u8>); 4] = [
        ("input_ids", Dtype::I64, integers(&batch.ids)),
        ("attention_mask", Dtype::I64, integers(&mask)),
        ("token_type_ids", Dtype::I64, integers(&batch.type_ids)),
        ("logits", Dtype::F32, floats(expected)),
    ];
    let views = data.iter().map(|(name, dtype, data)| {
        let columns = if *name == "logits" { 2 } else { len };
        (
            *name,
            TensorView::new(*dtype, vec![rows, columns], data).unwrap(),
        )
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(folder.join("expected.safetensors"), bytes).unwrap();
}

/// On BERT, and with `AILORA_EXPORT_DIR` for `tests/python/check_peft.py`.
#[test]
fn a_published_model_with_ia3_is_saved_loaded_and_merged() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/bert_cls-0");
    let head = Head::classification(2);
    let mut base = Pretrained::open(&dir, head).unwrap();
    let mut sites = base.model.sites();
    for site in &mut sites {
        let ends = ["attention.self.key", "attention.self.value"];
        site.spec = match ends.iter().any(|end| site.path.ends_with(end)) {
            true => scaled(),
            false => AdapterSpec::frozen(),
        };
    }
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5);

    let mut params = base.weights.clone();
    initialise(&sites, &mut params, 0, &Options::default(), |_| {}).unwrap();
    let untrained = logits(&base, &[], &base.weights);
    assert!(near(&logits(&base, &sites, &params), &untrained));
    for site in &sites {
        for name in site.trained() {
            let key = Draw::default().key(&name);
            for (i, x) in (0..).zip(params[&name].floats_mut()) {
                *x += 0.5 * key.normal(i) as f32;
            }
        }
    }
    let expected = logits(&base, &sites, &params);
    assert!(!near(&expected, &untrained));

    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("AILORA_EXPORT_DIR");
    let folder = kept.as_ref().map_or(scratch.path(), Path::new).join("ia3");
    fs::create_dir_all(&folder).unwrap();
    let trainable = Trainable::Adapters;
    let adapter = Adapter::from_trained(&base.model, &sites, &params, &trainable, &[]).unwrap();
    adapter.save(&folder, "bert_cls-0", head).unwrap();
    if kept.is_some() {
        export(&folder, &expected);
    }

    // The model is not annotated with it: it is read as the library's own, which has the same form.
    let own = Adapter::load(&folder, &mut base).unwrap();
    assert_eq!(own.tensors, adapter.tensors);
    let Strategy::Adapted(kind) = scaled().strategy else {
        unreachable!("an adapter");
    };
    let loaded = Adapter::load_as(kind, &folder, &base).unwrap();
    assert_eq!(loaded.sites.len(), adapter.sites.len());
    assert_eq!(loaded.tensors, adapter.tensors);
    let mut beside = base.weights.clone();
    beside.extend(loaded.tensors.clone());
    let found = logits(&base, &loaded.apply_to(base.model.sites()), &beside);
    assert!(near(&found, &expected));
    let mut merged = base.weights.clone();
    loaded.merge_into(&mut merged).unwrap();
    assert!(near(&logits(&base, &[], &merged), &expected));
    is_refused_if_changed(kind, &folder, &base);
}

/// What is not as declared is refused by name.
fn is_refused_if_changed(kind: &'static dyn Method, folder: &Path, base: &Pretrained) {
    let config = folder.join("adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    for (from, to, said) in [
        (
            "\"feedforward_modules\": []",
            "\"feedforward_modules\": [\"x\"]",
            "feedforward_modules",
        ),
        (
            "\"inference_mode\": true",
            "\"use_magic\": true",
            "use_magic",
        ),
        ("attention.self.value\"", "attention.self.valu\"", "ia3_l"),
        (
            "\"fan_in_fan_out\": false",
            "\"fan_in_fan_out\": 3",
            "fan_in_fan_out",
        ),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(&config, text.replace(from, to)).unwrap();
        let error = Adapter::load_as(kind, folder, base)
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
    }
    fs::write(&config, text).unwrap();
}
