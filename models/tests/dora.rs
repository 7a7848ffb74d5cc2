//! Adapters with trained magnitudes: PEFT's numbers, folders both ways, and what the magnitudes start from.

mod support;
#[path = "support/gguf.rs"]
#[allow(dead_code, reason = "one kind of file is written here")]
mod written;

use std::{collections::HashMap, path::Path};

use ailora_graph::{
    AdaptConfig, Strategy, Trainable,
    adapt::{Mode, adapt},
    adapter::Site,
    grad::{gradient_name, gradients},
    ir::{DType, Op, Program},
    method::{Dora, Pissa},
};
use ailora_models::{
    batch::Batch,
    head::Head,
    peft::{Adapter, proof},
    pretrained::Pretrained,
};
use ailora_runtime::{
    init::initialise,
    spectrum::Options,
    store::{self, Array, Params},
};
use half::f16;
use support::{File, eval, fixtures, largest_difference, relative_difference, run};

const PREFIX: &str = "base_model.model.";
const BERT: (&str, Head) = ("bert_cls-0", Head::classification(2));
const LLAMA: (&str, Head) = ("llama_gqa_tied-0", Head::CausalLm);

fn open((base, head): (&str, Head)) -> (Pretrained, Batch) {
    let folder = fixtures().join("parity").join(base);
    let batch = File::open(&folder.join("io.safetensors")).batch(head);
    (Pretrained::open(&folder, head).unwrap(), batch)
}

/// The loss with adapters, or what is inferred with them.
fn adapted(base: &Pretrained, batch: &Batch, sites: &[Site], mode: Mode) -> Program {
    let program = base.model.program(batch.shape(), false, true).unwrap();
    adapt(&program, sites, &Trainable::Adapters, mode).unwrap()
}

fn logits(base: &Pretrained, batch: &Batch, sites: &[Site], params: &Params) -> Vec<f64> {
    let program = adapted(base, batch, sites, Mode::Infer);
    let outputs = eval(&program, params, &base.model.inputs(batch));
    let mut logits = outputs.into_iter().filter(|(name, _)| name == "logits");
    logits.next().unwrap().1
}

/// The program with masks, which are parameters here, in place of dropout.
fn masked(program: &Program) -> Program {
    let masked = program.rewrite(|new, id, node, args| match &node.op {
        Op::Dropout(dropout) => {
            let mask = format!("mask.{}", dropout.stream);
            let mask = new.frozen(&mask, program.ty(id).clone())?;
            new.product(args[0], mask)
        }
        op => new.add(op.clone(), args),
    });
    masked.unwrap()
}

/// AdamW without decay, in float64.
struct Optimizer {
    moments: HashMap<String, Vec<[f64; 2]>>,
    step: i32,
}

impl Optimizer {
    fn update(&mut self, params: &mut Params, gradients: &[(String, Vec<f64>)]) {
        self.step += 1;
        let [first, second] = [0.9_f64, 0.999].map(|beta| 1.0 - beta.powi(self.step));
        for (name, gradient) in gradients {
            let zeros = || vec![[0.0; 2]; gradient.len()];
            let moments = self.moments.entry(name.clone()).or_insert_with(zeros);
            let values = params[name].floats_mut().iter_mut();
            for ((value, g), [m, v]) in values.zip(gradient).zip(moments) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let step = 1e-3 * (*m / first) / ((*v / second).sqrt() + 1e-8);
                *value = (f64::from(*value) - step) as f32;
            }
        }
    }
}

/// Logits, loss, gradients and twenty steps of PEFT 0.21.2 with dropout, whose masks are PEFT's.
#[test]
fn steps_with_dropout_are_those_of_peft() {
    for (name, kind) in [("bert", BERT), ("llama", LLAMA)] {
        let folder = fixtures().join("dora").join(name);
        let expected = File::open(&folder.join("steps.safetensors"));
        let (mut base, batch) = open(kind);
        let adapter = Adapter::load(&folder, &mut base).unwrap();
        let mut sites = adapter.apply_to(base.model.sites());
        for site in sites.iter_mut().filter(|site| site.is_adapted()) {
            assert!(site.spec.dora);
            site.spec.dropout = 0.3;
        }
        let program = masked(&adapted(&base, &batch, &sites, Mode::Train));
        let step = gradients(&program, "loss").unwrap();
        let inputs = base.model.inputs(&batch);
        let mut params = base.weights.clone();
        params.extend(adapter.tensors.clone());
        for mask in expected.names() {
            if mask.starts_with("mask.") {
                let data = expected.floats(&mask).into_iter().map(|x| x as f32);
                let array = Array::new(expected.shape(&mask), data.collect());
                params.insert(mask, array);
            }
        }
        let trained: Vec<String> = program
            .trained_parameters()
            .map(|leaf| leaf.name.to_string())
            .collect();
        assert_eq!(trained.len(), 3 * 4);
        let mut optimizer = Optimizer {
            moments: HashMap::new(),
            step: 0,
        };
        for i in 0..20 {
            let outputs = run(&step, &params, &inputs);
            let find = |name: &str| &outputs.iter().find(|(other, _)| other == name).unwrap().1;
            let of = |name: &String| (name.clone(), find(&gradient_name(name)).clone());
            let found: Vec<(String, Vec<f64>)> = trained.iter().map(of).collect();
            if i == 0 {
                for name in ["logits", "loss"] {
                    let difference = largest_difference(find(name), &expected.floats(name));
                    assert!(difference <= 1e-5, "{name}: {difference:e}");
                }
                for (name, gradient) in &found {
                    let known = expected.floats(&format!("grad.{PREFIX}{name}"));
                    let difference = relative_difference(gradient, &known);
                    assert!(difference <= 1e-5, "{name}: {difference:e}");
                }
            }
            optimizer.update(&mut params, &found);
        }
        for name in &trained {
            let found: Vec<f64> = params[name].floats().iter().map(|&x| x.into()).collect();
            let known = expected.floats(&format!("final.{PREFIX}{name}"));
            let difference = largest_difference(&found, &known);
            assert!(difference <= 1e-4, "{name}: {difference:e}");
        }
    }
}

/// Trained parameters away from where they start.
fn moved(sites: &[Site], params: &mut Params) {
    for site in sites.iter().filter(|site| site.is_adapted()) {
        for (i, name) in site.trained().iter().enumerate() {
            let values = params[name].floats_mut().iter_mut();
            for (j, x) in values.enumerate() {
                *x += 0.1 * ((i + 7 * j) % 11) as f32 / 11.0 - 0.04;
            }
        }
    }
}

/// Random starts, and starts from triplets, which are saved with twice the rank: what is saved is PEFT's
/// DoRA by its definition, is loaded as such, and is written again byte for byte.
#[test]
fn folders_hold_magnitudes_and_are_written_again_as_they_were() {
    for (kind, method) in [(BERT, "dora"), (LLAMA, "dora"), (BERT, "pissa")] {
        let (base, batch) = open(kind);
        let mut config = match method {
            "pissa" => AdaptConfig::method(&Pissa, 2),
            _ => AdaptConfig::method(&Dora, 3),
        };
        (config.alpha, config.dora) = (Some(5.0), Some(true));
        let sites = config.resolve(base.model.sites()).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
        moved(&sites, &mut params);
        let expected = logits(&base, &batch, &sites, &params);
        let bare = logits(&base, &batch, &[], &base.weights);
        assert!(largest_difference(&expected, &bare) > 1e-2);

        let [first, second] = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let trainable = Trainable::Adapters;
        let adapter = Adapter::from_trained(&base.model, &sites, &params, &trainable, &[]).unwrap();
        adapter.save(first.path(), kind.0, kind.1).unwrap();
        let config = std::fs::read_to_string(first.path().join("adapter_config.json")).unwrap();
        assert!(config.contains(r#""use_dora": true"#), "{config}");
        let by_definition = proof::weights(first.path(), &base.weights).unwrap();
        let mut merged = base.weights.clone();
        adapter.merge_into(&mut merged).unwrap();
        for (what, params) in [("proof", &by_definition), ("merged", &merged)] {
            let found = logits(&base, &batch, &[], params);
            let difference = largest_difference(&found, &expected);
            assert!(difference <= 1e-5, "{what}: {difference:e}");
        }

        let (mut base, _) = open(kind);
        let mut again = Adapter::load(first.path(), &mut base).unwrap();
        assert!(again.sites.values().all(|site| site.spec.dora));
        assert!(again.sites.values().all(Site::is_adapted));
        let sites = again.apply_to(base.model.sites());
        let mut params = base.weights.clone();
        params.extend(again.tensors.clone());
        let difference = largest_difference(&logits(&base, &batch, &sites, &params), &expected);
        assert!(difference <= 1e-5, "{difference:e}");
        again.close(&base.model, &base.weights).unwrap();
        again.save(second.path(), kind.0, kind.1).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [first, second] = [&first, &second].map(|dir| std::fs::read(dir.path().join(file)));
            assert_eq!(first.unwrap(), second.unwrap(), "{file}");
        }
    }
}

/// PEFT's folder of DoRA trains on: its magnitudes are those of an adapter, and no longer part of weights.
#[test]
fn magnitudes_of_projections_train_on_and_those_of_embeddings_are_folded() {
    let (mut base, _) = open(BERT);
    let adapter = Adapter::load(&fixtures().join("adapters/dora"), &mut base).unwrap();
    let query = "bert.encoder.layer.0.attention.self.query";
    let site = &adapter.sites[query];
    assert!(site.spec.dora && matches!(site.spec.strategy, Strategy::Adapted(_)));
    assert_eq!(site.trained()[2], format!("{query}.lora_magnitude_vector"));
    assert!(adapter.tensors.contains_key(&site.lora_magnitudes()));
    assert!(!adapter.tensors.contains_key(&site.weight));
    let table = "bert.embeddings.word_embeddings.weight";
    assert!(adapter.tensors.contains_key(table));
}

#[test]
fn magnitudes_at_some_projections_only_are_refused() {
    let (base, _) = open(BERT);
    let mut config = AdaptConfig::method(&Dora, 2);
    let plain = serde_json::from_str(r#"{"dora": false}"#).unwrap();
    config.sites.insert("value".into(), plain);
    let sites = config.resolve(base.model.sites()).unwrap();
    let error = Adapter::check(&sites).unwrap_err().to_string();
    assert!(
        error.contains("attention.self.value has no magnitudes") && error.contains("use_dora"),
        "{error}"
    );
}

/// The lengths of the rows of a weight, in float64.
fn lengths(weight: &Array) -> Vec<f32> {
    let columns = weight.shape()[1];
    let rows = weight.floats();
    let rows = rows.chunks_exact(columns);
    let squares = rows.map(|row| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>());
    squares.map(|sum| sum.sqrt() as f32).collect()
}

/// A row of 32 numbers as a block of Q4_0.
fn quantised(row: &[f32]) -> Vec<u8> {
    let largest = row.iter().fold(
        0.0_f32,
        |most, &x| if x.abs() > most.abs() { x } else { most },
    );
    let d = f16::from_f32(largest / -8.0);
    let code = |x: f32| ((x / d.to_f32() + 8.5) as u8).min(15);
    let mut block = d.to_le_bytes().to_vec();
    block.extend((0..16).map(|j| code(row[j]) | code(row[j + 16]) << 4));
    block
}

/// A llama whose queries and values are in four bits.
fn four_bits(folder: &Path) -> Pretrained {
    let mut file = written::File::of(&fixtures().join("parity").join(LLAMA.0));
    for tensor in &mut file.tensors {
        if ["attn_q", "attn_v"]
            .iter()
            .any(|part| tensor.name.contains(part))
        {
            assert_eq!(tensor.dims[0], 32);
            let (numbers, _) = tensor.bytes.as_chunks::<4>();
            let numbers: Vec<f32> = numbers.iter().map(|&x| f32::from_le_bytes(x)).collect();
            tensor.bytes = numbers.chunks_exact(32).flat_map(quantised).collect();
            tensor.kind = 2;
        }
    }
    let path = folder.join("tiny.gguf");
    file.write(&path);
    Pretrained::open(&path, LLAMA.1).unwrap()
}

/// Of a base in few bits and of one in bfloat16: the lengths are those of what the forward pass multiplies,
/// in float32.
#[test]
fn magnitudes_start_from_the_weights_that_are_multiplied() {
    let (original, batch) = open(LLAMA);
    let folder = tempfile::tempdir().unwrap();
    let (mut narrow, _) = open(LLAMA);
    for array in narrow.weights.values_mut() {
        let mut bytes = vec![0; 2 * array.len()];
        DType::Bf16.encode(&array.floats(), &mut bytes);
        *array = Array::from_bytes(DType::Bf16, array.shape(), bytes);
    }
    for base in [four_bits(folder.path()), narrow] {
        let config = AdaptConfig::method(&Dora, 2);
        let sites = config.resolve(base.model.sites()).unwrap();
        let mut params = base.weights.clone();
        initialise(&sites, &mut params, 1, &Options::default(), |_| {}).unwrap();
        let adapted = sites.iter().filter(|site| site.is_adapted());
        for site in adapted.clone() {
            let found = &params[&site.lora_magnitudes()];
            assert_eq!(found.dtype(), DType::F32);
            assert_eq!(*found.floats(), lengths(&base.weights[&site.weight]));
            assert_ne!(*found.floats(), lengths(&original.weights[&site.weight]));
        }
        assert_eq!(adapted.count(), 4);
        let bare = logits(&base, &batch, &[], &base.weights);
        let found = logits(&base, &batch, &sites, &params);
        let difference = largest_difference(&found, &bare);
        assert!(difference <= 1e-6, "{difference:e}");
    }
}

/// A file of an adapter's tensors without one of its magnitudes is not whole.
#[test]
fn magnitudes_that_are_missing_are_named() {
    let from = fixtures().join("dora/bert");
    let folder = tempfile::tempdir().unwrap();
    let config = "adapter_config.json";
    std::fs::copy(from.join(config), folder.path().join(config)).unwrap();
    let mut tensors = store::load(&from.join("adapter_model.safetensors"))
        .unwrap()
        .0;
    let name = format!("{PREFIX}bert.encoder.layer.1.attention.self.value.lora_magnitude_vector");
    tensors.shift_remove(&name).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    store::save(&path, &tensors, HashMap::new()).unwrap();
    let (mut base, _) = open(BERT);
    let error = Adapter::load(folder.path(), &mut base)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&name), "{error}");
}
